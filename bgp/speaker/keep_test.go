package speaker

import (
	"net/netip"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// While a peer restarts, an attempt that fails makes GoBGP withdraw what is kept for the restart time: nobody said so, and it
// stays. From an Established session a withdrawal is the peer's word.
func TestKeptPathsOutliveFailedAttempts(t *testing.T) {
	peer, prefix := netip.MustParseAddr("192.0.2.1"), netip.MustParsePrefix("10.0.0.0/26")
	nlri, err := bgp.NewIPAddrPrefix(prefix)
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{route.Idle, route.Active, route.OpenSent, route.OpenConfirm, route.Established} {
		s := New(Options{})
		s.sessions[peer] = newSession(config.Neighbor{Address: peer}, time.Now())
		s.sessions[peer].state = state
		s.table.AddPeer(peer)
		s.table.Apply(peer, []Update{{Prefix: prefix, Path: &route.Path{Prefix: prefix, Peer: peer}}})
		s.table.Stale(peer, time.Now().Add(time.Hour), [2]time.Duration{})
		heard := &events{speaker: s}
		heard.onPaths([]*apiutil.Path{{Family: bgp.RF_IPv4_UC, Nlri: nlri, PeerAddress: peer, Withdrawal: true}})
		if got, want := s.table.Received(peer) == 1, state != route.Established; got != want {
			t.Errorf("%s: kept %v, want %v", state, got, want)
		}
	}
}
