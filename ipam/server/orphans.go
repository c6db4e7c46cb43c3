package server

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// An orphaned block is given on when, for the grace time, no agent and no peer of one has held its prefix (rule Fenced).
// The store keeps since when that has been so and when it was last seen to be: the time is that of looks, not of one
// leader's uptime, and a gap between two of them begins it anew.
const (
	// orphanLooks is how many looks the grace time has; each is written. orphanGap is how many of them may be missing.
	orphanLooks, orphanGap = 60, 5
	orphanLookAtLeast      = time.Second
	orphanLookAtMost       = time.Minute
	// reportFresh is how old an agent's report may be: it sends one every 15 s.
	reportFresh = 45 * time.Second
	// converged is how long a session must have stood for its routes to have come, at most half the grace time.
	converged = 30 * time.Second
)

func orphanLookEvery(grace time.Duration) time.Duration {
	return min(max(grace/orphanLooks, orphanLookAtLeast), orphanLookAtMost)
}

// watchOrphans is the wish to note what is seen of the orphaned blocks, when a look is due; else nil. Only the lane's
// goroutine calls it.
func (s *Server) watchOrphans() *wish {
	s.mu.RLock()
	defer s.mu.RUnlock()
	grace := s.state.ipamConfiguration().OrphanGrace
	if now := s.now(); grace == 0 || len(s.state.orphaned) == 0 || now.Sub(s.lookedAt).Abs() < orphanLookEvery(grace) {
		return nil
	}
	return &wish{ctx: context.Background(), done: make(chan error, 1), own: true, plan: func(p *plan) error {
		s.judgeOrphans(p)
		return nil
	}}
}

// judgeOrphans plans what one look leads to.
func (s *Server) judgeOrphans(p *plan) {
	grace := p.ipamConfiguration().OrphanGrace
	seen := s.look(p.state, p.now, grace)
	if why := seen.why; why != s.orphansWait {
		s.orphansWait = why
		if why != "" {
			s.log.Info("orphaned blocks are not given on: whether somebody holds them is not known", "reason", why)
		}
	}
	all := true
	ended := map[string]bool{}
	for _, prefix := range slices.SortedFunc(maps.Keys(p.orphaned), netip.Prefix.Compare) {
		if len(p.ops)+forgetting*len(ended) >= maxRewrite {
			all = false // the others come at once
			break
		}
		block := p.blocks[prefix]
		next := seen.next(block, prefix, p.now, grace)
		if next == nil {
			continue
		}
		if next.GetState() == clearwayv1.BlockState_BLOCK_STATE_COOLING {
			next = p.rested(next, p.now.Add(p.ipamConfiguration().Cooldown), false)
			ended[block.GetNode()] = true
			p.done(func(int64) {
				s.note(eventNormal, "OrphanGivenOn", block.GetNode(), "Block/"+clearwayv1.PrefixName(block.GetCidr()), fmt.Sprintf(
					"no agent and no peer has held %s for %s: it rests, and is free then", block.GetCidr(), grace))
			})
		}
		p.write(blockOp(next))
	}
	for node := range ended {
		p.forgetOrphaned(node)
	}
	p.done(func(int64) {
		if all {
			s.lookedAt = p.now
			s.metrics.orphanLooks.Inc()
		}
	})
}

// forgetting is how many writes a forgotten node takes.
const forgetting = 5

// forgetOrphaned drops what was kept of a node whose last orphaned block is given on by this plan.
func (p *plan) forgetOrphaned(node string) {
	going := map[record.Key]bool{}
	for _, op := range p.ops {
		block := &clearwayv1.BlockSpec{}
		if proto.Unmarshal(op.Value, block) == nil && block.GetState() == clearwayv1.BlockState_BLOCK_STATE_COOLING {
			going[op.Key] = true
		}
	}
	for prefix := range p.blocksOf[node] {
		if p.blocks[prefix].GetState() == clearwayv1.BlockState_BLOCK_STATE_ORPHANED && !going[record.BlockKey(prefix)] {
			return
		}
	}
	if p.nodes[node] == nil {
		p.forget(node)
	} else if p.gone[node] != nil { // another machine has the name by now
		p.write(record.Op{Key: record.GoneKey(node)})
		p.forgetAllowances(former(node))
	}
}

// sight is what all agents together see of the orphaned blocks.
type sight struct {
	held map[netip.Prefix]string // by which node, or over whose peers
	why  string                  // why nothing can be told; empty: what was looked for and is not held is held by nobody
	// looked are the sets that agents looked for, each once.
	looked []orphanSet
}

// orphanSet are orphaned blocks, each with its generation.
type orphanSet map[netip.Prefix]int64

// orphanSets are the last ones that there were, by their digests: an agent may still go by the one before, and has then
// looked for what is in both.
type orphanSets struct {
	sets    map[uint64]orphanSet
	digests []uint64 // in order
}

