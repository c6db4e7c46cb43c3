package server

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/pool"
	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// report is what a registering agent says it holds, and how far it goes before what the store says.
type report struct {
	node, uid string
	held      []held
	// wins: the store recovers, and the agent has not reported in this incarnation yet.
	wins bool
	// complete: its journal is the one that the store last heard of, or a newer one of a new boot: what is not in the
	// report is not held.
	complete bool
}

// held is one block of a report.
type held struct {
	*clearwayv1.BlockSpec
	prefix netip.Prefix
}

// readReport reads what an agent holds.
func readReport(request *clearwayv1.RegisterRequest) (report, error) {
	read := report{node: request.GetNode()}
	for _, one := range request.GetHeldBlocks() {
		prefix, err := netip.ParsePrefix(one.GetCidr())
		if err != nil || prefix != prefix.Masked() {
			return read, invalid("held_blocks", one.GetCidr(), "must be a block, as 10.244.0.0/26")
		}
		if epoch, _ := clearwayv1.SplitGeneration(one.GetGeneration()); epoch < 0 || epoch >= clearwayv1.MaxEpoch/2 {
			return read, invalid("held_blocks", fmt.Sprint(one.GetGeneration()), "is no generation of a block")
		}
		read.held = append(read.held, held{one, prefix})
	}
	return read, nil
}

// overlapping refuses blocks of which two have an address; field is where they are named. It sorts them.
func overlapping(field string, blocks []held) error {
	slices.SortFunc(blocks, func(a, b held) int { return a.prefix.Compare(b.prefix) })
	for i := 1; i < len(blocks); i++ {
		if blocks[i-1].prefix.Overlaps(blocks[i].prefix) {
			return invalid(field, blocks[i].GetCidr(), "overlaps "+blocks[i-1].GetCidr())
		}
	}
	return nil
}

// judge fills in how far a report goes, and refuses one that names blocks of pools that a recovering or other store does
// not know: it may have lost them, and then the node goes on alone rather than give up addresses in use (OneHolder).
func (p *plan) judge(r *report, request *clearwayv1.RegisterRequest, before identity) error {
	other := request.GetHeldIncarnation() != p.incarnation
	r.wins = p.recovering() && other
	mirror, mirrored := p.mirrors[r.node]
	r.complete = !mirrored || before.replaced || !seals(mirror.NodeStatus, request)
	if !other || request.GetHeldIncarnation() == "" && !r.wins {
		return nil
	}
	for _, one := range r.held {
		block := p.blocks[one.prefix]
		if !p.owns(r.node, block) && (block == nil || r.wins) && !p.pools[one.GetPool()].carves(one) {
			return status.Errorf(codes.FailedPrecondition, "node %q went by another store, and this one has no pool %q "+
				"of its kind around %s, which it holds: apply the pools as they were, and its blocks are taken over; "+
				"or, if this is another cluster, empty the node's data folder when no Pod runs on it",
				r.node, one.GetPool(), one.GetCidr())
		}
	}
	return nil
}

// settleReport brings the store in line with what a node holds, each step repeatable, and returns which blocks it did not
// know as the node's. What nobody has, in a pool's free space, is the node's again: its Pods may hold addresses in it.
// While the store recovers, the report goes before what an older owner has, and what it does not name is let rest.
func (s *Server) settleReport(ctx context.Context, r report) (adopted map[string]bool, err error) {
	if r.wins && r.complete {
		if err := s.restUnreported(ctx, r); err != nil {
			return nil, err
		}
	}
	adopted = map[string]bool{}
	more, err := s.due(ctx, func(p *plan) bool {
		return slices.ContainsFunc(r.held, func(one held) bool { return !p.agrees(one, r) })
	})
	if err != nil {
		return nil, err
	}
	for more {
		var taken []string
		err := s.claims.do(ctx, true, func(p *plan) error {
			taken, more = p.takeHeld(r)
			return nil
		})
		if err != nil {
			return nil, err
		}
		for _, one := range taken {
			adopted[one] = true
		}
	}
	return adopted, nil
}

// restUnreported lets the blocks rest that an older store gives to a node which no longer has them: it gave them back
// since. They have no request key any more: a claim that is repeated must get another one.
func (s *Server) restUnreported(ctx context.Context, r report) error {
	reported := map[netip.Prefix]bool{}
	for _, one := range r.held {
		reported[one.prefix] = true
	}
	_, err := s.rewriteBlocks(ctx, r.node, func(p *plan, block *clearwayv1.BlockSpec) *clearwayv1.BlockSpec {
		if !p.owns(r.node, block) || reported[netip.MustParsePrefix(block.GetCidr())] {
			return nil
		}
		next := p.rested(block, p.now.Add(p.ipamConfiguration().Cooldown), false)
		next.RequestKey = ""
		return next
	})
	return err
}

// maxAdopted is how many blocks one transaction brings: each takes two operations.
const maxAdopted = 50

// takeHeld plans as much of a report as one transaction takes, and tells whether there is more.
func (p *plan) takeHeld(r report) (taken []string, more bool) {
	above := int64(0)
	for _, one := range r.held {
		if len(p.ops) >= maxAdopted {
			return taken, true
		}
		generation := p.lifted(one, r)
		have := p.blocks[one.prefix]
		switch {
		case p.agrees(one, r):
			continue
		case p.owns(r.node, have): // it gave it back and got it again since
			next := proto.CloneOf(have)
			next.Generation, next.RequestKey = generation, one.GetRequestKey()
			p.write(blockOp(next))
		default:
			met := p.meets(one.prefix)
			switch {
			case len(met) == 0:
				if !p.adopt(one, r, generation) {
					continue
				}
			case !r.wins || !p.beaten(met, generation) || !p.pools[one.GetPool()].carves(one):
				continue // it is lost
			case len(p.ops) > 0:
				return taken, true // one by itself: what it changes is not seen by those planned beside it
			default:
				done := p.displace(one, r, generation, met)
				if done {
					taken = append(taken, one.GetCidr())
				}
				p.raiseEpoch(generation)
				return taken, true
			}
			taken = append(taken, one.GetCidr())
		}
		epoch, _ := clearwayv1.SplitGeneration(generation)
		above = max(above, epoch)
	}
	if len(p.ops) > 0 {
		p.raiseEpoch(clearwayv1.Generation(above, 0))
	}
	return taken, false
}

// agrees tells whether the store has a held block as the node does.
func (p *plan) agrees(one held, r report) bool {
	have := p.blocks[one.prefix]
	return p.owns(r.node, have) && (!r.wins || p.lifted(one, r) <= have.GetGeneration())
}

// lifted is the generation that a held block has here; 0: that of a block which was got just now.
func (p *plan) lifted(one held, r report) int64 {
	if !r.wins || one.GetGeneration() == 0 {
		return one.GetGeneration()
	}
	epoch, revision := clearwayv1.SplitGeneration(one.GetGeneration())
	return clearwayv1.Generation(epoch+p.life.GetRecovery().GetLift(), revision)
}

// raiseEpoch makes what is claimed from now on of a greater generation than what was reported.
func (p *plan) raiseEpoch(reported int64) {
	if epoch, _ := clearwayv1.SplitGeneration(reported); epoch >= epochOf(p.life) && p.recovering() {
		next := proto.CloneOf(p.life)
		beginEpoch(next, p.revision+1, epoch)
		p.write(lifeOp(next))
	}
}

// meets are the live blocks that share an address with a prefix, in ascending order; at most as many as one transaction
// takes away.
func (p *plan) meets(prefix netip.Prefix) (met []netip.Prefix) {
	live := p.liveOf(prefix)
	var look func(netip.Prefix)
	look = func(at netip.Prefix) {
		other, found := live.Overlap(at)
		switch {
		case !found || len(met) >= maxRewrite/2:
		case cidr.Contains(other, at):
			met = append(met, other)
		default:
			low, high, _ := cidr.Halves(at) // it has them: something smaller is within
			look(low)
			look(high)
		}
	}
	look(prefix)
	return met
}

