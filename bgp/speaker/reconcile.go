package speaker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// applied is what the engine was given, as far as it took it.
type applied struct {
	global   config.Global
	policies *api.SetPoliciesRequest
	exports  map[netip.Addr]exported
	paths    map[netip.Prefix]appliedPath
	peers    map[netip.Addr]*api.Peer
	events   *events
	lastErr  string
}

// exported is what the export policy makes of the node's prefixes for one neighbour.
type exported struct {
	withheld           []netip.Prefix
	nextHop4, nextHop6 netip.Addr
}

func (e exported) equal(other exported) bool {
	return e.nextHop4 == other.nextHop4 && e.nextHop6 == other.nextHop6 && slices.Equal(e.withheld, other.withheld)
}

type appliedPath struct {
	nextHop     netip.Addr
	communities []uint32
}

// reconcile brings the engine to what is desired, as far as it can, and tells whether that is all the way. One
// neighbour's fault never stops another's.
func (s *Speaker) reconcile(ctx context.Context) bool {
	desired, ok := s.latest()
	if !ok {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, limits.operation)
	defer cancel()
	err := s.apply(ctx, desired)
	if ctx.Err() == nil || err == nil {
		s.report(err)
	}
	return err == nil
}

// report logs a fault once, not on each try.
func (s *Speaker) report(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != s.applied.lastErr && text != "" {
		s.log.Error("BGP cannot be as configured; trying again", "error", err)
	}
	s.applied.lastErr = text
}

func (s *Speaker) apply(ctx context.Context, desired config.Desired) error {
	if err := s.ensureEngine(desired.Global); err != nil {
		s.setSessions(desired.Neighbors, err.Error())
		return err
	}
	removed := s.setSessions(desired.Neighbors, "")
	faults := []error{s.deletePeers(ctx, removed)}
	request := policies(desired)
	if !proto.Equal(request, s.applied.policies) {
		if err := s.engine.setPolicies(ctx, request); err != nil {
			return errors.Join(append(faults, err)...) // never advertise under the policies of before
		}
		s.applied.policies = request
	}
	faults = append(faults, s.applyPaths(desired), s.reexport(ctx, desired.Neighbors))
	for _, neighbor := range desired.Neighbors {
		faults = append(faults, s.applyPeer(ctx, neighbor))
	}
	return errors.Join(faults...)
}

// ensureEngine starts GoBGP, anew where the shared part changed. Then what peers told is kept as stale until they are
// back: they lose the session, not their routes.
func (s *Speaker) ensureEngine(global config.Global) error {
	if s.engine != nil && !restartsAll(s.applied.global, global) {
		s.applied.global = global
		return nil
	}
	if s.engine != nil {
		s.log.Info("BGP starts anew: its AS number, router ID or port changed")
		s.retire()
	}
	heard := &events{speaker: s}
	started, err := startEngine(global, s.options.ListenAddresses, heard, s.log)
	if err != nil {
		return err
	}
	s.engine = started
	s.applied = applied{
		global: global, events: heard, exports: map[netip.Addr]exported{},
		paths: map[netip.Prefix]appliedPath{}, peers: map[netip.Addr]*api.Peer{}, lastErr: s.applied.lastErr,
	}
	return nil
}

// retire stops listening to the engine, then stops it.
func (s *Speaker) retire() {
	now := time.Now()
	s.mu.Lock()
	s.applied.events.silent = true
	until := map[netip.Addr]time.Time{}
	for address, session := range s.sessions {
		until[address] = now
		if session.graceful {
			until[address] = now.Add(session.restart)
		}
		if session.state == route.Established {
			session.flaps++
		}
		session.state, session.since, session.disconnect = route.Idle, now, disconnectReasons[api.PeerState_DISCONNECT_REASON_DECONFIGURED]
	}
	s.mu.Unlock()
	for address, deadline := range until {
		s.table.Stale(address, deadline)
	}
	s.engine.stop()
	s.engine = nil
}

// setSessions makes the list of sessions that of the neighbours and returns the addresses that are wanted no more.
func (s *Speaker) setSessions(neighbors []config.Neighbor, problem string) (removed []netip.Addr) {
	now := time.Now()
	wanted := map[netip.Addr]bool{}
	s.mu.Lock()
	for _, neighbor := range neighbors {
		wanted[neighbor.Address] = true
		if s.sessions[neighbor.Address] == nil {
			s.sessions[neighbor.Address] = newSession(neighbor, now)
			s.table.AddPeer(neighbor.Address)
		}
		s.sessions[neighbor.Address].neighbor = neighbor
		s.sessions[neighbor.Address].problem = problem
	}
	for address := range s.sessions {
		if !wanted[address] {
			removed = append(removed, address)
			delete(s.sessions, address)
		}
	}
	s.mu.Unlock()
	for address := range s.applied.peers {
		if !wanted[address] && !slices.Contains(removed, address) {
			removed = append(removed, address) // one that could not be deleted before
		}
	}
	for _, address := range removed {
		s.table.RemovePeer(address)
	}
	return removed
}

func (s *Speaker) deletePeers(ctx context.Context, addresses []netip.Addr) error {
	var faults []error
	for _, address := range addresses {
		if err := s.deletePeer(ctx, address); err != nil {
			faults = append(faults, fmt.Errorf("delete neighbour %s: %w", address, err))
		}
	}
	return errors.Join(faults...)
}