// keptSets is how many sets are remembered: those of the 15 s between two reports of an agent, and more.
const keptSets = 32

func (o *orphanSets) note(st *state) {
	set := make(orphanSet, len(st.orphaned))
	all := make([]clearwayv1.Orphan, 0, len(st.orphaned))
	for prefix := range st.orphaned {
		set[prefix] = st.blocks[prefix].GetGeneration()
		all = append(all, clearwayv1.Orphan{CIDR: prefix.String(), Generation: set[prefix]})
	}
	digest := clearwayv1.OrphansDigest(all)
	if o.sets == nil {
		o.sets = map[uint64]orphanSet{}
	}
	if o.has(digest) {
		return
	}
	o.sets[digest] = set
	if o.digests = append(o.digests, digest); len(o.digests) > keptSets {
		delete(o.sets, o.digests[0])
		o.digests = o.digests[1:]
	}
}

func (o *orphanSets) has(digest uint64) bool     { return o.sets[digest] != nil }
func (o *orphanSets) of(digest uint64) orphanSet { return o.sets[digest] }

// look asks every registered node's last report. One that is away, or has just come, may be the one that would see it.
func (s *Server) look(st *state, now time.Time, grace time.Duration) sight {
	seen := sight{held: map[netip.Prefix]string{}}
	s.orphanSets.note(st)
	looked := map[uint64]bool{}
	peers := false
	for _, name := range sortedNames(st.nodes) {
		session := s.sessions.of(name)
		if session == nil {
			seen.wait("node %q is not connected", name)
			continue
		}
		phase, _, report := session.status()
		for _, text := range report.GetHeldOrphans() {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				seen.held[prefix] = name
			}
		}
		switch fresh := now.Sub(session.reportTime()); {
		case phase != phaseReady:
			seen.wait("node %q is %s", name, phase)
		case fresh > reportFresh || fresh < 0:
			seen.wait("node %q has not reported for %s", name, fresh.Round(time.Second))
		case !s.orphanSets.has(report.GetOrphansDigest()):
			seen.wait("node %q has not looked for them yet", name)
		case report.GetLastRestart() == "":
			seen.wait("the routes of node %q have not settled since its agent's start", name)
		}
		if digest := report.GetOrphansDigest(); !looked[digest] {
			looked[digest] = true
			seen.looked = append(seen.looked, s.orphanSets.of(digest))
		}
		for _, one := range report.GetSessions() {
			peers = true
			if stood := now.Sub(one.GetStatus().GetSince().AsTime()); one.GetStatus().GetState() != stateEstablished {
				seen.wait("session %s is %s", one.GetMetadata().GetName(), one.GetStatus().GetState())
			} else if stood < min(converged, grace/2) {
				seen.wait("session %s has just come up", one.GetMetadata().GetName())
			}
		}
	}
	if !peers {
		seen.wait("no node has a BGP session")
	}
	return seen
}

func (s *sight) wait(format string, args ...any) {
	if s.why == "" {
		s.why = fmt.Sprintf(format, args...)
	}
}

// lookedFor tells whether every agent looked for a block.
func (s *sight) lookedFor(prefix netip.Prefix, generation int64) bool {
	return !slices.ContainsFunc(s.looked, func(set orphanSet) bool { return set[prefix] != generation })
}

// holder tells over which node a block, or a part of it, is held; empty: over none.
func (s *sight) holder(block netip.Prefix) string {
	for prefix, node := range s.held {
		if cidr.Contains(block, prefix) {
			return node
		}
	}
	return ""
}

// next is what becomes of an orphaned block by a look; nil: it stays as it is.
func (s *sight) next(block *clearwayv1.BlockSpec, prefix netip.Prefix, now time.Time, grace time.Duration) *clearwayv1.BlockSpec {
	next := proto.CloneOf(block)
	if s.holder(prefix) != "" {
		if block.GetUnheldSince() == nil {
			return nil
		}
		next.UnheldSince, next.UnheldSeen = nil, nil
		return next
	}
	if s.why != "" || !s.lookedFor(prefix, block.GetGeneration()) {
		return nil
	}
	every := orphanLookEvery(grace)
	since, last := block.GetUnheldSince().AsTime(), block.GetUnheldSeen().AsTime()
	switch gap := now.Sub(last); {
	case block.GetUnheldSince() == nil || gap.Abs() > orphanGap*every: // clocks of two leaders differ a little
		since = now
	case now.Sub(since) >= grace:
		next.UnheldSince, next.UnheldSeen = nil, nil
		next.State = clearwayv1.BlockState_BLOCK_STATE_COOLING
		return next
	case gap < every/2:
		return nil // written by this look
	}
	next.UnheldSince, next.UnheldSeen = timestamppb.New(since), timestamppb.New(now)
	return next
}
