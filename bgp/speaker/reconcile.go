package speaker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
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
	// reflected are the paths of others that GoBGP was given to tell on.
	reflected map[netip.Prefix]config.Reflection
	peers     map[netip.Addr]appliedPeer
	ranges    map[netip.Prefix]appliedRange
	events    *events
	lastErr   string
}

// exported is what the export policy makes of the node's prefixes for one neighbour.
type exported struct {
	withheld           []netip.Prefix
	nextHop4, nextHop6 netip.Addr
	told               []config.Told
	// What of reflections it is told: of a node of the mesh, whether it is a client.
	client, mesh bool
}

func exportedTo(n config.Neighbor) exported {
	return exported{n.Withhold, n.NextHop4, n.NextHop6, n.Told, n.Client, n.ClusterID.IsValid()}
}

func (e exported) equal(other exported) bool {
	return e.nextHop4 == other.nextHop4 && e.nextHop6 == other.nextHop6 && slices.Equal(e.withheld, other.withheld) &&
		e.client == other.client && e.mesh == other.mesh && reflect.DeepEqual(e.told, other.told)
}

// appliedPeer is a neighbour as GoBGP has it.
type appliedPeer struct {
	neighbor config.Neighbor
	peer     *api.Peer
	held     []string // fields that changed and wait for the session to be down
}

type appliedPath struct {
	nextHop    netip.Addr
	lastChoice bool
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
	err := errors.Join(s.endFailed(ctx), s.apply(ctx, desired))
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
		s.setSessions(desired, err.Error())
		return err
	}
	removed := s.setSessions(desired, "")
	faults := []error{s.deletePeers(ctx, removed)}
	request := policies(desired)
	if !proto.Equal(request, s.applied.policies) {
		if err := s.engine.setPolicies(ctx, request); err != nil {
			return errors.Join(append(faults, err)...) // never advertise under the policies of before
		}
		s.applied.policies = request
	}
	faults = append(faults, s.applyPaths(desired), s.applyReflections(desired), s.reexport(ctx, desired.Neighbors), s.endSurplus(ctx),
		s.applyRanges(ctx, desired.Ranges), s.reexportRanges(ctx, desired.Ranges))
	for _, neighbor := range desired.Neighbors {
		faults = append(faults, s.applyPeer(ctx, neighbor))
	}
	s.engine.export(desired.Global.BMP, desired.Global.RouterID, s.log)
	return errors.Join(faults...)
}

// ensureEngine starts GoBGP, anew where the shared part changed. Then what peers told is kept as stale until they are
// back: they lose the session, not their routes.
func (s *Speaker) ensureEngine(global config.Global) error {
	if s.engine != nil && len(config.RestartFields(s.applied.global, global)) == 0 {
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
		paths: map[netip.Prefix]appliedPath{}, reflected: map[netip.Prefix]config.Reflection{}, peers: map[netip.Addr]appliedPeer{},
		ranges: map[netip.Prefix]appliedRange{}, lastErr: s.applied.lastErr,
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
		s.table.Stale(address, deadline, [2]time.Duration{})
	}
	s.engine.stop()
	s.engine = nil
}

