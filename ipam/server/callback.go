package server

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"
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

const (
	// callTime is how long a call-back may wait for its owner's answer while others are sought besides, and after which
	// it is taken back when nobody waits any more.
	callTime = 15 * time.Second
	// declinedTime is how long a part that its owner declined is not asked for again.
	declinedTime = 15 * time.Second
	// maxRefusal bounds an owner's reason, in bytes.
	maxRefusal = 1024
)

// callBack gets blocks back for claims that found none, until ctx ends. Everything it knows it could know again: the
// claims are repeated, and the call-backs themselves are in the store.
func (s *Server) callBack(ctx context.Context) error {
	second := time.NewTicker(idleTime)
	defer second.Stop()
	s.wants.reset()
	for {
		select {
		case <-s.wants.due:
		case <-second.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := s.callBackOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("blocks could not be called back; it is tried again", "error", err)
		}
	}
}

// callBackOnce writes a call_back for each claim that waits and has none, and takes back those that nobody needs.
func (s *Server) callBackOnce(ctx context.Context) error {
	waiting := s.wants.waiting(s.now())
	open, stale := s.unmet(waiting)
	if len(open) == 0 && len(stale) == 0 {
		return nil
	}
	found := s.callable(open)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return s.claims.do(ctx, true, func(p *plan) error {
		for _, prefix := range stale {
			p.takeBack(prefix, "")
		}
		// As of now, like the state: one that came meanwhile has ended its call-back, and would be asked for the same again.
		declines := s.wants.declined(p.now)
		for _, want := range open {
			want.declines = declines
			if len(p.ops) >= maxRewrite {
				break
			}
			if one, ok := found.next(p, want); ok {
				p.ask(one, want)
				s.noteCall(p, one, want)
			} else if !p.inMotion(want.pool) && !found.anyFor(want) {
				s.wants.barren(want, p.now)
			}
		}
		return nil
	})
}

// unmet are the claims for which nothing is on its way, and the call-backs that nobody waits for and nobody answers.
func (s *Server) unmet(waiting []want) (open []want, stale []netip.Prefix) {
	_ = s.view(func(st *state) { // without a state there is nothing to tell
		now := s.now()
		pools, there, coming := map[string]bool{}, map[string]uint64{}, s.onItsWay(st, now)
		for _, want := range waiting {
			if !pools[want.pool] {
				pools[want.pool], there[want.pool] = true, st.available(want.pool, now, uint64(len(waiting)))
			}
			switch {
			case coming[wantKey{want.pool, want.node}]:
			case there[want.pool] > 0: // what was called back has come: the claim takes it when it is repeated
				there[want.pool]--
			default:
				open = append(open, want)
			}
		}
		for prefix := range st.called {
			block := st.blocks[prefix]
			old := now.Sub(block.GetCallBack().GetAskedTime().AsTime()) > callTime
			if block.GetState() == clearwayv1.BlockState_BLOCK_STATE_OWNED && old && !pools[block.GetPool()] {
				stale = append(stale, prefix)
			}
		}
	})
	return open, stale[:min(len(stale), maxRewrite)]
}

// available is how many claims that a Pod waits for could be served of a pool now, counted up to a limit.
func (s *state) available(name string, now time.Time, most uint64) uint64 {
	from := s.pools[name]
	if from == nil || from.space == nil {
		return 0
	}
	reserved, _ := pool.Reserved(s.reserved, now)
	count := from.carvable(reserved, most)
	for prefix := range s.cooling {
		if s.givesOn(from, prefix, from.BlockBits, reserved) {
			count++
		}
	}
	return count
}

// inMotion tells whether something of a pool is being called back, for whomever: when that is over there may be more.
func (s *state) inMotion(pool string) bool {
	for prefix := range s.called {
		if s.blocks[prefix].GetPool() == pool {
			return true
		}
	}
	return false
}

