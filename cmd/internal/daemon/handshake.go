package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// reloading are TLS credentials whose every handshake uses the files as they are then. Connections that stand are
// left alone. What goes wrong is told on both sides, in words that name the flags.
type reloading struct {
	files      *certFiles
	serverName string
	optional   bool // clients may come without a certificate
	failures   *handshakeFailures
}

func newReloading(files *certFiles, serverName string) *reloading {
	return &reloading{files: files, serverName: serverName, failures: newHandshakeFailures(files.logger)}
}

// handshaker makes the credentials of one handshake.
func (r *reloading) handshaker() (credentials.TransportCredentials, error) {
	certs, err := r.files.current()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Shown even when the server asks for other authorities: its refusal then says what is wrong, where a
		// certificate held back would make it "certificate required".
		// Without one of our own it is empty, which is none.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs.certificate, nil },
		RootCAs:              certs.authorities,
		ClientCAs:            certs.authorities,
		ClientAuth:           tls.RequireAndVerifyClientCert,
		ServerName:           r.serverName,
	}
	if certs.certificate.Certificate != nil {
		config.Certificates = []tls.Certificate{certs.certificate}
	}
	if r.optional {
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return credentials.NewTLS(config), nil
}

// ClientHandshake is gRPC's.
func (r *reloading) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (
	net.Conn, credentials.AuthInfo, error,
) {
	handshaker, err := r.handshaker()
	if err != nil {
		return nil, nil, err
	}
	secure, info, err := handshaker.ClientHandshake(ctx, authority, conn)
	if err != nil {
		return nil, nil, r.explainServer(err)
	}
	return &greeted{Conn: secure, explain: func(err error) error { return r.explainRefusal(err, time.Now()) }}, info, nil
}

// explainServer adds to the error of our own half of a handshake what would be right.
func (r *reloading) explainServer(err error) error {
	var unknown x509.UnknownAuthorityError
	var noTLS tls.RecordHeaderError
	var otherName x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w: the server's certificate is of no authority in --tls-ca %s", err, r.files.ca)
	case errors.As(err, &noTLS):
		return errors.New("the server speaks no TLS: it runs with --insecure, or is another program")
	case errors.As(err, &otherName):
		return fmt.Errorf("%w: --tls-server-name says which name it must have", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the server's certificate (%s) does not hold now: %w", invalid.Cert.Subject, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return fmt.Errorf("the server's certificate (%s) is not for servers (extended key usage): %w", invalid.Cert.Subject, err)
	}
	return err
}

// explainRefusal is for the server's half, which in TLS 1.3 is known with its first answer only.
func (r *reloading) explainRefusal(err error, now time.Time) error {
	if !isRemoteAlert(err) {
		return err
	}
	if r.files.cert == "" {
		return fmt.Errorf("the server takes no caller without a certificate (--tls-cert), and there is only --token-file: %w", err)
	}
	fault := ""
	if certs, unread := r.files.current(); unread == nil {
		fault = faultOf(certs, now)
	}
	return fmt.Errorf("the server refuses the certificate of --tls-cert %s%s: %w", r.files.cert, fault, err)
}

// faultOf is what we can see ourselves of why our certificate is refused: an alert has no room for it.
func faultOf(certs *loadedCerts, now time.Time) string {
	leaf := certs.certificate.Leaf
	switch _, err := leaf.Verify(x509.VerifyOptions{
		Roots: certs.authorities, CurrentTime: leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); {
	case now.After(leaf.NotAfter):
		return fmt.Sprintf(" (%s), which ended at %s", leaf.Subject, leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Sprintf(" (%s), which begins at %s only, and it is %s on this machine's clock",
			leaf.Subject, leaf.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case err != nil:
		return fmt.Sprintf(" (%s): %v", leaf.Subject, err)
	}
	return fmt.Sprintf(" (%s)", leaf.Subject)
}

// isRemoteAlert tells whether the other side ended the handshake with an alert (crypto/tls: "remote error").
func isRemoteAlert(err error) bool {
	var remote *net.OpError
	return errors.As(err, &remote) && remote.Op == "remote error"
}

// ServerHandshake is gRPC's. A handshake that fails is logged: gRPC itself tells nobody.
func (r *reloading) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	handshaker, err := r.handshaker()
	if err != nil {
		return nil, nil, err
	}
	secure, info, err := handshaker.ServerHandshake(conn)
	if err != nil && !hungUp(err) {
		r.failures.note(conn.RemoteAddr().String(), err)
	}
	return secure, info, err
}

// hungUp tells whether the other side went without a word, as whoever only looks whether the port is open does.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Info is gRPC's.
func (r *reloading) Info() credentials.ProtocolInfo {
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, ServerName: r.serverName}).Info()
}

// Clone is gRPC's; the copy shares the files.
func (r *reloading) Clone() credentials.TransportCredentials {
	clone := *r
	return &clone
}

// OverrideServerName is gRPC's.
func (r *reloading) OverrideServerName(name string) error {
	r.serverName = name
	return nil
}

// plain are credentials without TLS that say so when the server hangs up at once, as one with TLS does.
type plain struct {
	credentials.TransportCredentials
}

func newPlain() credentials.TransportCredentials { return plain{insecure.NewCredentials()} }

// ClientHandshake is gRPC's.
func (p plain) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (
	net.Conn, credentials.AuthInfo, error,
) {
	open, info, err := p.TransportCredentials.ClientHandshake(ctx, authority, conn)
	if err != nil {
		return nil, nil, err
	}
	return &greeted{Conn: open, explain: func(err error) error {
		if !hungUp(err) {
			return err
		}
		return fmt.Errorf("the server hung up before it said anything; it may want TLS, and --insecure is given (%w)", err)
	}}, info, nil
}

// Clone is gRPC's.
func (p plain) Clone() credentials.TransportCredentials { return plain{p.TransportCredentials.Clone()} }

// greeted is a connection that explains why its first answer never came.
type greeted struct {
	net.Conn
	explain func(error) error
	heard   atomic.Bool // gRPC reads and writes at once
}

// Read is net.Conn's.
func (g *greeted) Read(into []byte) (int, error) {
	n, err := g.Conn.Read(into)
	if err != nil && !g.heard.Load() {
		err = g.explain(err)
	}
	if n > 0 {
		g.heard.Store(true)
	}
	return n, err
}

// Write is net.Conn's. What the server said before it hung up tells more than that it did.
func (g *greeted) Write(from []byte) (int, error) {
	n, err := g.Conn.Write(from)
	if err != nil && hungUp(err) && !g.heard.Load() {
		if _, last := g.Conn.Read(make([]byte, 1)); last != nil {
			err = last
		}
		err = g.explain(err)
	}
	return n, err
}
