package speaker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// appliedRange is a range as GoBGP has it.
type appliedRange struct {
	wanted  config.Range
	group   *api.PeerGroup
	exports exported
}

func groupName(prefix netip.Prefix) string { return "range " + prefix.String() }

// groupOf is a range's sessions as GoBGP takes them. GoBGP gives no Restart State to those who call: after our restart
// their peers drop our routes until they hear them anew.
func groupOf(r config.Range, password string) *api.PeerGroup {
	n := r.Session
	n.Address = r.Prefix.Addr()
	peer := peerOf(n, password, false)
	return &api.PeerGroup{
		Conf: &api.PeerGroupConf{
			PeerGroupName: groupName(r.Prefix), PeerAsn: n.PeerASN, LocalAsn: n.LocalASN, AuthPassword: password, AllowOwnAsn: allowAnyOwnAS,
		},
		Timers: peer.Timers, Transport: peer.Transport, EbgpMultihop: peer.EbgpMultihop, TtlSecurity: peer.TtlSecurity,
		GracefulRestart: peer.GracefulRestart, AfiSafis: peer.AfiSafis,
	}
}

// rangeStatements are a range's part of the export policy.
func rangeStatements(request *api.SetPoliciesRequest, global config.Global, r config.Range) []*api.Statement {
	to := func() *api.MatchSet { return prefixedSet(request, r.Prefix) }
	statements := withholdFrom(request, r.Session.Withhold, r.Prefix.String(), to)
	own := route.FamilyOf(r.Prefix)
	for _, family := range r.Session.Families {
		if family == own {
			statements = append(statements, &api.Statement{
				Name:       fmt.Sprintf("IPv%d own end to %s", family, r.Prefix),
				Conditions: &api.Conditions{NeighborSet: to(), AfiSafiIn: []*api.Family{apiFamily(family)}},
				Actions:    &api.Actions{Nexthop: &api.NexthopAction{Self: true}},
			})
		}
	}
	return statements
}

// applyRanges brings GoBGP's ranges to those that are wanted. One that changed ends its sessions.
func (s *Speaker) applyRanges(ctx context.Context, ranges []config.Range) error {
	wanted := map[netip.Prefix]bool{}
	var faults []error
	for _, r := range ranges {
		wanted[r.Prefix] = true
		if err := s.applyRange(ctx, r); err != nil {
			faults = append(faults, fmt.Errorf("listen range %s (%s): %w", r.Prefix, r.Session.Origin, err))
		}
	}
	for prefix := range s.applied.ranges {
		if !wanted[prefix] {
			faults = append(faults, s.deleteRange(ctx, prefix))
		}
	}
	return errors.Join(faults...)
}

func (s *Speaker) applyRange(ctx context.Context, r config.Range) error {
	password, err := readPassword(r.Session.PasswordFile)
	if err != nil {
		return errors.Join(err, s.deleteRange(ctx, r.Prefix)) // never without the password it should have
	}
	group := groupOf(r, password)
	there, added := s.applied.ranges[r.Prefix]
	if added && proto.Equal(there.group, group) {
		there.wanted = r
		s.applied.ranges[r.Prefix] = there
		return nil
	}
	if added {
		if err := s.deleteRange(ctx, r.Prefix); err != nil {
			return err
		}
	}
	if err := s.engine.bgp.AddPeerGroup(ctx, &api.AddPeerGroupRequest{PeerGroup: group}); err != nil {
		return err
	}
	s.applied.ranges[r.Prefix] = appliedRange{wanted: r, group: group, exports: exportedTo(r.Session)}
	return s.engine.bgp.AddDynamicNeighbor(ctx, &api.AddDynamicNeighborRequest{
		DynamicNeighbor: &api.DynamicNeighbor{Prefix: r.Prefix.String(), PeerGroup: group.Conf.PeerGroupName},
	})
}

