package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Made is a certificate with its key, both in PEM form.
type Made struct {
	Certificate *x509.Certificate
	CertPEM     []byte
	KeyPEM      []byte // the secret
}

// Authority signs certificates.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewAuthority makes one, with a key of its own.
func NewAuthority(name string, validFor time.Duration, now time.Time) (Made, error) {
	if !holderName.MatchString(name) {
		return Made{}, fmt.Errorf("--name %q: a name has 1 to 63 letters, digits and . _ @ -, and begins and ends with a letter or digit", name)
	}
	if err := CheckTime(validFor); err != nil {
		return Made{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return Made{}, err
	}
	key, err := newKey()
	if err != nil {
		return Made{}, err
	}
	template := authorityTemplate(name, validFor, now, serial)
	return sign(template, &Authority{certificate: template, key: key}, key)
}

// Issue makes the certificate of a wish. One that would outlive the authority is refused.
func (a *Authority) Issue(w Wish, now time.Time) (Made, error) {
	serial, err := newSerial()
	if err != nil {
		return Made{}, err
	}
	template, err := w.template(now, serial)
	if err != nil {
		return Made{}, err
	}
	return a.withNewKey(template, now)
}

// Renew makes a certificate of a new key that says the same as another one of this authority. validFor is how long it
// holds; 0: as long as that one did, or until the authority ends.
func (a *Authority) Renew(old *x509.Certificate, validFor time.Duration, now time.Time) (Made, error) {
	if err := old.CheckSignatureFrom(a.certificate); err != nil {
		return Made{}, fmt.Errorf("it is not of this authority (%s), but of %q; issue a new one",
			a.certificate.Subject, old.Issuer)
	}
	serial, err := newSerial()
	if err != nil {
		return Made{}, err
	}
	if validFor == 0 {
		validFor = min(old.NotAfter.Sub(old.NotBefore)-clockSkew, a.Ends().Sub(now))
	}
	return a.withNewKey(renewal(old, validFor, now, serial), now)
}

func (a *Authority) withNewKey(template *x509.Certificate, now time.Time) (Made, error) {
	ends := a.certificate.NotAfter
	switch {
	case !now.Before(ends):
		return Made{}, fmt.Errorf("the authority ended at %s: renew it, and give its new certificate to everybody", stamp(ends))
	case template.NotAfter.After(ends):
		return Made{}, fmt.Errorf("the certificate would hold until %s, longer than the authority, which ends at %s: "+
			"give a shorter --valid-for, or renew the authority", stamp(template.NotAfter), stamp(ends))
	}
	key, err := newKey()
	if err != nil {
		return Made{}, err
	}
	return sign(template, a, key)
}

// Ends is when the authority's certificate does.
func (a *Authority) Ends() time.Time { return a.certificate.NotAfter }

// Prolong makes the authority's own certificate anew, of the same key, so that what it has signed stays good.
func (a *Authority) Prolong(validFor time.Duration, now time.Time) (Made, error) {
	serial, err := newSerial()
	if err != nil {
		return Made{}, err
	}
	if validFor == 0 {
		validFor = a.certificate.NotAfter.Sub(a.certificate.NotBefore) - clockSkew
	}
	template := authorityTemplate("", validFor, now, serial)
	template.RawSubject = a.certificate.RawSubject
	return sign(template, a, a.key)
}

func sign(template *x509.Certificate, by *Authority, key *ecdsa.PrivateKey) (Made, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, by.certificate, key.Public(), by.key)
	if err != nil {
		return Made{}, fmt.Errorf("sign certificate: %w", err)
	}
	made := Made{CertPEM: pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der})}
	if made.Certificate, err = x509.ParseCertificate(der); err != nil {
		return Made{}, fmt.Errorf("read the certificate that was made: %w", err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Made{}, fmt.Errorf("write key: %w", err)
	}
	made.KeyPEM = pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: secret})
	return made, nil
}

// Types of PEM blocks. Keys that openssl made may be of the older form.
const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
	pemOldKey      = "EC PRIVATE KEY"
)

// readAuthority reads an authority's two files. An error never has a part of the key in it.
func readAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	certificate, err := ReadCertificate(certPEM)
	if err != nil {
		return nil, err
	}
	if !certificate.IsCA {
		return nil, fmt.Errorf("the certificate (%s) is no authority's", certificate.Subject)
	}
	key, err := readKey(keyPEM)
	if err != nil {
		return nil, err
	}
	if public, ok := certificate.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(key.Public()) {
		return nil, errors.New("the key is not the certificate's")
	}
	return &Authority{certificate: certificate, key: key}, nil
}

// ReadCertificate reads the first certificate of a file's text.
func ReadCertificate(text []byte) (*x509.Certificate, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemCertificate {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate cannot be read: %w", err)
		}
		return certificate, nil
	}
	return nil, errors.New("there is no certificate in PEM form in it")
}

var errKey = errors.New("there is no ECDSA key in PEM form in it, without passphrase")

func readKey(text []byte) (*ecdsa.PrivateKey, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case pemKey:
			if any, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if key, ok := any.(*ecdsa.PrivateKey); ok {
					return key, nil
				}
			}
			return nil, errKey
		case pemOldKey:
			if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
				return key, nil
			}
			return nil, errKey
		}
	}
	return nil, errKey
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

// newSerial is 127 random bits: nobody has to keep count (RFC 5280 allows 20 bytes, positive).
func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}

func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }
