package server

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"go4.org/netipx"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/cidr"
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
		if err := s.mayClaimNow(p.state); err != nil {
			return err
		}
		from, err := p.mayClaim(request)
		if err != nil {
			return err
		}
		if err := p.mayHaveBlock(from, request.GetNode()); err != nil {
			return err
		}
		if err := s.wants.yield(request, s.now()); err != nil {
			return err
		}
		if from.UsePodCIDR {
			prefix, err := p.podBlock(from, request.GetNode())
			if err == nil {
				p.claim(request, prefix, answer)
			}
			return err
		}
		prefix, err := p.carve(from, int(request.GetPrefixLength()))
		if status.Code(err) == codes.ResourceExhausted && request.GetNeeded() {
			if early, found := p.resting(from, int(request.GetPrefixLength())); found {
				prefix, err = early, nil
			} else {
				return s.seek(p, request, err)
			}
		}
		if err != nil {
			return err
		}
		p.claim(request, prefix, answer)
		p.done(func(int64) { s.wants.met(request) })
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
	case from.Draining():
		return nil, status.Errorf(codes.FailedPrecondition, "pool %q is being drained", name)
	case from.Disabled:
		return nil, status.Errorf(codes.FailedPrecondition, "pool %q is disabled", name)
	case !from.Selects(p.labelsOf(node)):
		return nil, status.Errorf(codes.FailedPrecondition, "pool %q is not for node %q: its nodeSelector is %s",
			name, node, from.NodeSelector)
	case from.Rigid:
		return from, p.mayHaveRigid(from, node)
	}
	return from, nil
}

// mayHaveRigid refuses a node's second block of a Rigid pool: a bridge has one IPv4 subnet and gateway.
func (p *plan) mayHaveRigid(from *poolState, node string) error {
	for _, block := range p.blocksOwned(node) {
		if block.GetPool() == from.Name && (!from.UsePodCIDR || block.GetCidr() == p.podBlockOf(from, node).String()) {
			return status.Errorf(codes.FailedPrecondition, "node %q has its one block of pool %q, %s: the layout is Rigid",
				node, from.Name, block.GetCidr())
		}
	}
	p.marks = append(p.marks, record.Key("rigid/"+node+"/"+from.Name)) // nor two at once
	return nil
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
		prefix, ok := from.space.CarveFrom(p.partsOf(from, bits, p.now), bits)
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
	kept := ""
	if free := from.space.FreeBlocks(from.MinBlockBits); free > 0 {
		kept = fmt.Sprintf("; %d free /%d are reserved or drained", free, from.MinBlockBits)
	}
	return netip.Prefix{}, status.Errorf(codes.ResourceExhausted, "pool %q (%s) has no free /%d nor a smaller block down to /%d: %v%s",
		from.Name, from.CIDR, length, from.MinBlockBits, p.tallyOf(from.Name), kept)
}

// carvable is how many blocks could be carved now, were they all of the smallest size, counted up to a limit.
func (p *poolState) carvable(reserved []netipx.IPRange, most uint64) (count uint64) {
	for _, part := range p.Parts(p.MinBlockBits, reserved) { // not by partsOf, which writes
		count += p.space.FreeIn(part, p.MinBlockBits, most-count)
	}
	return count
}

// usable is how many addresses of a block neither the pool itself keeps nor a reservation.
func (p *poolState) usable(prefix netip.Prefix, reserved []netipx.IPRange) uint64 {
	count := cidr.Count(prefix)
	for _, kept := range pool.Excluded(p.Pool, prefix, reserved) {
		count -= cidr.Distance(kept.From(), kept.To()) + 1
	}
	return count
}

// resting finds a block that rests and that its owner said is withdrawn, of the wanted length or the largest smaller one;
// of equals the one whose rest ends first. It is for claims that a Pod waits for, when nothing is free: its new owner
// lets its addresses rest to the end, and cuts that short only where it has no other.
func (p *plan) resting(from *poolState, length int) (best netip.Prefix, found bool) {
	length = max(length, from.BlockBits)
	reserved, _ := pool.Reserved(p.reserved, p.now)
	for prefix, until := range p.cooling {
		if !p.givesOn(from, prefix, length, reserved) {
			continue
		}
		if !found || prefix.Bits() < best.Bits() || prefix.Bits() == best.Bits() && until.Before(p.cooling[best]) {
			best, found = prefix, true
		}
	}
	return best, found
}

// givesOn tells whether a block that rests can be given on before its time, to a claim of some length.
func (s *state) givesOn(from *poolState, prefix netip.Prefix, length int, reserved []netipx.IPRange) bool {
	block := s.blocks[prefix]
	return block.GetPool() == from.Name && block.GetWithdrawn() && prefix.Bits() >= length && prefix.Bits() <= from.MinBlockBits &&
		cidr.Contains(from.CIDR, prefix) && !from.Drains(prefix) && from.usable(prefix, reserved) > 0
}

// claim writes a carved block. Its generation is the revision it is written at, so it is not in the record.
func (p *plan) claim(request *clearwayv1.ClaimBlockRequest, prefix netip.Prefix, answer *clearwayv1.ClaimBlockResponse) {
	block := &clearwayv1.BlockSpec{
		Cidr: prefix.String(), Pool: request.GetPool(), Node: request.GetNode(),
		NodeUid:    p.nodes[request.GetNode()].GetMetadata().GetUid(),
		State:      clearwayv1.BlockState_BLOCK_STATE_OWNED,
		RequestKey: request.GetRequestKey(), ClaimedTime: timestamppb.New(p.now),
	}
	if until, rests := p.cooling[prefix]; rests && until.After(p.now) {
		block.FreeTime = timestamppb.New(until)
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
		if block.GetCallBack() != nil && block.GetFloating() == nil {
			rest = p.now // somebody waits: it rests as long as its addresses must, and no longer
		}
		if until := request.GetRestUntil(); until.IsValid() && until.AsTime().After(rest) {
			// An agent whose clock is wrong must not keep a block from use for ever.
			rest = minTime(until.AsTime(), p.now.Add(longestRest))
		}
		p.write(blockOp(p.rested(block, rest, true)))
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
	next.CallBack = nil
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
	due, err := s.due(ctx, func(p *plan) bool {
		for prefix := range p.blocksOf[node] {
			if choose(p, p.blocks[prefix]) != nil {
				return true
			}
		}
		return false
	})
	if err != nil || !due {
		return 0, err
	}
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
