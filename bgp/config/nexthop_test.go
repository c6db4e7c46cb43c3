package config

import (
	"net/netip"
	"testing"

	"github.com/clearway/clearway/bgp/route"
)

func TestNextHopIsOfTheSessionsLink(t *testing.T) {
	addr := netip.MustParseAddr
	global := Global{NextHop4: addr("172.16.7.1"), NextHop6: addr("fd00:16:7::1")}
	local := []LocalAddress{
		{Interface: 1, Address: addr("172.16.7.1")}, {Interface: 1, Address: addr("fd00:16:7::1")},
		{Interface: 2, Address: addr("172.16.31.1"), Bits: 31}, {Interface: 2, Address: addr("fd00:16:31::9")}, {Interface: 2, Address: addr("fd00:16:31::1")},
		{Interface: 3, Address: addr("172.16.41.1")},
	}
	for _, test := range []struct {
		name     string
		neighbor Neighbor
		want     [2]string // IPv4, IPv6
	}{
		{"session from the link's address", Neighbor{Address: addr("172.16.31.0"), SourceAddress: addr("172.16.31.1")},
			[2]string{"172.16.31.1", "fd00:16:31::1"}},
		{"session over IPv6", Neighbor{Address: addr("fd00:16:31::"), SourceAddress: addr("fd00:16:31::1")},
			[2]string{"172.16.31.1", "fd00:16:31::1"}},
		{"the link has no IPv6", Neighbor{Address: addr("172.16.41.0"), SourceAddress: addr("172.16.41.1")},
			[2]string{"172.16.41.1", "fd00:16:7::1"}},
		{"session from the node's own address", Neighbor{Address: addr("172.16.7.9"), SourceAddress: addr("172.16.7.1")},
			[2]string{"172.16.7.1", "fd00:16:7::1"}},
		{"multihop", Neighbor{Address: addr("192.0.2.1"), SourceAddress: addr("172.16.31.1"), MultihopTTL: 3},
			[2]string{"172.16.31.1", "fd00:16:7::1"}},
		{"an address that the machine does not have", Neighbor{Address: addr("192.0.2.1"), SourceAddress: addr("192.0.2.2")},
			[2]string{"192.0.2.2", "fd00:16:7::1"}},
		{"an internal peer may be anywhere", Neighbor{Address: addr("192.0.2.1"), SourceAddress: addr("172.16.31.1"), PeerASN: 65001},
			[2]string{"172.16.31.1", "fd00:16:7::1"}},
		{"an internal peer of the link", Neighbor{Address: addr("172.16.31.0"), SourceAddress: addr("172.16.31.1"), PeerASN: 65001},
			[2]string{"172.16.31.1", "fd00:16:31::1"}},
		{"a node of the mesh is on-link", Neighbor{Address: addr("172.16.31.0"), SourceAddress: addr("172.16.31.1"), PeerASN: 65001, MeshNode: "n2"},
			[2]string{"172.16.31.1", "fd00:16:31::1"}},
		{"no source address", Neighbor{Address: addr("192.0.2.1")}, [2]string{"172.16.7.1", "fd00:16:7::1"}},
	} {
		test.neighbor.Families = []route.Family{route.IPv4, route.IPv6}
		test.neighbor.LocalASN = 65001
		test.neighbor.SetNextHops(global, local)
		if got := [2]string{test.neighbor.NextHop4.String(), test.neighbor.NextHop6.String()}; got != test.want {
			t.Errorf("%s: next hops %s, want %s", test.name, got, test.want)
		}
	}
}
