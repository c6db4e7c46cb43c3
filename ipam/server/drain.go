package server

import (
	"context"
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/pool"
	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// inUse is what of a pool, or of a part of one, somebody has. Blocks that rest are nobody's.
type inUse struct {
	owned, orphaned, assigned int64
	nodes                     map[string]struct{}
}

func (u inUse) blocks() int64 { return u.owned + u.orphaned }

func (u inUse) String() string {
	text := fmt.Sprintf("%d blocks on %d nodes with %d addresses assigned", u.blocks(), len(u.nodes), u.assigned)
	if u.orphaned > 0 {
		text += fmt.Sprintf("; %d of the blocks are of gone nodes, and come back when the machines are said to be off or nobody has held them for the orphanGrace", u.orphaned)
	}
	return text
}

// add counts a block; one that rests does not count.
func (u *inUse) add(block *clearwayv1.BlockSpec) bool {
	switch block.GetState() {
	case clearwayv1.BlockState_BLOCK_STATE_COOLING:
		return false
	case clearwayv1.BlockState_BLOCK_STATE_ORPHANED:
		u.orphaned++
	default:
		u.owned++
	}
	if u.nodes == nil {
		u.nodes = map[string]struct{}{}
	}
	u.nodes[block.GetNode()] = struct{}{}
	return true
}

// useOf counts what of a pool somebody has, of the blocks that are taken.
func (s *state) useOf(one *poolState, taken func(*clearwayv1.BlockSpec) bool) inUse {
	var use inUse
	if one == nil || one.space == nil {
		return use
	}
	counted := map[string]bool{}
	for prefix := range one.space.All() {
		if block := s.blocks[prefix]; taken(block) && use.add(block) {
			counted[block.GetCidr()] = true
		}
	}
	for node := range use.nodes {
		for _, spec := range s.assignments[node] {
			if counted[spec.GetBlock()] {
				use.assigned++
			}
		}
	}
	return use
}

// drains tells whether a block is one that is to come back.
func (p *poolState) drains(block *clearwayv1.BlockSpec) bool {
	prefix, err := netip.ParsePrefix(block.GetCidr())
	return err == nil && p.Drains(prefix)
}

func every(*clearwayv1.BlockSpec) bool { return true }

// used tells whether somebody has a block of a pool.
func (s *state) used(one *poolState) bool {
	if one == nil || one.space == nil {
		return false
	}
	for prefix := range one.space.All() {
		if s.blocks[prefix].GetState() != clearwayv1.BlockState_BLOCK_STATE_COOLING {
			return true
		}
	}
	return false
}

// deletePool removes a pool of which nobody has a block. Another is drained: what remains of it is returned.
func (p *plan) deletePool(name string, answer *clearwayv1.DeleteResponse) {
	if !p.used(p.pools[name]) {
		p.dropPool(name)
		return
	}
	made := p.config[kindPool][name].object.(*clearwayv1.IPPool)
	if made.GetMetadata().GetDeletionTimestamp() == nil {
		next := proto.CloneOf(made) // with its former prefixes
		next.Metadata.ResourceVersion = ""
		next.Metadata.DeletionTimestamp = timestamppb.New(p.now)
		p.write(record.Op{Key: record.ConfigKey(kindPool, name), Value: mustMarshal(next)})
	}
	p.done(func(int64) {
		left := proto.CloneOf(p.config[kindPool][name].object.(*clearwayv1.IPPool))
		left.Status = p.poolStatus(left, p.poolUse()[name])
		answer.Remaining = clearwayv1.Wrap(left)
	})
}

func (p *plan) dropPool(name string) {
	p.write(record.Op{Key: record.ConfigKey(kindPool, name)}, record.Op{Key: record.SequenceKey(name)})
}

// chores is the wish for what is to be done by itself; nil: nothing is.
func (s *Server) chores() *wish {
	if rested := s.freeRested(); rested != nil {
		return rested
	}
	s.endTightQuotas()
	if stale := s.dropStaleAllowances(); stale != nil {
		return stale
	}
	if gone := s.removeDrained(); gone != nil {
		return gone
	}
	return s.watchOrphans()
}

// removeDrained is the wish to remove a pool that is being deleted and of which nobody has a block any more.
func (s *Server) removeDrained() *wish {
	s.mu.RLock()
	defer s.mu.RUnlock()
	due := s.state.drained()
	if due == "" {
		return nil
	}
	return &wish{ctx: context.Background(), done: make(chan error, 1), own: true, plan: func(p *plan) error {
		if one := p.pools[due]; one == nil || !one.Deleted || p.used(one) {
			return nil
		}
		p.dropPool(due)
		p.done(func(int64) {
			s.note(eventNormal, "PoolDeleted", "", "IPPool/"+due, "its last block came back, and it is gone")
		})
		return nil
	}}
}

// drained finds a pool that is being deleted and of which nobody has a block; "": there is none.
func (s *state) drained() string {
	for name, one := range s.pools {
		if one.Deleted && !s.used(one) {
			return name
		}
	}
	return ""
}

// keepDeleting keeps an object that was read while it was being deleted, and is applied as it was read, so. One that is
// applied without it lives on.
func keepDeleting(before, next clearwayv1.Object) {
	if before.GetMetadata().GetDeletionTimestamp() == nil {
		next.GetMetadata().DeletionTimestamp = nil
	} else if next.GetMetadata().GetDeletionTimestamp() != nil {
		next.GetMetadata().DeletionTimestamp = before.GetMetadata().GetDeletionTimestamp()
	}
}

// drainFaults tells what is wrong with the pool that another is drained to.
func drainFaults(pools map[string]pool.Pool, one pool.Pool) []*clearwayv1.FieldViolation {
	if one.DrainTo == "" || one.DrainTo == one.Name {
		return nil // or told of by itself
	}
	wrong := func(message string, args ...any) []*clearwayv1.FieldViolation {
		return []*clearwayv1.FieldViolation{{Field: "spec.drainTo", Value: one.DrainTo, Message: fmt.Sprintf(message, args...)}}
	}
	to, exists := pools[one.DrainTo]
	switch {
	case !exists:
		return wrong("there is no IPPool of this name; apply it first, or with this one")
	case to.Kind != pool.Block:
		return wrong("is of kind %s; it must be of kind %s", to.Kind, pool.Block)
	case to.CIDR.Addr().Is4() != one.CIDR.Addr().Is4():
		return wrong("is %s, of the other family than %s", to.CIDR, one.CIDR)
	}
	for range pools {
		switch {
		case !to.Draining():
			return nil
		case to.DrainTo == "":
			return wrong("ends in IPPool/%s, which is drained itself; name a pool that gives addresses", to.Name)
		}
		to = pools[to.DrainTo]
	}
	return wrong("leads in a circle: each of these pools is drained to the next; name a pool that gives addresses")
}