// reexportRanges sends those who called their routes anew where what they are told changed; their sessions stay.
func (s *Speaker) reexportRanges(ctx context.Context, ranges []config.Range) error {
	var faults []error
	for _, r := range ranges {
		there, added := s.applied.ranges[r.Prefix]
		wanted := exportedTo(r.Session)
		if !added || there.exports.equal(wanted) {
			continue
		}
		var failed []error
		for _, caller := range s.callers(r.Prefix) {
			err := s.engine.bgp.ResetPeer(ctx, &api.ResetPeerRequest{
				Address: caller.String(), Soft: true, Direction: api.ResetPeerRequest_DIRECTION_OUT,
			})
			if err != nil {
				failed = append(failed, fmt.Errorf("tell %s anew: %w", caller, err))
			}
		}
		if len(failed) == 0 {
			there.exports = wanted
			s.applied.ranges[r.Prefix] = there
		}
		faults = append(faults, failed...)
	}
	return errors.Join(faults...)
}

// callers are those with a session of a range.
func (s *Speaker) callers(prefix netip.Prefix) []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []netip.Addr
	for address, session := range s.sessions {
		if session.group == groupName(prefix) {
			list = append(list, address)
		}
	}
	return list
}

func (s *Speaker) deleteRange(ctx context.Context, prefix netip.Prefix) error {
	if _, added := s.applied.ranges[prefix]; !added {
		return nil
	}
	name := groupName(prefix)
	if err := s.engine.bgp.DeleteDynamicNeighbor(ctx, &api.DeleteDynamicNeighborRequest{Prefix: prefix.String(), PeerGroup: name}); err != nil {
		return fmt.Errorf("delete listen range %s: %w", prefix, err)
	}
	var callers []netip.Addr
	err := s.engine.bgp.ListPeer(ctx, &api.ListPeerRequest{}, func(peer *api.Peer) {
		if peer.GetConf().GetPeerGroup() == name {
			if address, err := netip.ParseAddr(peer.GetState().GetNeighborAddress()); err == nil {
				callers = append(callers, address)
			}
		}
	})
	faults := []error{err}
	for _, caller := range callers {
		faults = append(faults, s.engine.bgp.DeletePeer(ctx, &api.DeletePeerRequest{Address: caller.String()}))
		s.forget(caller)
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("end the sessions of listen range %s: %w", prefix, err)
	}
	if err := s.engine.bgp.DeletePeerGroup(ctx, &api.DeletePeerGroupRequest{Name: name}); err != nil {
		return fmt.Errorf("delete listen range %s: %w", prefix, err)
	}
	delete(s.applied.ranges, prefix)
	return nil
}

// forget drops the session of one who called, and all it told.
func (s *Speaker) forget(caller netip.Addr) {
	s.mu.Lock()
	delete(s.sessions, caller)
	s.mu.Unlock()
	s.table.RemovePeer(caller)
}

// admit makes a session for one who called from a range, or sees to it that it ends: there is no range any more, or it has
// as many sessions as it may have. The mutex is held.
func (s *Speaker) admit(caller netip.Addr, group string) *session {
	i := slices.IndexFunc(s.ranges, func(r config.Range) bool { return groupName(r.Prefix) == group })
	if i < 0 {
		return nil
	}
	r := s.ranges[i]
	count := 0
	for _, session := range s.sessions {
		if session.group == group {
			count++
		}
	}
	if count >= r.Limit {
		if !slices.Contains(s.surplus, caller) && len(s.surplus) < limits.surplus {
			s.surplus = append(s.surplus, caller)
			s.log.Warn("a neighbour is turned away: its listen range has as many sessions as it may have",
				"peer", caller.String(), "origin", r.Session.Origin, "listenLimit", r.Limit)
		}
		s.poke()
		return nil
	}
	made := newSession(r.Neighbor(caller), time.Now())
	made.group = group
	s.sessions[caller] = made
	s.table.AddPeer(caller)
	s.table.Limit(caller, made.neighbor.MaxPrefixes.Taken())
	return made
}

// endSurplus ends the sessions that are too many.
func (s *Speaker) endSurplus(ctx context.Context) error {
	s.mu.Lock()
	surplus := s.surplus
	s.surplus = nil
	s.mu.Unlock()
	for _, caller := range surplus {
		// An error says that it has gone by itself.
		_ = s.engine.bgp.DeletePeer(ctx, &api.DeletePeerRequest{Address: caller.String()})
	}
	return nil
}
