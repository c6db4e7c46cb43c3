package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// What a reflector tells on comes to clients with ORIGINATOR_ID and CLUSTER_LIST, its next hop and all it carried; what
// came from another reflector to clients alone; and nothing of it to a router. Roles change without a reset.
func TestReflectionOnTheWire(t *testing.T) {
	l := newLab(t)
	l.must("ip", "-n", l.tor, "addr", "add", "192.0.2.21/24", "dev", "up0")
	l.must("ip", "-n", l.node, "addr", "add", "192.0.2.22/24", "dev", "up0")
	peers, node := l.speakerIn(l.tor, false), l.speaker(false)
	six := func(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n)) }
	self := netip.MustParseAddr("192.0.2.2")
	router := torNeighbor()
	inMesh := func(remote, local netip.Addr, client bool) config.Neighbor {
		n := torNeighbor()
		n.Address, n.SourceAddress, n.PeerASN, n.Origin, n.MeshNode = remote, local, 64512, "nodeMesh/x", "x"
		n.ClusterID, n.Client = self, client
		return n
	}
	client, equal := inMesh(six(1), six(2), true), inMesh(netip.MustParseAddr("192.0.2.21"), netip.MustParseAddr("192.0.2.22"), false)

	there := nodeDesired()
	there.Global = config.Global{ASN: 65101, RouterID: torAddress, ListenPort: 179, NextHop4: torAddress, NextHop6: six(1)}
	for _, n := range []config.Neighbor{router, client, equal} {
		back := n
		back.Address, back.SourceAddress, back.PeerASN, back.LocalASN = n.SourceAddress, n.Address, n.LocalASN, n.PeerASN
		back.ClusterID = netip.Addr{}
		there.Neighbors = append(there.Neighbors, back)
	}
	peers.set(t, there)

	reflect := func(prefix, next, originator string, clusters ...string) *route.Path {
		p := &route.Path{
			Prefix: netip.MustParsePrefix(prefix), NextHop: netip.MustParseAddr(next), LocalPref: 0, MED: 7,
			Communities: []uint32{route.GracefulShutdown},
			Extra: &route.Extra{
				OriginatorID: netip.MustParseAddr(originator), LargeCommunities: []route.LargeCommunity{{Global: 1, Local1: 2, Local2: 3}},
			},
		}
		for _, id := range clusters {
			p.Extra.ClusterList = append(p.Extra.ClusterList, netip.MustParseAddr(id))
		}
		return p
	}
	desired := nodeDesired("10.244.1.0/26")
	desired.Neighbors = []config.Neighbor{router, client, equal}
	desired.Reflect = []config.Reflection{
		{Path: reflect("10.244.2.0/26", "192.0.2.12", "192.0.2.12")},
		{Path: reflect("2001:db8:244:3::/122", "2001:db8::13", "192.0.2.13", "192.0.2.15"), ClientsOnly: true},
	}
	for i := range desired.Neighbors {
		desired.Neighbors[i].SetNextHops(desired.Global, nil)
	}
	const (
		own    = "10.244.1.0/26 via 192.0.2.2 pref 100"
		first  = "10.244.2.0/26 via 192.0.2.12 pref 0 med 7 [4294901760] [1:2:3] by 192.0.2.12 through [192.0.2.2]"
		second = "2001:db8:244:3::/122 via 2001:db8::13 pref 0 med 7 [4294901760] [1:2:3] by 192.0.2.13 through [192.0.2.2 192.0.2.15]"
	)
	hear := func(want ...string) {
		t.Helper()
		slices.Sort(want)
		heard := func() (got []string) {
			for _, paths := range peers.sees().Routes {
				for _, p := range paths {
					text := fmt.Sprintf("%s: %s via %s pref %d", p.Peer, p.Prefix, p.NextHop, p.LocalPref)
					if p.MED != 0 {
						text += fmt.Sprintf(" med %d %v %v by %s through %v", p.MED, p.Communities, p.Large(), p.Extra.OriginatorID, p.Extra.ClusterList)
					}
					got = append(got, text)
				}
			}
			slices.Sort(got)
			return got
		}
		eventually(t, 20*time.Second, func() bool { return slices.Equal(heard(), want) }, func() any { return strings.Join(heard(), "\n") })
	}
	node.set(t, desired)
	hear("192.0.2.2: "+own, "2001:db8::2: "+own, "192.0.2.22: 10.244.1.0/26 via 192.0.2.22 pref 100",
		"2001:db8::2: "+first, "192.0.2.22: "+first, "2001:db8::2: "+second)

	desired.Neighbors[1].Client, desired.Neighbors[2].Client = false, true
	node.set(t, desired)
	hear("192.0.2.2: "+own, "2001:db8::2: "+own, "192.0.2.22: 10.244.1.0/26 via 192.0.2.22 pref 100",
		"2001:db8::2: "+first, "192.0.2.22: "+first, "192.0.2.22: "+second)
	desired.Reflect = desired.Reflect[:1]
	node.set(t, desired)
	hear("192.0.2.2: "+own, "2001:db8::2: "+own, "192.0.2.22: 10.244.1.0/26 via 192.0.2.22 pref 100", "2001:db8::2: "+first, "192.0.2.22: "+first)
	for _, s := range peers.sees().Sessions {
		if s.Flaps > 0 {
			t.Errorf("a role's change reset %s", s.Peer)
		}
	}
}
