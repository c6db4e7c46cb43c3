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
	"time"

	"github.com/spf13/pflag"

	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/ipam/kube"
	"github.com/clearway/clearway/ipam/server"
)

// mostLimit is the largest number that a --limit flag takes; 0 is no limit.
const mostLimit = 1_000_000

// flags are what the operator wrote.
type flags struct {
	listen, advertise, metricsListen string
	dataDir                          string
	etcdEndpoints                    []string
	etcdCert, etcdKey, etcdCA        string
	etcdPrefix                       string
	etcdListenPeer, etcdListenClient string
	kubeconfig                       string
	inCluster                        bool
	agentAccount                     string
	limits                           server.Limits
	perHost                          int
	tls                              daemon.TLS
	log                              daemon.Log
}

func defaults() *flags {
	return &flags{
		listen: "127.0.0.1:7470", metricsListen: "127.0.0.1:7471", etcdPrefix: "/clearway/v1",
		limits: server.DefaultLimits(), perHost: 1024,
	}
}

func (f *flags) addFlags(set *pflag.FlagSet) {
	set.StringVar(&f.listen, "listen", f.listen, "`ADDR:PORT` that agents and operators reach us at")
	set.StringVar(&f.advertise, "advertise", f.advertise,
		"`ADDR:PORT` that followers name as the leader's (default: --listen, or the host's name where that is a wildcard)")
	set.StringVar(&f.dataDir, "data-dir", f.dataDir, "`DIR` of an embedded etcd")
	set.StringSliceVar(&f.etcdEndpoints, "etcd-endpoints", f.etcdEndpoints, "`URL,...` of an etcd cluster")
	set.StringVar(&f.etcdCert, "etcd-cert", f.etcdCert,
		"PEM `FILE` of our certificate for the etcd cluster; with --etcd-listen-peer, of the embedded etcd")
	set.StringVar(&f.etcdKey, "etcd-key", f.etcdKey, "PEM `FILE` of that certificate's private key")
	set.StringVar(&f.etcdCA, "etcd-ca", f.etcdCA,
		"PEM `FILE` of the authorities of the etcd cluster's certificates; with --etcd-listen-peer, of who may connect")
	set.StringVar(&f.etcdListenPeer, "etcd-listen-peer", f.etcdListenPeer,
		"`URL` at which the embedded etcd takes further members (default: none)")
	set.StringVar(&f.etcdListenClient, "etcd-listen-client", f.etcdListenClient,
		"`URL` at which the embedded etcd takes clients, as etcdctl (default: none)")
	set.StringVar(&f.etcdPrefix, "etcd-prefix", f.etcdPrefix, "`PREFIX` of all our keys in etcd")
	set.StringVar(&f.kubeconfig, "kubeconfig", f.kubeconfig,
		"kubeconfig `FILE` of the Kubernetes cluster that has the configuration (default: ipamd has it)")
	set.BoolVar(&f.inCluster, "in-cluster", f.inCluster,
		"the Kubernetes cluster that has the configuration is the one that this runs in as a Pod, with its service account")
	set.StringVar(&f.agentAccount, "agent-service-account", f.agentAccount,
		"`NAMESPACE/NAME` of the agents' service account: its tokens, bound to Pods and for audience "+kube.TokenAudience+
			", prove which node an agent is of, in place of a certificate")
	set.StringVar(&f.metricsListen, "metrics-listen", f.metricsListen,
		"`ADDR:PORT` of /metrics, /healthz and /readyz; empty: none")
	set.Float64Var(&f.limits.NodeClaims, "limit-node-claims", f.limits.NodeClaims,
		"claims and releases of blocks that one node may make, `NUMBER` a second; 0: no limit")
	set.Float64Var(&f.limits.NodeCalls, "limit-node-calls", f.limits.NodeCalls,
		"other calls that one node may make, `NUMBER` a second; 0: no limit")
	set.Float64Var(&f.limits.ClientCalls, "limit-client-calls", f.limits.ClientCalls,
		"calls that one operator or viewer may make, `NUMBER` a second; 0: no limit")
	set.IntVar(&f.limits.NodeWatches, "limit-node-watches", f.limits.NodeWatches,
		"`NUMBER` of streams of the ownership log that one node may have: a further one ends the oldest; 0: no limit")
	set.IntVar(&f.perHost, "limit-host-connections", f.perHost,
		"`NUMBER` of connections that one host may have: further ones are closed; 0: no limit")
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
	if f.kubeconfig != "" && f.inCluster {
		faults = append(faults, daemon.Usage("--kubeconfig and --in-cluster exclude each other: a Pod with its service account "+
			"takes --in-cluster, all else --kubeconfig FILE"))
	}
	return errors.Join(append(faults, f.checkAccount(), f.checkLimits(), f.tls.Validate())...)
}

