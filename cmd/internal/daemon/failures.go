package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/credentials"
)

// A server logs the first handshakes that fail at once, then one in this time: a client that tries on and on, or a port
// scan, must not fill its log.
const (
	failuresFirst = 20
	failureEvery  = time.Second
)

// handshakeFailures count and log the handshakes that failed.
type handshakeFailures struct {
	logger  *slog.Logger
	counted *prometheus.CounterVec
	pace    *rate.Limiter
	silent  atomic.Int64 // since the last line
}

func newHandshakeFailures(logger *slog.Logger) *handshakeFailures {
	return &handshakeFailures{
		logger: logger, pace: rate.NewLimiter(rate.Every(failureEvery), failuresFirst),
		counted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "clearway_tls_handshake_failures_total",
			Help: "Connections that were refused, by reason: no_tls, no_certificate, authority, time, usage, ours (the client refuses us), other.",
		}, []string{"reason"}),
	}
}

func (f *handshakeFailures) note(client string, err error) {
	reason, told := explainClient(err)
	f.counted.WithLabelValues(reason).Inc()
	if !f.pace.Allow() {
		f.silent.Add(1)
		return
	}
	attributes := []any{"client", client, "reason", reason, "error", told}
	if silent := f.silent.Swap(0); silent > 0 {
		attributes = append(attributes, "more_before", silent)
	}
	f.logger.Warn("a TLS handshake failed", attributes...)
}

// explainClient tells why a client's handshake failed: in a word, and in a sentence that names its certificate.
func explainClient(err error) (reason string, told error) {
	var noTLS tls.RecordHeaderError
	var verification *tls.CertificateVerificationError
	switch {
	case errors.As(err, &noTLS):
		return "no_tls", errors.New("a client without TLS: it runs with --insecure, or is another program")
	case isRemoteAlert(err):
		return "ours", fmt.Errorf("the client refuses our certificate: %w", err)
	case errors.As(err, &verification):
		told = err
		if shown := verification.UnverifiedCertificates; len(shown) > 0 {
			told = fmt.Errorf("the client's certificate (%s, of %s): %w", shown[0].Subject, shown[0].Issuer, err)
		}
		return whyInvalid(verification), told
	case err.Error() == "tls: client didn't provide a certificate": // crypto/tls has no type for it
		return "no_certificate", err
	}
	return "other", err
}

func whyInvalid(err error) string {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return "authority"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "time"
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return "usage"
	}
	return "other"
}

// RegisterTLS registers metrics of credentials that TLS made: when the certificate ends, and, of a server, the
// handshakes that failed. Without TLS there are none.
func RegisterTLS(registry prometheus.Registerer, creds credentials.TransportCredentials) error {
	made, ok := creds.(*reloading)
	if !ok {
		return nil
	}
	expiry := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "clearway_tls_certificate_expiry_timestamp_seconds",
		Help: "When the certificate of --tls-cert, as it is in use, ends (Unix time); 0: there is none.",
	}, made.files.ends)
	for _, one := range []prometheus.Collector{expiry, made.failures.counted} {
		if err := registry.Register(one); err != nil {
			return fmt.Errorf("register metrics of TLS: %w", err)
		}
	}
	return nil
}

// ends is when the present certificate does, in Unix time.
func (f *certFiles) ends() float64 {
	certs, err := f.current()
	if err != nil || certs.certificate.Leaf == nil {
		return 0
	}
	return float64(certs.certificate.Leaf.NotAfter.Unix())
}
