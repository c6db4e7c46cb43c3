package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/clearway/clearway/ipam/identity"
)

// How long certificates hold when nothing else is said, and the least and most that may be said.
const (
	AuthorityTime   = 3650 * day
	CertificateTime = 365 * day
	LeastTime       = time.Minute
	MostTime        = 100 * 365 * day

	day = 24 * time.Hour
	// clockSkew is how far a certificate's beginning lies in the past: other machines' clocks may be behind.
	clockSkew = 5 * time.Minute
)

// Wish is a certificate that is to be made.
type Wish struct {
	Role identity.Role
	Name string
	// SANs are the DNS names and addresses by which an ipamd is called; others have none.
	SANs []string
	// ValidFor is how long it holds from now on.
	ValidFor time.Duration
}

// Check refuses a wish that makes no sense, in one sentence.
func (w Wish) Check() error {
	if err := w.checkName(); err != nil {
		return err
	}
	if err := CheckTime(w.ValidFor); err != nil {
		return err
	}
	switch {
	case w.Role == identity.Ipamd && len(w.SANs) == 0:
		return fmt.Errorf("an ipamd's certificate needs the names and addresses that agents and operators call it by: " +
			"--san 192.0.2.11,ipamd.example.net")
	case w.Role != identity.Ipamd && len(w.SANs) > 0:
		return fmt.Errorf("a certificate of role %s has no --san: it is shown by a client, and its name is who that is", w.Role)
	}
	_, _, err := splitSANs(w.SANs)
	return err
}

// holderName is what may name a person, a program or a host; it is a part of a file's name too.
var holderName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._@-]{0,61}[A-Za-z0-9])?$`)

func (w Wish) checkName() error {
	if w.Role == identity.Node {
		if faults := validation.IsDNS1123Subdomain(w.Name); len(faults) > 0 {
			return fmt.Errorf("node %q: %s", w.Name, strings.Join(faults, "; "))
		}
		return nil
	}
	if !holderName.MatchString(w.Name) {
		return fmt.Errorf("%s %q: a name has 1 to 63 letters, digits and . _ @ -, and begins and ends with a letter or digit",
			w.Role, w.Name)
	}
	return nil
}

// CheckTime refuses a time that no certificate should hold.
func CheckTime(validFor time.Duration) error {
	if validFor < LeastTime || validFor > MostTime {
		return fmt.Errorf("--valid-for %s is not %s to %s", WriteTime(validFor), WriteTime(LeastTime), WriteTime(MostTime))
	}
	return nil
}

// splitSANs tells addresses from DNS names. "IP:" and "DNS:" before them, as openssl writes them, are let pass.
func splitSANs(texts []string) (addresses []net.IP, names []string, err error) {
	for _, text := range texts {
		plain := strings.TrimPrefix(strings.TrimPrefix(text, "DNS:"), "IP:")
		if addr, err := netip.ParseAddr(plain); err == nil && addr.Zone() == "" {
			addresses = append(addresses, addr.AsSlice())
			continue
		}
		name := strings.TrimPrefix(plain, "*.")
		if faults := validation.IsDNS1123Subdomain(name); len(faults) > 0 || allDigits(name) {
			return nil, nil, fmt.Errorf("--san %q must be an address as 192.0.2.11 or a DNS name as ipamd.example.net, without a port", text)
		}
		names = append(names, plain)
	}
	return addresses, names, nil
}

// allDigits finds addresses that were mistyped: 192.0.2.300 is a DNS name by its letters, and nobody's.
func allDigits(name string) bool { return strings.Trim(name, "0123456789.") == "" }

// template is the certificate of a wish, not signed.
func (w Wish) template(now time.Time, serial *big.Int) (*x509.Certificate, error) {
	if err := w.Check(); err != nil {
		return nil, err
	}
	addresses, names, err := splitSANs(w.SANs)
	if err != nil {
		return nil, err
	}
	// Clients' certificates cannot serve, so that no node can stand in for an ipamd.
	uses := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if w.Role == identity.Ipamd {
		uses = append(uses, x509.ExtKeyUsageServerAuth)
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: identity.Subject(w.Role, w.Name),
		IPAddresses: addresses, DNSNames: names,
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(w.ValidFor),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: uses, BasicConstraintsValid: true,
	}, nil
}

// renewal is a certificate that says the same as another one, and holds for a time from now on.
func renewal(of *x509.Certificate, validFor time.Duration, now time.Time, serial *big.Int) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: serial, RawSubject: of.RawSubject,
		IPAddresses: of.IPAddresses, DNSNames: of.DNSNames, EmailAddresses: of.EmailAddresses, URIs: of.URIs,
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(validFor),
		KeyUsage: of.KeyUsage, ExtKeyUsage: of.ExtKeyUsage, BasicConstraintsValid: true,
	}
}

// authorityTemplate is an authority's own certificate: it signs those of holders, and no other authority's.
func authorityTemplate(name string, validFor time.Duration, now time.Time, serial *big.Int) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(validFor),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true,
		IsCA: true, MaxPathLenZero: true,
	}
}