func (f *flags) checkLimits() error {
	var faults []error
	for _, one := range []struct {
		flag  string
		value float64
	}{
		{"--limit-node-claims", f.limits.NodeClaims}, {"--limit-node-calls", f.limits.NodeCalls},
		{"--limit-client-calls", f.limits.ClientCalls}, {"--limit-node-watches", float64(f.limits.NodeWatches)},
		{"--limit-host-connections", float64(f.perHost)},
	} {
		if !(one.value >= 0 && one.value <= mostLimit) { // not a number is neither
			faults = append(faults, daemon.Usage("%s %v is not 0 to %d", one.flag, one.value, mostLimit))
		}
	}
	return errors.Join(faults...)
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
		if strings.Contains(endpoint, "@") { // not repeated: it may be a password
			return daemon.Usage("--etcd-endpoints takes no user and password in a URL: etcd's users are told by --etcd-cert")
		}
		parsed, err := url.Parse(endpoint)
		if err != nil || (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Host == "" {
			return daemon.Usage("--etcd-endpoints %q is not a URL as https://192.0.2.21:2379", endpoint)
		}
	}
	if err := f.checkMember(); err != nil {
		return err
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

// checkMember checks what opens the embedded etcd to others. Whoever reaches it without TLS can change all there is.
func (f *flags) checkMember() error {
	if f.etcdListenPeer == "" && f.etcdListenClient == "" {
		return nil
	}
	if f.dataDir == "" {
		return daemon.Usage("--etcd-listen-peer and --etcd-listen-client are for the embedded etcd of --data-dir")
	}
	secure := f.etcdCert != "" && f.etcdKey != "" && f.etcdCA != ""
	for _, one := range []struct{ flag, value string }{
		{"--etcd-listen-peer", f.etcdListenPeer}, {"--etcd-listen-client", f.etcdListenClient},
	} {
		if one.value == "" {
			return daemon.Usage("--etcd-listen-peer and --etcd-listen-client go together: %s is missing", one.flag)
		}
		parsed, err := url.Parse(one.value)
		if err != nil || (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Port() == "" || parsed.Path != "" ||
			net.ParseIP(parsed.Hostname()) == nil || net.ParseIP(parsed.Hostname()).IsUnspecified() {
			return daemon.Usage("%s %q is not a URL of an address of this machine, as https://192.0.2.10:2380", one.flag, one.value)
		}
		switch loopback := net.ParseIP(parsed.Hostname()).IsLoopback(); {
		case parsed.Scheme == "https" && !secure:
			return daemon.Usage("%s %q takes --etcd-cert, --etcd-key and --etcd-ca", one.flag, one.value)
		case parsed.Scheme == "http" && !loopback && !f.tls.Insecure:
			return daemon.Usage("%s %q lets anybody change the store: use https, or an address as 127.0.0.1, or say --insecure",
				one.flag, one.value)
		}
	}
	return nil
}

// agentsReturn is how long agents take at most to try an ipamd again that was away for long.
const agentsReturn = 25 * time.Second

// returnWait is how long claims wait for nodes after the start. The folder of an embedded etcd may be a copy of before,
// which only the nodes can tell; of a cluster etcd itself tells.
func (f *flags) returnWait() time.Duration {
	if f.dataDir == "" {
		return 0
	}
	return agentsReturn
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

// checkAccount: tokens are judged by an API server, and sent over TLS alone.
func (f *flags) checkAccount() error {
	switch {
	case f.agentAccount == "":
		return nil
	case f.kubeconfig == "" && !f.inCluster:
		return daemon.Usage("--agent-service-account wants --in-cluster or --kubeconfig: the API server judges the tokens")
	case f.tls.Insecure:
		return daemon.Usage("--agent-service-account and --insecure exclude each other: a token is not sent without TLS")
	}
	if err := kube.CheckAccount(f.agentAccount); err != nil {
		return daemon.Usage("--agent-service-account: %w", err)
	}
	return nil
}