// onItsWay are the claims for which something is being called back, by an owner that works on it.
func (s *Server) onItsWay(st *state, now time.Time) map[wantKey]bool {
	coming := map[wantKey]bool{}
	for prefix := range st.called {
		block := st.blocks[prefix]
		call := block.GetCallBack()
		if now.Sub(call.GetAskedTime().AsTime()) <= callTime || s.answers(block.GetNode()) != nil {
			coming[wantKey{block.GetPool(), call.GetWantedBy()}] = true
		}
	}
	return coming
}

// answers is the session of a node whose agent is there and answers call-backs; nil: there is none.
func (s *Server) answers(node string) *session {
	if one := s.sessions.of(node); one != nil && one.answersCallBack && one.live() {
		return one
	}
	return nil
}

// candidate is a block, or a part of one, that its owner could do without.
type candidate struct {
	node          string
	block, called netip.Prefix
	class         int
	spare         uint64 // free addresses that the owner would keep
}

// The classes of candidates, in the order in which they are asked for.
const (
	wholeBeyondNeed = iota // a free block, and its owner has another one with a free address
	freePart
	lastOfIdle // a free block of the smallest size that is all its owner has
)

// candidates are what can be called back, by pool, the best first.
type candidates struct {
	byPool map[string][]candidate
	// asked are the nodes of which a whole block was asked for in this round: what they can spare has changed.
	asked map[string]bool
}

// callable looks for what can be called back in the pools of some claims. It goes by the copies of the journals, node by
// node, and holds the server's lock for one node at a time; the owner has the last word.
func (s *Server) callable(open []want) candidates {
	found := candidates{byPool: map[string][]candidate{}, asked: map[string]bool{}}
	pools := map[string]bool{}
	for _, want := range open {
		pools[want.pool] = true
	}
	for _, session := range s.sessions.all() {
		if len(pools) == 0 || s.answers(session.node) == nil {
			continue
		}
		sealed := session.sealed()
		_ = s.view(func(st *state) {
			reserved, _ := pool.Reserved(st.reserved, s.now())
			st.callableOf(session.node, pools, sealed, reserved, found.byPool)
		})
	}
	for pool, all := range found.byPool {
		slices.SortFunc(all, candidate.compare)
		s.wants.callable(pool, all, s.now())
	}
	for pool := range pools {
		if len(found.byPool[pool]) == 0 {
			s.wants.callable(pool, nil, s.now())
		}
	}
	return found
}

// callableNow is what could be called back of each block, were it the first that is asked for. The server's lock is held.
func (s *Server) callableNow(st *state) map[netip.Prefix]netip.Prefix {
	pools := map[string]bool{}
	for name, one := range st.pools {
		pools[name] = one.Kind == pool.Block
	}
	found := map[string][]candidate{}
	reserved, _ := pool.Reserved(st.reserved, s.now())
	for node := range st.blocksOf {
		if session := s.answers(node); session != nil {
			st.callableOf(node, pools, session.sealed(), reserved, found)
		}
	}
	callable := map[netip.Prefix]netip.Prefix{}
	for _, all := range found {
		for _, one := range all {
			callable[one.block] = one.called
		}
	}
	return callable
}

// sealed are the node's blocks that give no address, by its last report.
func (n *session) sealed() map[string]bool {
	_, _, report := n.status()
	sealed := map[string]bool{}
	for _, use := range report.GetBlocks() {
		sealed[use.GetCidr()] = use.GetSealed()
	}
	return sealed
}

func (a candidate) compare(b candidate) int {
	return cmp.Or(
		cmp.Compare(a.class, b.class), cmp.Compare(a.called.Bits(), b.called.Bits()), cmp.Compare(b.spare, a.spare),
		a.called.Addr().Compare(b.called.Addr()),
	)
}

// use is how one block of a node is used.
type use struct {
	prefix   netip.Prefix
	assigned []netip.Addr
	usable   uint64
}

func (u *use) free() uint64 { return u.usable - min(u.usable, uint64(len(u.assigned))) }

