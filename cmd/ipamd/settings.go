package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/clearway/clearway/cmd/internal/daemon"
)

// flags are what the operator wrote.
type flags struct {
	listen, advertise, metricsListen string
	dataDir                          string
	etcdEndpoints                    []string
	etcdCert, etcdKey, etcdCA        string
	etcdPrefix                       string
	tls                              daemon.TLS
	log                              daemon.Log
}

func defaults() *flags {
	return &flags{listen: "127.0.0.1:7470", metricsListen: "127.0.0.1:7471", etcdPrefix: "/clearway/v1"}
}

func (f *flags) addFlags(set *pflag.FlagSet) {
	set.StringVar(&f.listen, "listen", f.listen, "`ADDR:PORT` that agents and operators reach us at")
	set.StringVar(&f.advertise, "advertise", f.advertise,
		"`ADDR:PORT` that followers name as the leader's (default: --listen, or the host's name where that is a wildcard)")
	set.StringVar(&f.dataDir, "data-dir", f.dataDir, "`DIR` of an embedded etcd")
	set.StringSliceVar(&f.etcdEndpoints, "etcd-endpoints", f.etcdEndpoints, "`URL,...` of an etcd cluster")
	set.StringVar(&f.etcdCert, "etcd-cert", f.etcdCert, "PEM `FILE` of our certificate for the etcd cluster")
	set.StringVar(&f.etcdKey, "etcd-key", f.etcdKey, "PEM `FILE` of that certificate's private key")
	set.StringVar(&f.etcdCA, "etcd-ca", f.etcdCA, "PEM `FILE` of the authorities of the etcd cluster's certificates")
	set.StringVar(&f.etcdPrefix, "etcd-prefix", f.etcdPrefix, "`PREFIX` of all our keys in etcd")
	set.StringVar(&f.metricsListen, "metrics-listen", f.metricsListen,
		"`ADDR:PORT` of /metrics, /healthz and /readyz; empty: none")
	f.tls.AddFlags(set)
	f.log.AddFlags(set)
}

// check refuses what can be refused without opening anything: all that is wrong at once.
func (f *flags) check() error {
	faults := []error{f.checkStore()}
	for _, one := range []struct{ flag, value string }{
		{"--listen", f.listen}, {"--advertise", f.advertise}, {"--metrics-listen", f.metricsListen},
	} {
		if one.value == "" && one.flag != "--listen" {
			continue
		}
		if err := daemon.CheckAddress(one.value); err != nil {
			faults = append(faults, daemon.Usage("%s %q: %w", one.flag, one.value, err))
		}
	}
	return errors.Join(append(faults, f.tls.Validate())...)
}

func (f *flags) checkStore() error {
	switch {
	case f.dataDir == "" && len(f.etcdEndpoints) == 0:
		return daemon.Usage("where to keep the data is not said: give --data-dir DIR for an embedded etcd, " +
			"or --etcd-endpoints URL,... for a cluster")
	case f.dataDir != "" && len(f.etcdEndpoints) > 0:
		return daemon.Usage("--data-dir and --etcd-endpoints exclude each other: give --data-dir DIR for an embedded etcd, " +
			"or --etcd-endpoints URL,... for a cluster")
	}
	for _, endpoint := range f.etcdEndpoints {
		parsed, err := url.Parse(endpoint)
		if err != nil || (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Host == "" {
			return daemon.Usage("--etcd-endpoints %q is not a URL as https://192.0.2.21:2379", endpoint)
		}
	}
	if cleaned := path.Clean(f.etcdPrefix); f.etcdPrefix == "" || !path.IsAbs(cleaned) || cleaned == "/" ||
		cleaned != strings.TrimRight(f.etcdPrefix, "/") {
		return daemon.Usage("--etcd-prefix %q must be a path as /clearway/v1", f.etcdPrefix)
	}
	if (f.etcdCert == "") != (f.etcdKey == "") {
		return daemon.Usage("--etcd-cert and --etcd-key go together")
	}
	return nil
}

// etcdTLS is nil without any of the three files: then an https endpoint is checked by the system's authorities.
func (f *flags) etcdTLS() (*tls.Config, error) {
	if f.etcdCert == "" && f.etcdCA == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.etcdCert != "" {
		if _, err := f.etcdCertificate(nil); err != nil {
			return nil, err
		}
		config.GetClientCertificate = f.etcdCertificate
	}
	if f.etcdCA != "" {
		text, err := os.ReadFile(f.etcdCA)
		if err != nil {
			return nil, fmt.Errorf("--etcd-ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--etcd-ca %s has no certificate in PEM form", f.etcdCA)
		}
	}
	return config, nil
}

// etcdCertificate reads our certificate for each connection: one that was rotated is used from the next one on. In the
// middle of a rotation the connection fails, and is tried again.
func (f *flags) etcdCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	certificate, err := tls.LoadX509KeyPair(f.etcdCert, f.etcdKey)
	if err != nil {
		return nil, fmt.Errorf("--etcd-cert, --etcd-key: %w", err)
	}
	return &certificate, nil
}

// advertised is the address that others find us at when we lead.
func (f *flags) advertised(listening net.Addr) string {
	if f.advertise != "" {
		return f.advertise
	}
	tcp, ok := listening.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return listening.String()
	}
	host, err := os.Hostname()
	if err != nil {
		return listening.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}

// instance names the place that we run at, for a store that others use too: one that runs here later is bound to the
// same address, on the same machine, in the same network. Empty when the machine has no name for itself.
func instance(listening net.Addr) string {
	machine, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(strings.TrimSpace(string(machine))) == 0 {
		return ""
	}
	network, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(machine)) + " " + network + " " + listening.String()
}
