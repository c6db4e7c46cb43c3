package fib

import (
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
)

// The defaults of Options.
const (
	DefaultProtocol = 73
	DefaultMetric   = 20
	DefaultTable    = 254 // RT_TABLE_MAIN
)

// Options say under which name the writer works. The three numbers together are what makes a route ours: a route
// that differs in one of them is somebody else's.
type Options struct {
	// Protocol is the routing protocol number of our routes, 5 to 255 and not one that Linux or a known routing
	// daemon uses. 0 means DefaultProtocol.
	Protocol int
	// Metric is the priority of our routes, 1 to 4294967295, lower wins. 0 means DefaultMetric.
	Metric int
	// Table is the routing table, 1 to 4294967295 but not 255 (local). 0 means DefaultTable.
	Table int
	// Logger is where the writer tells what it did and could not do. nil discards.
	Logger *slog.Logger
	// Registerer takes the clearway_fib_* metrics. nil: none are registered.
	Registerer prometheus.Registerer
}

// taken holds the protocol numbers that belong to others: include/uapi/linux/rtnetlink.h and what other network
// plugins are known to write. Sharing one would make their routes look like ours.
var taken = map[int]string{
	1: "redirect", 2: "kernel", 3: "boot", 4: "static", 8: "gated", 9: "ra", 10: "mrt", 11: "zebra", 12: "bird",
	13: "dnrouted", 14: "xorp", 15: "ntk", 16: "dhcp", 17: "mrouted (also kube-router)", 18: "keepalived",
	30: "coil", 42: "babel", 80: "Calico Felix", 84: "ovn", 99: "openr", 186: "bgp (FRR)", 187: "isis (FRR)", 188: "ospf (FRR)",
	189: "rip (FRR)", 192: "eigrp (FRR)", 193: "FRR", 194: "FRR", 195: "FRR", 196: "FRR", 197: "FRR",
}

// withDefaults fills what was left zero and checks the rest.
func (o Options) withDefaults() (Options, error) {
	if o.Protocol == 0 {
		o.Protocol = DefaultProtocol
	}
	if o.Metric == 0 {
		o.Metric = DefaultMetric
	}
	if o.Table == 0 {
		o.Table = DefaultTable
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, o.validate()
}

func (o Options) validate() error {
	const top = 1<<32 - 1
	if o.Protocol < 5 || o.Protocol > 255 {
		return fmt.Errorf("route protocol %d: must be 5 to 255", o.Protocol)
	}
	if whose, ok := taken[o.Protocol]; ok {
		return fmt.Errorf("route protocol %d: is taken by %s, whose routes would look like ours; use a free one, such as %d",
			o.Protocol, whose, DefaultProtocol)
	}
	if o.Metric < 1 || o.Metric > top {
		return fmt.Errorf("route metric %d: must be 1 to %d", o.Metric, uint32(top))
	}
	if o.Table < 1 || o.Table > top {
		return fmt.Errorf("route table %d: must be 1 to %d", o.Table, uint32(top))
	}
	if o.Table == 255 {
		return fmt.Errorf("route table %d: is the kernel's own table of local addresses; use %d (main) or one of your own", o.Table, DefaultTable)
	}
	return nil
}