// setSessions makes the list of sessions that of the neighbours and returns the addresses that are wanted no more.
func (s *Speaker) setSessions(desired config.Desired, problem string) (removed []netip.Addr) {
	now := time.Now()
	wanted := map[netip.Addr]bool{}
	s.mu.Lock()
	s.ranges = desired.Ranges
	for _, neighbor := range desired.Neighbors {
		wanted[neighbor.Address] = true
		if s.sessions[neighbor.Address] == nil {
			s.sessions[neighbor.Address] = newSession(neighbor, now)
			s.table.AddPeer(neighbor.Address)
		}
		session := s.sessions[neighbor.Address]
		session.configure(neighbor)
		session.problem, session.group = problem, ""
		s.table.Limit(neighbor.Address, neighbor.MaxPrefixes.Taken())
	}
	for address, session := range s.sessions {
		for _, r := range desired.Ranges {
			if session.group == groupName(r.Prefix) {
				wanted[address] = true
				session.configure(r.Neighbor(address))
				s.table.Limit(address, session.neighbor.MaxPrefixes.Taken())
			}
		}
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
	peer := s.applied.peers[address].peer
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
	wanted, lastChoices := map[netip.Prefix]bool{}, lastChoices(desired)
	for _, a := range desired.Advertise {
		next := desired.Global.NextHop(route.FamilyOf(a.Prefix))
		if !next.IsValid() {
			continue // no session carries the family: the node has no address of it
		}
		wanted[a.Prefix] = true
		if err := s.addPath(a.Prefix, appliedPath{next, lastChoices[a.Prefix]}); err != nil {
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

func (s *Speaker) addPath(prefix netip.Prefix, wanted appliedPath) error {
	if there, ok := s.applied.paths[prefix]; ok && there == wanted {
		return nil
	}
	path, err := pathOf(prefix, wanted.nextHop, wanted.lastChoice)
	if err != nil {
		return err
	}
	if _, err := s.engine.bgp.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{path}}); err != nil {
		return err
	}
	s.applied.paths[prefix] = wanted
	return nil
}

func (s *Speaker) deletePath(prefix netip.Prefix, there appliedPath) error {
	path, err := pathOf(prefix, there.nextHop, there.lastChoice)
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
		wanted := exportedTo(n)
		if s.applied.exports[n.Address].equal(wanted) {
			continue
		}
		if s.applied.peers[n.Address].peer != nil {
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

// applyPeer adds a neighbour, or changes it where it must. What GoBGP never sees (import scope, filters) resets nothing.
func (s *Speaker) applyPeer(ctx context.Context, n config.Neighbor) error {
	password, err := readPassword(n.PasswordFile)
	if err != nil {
		// Never without the password it should have.
		err = errors.Join(err, s.deletePeer(ctx, n.Address))
		return s.peerFault(n, err)
	}
	if blocked, err := s.unblock(ctx, n); blocked || err != nil {
		return err
	}
	there := s.applied.peers[n.Address]
	peer := peerOf(n, password, false)
	same := proto.Equal(there.peer, peer)
	switch {
	case there.peer == nil:
		err = s.engine.bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: peerOf(n, password, s.restarting())})
	case same:
	case there.peer.Conf.AuthPassword == password && len(config.ResetFields(there.neighbor, n)) == 0 && s.keeps(n.Address):
		// Only the next session's. GoBGP would take timers without a reset, but forget what the two ends agreed on about
		// graceful restart, and drop the peer's routes when it restarts.
		there.held = config.LaterFields(there.neighbor, n)
		s.applied.peers[n.Address] = there
		s.showHeld(n.Address, there.held)
		return nil
	default:
		_, err = s.engine.bgp.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: peer})
	}
	if err != nil {
		if there.peer != nil {
			// An update is a deletion and an addition; after a failed one nobody knows which of them was done.
			_ = s.engine.bgp.DeletePeer(ctx, &api.DeletePeerRequest{Address: n.Address.String()})
			delete(s.applied.peers, n.Address)
		}
		return s.peerFault(n, err)
	}
	s.applied.peers[n.Address] = appliedPeer{neighbor: n, peer: peer}
	s.showHeld(n.Address, nil)
	return nil
}

func (s *Speaker) showHeld(address netip.Addr, fields []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if session := s.sessions[address]; session != nil {
		session.held = fields
	}
}

// keeps tells whether a neighbour has something to lose by being configured anew: a session, or what graceful restart
// keeps of one.
func (s *Speaker) keeps(address netip.Addr) bool {
	s.mu.Lock()
	session := s.sessions[address]
	established := session != nil && session.state == route.Established
	s.mu.Unlock()
	return established || s.table.HasStale(address)
}

// due tells whether something was held back for a session that has nothing to lose any more, or a session that was ended
// here is to begin again.
func (s *Speaker) due(now time.Time) bool {
	for address, there := range s.applied.peers {
		if len(there.held) > 0 && !s.keeps(address) {
			return true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, session := range s.sessions {
		if session.blocked.over(now) {
			return true
		}
	}
	return false
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
