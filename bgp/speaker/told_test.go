package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// What three peers hear over the wire, one of eBGP and two of iBGP, is what our own evaluation of the export filters says:
// for any filters, one after the other on the same sessions.
func TestPeersHearWhatFiltersSay(t *testing.T) {
	l := newLab(t)
	l.must("ip", "-n", l.tor, "addr", "add", "192.0.2.21/24", "dev", "up0")
	l.must("ip", "-n", l.node, "addr", "add", "192.0.2.22/24", "dev", "up0")
	tor, node := l.speakerIn(l.tor, false), l.speaker(false)
	six := func(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n)) }
	external := torNeighbor()
	internal := torNeighbor()
	internal.Address, internal.SourceAddress, internal.PeerASN, internal.Origin = six(1), six(2), 64512, "BGPPeer/inside"
	second := internal
	second.Address, second.SourceAddress, second.Origin = netip.MustParseAddr("192.0.2.21"), netip.MustParseAddr("192.0.2.22"), "BGPPeer/second"

	there := nodeDesired()
	there.Global = config.Global{ASN: 65101, RouterID: torAddress, ListenPort: 179, NextHop4: torAddress, NextHop6: six(1)}
	back, inside := external, internal
	back.Address, back.SourceAddress, back.PeerASN, back.LocalASN = external.SourceAddress, torAddress, 64512, 65101
	inside.Address, inside.SourceAddress = six(2), six(1)
	beside := second
	beside.Address, beside.SourceAddress = second.SourceAddress, second.Address
	there.Neighbors = []config.Neighbor{back, inside, beside}
	tor.set(t, there)

	desired := nodeDesired("10.244.1.0/26", "10.244.1.64/26", "2001:db8:244:1::/122")
	desired.Advertise[0].Communities, desired.Advertise[0].Source = []uint32{64512<<16 | 1}, route.SourceOwn
	// NO_EXPORT on what we originate is for the peer to obey; it is told.
	desired.Advertise[1].Communities, desired.Advertise[1].Source = []uint32{route.NoExport}, route.SourceVIP
	desired.Advertise[2].LargeCommunities = []route.LargeCommunity{{Global: 1, Local1: 2, Local2: 3}}

	rapid.Check(t, func(rt *rapid.T) {
		desired.Neighbors = nil
		var want []string
		for _, n := range []config.Neighbor{external, internal, second} {
			var chain policy.Chain
			for i, object := range rapid.SliceOfN(rapid.Custom(drawFilter), 0, 2).Draw(rt, "filters of "+n.Origin) {
				object.Metadata = &clearwayv1.ObjectMeta{Name: fmt.Sprint("f", i)}
				filter, faults := policy.ParseFilter(object)
				if len(faults) > 0 {
					rt.Fatal(faults)
				}
				chain = append(chain, filter)
			}
			n.Export = chain
			n.SetNextHops(desired.Global, nil)
			n.SetExports(desired.Global, desired.Advertise)
			desired.Neighbors = append(desired.Neighbors, n)
			for _, a := range desired.Advertise {
				want = append(want, heard(n, a)...)
			}
		}
		node.set(t, desired)
		slices.Sort(want)
		var got []string
		deadline := time.Now().Add(20 * time.Second)
		for !slices.Equal(got, want) {
			if time.Now().After(deadline) {
				rt.Fatalf("the peers hear\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			time.Sleep(2 * time.Millisecond)
			got = nil
			for _, paths := range tor.sees().Routes {
				for _, p := range paths {
					got = append(got, onTheWire(&p))
				}
			}
			slices.Sort(got)
		}
	})
	if s := tor.sees().Sessions; len(s) != 3 || s[0].Flaps+s[1].Flaps+s[2].Flaps > 0 {
		t.Errorf("a filter reset a session: %+v", s)
	}
}

func onTheWire(p *route.Path) string {
	return fmt.Sprint(p.Prefix, " from ", p.Peer, " via ", p.NextHop, " path ", p.ASPath, " pref ", p.LocalPref, " med ", p.MED, " ", p.Communities, p.Large())
}

// heard is what the other end of a session is to see of an advertisement, by the evaluation alone.
func heard(n config.Neighbor, a route.Advertisement) []string {
	path := &route.Path{Prefix: a.Prefix, NextHop: n.NextHop(route.FamilyOf(a.Prefix)), LocalPref: 100}
	policy.WithCommunities(path, a.Communities, a.LargeCommunities, nil)
	outcome := n.Export.Evaluate(policy.Subject{Path: path, Source: a.Source, Peer: n.Session(), Export: true})
	if !outcome.Accept {
		return nil
	}
	told := *outcome.Path
	told.Peer = n.SourceAddress
	if n.EBGP() {
		told.ASPath, told.LocalPref = slices.Repeat([]uint32{n.LocalASN}, 1+outcome.Prepend), 100
	}
	return []string{onTheWire(&told)}
}

func drawFilter(t *rapid.T) *clearwayv1.BGPFilter {
	filter := &clearwayv1.BGPFilter{Spec: &clearwayv1.BGPFilterSpec{}}
	communities := []string{"1:1", "64512:1", "GracefulShutdown", "NoExport", "NoAdvertise", "1:2:3", "4:5:6"}
	for range rapid.IntRange(0, 3).Draw(t, "rules") {
		rule := &clearwayv1.BGPFilterRule{Action: rapid.SampledFrom([]string{"Accept", "Continue", "Continue", "Reject"}).Draw(t, "action")}
		if rapid.Bool().Draw(t, "prefix?") {
			cidr := rapid.SampledFrom([]string{"10.244.1.0/26", "10.244.1.64/26", "2001:db8:244:1::/122"}).Draw(t, "cidr")
			rule.Prefixes = []*clearwayv1.PrefixMatch{{Cidr: cidr}}
		}
		rule.AnyCommunities = rapid.SliceOfN(rapid.SampledFrom(communities), 0, 1).Draw(t, "any")
		rule.Sources = rapid.SliceOfN(rapid.SampledFrom([]string{"Own", "VIP"}), 0, 1).Draw(t, "source")
		if rule.Action != "Reject" {
			rule.Set = &clearwayv1.RouteChanges{
				AddCommunities:    rapid.SliceOfN(rapid.SampledFrom(communities), 0, 2).Draw(t, "add"),
				RemoveCommunities: rapid.SliceOfN(rapid.SampledFrom([]string{"*:*", "*:*:*", "1:1"}), 0, 1).Draw(t, "remove"),
				Prepend:           int32(rapid.IntRange(0, 2).Draw(t, "prepend")),
			}
			if rapid.Bool().Draw(t, "numbers?") {
				pref, med := rapid.SampledFrom([]uint32{0, 50, 200}).Draw(t, "pref"), rapid.SampledFrom([]uint32{0, 7}).Draw(t, "med")
				rule.Set.LocalPref, rule.Set.Med = &pref, &med
			}
		}
		filter.Spec.Rules = append(filter.Spec.Rules, rule)
	}
	return filter
}
