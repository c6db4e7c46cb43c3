package server

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/pool"
	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// claimBlock carves a block in memory, and many callers' blocks are written in one transaction (design, Claim).
func (s *Server) claimBlock(
	ctx context.Context, request *clearwayv1.ClaimBlockRequest,
) (*clearwayv1.ClaimBlockResponse, error) {
	answer := &clearwayv1.ClaimBlockResponse{}
	err := s.claims.do(ctx, false, func(p *plan) error {
		answer.Incarnation = p.incarnation
		key := claimKey{request.GetNode(), request.GetRequestKey()}
		if prefix, done := p.claimed[key]; done {
			return p.claimedBefore(request, p.blocks[prefix], answer)
		}
		from, err := p.mayClaim(request)
		if err != nil {
			return err
		}
		prefix, err := p.carve(from, int(request.GetPrefixLength()))
		if err != nil {
			return err
		}
		p.claim(request, prefix, answer)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// claimedBefore answers a repeated request as the first time (rule Idempotent).
func (p *plan) claimedBefore(
	request *clearwayv1.ClaimBlockRequest, block *clearwayv1.BlockSpec, answer *clearwayv1.ClaimBlockResponse,
) error {
	if block.GetPool() != request.GetPool() {
		return invalid("request_key", request.GetRequestKey(),
			fmt.Sprintf("was used before to claim from pool %q; every request needs a new one", block.GetPool()))
	}
	answer.Block = block
	p.done(func(revision int64) { answer.Revision = revision })
	return nil
}

// mayClaim finds the pool, and refuses what is not for this node.
func (p *plan) mayClaim(request *clearwayv1.ClaimBlockRequest) (*poolState, error) {
	node, name := request.GetNode(), request.GetPool()
	from := p.pools[name]
	switch {
	case p.nodes[node] == nil:
		return nil, status.Errorf(codes.Unauthenticated, "node %q is not registered: register again", node)
	case from == nil:
		return nil, status.Errorf(codes.NotFound, "there is no pool %q", name)
	case from.Kind != pool.Block:
		return nil, status.Errorf(codes.FailedPrecondition, "pool %q is of kind %s; blocks come from pools of kind %s",
			name, from.Kind, pool.Block)
	case from.Disabled:
		return nil, status.Errorf(codes.FailedPrecondition, "pool %q is disabled", name)
	case !from.Selects(p.labelsOf(node)):
		return nil, status.Errorf(codes.FailedPrecondition, "pool %q is not for node %q: its nodeSelector is %s",
			name, node, from.NodeSelector)
	}
	return from, nil
}

// carve takes a block of the wanted length out of a pool, or, where none is whole, the largest smaller one that the
// pool allows. length 0 is the pool's block size.
func (p *plan) carve(from *poolState, length int) (netip.Prefix, error) {
	if length == 0 {
		length = from.BlockBits
	}
	if length < from.BlockBits || length > from.MinBlockBits {
		return netip.Prefix{}, invalid("prefix_length", fmt.Sprint(length),
			fmt.Sprintf("must be 0, or from %d to %d for pool %q", from.BlockBits, from.MinBlockBits, from.Name))
	}
	for bits := length; bits <= from.MinBlockBits; bits++ {
		prefix, ok := from.space.Carve(bits)
		if !ok {
			continue
		}
		p.failed(func() { _ = from.space.Give(prefix) })
		live := p.liveOf(prefix)
		if err := live.Take(prefix); err != nil { // a block of no pool, or of another: rule NoOverlap says no
			return netip.Prefix{}, status.Errorf(codes.Internal, "pool %q and the live blocks disagree: %v", from.Name, err)
		}
		p.failed(func() { _ = live.Give(prefix) })
		return prefix, nil
	}
	return netip.Prefix{}, p.exhausted(from, length)
}

// exhausted tells in numbers why there is no block.
func (p *plan) exhausted(from *poolState, length int) error {
	var owned, cooling, orphaned int
	for prefix := range from.space.All() {
		switch p.blocks[prefix].GetState() {
		case clearwayv1.BlockState_BLOCK_STATE_COOLING:
			cooling++
		case clearwayv1.BlockState_BLOCK_STATE_ORPHANED:
			orphaned++
		default:
			owned++
		}
	}
	return status.Errorf(codes.ResourceExhausted, "pool %q (%s) has no free /%d nor a smaller block down to /%d: "+
		"%d blocks owned, %d cooling, %d orphaned", from.Name, from.CIDR, length, from.MinBlockBits, owned, cooling, orphaned)
}

// claim writes a carved block. Its generation is the revision it is written at, so it is not in the record.
func (p *plan) claim(request *clearwayv1.ClaimBlockRequest, prefix netip.Prefix, answer *clearwayv1.ClaimBlockResponse) {
	block := &clearwayv1.BlockSpec{
		Cidr: prefix.String(), Pool: request.GetPool(), Node: request.GetNode(),
		NodeUid:    p.nodes[request.GetNode()].GetMetadata().GetUid(),
		State:      clearwayv1.BlockState_BLOCK_STATE_OWNED,
		RequestKey: request.GetRequestKey(), ClaimedTime: timestamppb.New(p.now),
	}
	p.write(record.Op{Key: record.BlockKey(prefix), Value: mustMarshal(block)})
	p.sequences = append(p.sequences, request.GetPool())
	p.marks = append(p.marks, record.Key("claim/"+request.GetNode()+"/"+request.GetRequestKey()))
	p.done(func(revision int64) {
		answer.Revision, answer.Block = revision, p.blocks[prefix]
	})
}

// releaseBlock lets a block rest, if it is still the node's at that generation (rule CompareAndDelete).
func (s *Server) releaseBlock(
	ctx context.Context, request *clearwayv1.ReleaseBlockRequest,
) (*clearwayv1.ReleaseBlockResponse, error) {
	prefix, err := netip.ParsePrefix(request.GetCidr())
	if err != nil || prefix != prefix.Masked() {
		return nil, invalid("cidr", request.GetCidr(), "must be a block, as 10.244.0.0/26")
	}
	answer := &clearwayv1.ReleaseBlockResponse{}
	err = s.claims.do(ctx, false, func(p *plan) error {
		answer.Incarnation = p.incarnation
		p.done(func(revision int64) { answer.Revision = revision })
		block := p.blocks[prefix]
		if block.GetNode() != request.GetNode() || block.GetGeneration() != request.GetGeneration() ||
			block.GetState() == clearwayv1.BlockState_BLOCK_STATE_COOLING {
			return nil // not this ownership, or released already
		}
		rest := p.now.Add(p.ipamConfiguration().Cooldown)
		if until := request.GetRestUntil(); until.IsValid() && until.AsTime().After(rest) {
			// An agent whose clock is wrong must not keep a block from use for ever.
			rest = minTime(until.AsTime(), p.now.Add(longestRest))
		}
		p.write(blockOp(cooled(block, rest)))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// cooled is a block that rests until some time. It keeps its owner's name, so that a repeated release finds it.
func cooled(block *clearwayv1.BlockSpec, until time.Time) *clearwayv1.BlockSpec {
	next := proto.CloneOf(block)
	next.State, next.FreeTime = clearwayv1.BlockState_BLOCK_STATE_COOLING, timestamppb.New(until)
	return next
}

func blockOp(block *clearwayv1.BlockSpec) record.Op {
	return record.Op{Key: record.BlockKey(netip.MustParsePrefix(block.GetCidr())), Value: mustMarshal(block)}
}

// freeRested is the wish to free blocks whose rest is over; nil when there are none.
func (s *Server) freeRested() *wish {
	s.mu.RLock()
	defer s.mu.RUnlock()
	now := s.now()
	var due []netip.Prefix
	for prefix, free := range s.state.cooling {
		if len(due) < maxRewrite && !free.After(now) {
			due = append(due, prefix)
		}
	}
	if len(due) == 0 {
		return nil
	}
	return &wish{ctx: context.Background(), done: make(chan error, 1), own: true, plan: func(p *plan) error {
		for _, prefix := range due {
			if _, still := p.cooling[prefix]; still {
				p.write(record.Op{Key: record.BlockKey(prefix)})
			}
		}
		return nil
	}}
}

// maxRewrite is how many blocks one transaction changes: room is left for what goes with them.
const maxRewrite = 100

// rewriteBlocks puts other blocks in place of a node's, where choose returns one: as many transactions as it takes,
// each repeatable.
func (s *Server) rewriteBlocks(
	ctx context.Context, node string, choose func(*plan, *clearwayv1.BlockSpec) *clearwayv1.BlockSpec,
) (rewritten int, err error) {
	for {
		count := 0
		err := s.claims.do(ctx, true, func(p *plan) error {
			count = 0
			for prefix := range p.blocksOf[node] {
				if next := choose(p, p.blocks[prefix]); next != nil && count < maxRewrite {
					p.write(blockOp(next))
					count++
				}
			}
			return nil
		})
		if err != nil {
			return rewritten, err
		}
		rewritten += count
		if count < maxRewrite {
			return rewritten, nil
		}
		if ctx.Err() != nil {
			return rewritten, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// longestRest is the longest cooldown there is.
const longestRest = 24 * time.Hour

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// ipamConfiguration is the one in force.
func (s *state) ipamConfiguration() pool.Configuration {
	object, _ := s.config[kindIPAMConfiguration][defaultName].object.(*clearwayv1.IPAMConfiguration)
	parsed, _ := pool.ParseIPAMConfiguration(object)
	return parsed
}
