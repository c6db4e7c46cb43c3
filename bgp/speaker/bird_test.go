package speaker

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

const birdConf = `
router id 192.0.2.1;
protocol device { scan time 10; }
protocol kernel k4 { persist; ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel k6 { persist; ipv6 { import none; export where source = RTS_BGP; }; }
protocol static s4 { ipv4; route 10.244.9.0/26 blackhole; route 0.0.0.0/0 blackhole; }
protocol static s6 { ipv6; route 2001:db8:244:9::/122 blackhole; }
protocol bgp node {
	local 192.0.2.1 as 65101;
	neighbor 192.0.2.2 as 64512;
	graceful restart on;
	connect delay time 1; error wait time 1, 2;
	ipv4 { import all; export where source = RTS_STATIC; };
	ipv6 { import all; export where source = RTS_STATIC; next hop address 2001:db8::1; };
	#MORE
}
`

var torAddress = netip.MustParseAddr("192.0.2.1")

func torNeighbor() config.Neighbor {
	return config.Neighbor{
		Address: torAddress, Port: 179, PeerASN: 65101, LocalASN: 64512, Origin: "BGPPeer/tor",
		Families: []route.Family{route.IPv4, route.IPv6},
		HoldTime: 9 * time.Second, KeepaliveTime: 3 * time.Second, ConnectRetryTime: 2 * time.Second,
		GracefulRestart: config.GracefulRestart{Enabled: true, RestartTime: 120 * time.Second, DeferralTime: 20 * time.Second},
		SourceAddress:   netip.MustParseAddr("192.0.2.2"), AllowOwnAS: 1,
	}
}

func nodeDesired(blocks ...string) config.Desired {
	desired := config.Desired{
		Global: config.Global{
			ASN: 64512, RouterID: netip.MustParseAddr("192.0.2.2"), ListenPort: 179,
			NextHop4: netip.MustParseAddr("192.0.2.2"), NextHop6: netip.MustParseAddr("2001:db8::2"),
		},
		Neighbors: []config.Neighbor{torNeighbor()},
	}
	for _, block := range blocks {
		desired.Advertise = append(desired.Advertise, route.Advertisement{Prefix: netip.MustParsePrefix(block)})
	}
	return desired
}

func (c *child) established() bool {
	view := c.sees()
	return len(view.Sessions) == 1 && view.Sessions[0].State == route.Established && view.Sessions[0].EndOfRIB
}

func (l *lab) waitKernel(want ...string) {
	l.t.Helper()
	eventually(l.t, 20*time.Second, func() bool {
		kernel := l.kernel()
		return !slices.ContainsFunc(want, func(line string) bool { return !strings.Contains(kernel, line) })
	}, func() any { return l.kernel() + l.birdc("show", "protocols", "all", "node") })
}

// One IPv4 session with a real BIRD carries both families both ways, each with a next hop of its own family.
func TestRoutesBothWaysWithBIRD(t *testing.T) {
	l := newLab(t)
	l.bird(birdConf)
	node := l.speaker(false)
	node.set(t, nodeDesired("10.244.1.0/26", "2001:db8:244:1::/122"))
	l.waitKernel("10.244.1.0/26 via 192.0.2.2", "2001:db8:244:1::/122 via 2001:db8::2")
	eventually(t, 10*time.Second, node.established, func() any { return node.sees() })
	view := node.sees()
	if len(view.Routes) != 3 {
		t.Fatalf("the node learned %v, not the router's three prefixes", view.Routes)
	}
	four, six := view.Routes["10.244.9.0/26"][0], view.Routes["2001:db8:244:9::/122"][0]
	if four.NextHop != torAddress || six.NextHop != netip.MustParseAddr("2001:db8::1") {
		t.Errorf("next hops are %s and %s", four.NextHop, six.NextHop)
	}
	if !slices.Equal(four.ASPath, []uint32{65101}) || four.OriginASN() != 65101 || !four.EBGP || four.ASPathLen != 1 {
		t.Errorf("AS path of %+v", four)
	}
	session := view.Sessions[0]
	if !session.GracefulRestart || len(session.Families) != 2 || session.Received != 3 || session.Advertised != 2 || session.Reason != "" {
		t.Errorf("session %+v", session)
	}
	if told := l.birdc("show", "route", "protocol", "node", "all"); strings.Contains(told, "10.244.9.0") || strings.Contains(told, "0.0.0.0/0 ") {
		t.Errorf("the node told the router its own routes back:\n%s", told)
	}
	// Absence is withdrawal, and adding one leaves the others alone.
	node.set(t, nodeDesired("10.244.1.64/26", "2001:db8:244:1::/122"))
	l.waitKernel("10.244.1.64/26 via 192.0.2.2")
	eventually(t, 10*time.Second, func() bool { return !strings.Contains(l.kernel(), "10.244.1.0/26") }, func() any { return l.kernel() })
	// A route that goes is withdrawn from the table.
	l.birdc("disable", "s6")
	eventually(t, 10*time.Second, func() bool { return len(node.sees().Routes) == 2 }, func() any { return node.sees() })
	if flaps := node.sees().Sessions[0].Flaps; flaps != 0 {
		t.Errorf("the session flapped %d times", flaps)
	}
}

// A killed speaker that comes back loses no route at the router: the kernel there never changes.
func TestHitlessRestartWithBIRD(t *testing.T) {
	l := newLab(t)
	l.bird(birdConf)
	desired := nodeDesired("10.244.1.0/26", "2001:db8:244:1::/122")
	node := l.speaker(false)
	node.set(t, desired)
	l.waitKernel("10.244.1.0/26 via 192.0.2.2", "2001:db8:244:1::/122 via 2001:db8::2")
	eventually(t, 10*time.Second, node.established, func() any { return node.sees() })

	monitor := &syncBuffer{}
	watch := exec.Command("ip", "-n", l.tor, "monitor", "route")
	watch.Stdout = monitor
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { watch.Process.Kill(); watch.Wait() }()

	node.cmd.Process.Kill()
	node.cmd.Wait()
	eventually(t, 10*time.Second, func() bool { return !strings.Contains(l.birdc("show", "protocols", "node"), "Established") },
		func() any { return l.birdc("show", "protocols", "node") })
	again := l.speaker(true)
	again.set(t, desired)
	eventually(t, 20*time.Second, again.established, func() any { return again.sees() })
	// The router has dropped what is stale once it heard our End-of-RIB.
	eventually(t, 20*time.Second, func() bool {
		return strings.Contains(l.birdc("show", "protocols", "node"), "Established") &&
			!strings.Contains(l.birdc("show", "route", "all", "protocol", "node"), "stale")
	}, func() any { return l.birdc("show", "route", "all", "protocol", "node") })
	if changed := monitor.String(); strings.Contains(changed, "244:1::") || strings.Contains(changed, "10.244.1.") {
		t.Errorf("the router's kernel changed during the restart:\n%s", changed)
	}
	if kernel := l.kernel(); !strings.Contains(kernel, "10.244.1.0/26") || !strings.Contains(kernel, "2001:db8:244:1::/122") {
		t.Errorf("the router's kernel lost routes:\n%s", kernel)
	}
}
