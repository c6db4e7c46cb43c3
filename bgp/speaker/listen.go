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

func (e *events) localASN(peer netip.Addr) (asn uint32, ok bool) {
	e.speaker.mu.Lock()
	defer e.speaker.mu.Unlock()
	session := e.speaker.sessions[peer]
	if session == nil || e.silent || e.speaker.frozen {
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
	e.speaker.table.Apply(peer, e.updates)
}

func (e *events) onEndOfRIB(peer netip.Addr, family route.Family) {
	s := e.speaker
	s.mu.Lock()
	session := s.sessions[peer]
	heard := session != nil && !e.silent && !s.frozen
	if heard {
		session.end(family)
	}
	s.mu.Unlock()
	if heard {
		s.table.Sweep(peer, family)
		s.table.signal()
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
	if session == nil || e.silent || s.frozen {
		s.mu.Unlock()
		return
	}
	before, after := session.state, stateNames[event.Peer.State.SessionState]
	now := time.Now()
	if after == before || after == "" {
		s.mu.Unlock()
		return
	}
	session.state, session.since = after, now
	if after == route.Established {
		session.establish(event.Peer.State)
	} else {
		session.disconnected(event.Peer.State)
	}
	if before == route.Established {
		session.flaps++
	}
	lost, restart := session.lost(event.Peer.State.RemoteCap), session.restart
	log := s.log.With("peer", peer.String(), "origin", session.neighbor.Origin)
	reason := session.disconnect
	s.mu.Unlock()

	switch {
	case after == route.Established:
		log.Info("session established")
		for _, family := range lost {
			s.table.Sweep(peer, family)
		}
		s.table.Extend(peer, now.Add(retainAfterReturn))
	case before == route.Established:
		log.Warn("session lost", slog.String("reason", reason))
		if event.Peer.State.DisconnectReason == api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART {
			s.table.Stale(peer, now.Add(restart))
		}
	}
	s.table.signal()
}
