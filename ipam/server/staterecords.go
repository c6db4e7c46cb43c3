package server

import (
	"fmt"
	"net/netip"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/pool"
	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func (s *state) applyBlock(one record.Record, touched *change) error {
	prefix, err := one.Key.Block()
	if err != nil {
		return err
	}
	var next *clearwayv1.BlockSpec
	if one.Value != nil {
		next = &clearwayv1.BlockSpec{}
		if err := proto.Unmarshal(one.Value, next); err != nil {
			return err
		}
		if next.GetGeneration() == 0 {
			next.Generation = s.generationAt(one.ModRevision) // the revision was not known when it was written
		}
	}
	touched.blocks[prefix] = struct{}{}
	s.dropBlock(prefix, next == nil, touched)
	if next == nil {
		return nil
	}
	return s.putBlock(prefix, next, touched)
}

// dropBlock takes a block out of the indices, and with free out of the spaces.
func (s *state) dropBlock(prefix netip.Prefix, free bool, touched *change) {
	before := s.blocks[prefix]
	if before == nil {
		return
	}
	touched.nodes[before.GetNode()] = struct{}{}
	delete(s.blocks, prefix)
	delete(s.cooling, prefix)
	delete(s.orphaned, prefix)
	delete(s.called, prefix)
	s.floats.drop(prefix, before)
	s.countBlock(before, -1)
	s.tallyOf(before.GetPool()).count(prefix, before.GetState(), -1)
	if of := s.blocksOf[before.GetNode()]; of != nil {
		delete(of, prefix)
		if len(of) == 0 {
			delete(s.blocksOf, before.GetNode())
		}
	}
	if before.GetFloating() == nil {
		delete(s.claimed, claimKey{before.GetNode(), before.GetRequestKey()})
	}
	if free {
		s.give(prefix, before.GetPool())
	}
}

func (s *state) putBlock(prefix netip.Prefix, next *clearwayv1.BlockSpec, touched *change) error {
	if err := s.take(prefix, next.GetPool()); err != nil {
		return err
	}
	s.blocks[prefix] = next
	s.floats.put(prefix, next)
	s.countBlock(next, 1)
	touched.nodes[next.GetNode()] = struct{}{}
	if s.blocksOf[next.GetNode()] == nil {
		s.blocksOf[next.GetNode()] = map[netip.Prefix]struct{}{}
	}
	s.blocksOf[next.GetNode()][prefix] = struct{}{}
	if next.GetRequestKey() != "" && next.GetFloating() == nil { // a floating address is found by its owner
		s.claimed[claimKey{next.GetNode(), next.GetRequestKey()}] = prefix
	}
	if next.GetState() == clearwayv1.BlockState_BLOCK_STATE_COOLING {
		s.cooling[prefix] = next.GetFreeTime().AsTime()
	}
	if next.GetState() == clearwayv1.BlockState_BLOCK_STATE_ORPHANED {
		s.orphaned[prefix] = struct{}{}
	}
	if next.GetCallBack() != nil && isOwned(next) {
		s.called[prefix] = struct{}{}
	}
	s.tallyOf(next.GetPool()).count(prefix, next.GetState(), 1)
	return nil
}

// take marks a block in the spaces, where it is not yet: a claim has marked its block before it was written.
func (s *state) take(prefix netip.Prefix, ofPool string) error {
	if live := s.liveOf(prefix); !live.Taken(prefix) {
		if err := live.Take(prefix); err != nil {
			return err
		}
	}
	if space := s.spaceOf(prefix, ofPool); space != nil && !space.Taken(prefix) {
		return space.Take(prefix)
	}
	return nil
}

// give undoes take.
func (s *state) give(prefix netip.Prefix, ofPool string) {
	_ = s.liveOf(prefix).Give(prefix) // not taken: nothing to undo
	if space := s.spaceOf(prefix, ofPool); space != nil {
		_ = space.Give(prefix)
	}
}

// spaceOf finds the space of the pool that a block lies in: the named one, or, as that may be gone, whichever has it.
func (s *state) spaceOf(prefix netip.Prefix, ofPool string) *pool.Space {
	if one := s.pools[ofPool]; one != nil && one.space != nil && cidr.Contains(one.CIDR, prefix) {
		return one.space
	}
	for _, one := range s.pools {
		if one.space != nil && cidr.Contains(one.CIDR, prefix) {
			return one.space
		}
	}
	return nil
}

func (s *state) applyNode(into map[string]*clearwayv1.Node, one record.Record, touched *change) error {
	name := one.Key.Rest()
	touched.nodes[name] = struct{}{}
	if one.Value == nil {
		delete(into, name)
		return nil
	}
	node := &clearwayv1.Node{}
	if err := proto.Unmarshal(one.Value, node); err != nil {
		return err
	}
	if node.Metadata == nil {
		return fmt.Errorf("no metadata")
	}
	node.Metadata.ResourceVersion = fmt.Sprint(one.ModRevision)
	into[name] = node
	return nil
}

func (s *state) applyAssignment(one record.Record) error {
	node, address, err := one.Key.Assignment()
	if err != nil {
		return err
	}
	of := s.assignments[node]
	if before := of[address]; before != nil {
		s.tallyOf(before.GetPool()).assigned--
	}
	if one.Value == nil {
		delete(of, address)
		if len(of) == 0 {
			delete(s.assignments, node)
		}
		return nil
	}
	spec := &clearwayv1.AssignmentSpec{}
	if err := proto.Unmarshal(one.Value, spec); err != nil {
		return err
	}
	if of == nil {
		of = map[netip.Addr]*clearwayv1.AssignmentSpec{}
		s.assignments[node] = of
	}
	of[address] = spec
	s.tallyOf(spec.GetPool()).assigned++
	return nil
}

func (s *state) applyMirror(one record.Record) error {
	if one.Value == nil {
		delete(s.mirrors, one.Key.Rest())
		return nil
	}
	status := &clearwayv1.NodeStatus{}
	if err := proto.Unmarshal(one.Value, status); err != nil {
		return err
	}
	s.mirrors[one.Key.Rest()] = mirror{status, one.ModRevision}
	return nil
}

func (s *state) applySequence(one record.Record) error {
	if one.Value == nil {
		delete(s.sequences, one.Key.Pool())
		return nil
	}
	number, err := strconv.ParseInt(string(one.Value), 10, 64)
	if err != nil {
		return err
	}
	s.sequences[one.Key.Pool()] = sequence{number, one.ModRevision}
	return nil
}
