package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// certFiles reads a certificate, its key and the authorities, and reads them again when a file has changed. Safe for
// concurrent use; no lock: two that see a change at once both read it.
type certFiles struct {
	cert, key, ca string // set before use, then read only; without cert and key there are the authorities alone
	logger        *slog.Logger

	loaded atomic.Pointer[loadedCerts]
	failed atomic.Pointer[stamps] // the change that could not be read, so that it is logged once
}

type loadedCerts struct {
	stamps      stamps
	certificate tls.Certificate
	authorities *x509.CertPool
}

// stamps tell whether the three files are the ones that were read.
type stamps [3]stamp

type stamp struct {
	modified time.Time
	size     int64
}

// current returns the files' present content. When they can't be read, as in the middle of a rotation, what was read
// last goes on being used; it is an error only when nothing was read yet.
func (f *certFiles) current() (*loadedCerts, error) {
	last := f.loaded.Load()
	now, err := f.stat()
	if err == nil && last != nil && last.stamps == now {
		return last, nil
	}
	fresh, err := f.load(now, err)
	if err == nil {
		f.loaded.Store(fresh)
		return fresh, nil
	}
	if last == nil {
		return nil, err
	}
	if before := f.failed.Swap(&now); before == nil || *before != now {
		f.logger.Warn("changed TLS files cannot be used; going on with those read before", "error", err)
	}
	return last, nil
}

func (f *certFiles) stat() (stamps, error) {
	var all stamps
	for i, name := range []string{f.cert, f.key, f.ca} {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return all, fmt.Errorf("%s: %w", []string{"--tls-cert", "--tls-key", "--tls-ca"}[i], err)
		}
		all[i] = stamp{modified: info.ModTime(), size: info.Size()}
	}
	return all, nil
}

func (f *certFiles) load(now stamps, err error) (*loadedCerts, error) {
	if err != nil {
		return nil, err
	}
	certificate, err := f.pair()
	if err != nil {
		return nil, err
	}
	caPEM, err := os.ReadFile(f.ca)
	if err != nil {
		return nil, fmt.Errorf("--tls-ca: %w", err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(caPEM) {
		return nil, fmt.Errorf("--tls-ca %s has no certificate in PEM form", f.ca)
	}
	return &loadedCerts{stamps: now, certificate: certificate, authorities: authorities}, nil
}

// pair reads our certificate and its key; nothing where we have none.
func (f *certFiles) pair() (tls.Certificate, error) {
	if f.cert == "" {
		return tls.Certificate{}, nil
	}
	certPEM, err := os.ReadFile(f.cert)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("--tls-cert: %w", err)
	}
	keyPEM, err := os.ReadFile(f.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("--tls-key: %w", err)
	}
	certificate, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("--tls-cert %s with --tls-key %s: %w", f.cert, f.key, err)
	}
	return certificate, nil
}
