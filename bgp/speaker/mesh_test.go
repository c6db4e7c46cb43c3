package speaker

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// meshDesired is one of two nodes that peer over iBGP, over an address family of the test's choice.
func meshDesired(self, other int, over6 bool, restart time.Duration, blocks ...string) config.Desired {
	four := func(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", n)) }
	six := func(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n)) }
	desired := nodeDesired(blocks...)
	desired.Global.RouterID, desired.Global.NextHop4, desired.Global.NextHop6 = four(self), four(self), six(self)
	n := torNeighbor()
	n.Address, n.SourceAddress, n.PeerASN, n.Origin = four(other), four(self), 64512, fmt.Sprintf("nodeMesh/n%d", other)
	if over6 {
		n.Address, n.SourceAddress = six(other), six(self)
	}
	n.GracefulRestart.RestartTime = restart
	desired.Neighbors = []config.Neighbor{n}
	return desired
}

func (c *child) paths() string {
	var lines []string
	for prefix, paths := range c.sees().Routes {
		for _, p := range paths {
			line := prefix + " via " + p.NextHop.String()
			if p.Stale {
				line += " stale"
			}
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// Two of our own speakers, both calling each other: one session, both families, whichever carries it. One is killed
// and comes back: the other keeps its routes as stale, and none is missing at any time.
func TestHitlessRestartInTheMesh(t *testing.T) {
	for _, over6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "IPv4", true: "IPv6"}[over6], func(t *testing.T) {
			l := newLab(t)
			one, two := l.speakerIn(l.tor, false), l.speaker(false)
			there := meshDesired(2, 1, over6, 60*time.Second, "10.244.2.0/26", "2001:db8:244:2::/122")
			one.set(t, meshDesired(1, 2, over6, 60*time.Second, "10.244.1.0/26"))
			two.set(t, there)
			for _, c := range []*child{one, two} {
				eventually(t, 20*time.Second, c.established, func() any { return c.sees() })
			}
			for _, want := range []string{"10.244.2.0/26 via 192.0.2.2", "2001:db8:244:2::/122 via 2001:db8::2"} {
				eventually(t, 5*time.Second, func() bool { return strings.Contains(one.paths(), want) }, func() any { return one.paths() })
			}
			two.cmd.Process.Kill()
			two.cmd.Wait()
			eventually(t, 10*time.Second, func() bool { return strings.Count(one.paths(), "stale") == 2 }, func() any { return one.paths() })
			again := l.speaker(true)
			again.set(t, there)
			eventually(t, 30*time.Second, func() bool {
				if one.sees().Prefixes != 2 {
					t.Fatalf("a route went missing:\n%s", one.paths())
				}
				return again.established() && !strings.Contains(one.paths(), "stale")
			}, func() any { return one.paths() })
			if s := one.sees().Sessions[0]; s.Flaps != 1 || s.State != route.Established {
				t.Errorf("%+v", s)
			}
		})
	}
}

// A peer that does not come back within its restart time is not waited for any longer.
func TestStaleRoutesGoWithTheRestartTime(t *testing.T) {
	l := newLab(t)
	one, two := l.speakerIn(l.tor, false), l.speaker(false)
	one.set(t, meshDesired(1, 2, false, 2*time.Second))
	two.set(t, meshDesired(2, 1, false, 2*time.Second, "10.244.2.0/26"))
	eventually(t, 20*time.Second, func() bool { return one.sees().Prefixes == 1 && one.established() }, func() any { return one.sees() })
	two.cmd.Process.Kill()
	two.cmd.Wait()
	eventually(t, 5*time.Second, func() bool { return strings.Contains(one.paths(), "stale") }, func() any { return one.paths() })
	eventually(t, 15*time.Second, func() bool { return one.sees().Prefixes == 0 }, func() any { return one.paths() })
	if why := one.sees().Sessions[0].Reason; !strings.Contains(why, "192.0.2.2") && !strings.Contains(why, "restart time") {
		t.Errorf("the reason is %q", why)
	}
}