// beaten tells whether a report of a generation goes before all of these blocks: nobody has one that rests, and of two
// owners the later one is right.
func (p *plan) beaten(blocks []netip.Prefix, generation int64) bool {
	return !slices.ContainsFunc(blocks, func(prefix netip.Prefix) bool {
		block := p.blocks[prefix]
		return block == nil || (block.GetState() != clearwayv1.BlockState_BLOCK_STATE_COOLING && block.GetGeneration() >= generation)
	})
}

// displace puts a held block in the place of those that it meets; what they have beside it stays as it is. Done is false
// when they are too many for one transaction: some are gone then.
func (p *plan) displace(one held, r report, generation int64, met []netip.Prefix) (done bool) {
	for _, prefix := range met {
		block := p.blocks[prefix]
		if prefix != one.prefix {
			p.write(record.Op{Key: record.BlockKey(prefix)})
		}
		for _, rest := range besides(prefix, one.prefix) {
			next := proto.CloneOf(block)
			next.Cidr, next.RequestKey, next.CallBack = rest.String(), "", nil
			p.write(blockOp(next))
		}
	}
	if len(met) >= maxRewrite/2 {
		return false
	}
	p.write(blockOp(heldBlock(one, r, generation)))
	p.sequences = append(p.sequences, one.GetPool())
	return true
}

// besides are the parts of a prefix beside an inner one.
func besides(outer, inner netip.Prefix) []netip.Prefix {
	var parts []netip.Prefix
	for outer != inner && cidr.Contains(outer, inner) {
		low, high, _ := cidr.Halves(outer) // it has them: something smaller is within
		if cidr.Contains(low, inner) {
			outer, parts = low, append(parts, high)
		} else {
			outer, parts = high, append(parts, low)
		}
	}
	return parts
}

func heldBlock(one held, r report, generation int64) *clearwayv1.BlockSpec {
	return &clearwayv1.BlockSpec{
		Cidr: one.GetCidr(), Pool: one.GetPool(), Node: r.node, NodeUid: r.uid, Generation: generation,
		State: clearwayv1.BlockState_BLOCK_STATE_OWNED, RequestKey: one.GetRequestKey(),
		ClaimedTime: one.GetClaimedTime(), Floating: one.GetFloating(),
	}
}

// adopt makes a free block the node's again, if its pool still has room for exactly it.
func (p *plan) adopt(one held, r report, generation int64) bool {
	prefix := one.prefix
	from := p.pools[one.GetPool()]
	if !from.carves(one) {
		return false
	}
	live := p.liveOf(prefix)
	if live.Take(prefix) != nil {
		return false
	}
	p.failed(func() { _ = live.Give(prefix) })
	if from.space.Take(prefix) != nil {
		return false
	}
	p.failed(func() { _ = from.space.Give(prefix) })
	if !r.wins {
		generation = 0 // a new ownership: another may have had it in between
	}
	block := heldBlock(one, r, generation)
	if block.GetClaimedTime() == nil || !r.wins {
		block.ClaimedTime = timestamppb.New(p.now)
	}
	p.write(blockOp(block))
	p.sequences = append(p.sequences, from.Name)
	return true
}

// carves tells whether blocks come from the pool, or single addresses of the Floating kind, and this one may be one of them.
func (p *poolState) carves(one held) bool {
	if p == nil || !cidr.Contains(p.CIDR, one.prefix) {
		return false
	}
	floating := one.GetFloating().GetOwner() != "" && one.prefix.IsSingleIP()
	return p.Kind == pool.Block && one.GetFloating() == nil || p.Kind == pool.Floating && floating
}

// lostOf are the blocks of a report that are not the node's.
func (p *plan) lostOf(r report) []string {
	var lost []string
	for _, one := range r.held {
		if !p.owns(r.node, p.blocks[one.prefix]) && !p.halved(r.node, one.prefix) { // it is told the halves among its blocks
			lost = append(lost, one.GetCidr())
		}
	}
	return lost
}
