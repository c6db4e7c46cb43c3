package server

import (
	"fmt"
	"net/netip"

	"github.com/clearway/clearway/ipam/cidr"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// tally is what a pool's blocks and addresses count up to, kept as they change: a refusal tells it, and is to be cheap.
type tally struct {
	blocks    map[clearwayv1.BlockState]int
	addresses map[clearwayv1.BlockState]uint64 // wraps beyond 2^64, and back when they go
	assigned  int                              // by the nodes' mirrors
}

func (s *state) tallyOf(pool string) *tally {
	one := s.tally[pool]
	if one == nil {
		one = &tally{blocks: map[clearwayv1.BlockState]int{}, addresses: map[clearwayv1.BlockState]uint64{}}
		s.tally[pool] = one
	}
	return one
}

func (t *tally) count(prefix netip.Prefix, state clearwayv1.BlockState, by int) {
	t.blocks[state] += by
	t.addresses[state] += uint64(by) * cidr.Count(prefix)
}

// String tells the blocks by their state, in numbers.
func (t *tally) String() string {
	const (
		owned, withdrawing = clearwayv1.BlockState_BLOCK_STATE_OWNED, clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING
		cooling, orphaned  = clearwayv1.BlockState_BLOCK_STATE_COOLING, clearwayv1.BlockState_BLOCK_STATE_ORPHANED
	)
	return fmt.Sprintf("%d blocks owned (%d addresses, %d of them assigned), %d being withdrawn (%d), %d cooling (%d), %d orphaned (%d)",
		t.blocks[owned], t.addresses[owned], t.assigned, t.blocks[withdrawing], t.addresses[withdrawing],
		t.blocks[cooling], t.addresses[cooling], t.blocks[orphaned], t.addresses[orphaned])
}

// isOwned tells whether a block is some node's to advertise, were it only until it has withdrawn it.
func isOwned(block *clearwayv1.BlockSpec) bool {
	switch block.GetState() {
	case clearwayv1.BlockState_BLOCK_STATE_OWNED, clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING:
		return true
	}
	return false
}
