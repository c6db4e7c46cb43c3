package speaker

import (
	"net/netip"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// TestFail: an Established session's paths go at once, of that peer alone, and the session is to be ended, for the reason
// that is given. What a graceful restart keeps stays where that is asked for.
func TestFail(t *testing.T) {
	failing, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	prefix := netip.MustParsePrefix("10.244.9.0/26")
	for name, c := range map[string]struct {
		state     string
		keepStale bool
		kept      int64
		ended     bool
	}{
		"established":                    {route.Established, false, 0, true},
		"established, C bit clear":       {route.Established, true, 0, true},
		"restarting, BFD is independent": {route.Active, false, 0, false},
		"restarting, C bit clear":        {route.Active, true, 1, false},
	} {
		s := New(Options{})
		for _, peer := range []netip.Addr{failing, other} {
			s.sessions[peer] = newSession(config.Neighbor{Address: peer}, time.Now())
			s.table.AddPeer(peer)
			s.table.Apply(peer, []Update{{Prefix: prefix, Path: &route.Path{Prefix: prefix, Peer: peer}}})
		}
		s.sessions[failing].state = c.state
		s.Fail(failing, "BFD went down", c.keepStale)
		if got := s.table.Received(failing); got != c.kept {
			t.Errorf("%s: %d paths are kept, want %d", name, got, c.kept)
		}
		if s.table.Received(other) != 1 {
			t.Errorf("%s: the other peer's path is gone", name)
		}
		if ended := len(s.failed) == 1 && s.failed[0] == failing; ended != c.ended {
			t.Errorf("%s: to be ended: %v", name, s.failed)
		}
		s.sessions[failing].disconnected(apiutil.PeerState{DisconnectReason: api.PeerState_DISCONNECT_REASON_NOTIFICATION_SENT})
		if got := s.sessions[failing].disconnect; (got == "BFD went down") != c.ended {
			t.Errorf("%s: the reason is %q", name, got)
		}
	}
	New(Options{}).Fail(failing, "nobody wants it", false)
}
