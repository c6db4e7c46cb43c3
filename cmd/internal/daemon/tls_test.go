package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// authority signs certificates for tests.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	serial      int64
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue writes a certificate for name and 127.0.0.1, its key, and the authority's own certificate into folder.
func (a *authority) issue(t *testing.T, folder, name string) TLS {
	t.Helper()
	a.serial++
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1 + a.serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := TLS{Cert: filepath.Join(folder, "tls.crt"), Key: filepath.Join(folder, "tls.key"), CA: filepath.Join(folder, "ca.crt")}
	writePEM(t, files.Cert, "CERTIFICATE", der)
	writePEM(t, files.Key, "EC PRIVATE KEY", keyDER)
	writePEM(t, files.CA, "CERTIFICATE", a.certificate.Raw)
	return files
}

func writePEM(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	// Two writes within the clock's grain must still be seen as two.
	stamp := time.Now().Add(time.Duration(time.Now().UnixNano()%1e6) * time.Microsecond)
	if err := os.Chtimes(name, stamp, stamp); err != nil {
		t.Fatal(err)
	}
}

// lockedLog takes lines from a server while the test reads them.
type lockedLog struct {
	mutex sync.Mutex
	text  strings.Builder
}

func (l *lockedLog) Write(line []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.Write(line)
}

func (l *lockedLog) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.String()
}

// serve runs a gRPC health server with the TLS files and returns its address.
func serve(t *testing.T, files TLS, log io.Writer) string {
	t.Helper()
	creds, err := files.ServerCredentials(slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return serveWith(t, ServerOptions(creds))
}

// serveWith runs a gRPC health server with some options and returns its address.
func serveWith(t *testing.T, options []grpc.ServerOption) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// call makes one call over a new connection.
func call(t *testing.T, address string, files TLS) error {
	t.Helper()
	creds, err := files.ClientCredentials(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := Dial(address, creds)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	return err
}

func TestMutualTLS(t *testing.T) {
	defer goleak.VerifyNone(t)
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	server := ours.issue(t, t.TempDir(), "ipamd")
	client := ours.issue(t, t.TempDir(), "node1")
	stranger := theirs.issue(t, t.TempDir(), "node1")
	t.Run("calls", func(t *testing.T) {
		address := serve(t, server, io.Discard)
		if err := call(t, address, client); err != nil {
			t.Errorf("a client of our authority is refused: %v", err)
		}
		if err := call(t, address, stranger); err == nil {
			t.Error("a client of another authority is let in")
		}
		if err := call(t, address, TLS{Insecure: true}); err == nil {
			t.Error("a client without TLS is let in")
		}
		mixed := TLS{Cert: stranger.Cert, Key: stranger.Key, CA: client.CA}
		if err := call(t, address, mixed); err == nil {
			t.Error("a client that trusts us with a certificate of another authority is let in")
		}
		named := client
		named.ServerName = "ipamd"
		if err := call(t, address, named); err != nil {
			t.Errorf("the server's name is refused: %v", err)
		}
		named.ServerName = "other"
		if err := call(t, address, named); err == nil {
			t.Error("a server of another name is accepted")
		}
	})
	t.Run("version", func(t *testing.T) {
		address := serve(t, server, io.Discard)
		pair, err := tls.LoadX509KeyPair(client.Cert, client.Key)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := tls.Dial("tcp", address, &tls.Config{
			MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true, Certificates: []tls.Certificate{pair},
		})
		if err == nil {
			conn.Close()
			t.Error("TLS 1.2 is accepted")
		}
	})
}

// Certificates are rotated without a restart, and a half-written rotation does not lock anybody out.
func TestTLSRotation(t *testing.T) {
	ours, next := newAuthority(t, "ours"), newAuthority(t, "next")
	serverFolder, clientFolder := t.TempDir(), t.TempDir()
	server, client := ours.issue(t, serverFolder, "ipamd"), ours.issue(t, clientFolder, "node1")
	var log lockedLog
	address := serve(t, server, &log)
	if err := call(t, address, client); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(server.Key, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := call(t, address, client); err != nil {
			t.Errorf("a half-written key locks clients out: %v", err)
		}
	}
	if got := strings.Count(log.String(), "changed TLS files cannot be used"); got != 1 {
		t.Errorf("logged %d times, want once:\n%s", got, log.String())
	}
	next.issue(t, serverFolder, "ipamd")
	if err := call(t, address, client); err == nil {
		t.Error("the old authority's client is still let in")
	}
	next.issue(t, clientFolder, "node1")
	if err := call(t, address, client); err != nil {
		t.Errorf("the new authority's client is refused: %v", err)
	}
}

func TestNamedErrorsOfTLS(t *testing.T) {
	good := newAuthority(t, "ours").issue(t, t.TempDir(), "ipamd")
	other := newAuthority(t, "ours").issue(t, t.TempDir(), "ipamd")
	for _, c := range []struct {
		name  string
		flags TLS
		want  string
	}{
		{"neither", TLS{}, "give --tls-cert, --tls-key and --tls-ca for mutual TLS, or --insecure"},
		{"both", TLS{Insecure: true, Cert: "x"}, "--insecure and --tls-cert exclude each other"},
		{"part", TLS{Cert: "x"}, "mutual TLS also wants --tls-key, --tls-ca"},
		{"no cert", TLS{Cert: "/nowhere", Key: good.Key, CA: good.CA}, "--tls-cert: stat /nowhere"},
		{"no key", TLS{Cert: good.Cert, Key: "/nowhere", CA: good.CA}, "--tls-key: stat /nowhere"},
		{"no ca", TLS{Cert: good.Cert, Key: good.Key, CA: "/nowhere"}, "--tls-ca: stat /nowhere"},
		{"foreign key", TLS{Cert: good.Cert, Key: other.Key, CA: good.CA}, "--tls-cert " + good.Cert + " with --tls-key "},
		{"empty ca", TLS{Cert: good.Cert, Key: good.Key, CA: os.DevNull}, "--tls-ca /dev/null has no certificate"},
	} {
		for _, side := range []func(*slog.Logger) error{
			func(l *slog.Logger) error { _, err := c.flags.ServerCredentials(l); return err },
			func(l *slog.Logger) error { _, err := c.flags.ClientCredentials(l); return err },
		} {
			if err := side(slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
		}
	}
}
