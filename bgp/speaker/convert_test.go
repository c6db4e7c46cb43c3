package speaker

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

func TestReadPath(t *testing.T) {
	peer := netip.MustParseAddr("192.0.2.1")
	nlri, _ := bgp.NewIPAddrPrefix(netip.MustParsePrefix("10.0.0.0/26"))
	next, _ := bgp.NewPathAttributeNextHop(peer)
	segment := func(kind uint8, numbers ...uint32) bgp.AsPathParamInterface {
		return bgp.NewAs4PathParam(kind, numbers)
	}
	attributes := []bgp.PathAttributeInterface{
		bgp.NewPathAttributeOrigin(2), next, bgp.NewPathAttributeMultiExitDisc(7), bgp.NewPathAttributeLocalPref(200),
		bgp.NewPathAttributeCommunities([]uint32{1}),
		bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{
			segment(bgp.BGP_ASPATH_ATTR_TYPE_CONFED_SEQ, 9), segment(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, 1, 2), segment(bgp.BGP_ASPATH_ATTR_TYPE_SET, 3, 4),
		}),
	}
	read := func(localASN uint32, withdrawal bool, attributes ...bgp.PathAttributeInterface) string {
		var r reader
		update, ok := r.read(&apiutil.Path{
			Family: bgp.RF_IPv4_UC, Nlri: nlri, Attrs: attributes, PeerASN: 65101, PeerAddress: peer, Withdrawal: withdrawal,
		}, localASN)
		if !ok || update.Path == nil {
			return fmt.Sprint(ok, " withdrawn ", update.Prefix)
		}
		p := update.Path
		return fmt.Sprint(p.Prefix, " via ", p.NextHop, " ", p.ASPath, p.ASPathLen, p.HasASSet, " origin ", p.Origin,
			" pref ", p.LocalPref, " med ", p.MED, " ", p.Communities, " ebgp ", p.EBGP)
	}
	for _, c := range []struct{ got, want string }{
		{read(64512, false, attributes...), "10.0.0.0/26 via 192.0.2.1 [9 1 2 3 4] 3 true origin 2 pref 100 med 7 [1] ebgp true"},
		{read(65101, false, attributes...), "10.0.0.0/26 via 192.0.2.1 [9 1 2 3 4] 3 true origin 2 pref 200 med 7 [1] ebgp false"},
		{read(64512, true), "true withdrawn 10.0.0.0/26"},
		{read(64512, false, attributes[0]), "true withdrawn 10.0.0.0/26"}, // no next hop: treated as withdrawn
	} {
		if c.got != c.want {
			t.Errorf("%s\nnot %s", c.got, c.want)
		}
	}
}

func TestMPNextHop(t *testing.T) {
	local, global := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::1")
	zoned := netip.MustParseAddr("fe80::9%eth0")
	for _, c := range []struct{ next, linkLocal, peer, want netip.Addr }{
		{global, local, zoned, zoned},
		{global, netip.Addr{}, global, global},
		{local, netip.Addr{}, zoned, local.WithZone("eth0")},
		{netip.IPv6Unspecified(), netip.Addr{}, zoned, zoned},
		{netip.IPv6Unspecified(), netip.Addr{}, global, netip.Addr{}},
		{netip.MustParseAddr("ff02::1"), netip.Addr{}, zoned, netip.Addr{}},
		{local, netip.Addr{}, global, netip.Addr{}}, // on which link?
		{netip.MustParseAddr("ff02::1"), netip.Addr{}, global, netip.Addr{}},
		{netip.MustParseAddr("::ffff:192.0.2.1"), netip.Addr{}, global, netip.MustParseAddr("192.0.2.1")},
	} {
		if got := mpNextHop(&bgp.PathAttributeMpReachNLRI{Nexthop: c.next, LinkLocalNexthop: c.linkLocal}, c.peer); got != c.want {
			t.Errorf("%v from %s: %s, not %s", c.next, c.peer, got, c.want)
		}
	}
}
