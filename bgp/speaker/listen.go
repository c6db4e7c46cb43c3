package speaker

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"

	"github.com/clearway/clearway/bgp/route"
)

// events takes what one engine tells over into the table and the sessions. An engine that is being stopped is not
// listened to any more.
type events struct {
	speaker *Speaker
	reader  reader
	updates []Update
	silent  bool // guarded by speaker.mu
}

// localASN is our AS number on an Established session. What GoBGP tells of another is its own doing: at each attempt that
// fails while a peer restarts it drops the paths that are kept for the restart time. Ours go by their own timers.
func (e *events) localASN(peer netip.Addr) (asn uint32, ok bool) {
	e.speaker.mu.Lock()
	defer e.speaker.mu.Unlock()
	session := e.speaker.sessions[peer]
	if session == nil || e.silent || e.speaker.frozen || session.blocked.why != "" || session.state != route.Established {
		return 0, false
	}
	return session.neighbor.LocalASN, true
}

// onPaths hears the paths of one UPDATE, or the withdrawals of one peer.
func (e *events) onPaths(paths []*apiutil.Path) {
	if len(paths) == 0 {
		return
	}
	peer := paths[0].PeerAddress.Unmap()
	localASN, ok := e.localASN(peer)
	if !ok {
		return
	}
	e.updates = e.updates[:0]
	for _, path := range paths {
		path.PeerAddress = peer
		if update, ok := e.reader.read(path, localASN); ok {
			e.updates = append(e.updates, update)
		}
	}
	over := e.speaker.table.Apply(peer, e.updates)
	e.speaker.watchLimit(peer, over)
}

func (e *events) onEndOfRIB(peer netip.Addr, family route.Family) {
	s := e.speaker
	s.mu.Lock()
	session := s.sessions[peer]
	heard := session != nil && !e.silent && !s.frozen && session.blocked.why == ""
	if heard {
		session.end(family)
	}
	s.mu.Unlock()
	if heard {
		s.table.Sweep(peer, family)
		s.table.signal()
	}
}

// onUnreadable ends the session: which of the peer's paths are void is not known (RFC 7606 section 4).
func (e *events) onUnreadable(text string) {
	peer, err := netip.ParseAddr(text)
	if err != nil {
		return
	}
	s := e.speaker
	s.mu.Lock()
	session := s.sessions[peer]
	ends := session != nil && !e.silent && !s.frozen && session.state == route.Established
	if ends {
		session.failure = "the peer sent an UPDATE with an attribute that runs over its end, so that its prefixes are not known (RFC 7606 section 4)"
		s.failed = append(s.failed, peer)
	}
	s.mu.Unlock()
	if ends {
		s.poke()
	}
}

func (e *events) onPeer(event *apiutil.WatchEventMessage_PeerEvent) {
	if event.Type != apiutil.PEER_EVENT_STATE {
		return
	}
	s := e.speaker
	peer := event.Peer.State.NeighborAddress.Unmap()
	s.mu.Lock()
	session := s.sessions[peer]
	after := stateNames[event.Peer.State.SessionState]
	if group := event.Peer.State.PeerGroup; session == nil && group != "" && !e.silent && !s.frozen && (after == route.OpenSent || after == route.Established) {
		session = s.admit(peer, group)
	}
	if session == nil || e.silent || s.frozen {
		s.mu.Unlock()
		return
	}
	before := session.state
	now := time.Now()
	if after == before || after == "" {
		s.mu.Unlock()
		return
	}
	session.state, session.since = after, now
	if after == route.Established {
		session.establish(event.Peer.State)
		s.refuseOwnAS(session, now)
	} else {
		session.disconnected(event.Peer.State)
		session.warning = ""
	}
	if before == route.Established {
		session.flaps++
	}
	lost, restart, longer := session.lost(event.Peer.State.RemoteCap, s.table.LongLived(peer)), session.restart, session.longer
	log := s.log.With("peer", peer.String(), "origin", session.neighbor.Origin)
	reason, blocked, held := session.disconnect, session.blocked.why != "", len(session.held) > 0
	graceful := event.Peer.State.DisconnectReason == api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART && !blocked
	called := session.group != ""
	s.mu.Unlock()

	switch {
	case blocked:
		s.table.Flush(peer)
		if after == route.Established {
			s.endAgain(peer) // one who called again
		}
	case after == route.Established:
		log.Info("session established")
		for _, family := range lost {
			s.table.Sweep(peer, family)
		}
		s.table.Extend(peer, now.Add(retainAfterReturn))
	case before == route.Established:
		log.Warn("session lost", slog.String("reason", reason))
		switch {
		case graceful:
			s.table.Stale(peer, now.Add(restart), longer)
		case called:
			s.forget(peer)
		}
	case called && after == route.Idle && !s.table.HasStale(peer):
		s.forget(peer)
	}
	if held && before == route.Established {
		s.poke()
	}
	s.table.signal()
}
