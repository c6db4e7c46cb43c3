package config

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestBFD: a peer has BFD when it says so; what it leaves out is the configuration's.
func TestBFD(t *testing.T) {
	yes := true
	const ms = time.Millisecond
	peer, local := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.11")
	single := func(tx, rx time.Duration, multiplier uint8) *route.Watch {
		return &route.Watch{Peer: peer, Local: local, MinTx: tx, MinRx: rx, Multiplier: multiplier}
	}
	for name, c := range map[string]struct {
		own, configured *clearwayv1.BFD
		multihopTTL     int32
		want            *route.Watch
	}{
		"neither":               {nil, nil, 0, nil},
		"the mesh's is not its": {nil, &clearwayv1.BFD{}, 0, nil},
		"disabled":              {&clearwayv1.BFD{Disabled: true}, nil, 0, nil},
		"defaults":              {&clearwayv1.BFD{}, nil, 0, single(300*ms, 300*ms, 3)},
		"the configuration's":   {&clearwayv1.BFD{MinRx: "50ms"}, &clearwayv1.BFD{MinTx: "100ms", MinRx: "100ms", Multiplier: 5}, 0, single(100*ms, 50*ms, 5)},
		"the session's TTL": {&clearwayv1.BFD{}, nil, 3, &route.Watch{
			Peer: peer, Local: local, Multihop: true, MinTTL: 253, MinTx: 300 * ms, MinRx: 300 * ms, Multiplier: 3,
		}},
		"its own TTL": {&clearwayv1.BFD{Multihop: &yes, MinTtl: 250}, nil, 0, &route.Watch{
			Peer: peer, Local: local, Multihop: true, MinTTL: 250, MinTx: 300 * ms, MinRx: 300 * ms, Multiplier: 3,
		}},
	} {
		snapshot := snapshotWith(peerNamed("p", func(s *clearwayv1.BGPPeerSpec) { s.Bfd, s.MultihopTtl = c.own, c.multihopTTL }))
		snapshot.BgpConfiguration = &clearwayv1.BGPConfiguration{Spec: &clearwayv1.BGPConfigurationSpec{Bfd: c.configured}}
		desired, problems := Build("n", snapshot, nil)
		if len(problems) > 0 || len(desired.Neighbors) != 1 {
			t.Fatalf("%s: %+v, %v", name, desired, problems)
		}
		if diff := cmp.Diff(c.want, desired.Neighbors[0].BFD, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