// usesOf are a node's owned blocks of some pools, by pool. Sealed ones give nothing, also not back.
func (s *state) usesOf(node string, pools, sealed map[string]bool, reserved []netipx.IPRange) map[string][]*use {
	uses, at := map[string][]*use{}, map[netip.Prefix]*use{}
	for prefix := range s.blocksOf[node] {
		block := s.blocks[prefix]
		from := s.pools[block.GetPool()]
		if block.GetState() != clearwayv1.BlockState_BLOCK_STATE_OWNED || !pools[block.GetPool()] || from == nil || sealed[prefix.String()] {
			continue
		}
		one := &use{prefix: prefix, usable: from.usable(prefix, reserved)}
		uses[block.GetPool()], at[prefix] = append(uses[block.GetPool()], one), one
	}
	if len(uses) == 0 {
		return nil
	}
	for address := range s.assignments[node] {
		only := netip.PrefixFrom(address, address.BitLen())
		if prefix, found := s.liveOf(only).Overlap(only); found && at[prefix] != nil {
			at[prefix].assigned = append(at[prefix].assigned, address)
		}
	}
	return uses
}

// callableOf adds what one node could do without.
func (s *state) callableOf(node string, pools, sealed map[string]bool, reserved []netipx.IPRange, into map[string][]candidate) {
	for pool, all := range s.usesOf(node, pools, sealed, reserved) {
		from := s.pools[pool]
		if from.Rigid {
			continue
		}
		var free uint64
		for _, one := range all {
			if s.blocks[one.prefix].GetCallBack() == nil { // else it may go, or a part of it
				free += one.free()
			}
		}
		for _, one := range all {
			if made, ok := s.candidateOf(from, one, free, reserved); ok {
				made.node = node
				into[pool] = append(into[pool], made)
			}
		}
	}
}

// candidateOf is what can be called back of a block of a node that has so many free addresses of the pool in all.
func (s *state) candidateOf(from *poolState, one *use, free uint64, reserved []netipx.IPRange) (candidate, bool) {
	if s.blocks[one.prefix].GetCallBack() != nil || one.usable == 0 || from.Drains(one.prefix) || s.inSplit(one.prefix) {
		return candidate{}, false
	}
	made := candidate{block: one.prefix, called: one.prefix, spare: free - one.free()}
	small := one.prefix.Bits() >= from.MinBlockBits
	switch {
	case len(one.assigned) == 0 && made.spare > 0:
		made.class = wholeBeyondNeed
	case len(one.assigned) == 0 && small:
		made.class = lastOfIdle
	case small:
		return candidate{}, false
	default:
		called, ok := from.freePart(one.prefix, one.assigned, reserved)
		if !ok {
			return candidate{}, false
		}
		made.class, made.called = freePart, called
		made.spare = free - min(free, from.usable(called, reserved))
	}
	return made, true
}

// freePart finds the largest part of a block, half or less of it and not smaller than the pool's smallest block, in
// which no address is assigned and some can be; the highest of equals, for the low ones fill first.
func (p *poolState) freePart(prefix netip.Prefix, assigned []netip.Addr, reserved []netipx.IPRange) (best netip.Prefix, found bool) {
	low, high, ok := cidr.Halves(prefix)
	if !ok || low.Bits() > p.MinBlockBits {
		return netip.Prefix{}, false
	}
	for _, half := range []netip.Prefix{high, low} {
		var within []netip.Addr
		for _, address := range assigned {
			if half.Contains(address) {
				within = append(within, address)
			}
		}
		part, free := half, len(within) == 0
		if free {
			free = p.usable(half, reserved) > 0
		} else {
			part, free = p.freePart(half, within, reserved)
		}
		if free && (!found || part.Bits() < best.Bits()) {
			best, found = part, true
		}
	}
	return best, found
}