func (s *Speaker) deletePeer(ctx context.Context, address netip.Addr) error {
	peer := s.applied.peers[address]
	if peer == nil {
		return nil
	}
	if peer.Conf.AuthPassword != "" {
		// DeletePeer leaves the TCP-MD5 key on the listening sockets; an update to no password takes it off.
		bare := proto.CloneOf(peer)
		bare.Conf.AuthPassword, bare.Conf.AdminDown = "", true
		if _, err := s.engine.bgp.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: bare}); err != nil {
			return err
		}
	}
	if err := s.engine.bgp.DeletePeer(ctx, &api.DeletePeerRequest{Address: address.String()}); err != nil {
		return err
	}
	delete(s.applied.peers, address)
	delete(s.applied.exports, address)
	return nil
}

// applyPaths makes what GoBGP advertises what is desired: added before removed.
func (s *Speaker) applyPaths(desired config.Desired) error {
	var faults []error
	var told []route.Advertisement
	wanted := map[netip.Prefix]bool{}
	for _, a := range desired.Advertise {
		next := desired.Global.NextHop(route.FamilyOf(a.Prefix))
		if !next.IsValid() {
			continue // no session carries the family: the node has no address of it
		}
		wanted[a.Prefix] = true
		if err := s.addPath(a, next); err != nil {
			faults = append(faults, fmt.Errorf("advertise %s: %w", a.Prefix, err))
			continue
		}
		told = append(told, a)
	}
	for prefix, path := range s.applied.paths {
		if wanted[prefix] {
			continue
		}
		if err := s.deletePath(prefix, path); err != nil {
			faults = append(faults, fmt.Errorf("withdraw %s: %w", prefix, err))
		}
	}
	s.mu.Lock()
	s.told = told
	s.mu.Unlock()
	return errors.Join(faults...)
}

func (s *Speaker) addPath(a route.Advertisement, nextHop netip.Addr) error {
	if there, ok := s.applied.paths[a.Prefix]; ok && there.nextHop == nextHop && slices.Equal(there.communities, a.Communities) {
		return nil
	}
	path, err := pathOf(a, nextHop)
	if err != nil {
		return err
	}
	if _, err := s.engine.bgp.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{path}}); err != nil {
		return err
	}
	s.applied.paths[a.Prefix] = appliedPath{nextHop, slices.Clone(a.Communities)}
	return nil
}

func (s *Speaker) deletePath(prefix netip.Prefix, there appliedPath) error {
	path, err := pathOf(route.Advertisement{Prefix: prefix}, there.nextHop)
	if err != nil {
		return err
	}
	if err := s.engine.bgp.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{path}}); err != nil {
		return err
	}
	delete(s.applied.paths, prefix)
	return nil
}

// reexport sends a neighbour's routes anew where what it is not to get or their next hop changed; the session stays.
func (s *Speaker) reexport(ctx context.Context, neighbors []config.Neighbor) error {
	var faults []error
	for _, n := range neighbors {
		wanted := exported{n.Withhold, n.NextHop4, n.NextHop6}
		if s.applied.exports[n.Address].equal(wanted) {
			continue
		}
		if s.applied.peers[n.Address] != nil {
			if err := s.engine.bgp.ResetPeer(ctx, &api.ResetPeerRequest{
				Address: n.Address.String(), Soft: true, Direction: api.ResetPeerRequest_DIRECTION_OUT,
			}); err != nil {
				faults = append(faults, fmt.Errorf("tell %s anew: %w", n.Address, err))
				continue
			}
		}
		s.applied.exports[n.Address] = wanted
	}
	return errors.Join(faults...)
}

// applyPeer adds a neighbour, or changes it where it must. GoBGP resets the session unless only timers changed; what
// it never sees (import scope, filters) resets nothing.
func (s *Speaker) applyPeer(ctx context.Context, n config.Neighbor) error {
	password, err := readPassword(n.PasswordFile)
	if err != nil {
		// Never without the password it should have.
		err = errors.Join(err, s.deletePeer(ctx, n.Address))
		return s.peerFault(n, err)
	}
	there, peer := s.applied.peers[n.Address], peerOf(n, password, false)
	switch {
	case there == nil:
		err = s.engine.bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: peerOf(n, password, s.restarting())})
	case proto.Equal(there, peer):
		return nil
	default:
		_, err = s.engine.bgp.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: peer})
	}
	if err != nil {
		if there != nil {
			// An update is a deletion and an addition; after a failed one nobody knows which of them was done.
			_ = s.engine.bgp.DeletePeer(ctx, &api.DeletePeerRequest{Address: n.Address.String()})
			delete(s.applied.peers, n.Address)
		}
		return s.peerFault(n, err)
	}
	s.applied.peers[n.Address] = peer
	return nil
}

func (s *Speaker) peerFault(n config.Neighbor, err error) error {
	s.mu.Lock()
	if session := s.sessions[n.Address]; session != nil {
		session.problem = "no session: " + err.Error()
	}
	s.mu.Unlock()
	s.table.signal()
	return fmt.Errorf("neighbour %s (%s): %w", n.Address, n.Origin, err)
}
