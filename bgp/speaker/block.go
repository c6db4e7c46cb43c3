package speaker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// block keeps down a session that was ended here for what its peer did.
type block struct {
	why       string // empty: there is none
	until     time.Time
	overLimit bool // of the limit, so that the peer hears Maximum Number of Prefixes Reached
	neighbor  config.Neighbor
}

func (b block) over(now time.Time) bool {
	return b.why != "" && !b.until.IsZero() && !now.Before(b.until)
}

func (b block) reason() string {
	if b.until.IsZero() {
		return b.why + "; it stays down until its BGPPeer is changed"
	}
	return b.why + "; it begins again at " + b.until.UTC().Format(time.TimeOnly) + " UTC"
}

// configure takes a neighbour as it is wanted now.
func (s *session) configure(n config.Neighbor) {
	s.neighbor = n
	if s.warning != "" && n.MaxPrefixes.Limit == 0 {
		s.warning = ""
	}
}

// watchLimit compares what a peer tells with what it may, and ends its session where that is asked for.
func (s *Speaker) watchLimit(peer netip.Addr, over [2]bool) {
	s.mu.Lock()
	session := s.sessions[peer]
	if session == nil || session.neighbor.MaxPrefixes.Limit == 0 {
		s.mu.Unlock()
		return
	}
	limit, counts := session.neighbor.MaxPrefixes, s.table.Counts(peer)
	ends := false
	session.warning = ""
	for i, family := range []route.Family{route.IPv4, route.IPv6} {
		switch {
		case over[i]:
			why := fmt.Sprintf("the peer told more than %d IPv%d prefixes, its maxPrefixes", limit.Limit, family)
			session.blocked = block{why: why, overLimit: true, neighbor: session.neighbor}
			if limit.Action == config.LimitRestart {
				session.blocked.until = time.Now().Add(limit.RestartAfter)
			}
			ends = true
		case counts[i] > limit.Limit:
			session.warning = fmt.Sprintf("the peer tells more than %d IPv%d prefixes, its maxPrefixes", limit.Limit, family)
		case counts[i] >= limit.WarnAt:
			session.warning = fmt.Sprintf("the peer tells %d or more IPv%d prefixes; its maxPrefixes is %d", limit.WarnAt, family, limit.Limit)
		}
	}
	if ends {
		s.failed = append(s.failed, peer)
		s.log.Error("a session is ended", "peer", peer.String(), "origin", session.neighbor.Origin, "reason", session.blocked.reason())
	}
	s.mu.Unlock()
	if ends {
		s.table.Flush(peer)
		s.poke()
	}
}

// refuseOwnAS ends a session with a peer of any other AS that turns out to be of our own: GoBGP would take it for
// external. The mutex is held.
func (s *Speaker) refuseOwnAS(session *session, now time.Time) {
	n := session.neighbor
	if n.PeerASN != 0 || session.remoteASN != n.LocalASN {
		return
	}
	session.blocked = block{
		why:   fmt.Sprintf("the peer's AS number is %d, our own, and it is to be another: peerType is External", n.LocalASN),
		until: now.Add(limits.ownAS), neighbor: n,
	}
	s.failed = append(s.failed, n.Address)
	s.poke()
}

// endFailed ends the sessions that Fail named and those that are kept down. The peer hears a Cease, if it hears anything:
// neither end keeps routes by graceful restart after one. GoBGP knows the subcodes Administrative Reset and Maximum Number of
// Prefixes Reached alone, not RFC 9384's BFD Down; the reason is in its text (RFC 9003).
func (s *Speaker) endFailed(ctx context.Context) error {
	s.mu.Lock()
	failed := s.failed
	s.failed = nil
	blocks, texts := map[netip.Addr]block{}, map[netip.Addr]string{}
	called := map[netip.Addr]bool{}
	for _, peer := range failed {
		if session := s.sessions[peer]; session != nil {
			blocks[peer], called[peer] = session.blocked, session.group != ""
			texts[peer] = "Malformed UPDATE"
			if strings.HasPrefix(session.failure, "BFD") {
				texts[peer] = "BFD Down"
			}
		}
	}
	s.mu.Unlock()
	var faults []error
	for _, peer := range failed {
		there := s.applied.peers[peer].peer
		if s.engine == nil || there == nil && !called[peer] {
			continue // it went by itself
		}
		if err := s.end(ctx, peer, there, blocks[peer], texts[peer]); err != nil {
			faults = append(faults, fmt.Errorf("end the session with %s: %w", peer, err))
		}
	}
	return errors.Join(faults...)
}

func (s *Speaker) end(ctx context.Context, peer netip.Addr, there *api.Peer, b block, text string) error {
	switch {
	case b.why == "":
		return s.engine.bgp.ResetPeer(ctx, &api.ResetPeerRequest{Address: peer.String(), Communication: text})
	case there == nil:
		return s.engine.bgp.ShutdownPeer(ctx, &api.ShutdownPeerRequest{Address: peer.String(), Communication: b.why})
	case b.overLimit:
		// A limit that is passed already makes GoBGP say so, and keep the session down.
		limited := proto.CloneOf(there)
		for _, afi := range limited.AfiSafis {
			afi.PrefixLimits = &api.PrefixLimit{Family: afi.Config.Family, MaxPrefixes: uint32(b.neighbor.MaxPrefixes.Limit)}
		}
		_, err := s.engine.bgp.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: limited})
		return err
	}
	return s.engine.bgp.DisablePeer(ctx, &api.DisablePeerRequest{Address: peer.String(), Communication: b.why})
}

func (s *Speaker) endAgain(peer netip.Addr) {
	s.mu.Lock()
	if !slices.Contains(s.failed, peer) {
		s.failed = append(s.failed, peer)
	}
	s.mu.Unlock()
	s.poke()
}

// unblock lets a session that is kept down begin again when its time has come, or what it was ended for has changed.
func (s *Speaker) unblock(ctx context.Context, n config.Neighbor) (blocked bool, err error) {
	s.mu.Lock()
	session := s.sessions[n.Address]
	if session == nil || session.blocked.why == "" {
		s.mu.Unlock()
		return false, nil
	}
	was := session.blocked
	changed := len(config.ResetFields(was.neighbor, n)) > 0 || was.neighbor.MaxPrefixes != n.MaxPrefixes
	if !changed && !was.over(time.Now()) {
		s.mu.Unlock()
		return true, nil
	}
	session.blocked, session.disconnect = block{}, ""
	s.mu.Unlock()
	return false, s.deletePeer(ctx, n.Address)
}

// forgetCallers drops the sessions of those who called, broke off by a restart of theirs, and did not call again.
func (s *Speaker) forgetCallers(now time.Time) {
	const patience = 10 * time.Second
	s.mu.Lock()
	var gone []netip.Addr
	for address, session := range s.sessions {
		if session.group != "" && session.state != route.Established && now.Sub(session.since) > patience && !session.blocked.holds(now) {
			gone = append(gone, address)
		}
	}
	s.mu.Unlock()
	for _, address := range gone {
		if !s.table.HasStale(address) {
			s.forget(address)
		}
	}
}

// holds tells whether it keeps the session down now.
func (b block) holds(now time.Time) bool { return b.why != "" && !b.over(now) }
