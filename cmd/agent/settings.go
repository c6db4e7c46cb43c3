package main

import (
	"errors"
	"io/fs"
	"math"
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
	nodeIPFrom                   string
	dataDir, socket, socketUIDs  string
	bfdSocket                    string
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
		bfdSocket:     bfdSocket,
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
	set.StringVar(&f.nodeIPFrom, "node-ip-from", f.nodeIPFrom,
		"`RULE` that finds the node's addresses, without --node-ip: interface=NAME,... (* and ? stand for others), cidr=PREFIX,... "+
			"or can-reach=ADDRESS")
	set.StringVar(&f.labels, "labels", f.labels, "the node's labels, `k=v,...`")
	set.StringVar(&f.dataDir, "data-dir", f.dataDir, "`DIR` of the journal and the persisted snapshots")
	set.StringVar(&f.socket, "socket", f.socket, "`PATH` of the unix socket; the DEL spool is the folder spool/ beside it")
	set.StringVar(&f.socketUIDs, "socket-uids", f.socketUIDs,
		"`UID,...` of users who may call at the socket, beside root and the agent's own; with any, its mode is 0666")
	set.StringVar(&f.bfdSocket, "bfd-socket", f.bfdSocket, bfdSocketUsage+", which runs the BFD sessions")
	set.StringVar(&f.bootIDFile, "boot-id-file", f.bootIDFile, "`FILE` whose content changes with each boot")
	set.StringVar(&f.machineIDFile, "machine-id-file", f.machineIDFile, "`FILE` whose content names the machine")
	set.IntVar(&f.routeProtocol, "route-protocol", f.routeProtocol, "protocol `NUMBER` of our kernel routes, 5 to 255")
	set.IntVar(&f.routeMetric, "route-metric", f.routeMetric, "`METRIC` of our kernel routes, 1 to 2147483647")
	set.IntVar(&f.routeTable, "route-table", f.routeTable, "`NUMBER` of the kernel's routing table")
	set.StringVar(&f.metricsListen, "metrics-listen", f.metricsListen,
		"`ADDR:PORT` of /metrics, /healthz and /readyz; empty: none")
	f.tls.AddClientFlags(set)
	f.tls.AddTokenFlag(set)
	f.log.AddFlags(set)
}

// settings are the flags, checked.
type settings struct {
	flags
	addresses []netip.Prefix // Bits -1 where the operator gave none
	rule      addressRule    // where there are no addresses
	labelMap  map[string]string
	servers   []string
	uids      []uint32 // that may call at the socket
}

// parse reads the flags. The error tells all that is wrong with them at once.
func (f *flags) parse() (*settings, error) {
	s := &settings{flags: *f}
	var faults []error
	fault := func(flag string, err error) {
		if err != nil {
			faults = append(faults, daemon.Usage("--%s: %w", flag, err))
		}
	}
	var err error
	s.addresses, err = daemon.ParseNodeIPs(f.nodeIP)
	fault("node-ip", err)
	s.rule, err = parseAddressRule(f.nodeIPFrom)
	fault("node-ip-from", err)
	if f.nodeIP != "" && f.nodeIPFrom != "" {
		fault("node-ip-from", errors.New("and --node-ip exclude each other: name the addresses, or say how to find them"))
	}
	s.labelMap, err = daemon.ParseLabels(f.labels)
	fault("labels", err)
	s.servers, err = daemon.ParseServers(f.server)
	fault("server", err)
	s.uids, err = daemon.ParseUIDs(f.socketUIDs)
	fault("socket-uids", err)
	faults = append(faults, f.checkNode(), f.checkRoutes(), f.checkPaths())
	if f.metricsListen != "" {
		if err := daemon.CheckAddress(f.metricsListen); err != nil {
			faults = append(faults, daemon.Usage("--metrics-listen %q: %w", f.metricsListen, err))
		}
	}
	return s, errors.Join(append(faults, f.tls.Validate())...)
}

func (f *flags) checkNode() error {
	if f.node == "" {
		return daemon.Usage("--node is missing: give this node's name")
	}
	if faults := validation.IsDNS1123Subdomain(f.node); len(faults) > 0 {
		return daemon.Usage("--node %q: %s", f.node, strings.Join(faults, "; "))
	}
	return nil
}

// checkRoutes holds the numbers of our routes to what the kernel has, less what is the kernel's own: protocols below 5
// (rtnetlink(7): RTPROT_STATIC is 4) and table 0.
func (f *flags) checkRoutes() error {
	var faults []error
	for _, one := range []struct {
		flag               string
		value, least, most int
	}{
		{"--route-protocol", f.routeProtocol, 5, 255},
		{"--route-metric", f.routeMetric, 1, math.MaxInt32},
		{"--route-table", f.routeTable, 1, math.MaxInt32},
	} {
		if one.value < one.least || one.value > one.most {
			faults = append(faults, daemon.Usage("%s %d is not %d to %d", one.flag, one.value, one.least, one.most))
		}
	}
	return errors.Join(faults...)
}

func (f *flags) checkPaths() error {
	var faults []error
	for _, path := range []struct{ flag, value string }{
		{"--data-dir", f.dataDir}, {"--boot-id-file", f.bootIDFile},
	} {
		if path.value == "" {
			faults = append(faults, daemon.Usage("%s is empty: give a path", path.flag))
		}
	}
	return errors.Join(append(faults, checkSocket("--socket", f.socket), checkSocket("--bfd-socket", f.bfdSocket))...)
}

// socketMode keeps everybody else off the socket, unless others are to be let in: then the guard alone does.
func (s *settings) socketMode() fs.FileMode {
	if len(s.uids) > 0 {
		return daemon.SocketGuarded
	}
	return daemon.SocketPrivate
}

func (s *settings) spoolDir() string { return filepath.Join(filepath.Dir(s.socket), "spool") }
