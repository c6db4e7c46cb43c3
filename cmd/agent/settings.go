package main

import (
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/clearway/clearway/cmd/internal/daemon"
)

// flags are what the operator wrote.
type flags struct {
	node, nodeIP, labels, server string
	dataDir, socket              string
	bootIDFile, machineIDFile    string
	routeProtocol, routeMetric   int
	routeTable                   int
	metricsListen                string
	tls                          daemon.TLS
	log                          daemon.Log
}

func defaults() *flags {
	return &flags{
		server:        "127.0.0.1:7470",
		dataDir:       "/var/lib/clearway",
		socket:        "/run/clearway/agent.sock",
		bootIDFile:    "/proc/sys/kernel/random/boot_id",
		machineIDFile: "/etc/machine-id",
		routeProtocol: 73,  // free in the kernel's and the distributions' tables: docs/kernel-routes.md
		routeMetric:   20,  // before the 1024 that the kernel gives IPv6 routes, behind a route that has none
		routeTable:    254, // main
		metricsListen: "127.0.0.1:7472",
	}
}

func (f *flags) addFlags(set *pflag.FlagSet) {
	set.StringVar(&f.node, "node", f.node, "this node's `NAME`, a DNS subdomain (required)")
	set.StringVar(&f.server, "server", f.server, "ipamd's `ADDR:PORT`, or several of them with commas")
	set.StringVar(&f.nodeIP, "node-ip", f.nodeIP,
		"the node's `IP[,IP6]`, each with or without its prefix length (default: the ones that reach the server)")
	set.StringVar(&f.labels, "labels", f.labels, "the node's labels, `k=v,...`")
	set.StringVar(&f.dataDir, "data-dir", f.dataDir, "`DIR` of the journal and the persisted snapshots")
	set.StringVar(&f.socket, "socket", f.socket, "`PATH` of the unix socket; the DEL spool is the folder spool/ beside it")
	set.StringVar(&f.bootIDFile, "boot-id-file", f.bootIDFile, "`FILE` whose content changes with each boot")
	set.StringVar(&f.machineIDFile, "machine-id-file", f.machineIDFile, "`FILE` whose content names the machine")
	set.IntVar(&f.routeProtocol, "route-protocol", f.routeProtocol, "protocol `NUMBER` of our kernel routes, 5 to 255")
	set.IntVar(&f.routeMetric, "route-metric", f.routeMetric, "`METRIC` of our kernel routes, 1 to 2147483647")
	set.IntVar(&f.routeTable, "route-table", f.routeTable, "`NUMBER` of the kernel's routing table")
	set.StringVar(&f.metricsListen, "metrics-listen", f.metricsListen,
		"`ADDR:PORT` of /metrics, /healthz and /readyz; empty: none")
	f.tls.AddClientFlags(set)
	f.log.AddFlags(set)
}

// settings are the flags, checked.
type settings struct {
	flags
	addresses []netip.Prefix // Bits -1 where the operator gave none
	labelMap  map[string]string
	servers   []string
}

func (f *flags) parse() (*settings, error) {
	s := &settings{flags: *f}
	if f.node == "" {
		return nil, daemon.Usage("--node is missing: give this node's name")
	}
	if faults := validation.IsDNS1123Subdomain(f.node); len(faults) > 0 {
		return nil, daemon.Usage("--node %q: %s", f.node, strings.Join(faults, "; "))
	}
	var err error
	if s.addresses, err = daemon.ParseNodeIPs(f.nodeIP); err != nil {
		return nil, daemon.Usage("--node-ip: %w", err)
	}
	if s.labelMap, err = daemon.ParseLabels(f.labels); err != nil {
		return nil, daemon.Usage("--labels: %w", err)
	}
	if s.servers, err = daemon.ParseServers(f.server); err != nil {
		return nil, daemon.Usage("--server: %w", err)
	}
	if err := f.tls.Validate(); err != nil {
		return nil, err
	}
	for _, path := range []struct{ flag, value string }{{"--data-dir", f.dataDir}, {"--socket", f.socket}} {
		if path.value == "" {
			return nil, daemon.Usage("%s is empty: give a path", path.flag)
		}
	}
	return s, s.checkSocket()
}

// checkSocket refuses a path that a socket's address cannot hold (sockaddr_un has 108 bytes, one of them a NUL).
func (s *settings) checkSocket() error {
	const longest = 107
	if len(s.socket) > longest {
		return daemon.Usage("--socket %q has %d bytes; a unix socket's path has at most %d", s.socket, len(s.socket), longest)
	}
	return nil
}

func (s *settings) spoolDir() string { return filepath.Join(filepath.Dir(s.socket), "spool") }