// inSplit tells whether a block is what is left of one out of which a part is still being withdrawn: until then its owner
// may tell peers the whole, and it is not split again.
func (s *state) inSplit(prefix netip.Prefix) bool {
	for other := range s.called {
		block := s.blocks[other]
		if block.GetState() != clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING {
			continue
		}
		if was, err := netip.ParsePrefix(block.GetCallBack().GetBlock()); err == nil && was.Overlaps(prefix) {
			return true
		}
	}
	return false
}

// next takes the best candidate for a claim that still is one.
func (c candidates) next(p *plan, want want) (candidate, bool) {
	all := c.byPool[want.pool]
	for i, one := range all {
		block := p.blocks[one.block]
		switch {
		case one.node == want.node || want.declined(one.called, p.now):
			continue
		case one.class != freePart && c.asked[one.node]:
			continue
		case block.GetNode() != one.node || block.GetState() != clearwayv1.BlockState_BLOCK_STATE_OWNED || block.GetCallBack() != nil:
			continue
		}
		c.byPool[want.pool] = slices.Delete(all, i, i+1)
		c.asked[one.node] = c.asked[one.node] || one.class != freePart
		return one, true
	}
	return candidate{}, false
}

// anyFor tells whether there is a candidate for a claim, were it one that was declined a moment ago: the copy of its
// owner's journal was behind then, and what it shows next is another part.
func (c candidates) anyFor(want want) bool {
	return slices.ContainsFunc(c.byPool[want.pool], func(one candidate) bool { return one.node != want.node })
}

// ask writes a call_back into a block.
func (p *plan) ask(one candidate, want want) {
	next := proto.CloneOf(p.blocks[one.block])
	next.CallBack = &clearwayv1.CallBack{
		Id: uuid.NewString(), Cidr: one.called.String(), WantedBy: want.node, AskedTime: timestamppb.New(p.now),
		Block: one.block.String(),
	}
	p.write(blockOp(next))
}

func (s *Server) noteCall(p *plan, one candidate, want want) {
	p.done(func(int64) {
		s.note(eventNormal, "BlockCalledBack", one.node, "Block/"+clearwayv1.PrefixName(one.block.String()), fmt.Sprintf(
			"%s is called back from node %s: pool %s has nothing left, and a Pod waits on node %s", one.called, one.node, want.pool, want.node))
	})
}

// takeBack drops a call_back that is still open, of an id or of any.
func (p *plan) takeBack(prefix netip.Prefix, id string) {
	block := p.blocks[prefix]
	call := block.GetCallBack()
	if call == nil || block.GetState() != clearwayv1.BlockState_BLOCK_STATE_OWNED || id != "" && call.GetId() != id {
		return
	}
	next := proto.CloneOf(block)
	next.CallBack = nil
	p.write(blockOp(next))
}

// splits tells whether a block's owner is asked for a part of it.
func splits(block *clearwayv1.BlockSpec) bool {
	call := block.GetCallBack()
	return call != nil && call.GetCidr() != block.GetCidr()
}

