package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Peers that the configuration does not name by address: who is there decides, and where nobody is it is said.
func TestBuildAt(t *testing.T) {
	addr := netip.MustParseAddr
	found := func(name string, change func(*clearwayv1.BGPPeerSpec)) *clearwayv1.BGPPeer {
		return peerNamed(name, func(s *clearwayv1.BGPPeerSpec) {
			s.PeerAddress, s.PeerAsn = "", 0
			change(s)
		})
	}
	byInterface := func(pattern string) *clearwayv1.BGPPeer {
		return found("tor", func(s *clearwayv1.BGPPeerSpec) { s.PeerInterface = pattern })
	}
	byGateway := func(families string) *clearwayv1.BGPPeer {
		return found("gw", func(s *clearwayv1.BGPPeerSpec) { s.DefaultGateways = families })
	}
	place := Surroundings{
		Links: []Link{
			{Name: "eth1", Routers: []netip.Addr{addr("fe80::1%eth1")}},
			{Name: "eth2", Routers: []netip.Addr{addr("fe80::1%eth2"), addr("fe80::2%eth2")}},
			{Name: "eth3"},
		},
		Gateways: []netip.Addr{addr("198.51.100.1"), addr("198.51.101.1"), addr("fe80::1%eth1")},
		Local: []LocalAddress{
			{Interface: 2, Address: addr("192.0.2.11"), Bits: 24}, {Interface: 3, Address: addr("198.51.100.9"), Bits: 24},
		},
	}
	for _, c := range []struct {
		name  string
		place Surroundings
		peers []*clearwayv1.BGPPeer
		want  string
	}{
		{"one interface", place, []*clearwayv1.BGPPeer{byInterface("eth1")}, "fe80::1%eth1 AS 0 from none IPv4+IPv6"},
		{"a pattern", place, []*clearwayv1.BGPPeer{byInterface("eth?")},
			"fe80::1%eth1 AS 0 from none IPv4+IPv6; fe80::1%eth2 AS 0 from none IPv4+IPv6; fe80::2%eth2 AS 0 from none IPv4+IPv6; awaits eth3"},
		{"no such interface", place, []*clearwayv1.BGPPeer{byInterface("bond0")}, "awaits bond0"},
		{"nobody is there yet", Surroundings{}, []*clearwayv1.BGPPeer{byInterface("eth*")}, ""},
		{"all gateways", place, []*clearwayv1.BGPPeer{byGateway("Both")},
			"198.51.100.1 AS 0 from 198.51.100.9 IPv4+IPv6; 198.51.101.1 AS 0 from 192.0.2.11 IPv4+IPv6; fe80::1%eth1 AS 0 from none IPv4+IPv6"},
		{"those of one family", place, []*clearwayv1.BGPPeer{byGateway("IPv6")}, "fe80::1%eth1 AS 0 from none IPv4+IPv6"},
		{"no gateway", Surroundings{}, []*clearwayv1.BGPPeer{byGateway("Both")}, "awaits default gateway"},
		{"a gateway that is named otherwise, too", place, []*clearwayv1.BGPPeer{byGateway("IPv6"), byInterface("eth1")},
			"fe80::1%eth1 AS 0 from none IPv4+IPv6; problem DuplicatePeer"},
		{"a link-local address that is written", place, []*clearwayv1.BGPPeer{peerNamed("x", func(s *clearwayv1.BGPPeerSpec) { s.PeerAddress = "fe80::9%eth1" })},
			"fe80::9%eth1 AS 65101 from none IPv4+IPv6"},
		{"ranges", place, []*clearwayv1.BGPPeer{found("dyn", func(s *clearwayv1.BGPPeerSpec) {
			s.ListenRanges, s.PeerType, s.ListenLimit = []string{"198.51.100.0/24", "2001:db8:9::/64"}, TypeInternal, 7
		})}, "range 198.51.100.0/24 AS 64512 limit 7; range 2001:db8:9::/64 AS 64512 limit 7"},
		{"one range twice", place, []*clearwayv1.BGPPeer{
			found("a", func(s *clearwayv1.BGPPeerSpec) { s.ListenRanges = []string{"198.51.100.0/24"} }),
			found("b", func(s *clearwayv1.BGPPeerSpec) { s.ListenRanges = []string{"198.51.100.0/24"} }),
		}, "range 198.51.100.0/24 AS 0 limit 100; problem DuplicateRange"},
	} {
		desired, problems := BuildAt(c.place, "n1", snapshotWith(c.peers...), nil)
		var list []string
		for _, n := range desired.Neighbors {
			from := "none"
			if n.SourceAddress.IsValid() {
				from = n.SourceAddress.String()
			}
			families := strings.Trim(strings.ReplaceAll(fmt.Sprint(n.Families), "4 6", "IPv4+IPv6"), "[]")
			list = append(list, fmt.Sprintf("%s AS %d from %s %s", n.Address, n.PeerASN, from, families))
		}
		for _, r := range desired.Ranges {
			list = append(list, fmt.Sprintf("range %s AS %d limit %d", r.Prefix, r.Session.PeerASN, r.Limit))
			if caller := r.Neighbor(addr("198.51.100.7")); !caller.Passive || caller.Address != addr("198.51.100.7") || r.Session.SourceAddress.IsValid() {
				t.Errorf("%s: who calls is %+v", c.name, caller)
			}
		}
		for _, a := range desired.Awaited {
			list = append(list, "awaits "+a.Place)
		}
		for _, p := range problems {
			list = append(list, "problem "+p.Reason)
		}
		if got := strings.Join(list, "; "); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}
