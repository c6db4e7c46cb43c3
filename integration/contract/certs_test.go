package contract

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

var serial atomic.Int64

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)), Subject: pkix.Name{CommonName: name}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
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

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certificate is where a certificate, its key, and the authority that the holder trusts are.
type certificate struct{ cert, key, ca string }

// flags are --tls-*, or --etcd-* with that prefix.
func (c certificate) flags(prefix string) []string {
	return []string{"--" + prefix + "-cert", c.cert, "--" + prefix + "-key", c.key, "--" + prefix + "-ca", c.ca}
}

// issue makes a certificate for 127.0.0.1 in a folder of its own.
func (a *authority) issue(t testing.TB, subject pkix.Name, dnsNames ...string) certificate {
	t.Helper()
	return a.issueChanged(t, subject, func(c *x509.Certificate) { c.DNSNames = dnsNames })
}

// issueChanged makes one that says something else too.
func (a *authority) issueChanged(t testing.TB, subject pkix.Name, change func(*x509.Certificate)) certificate {
	t.Helper()
	dir := t.TempDir()
	c := certificate{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")}
	a.write(t, c, subject, change)
	return c
}

// write makes a certificate in the place of another one, each file in one step, as certificate managers do.
func (a *authority) write(t testing.TB, c certificate, subject pkix.Name, changes ...func(*x509.Certificate)) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)), Subject: subject,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, change := range changes {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, c.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	replace(t, c.key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
	replace(t, c.ca, a.pem())
}

// pem is the authority's certificate as a file has it.
func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

func replace(t testing.TB, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// Who a certificate says its holder is.
var (
	operator = pkix.Name{CommonName: "alice", Organization: []string{"clearway:operators"}}
	viewer   = pkix.Name{CommonName: "vera", Organization: []string{"clearway:viewers"}}
	server   = pkix.Name{CommonName: "ipamd"}
)

func named(name string) pkix.Name { return pkix.Name{CommonName: name} }