// answerCallBack takes an owner's answer: a sealed part leaves its block in one transaction, a refusal drops the
// call-back.
func (s *Server) answerCallBack(
	ctx context.Context, request *clearwayv1.AnswerCallBackRequest,
) (*clearwayv1.AnswerCallBackResponse, error) {
	prefix, err := netip.ParsePrefix(request.GetCidr())
	if err != nil || prefix != prefix.Masked() {
		return nil, invalid("cidr", request.GetCidr(), "must be a block, as 10.244.0.0/26")
	}
	switch {
	case request.GetId() == "":
		return nil, invalid("id", "", "is required")
	case len(request.GetRefusal()) > maxRefusal:
		return nil, invalid("refusal", request.GetRefusal()[:32]+"...", fmt.Sprintf("is longer than %d bytes", maxRefusal))
	}
	answer := &clearwayv1.AnswerCallBackResponse{}
	err = s.claims.do(ctx, false, func(p *plan) error {
		answer.Incarnation = p.incarnation
		p.done(func(revision int64) { answer.Revision = revision })
		block := p.blocks[prefix]
		open := block.GetNode() == request.GetNode() && block.GetGeneration() == request.GetGeneration() &&
			block.GetState() == clearwayv1.BlockState_BLOCK_STATE_OWNED && block.GetCallBack().GetId() == request.GetId()
		switch {
		case request.GetRefusal() != "":
			if open {
				p.takeBack(prefix, request.GetId())
				p.done(func(int64) { s.declined(block, request.GetRefusal()) })
			}
			return nil
		case open && splits(block):
			return p.split(prefix, block, answer)
		case block == nil && p.splitBefore(prefix, request, answer):
			return nil
		}
		return status.Errorf(codes.FailedPrecondition, "nothing is called back of %s by %q any more", prefix, request.GetId())
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// split puts a block's parts in its place: the one called back is withdrawn next, what is beside it stays its owner's. The
// lowest of that has its request key, so that a repeated claim finds it.
func (p *plan) split(prefix netip.Prefix, block *clearwayv1.BlockSpec, answer *clearwayv1.AnswerCallBackResponse) error {
	called, err := netip.ParsePrefix(block.GetCallBack().GetCidr())
	if err != nil || !cidr.Contains(prefix, called) {
		return status.Errorf(codes.Internal, "block %s: a call-back of %q", prefix, block.GetCallBack().GetCidr())
	}
	parts := partsOf(prefix, called)
	p.write(record.Op{Key: record.BlockKey(prefix)}) // first: the parts take its place
	key := block.GetRequestKey()
	for _, part := range parts {
		next := proto.CloneOf(block)
		next.Cidr, next.Generation, next.RequestKey = part.String(), 0, "" // its generation is the revision it is written at
		if part == called {
			next.State = clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING
		} else {
			next.CallBack, next.RequestKey, key = nil, key, ""
		}
		p.write(blockOp(next))
	}
	p.sequences = append(p.sequences, block.GetPool())
	p.done(func(int64) {
		for _, part := range parts {
			answer.Blocks = append(answer.Blocks, p.blocks[part])
		}
	})
	return nil
}

// partsOf are the fewest prefixes that one of them, called, leaves of a prefix, with it, in ascending order.
func partsOf(prefix, called netip.Prefix) []netip.Prefix {
	parts := []netip.Prefix{called}
	for at := called; at.Bits() > prefix.Bits(); {
		buddy, _ := cidr.Buddy(at) // it has one, and a parent: it lies within the prefix
		parts = append(parts, buddy)
		at, _ = cidr.Parent(at)
	}
	slices.SortFunc(parts, netip.Prefix.Compare)
	return parts
}

// splitBefore answers a repeated yes as the first time.
func (p *plan) splitBefore(
	prefix netip.Prefix, request *clearwayv1.AnswerCallBackRequest, answer *clearwayv1.AnswerCallBackResponse,
) bool {
	for called := range p.called {
		call := p.blocks[called].GetCallBack()
		if call.GetId() != request.GetId() || call.GetBlock() != prefix.String() {
			continue
		}
		for _, part := range partsOf(prefix, called) {
			block := p.blocks[part]
			if !p.owns(request.GetNode(), block) {
				return false
			}
			answer.Blocks = append(answer.Blocks, block)
		}
		return true
	}
	return false
}

// halved tells whether a block that a node holds has become parts, of which it owns one at least.
func (s *state) halved(node string, prefix netip.Prefix) bool {
	for part := range s.blocksOf[node] {
		if part != prefix && cidr.Contains(prefix, part) && isOwned(s.blocks[part]) {
			return true
		}
	}
	return false
}

// declined notes that an owner keeps what was called back.
func (s *Server) declined(block *clearwayv1.BlockSpec, why string) {
	call := block.GetCallBack()
	s.log.Info("a call-back was declined", "block", block.GetCidr(), "called", call.GetCidr(), "node", block.GetNode(), "reason", why)
	s.wants.decline(call, s.now())
}
