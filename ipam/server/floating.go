package server

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/pool"
	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// An address of a Floating pool is a block of one address that says whose it is. So all that holds of blocks holds of it:
// the fence, the ownership log, rule 3, recovery by reports, export and check. What is its own is here: it is found again by
// its owner, whichever node that is on by now, and nobody else gets it for the pool's stickyTime.

const (
	// maxFloatingPools bounds the pools of one claim.
	maxFloatingPools = 16
	// maxOwner bounds an owner's name, in bytes: a namespace, a slash and a Pod's name.
	maxOwner = 63 + 1 + maxText
)

// holderKey is who holds floating addresses.
type holderKey struct{ owner, network, ifname string }

func holderKeyOf(holder *clearwayv1.FloatingHolder) holderKey {
	return holderKey{holder.GetOwner(), holder.GetNetwork(), holder.GetIfname()}
}

func (k holderKey) String() string {
	return fmt.Sprintf("%q (%s of network %s)", k.owner, k.ifname, k.network)
}

// floats are the addresses that somebody has, or that are kept for him, by who that is.
type floats map[holderKey]map[netip.Prefix]struct{}

func (f floats) put(prefix netip.Prefix, block *clearwayv1.BlockSpec) {
	if block.GetFloating() == nil {
		return
	}
	key := holderKeyOf(block.GetFloating())
	if f[key] == nil {
		f[key] = map[netip.Prefix]struct{}{}
	}
	f[key][prefix] = struct{}{}
}

func (f floats) drop(prefix netip.Prefix, block *clearwayv1.BlockSpec) {
	if block.GetFloating() == nil {
		return
	}
	key := holderKeyOf(block.GetFloating())
	delete(f[key], prefix)
	if len(f[key]) == 0 {
		delete(f, key)
	}
}

// of are what somebody has, by address.
func (f floats) of(key holderKey) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(f[key]), netip.Prefix.Compare)
}

// checkClaimFloating refuses what can be refused without the state, and reads the address that is asked for.
func checkClaimFloating(request *clearwayv1.ClaimFloatingRequest) (asked netip.Addr, err error) {
	if err := checkRequestKey(request.GetRequestKey()); err != nil {
		return asked, err
	}
	if n := len(request.GetPools()); n == 0 || n > maxFloatingPools {
		return asked, invalid("pools", fmt.Sprint(n), fmt.Sprintf("must be 1 to %d pools", maxFloatingPools))
	}
	holder := request.GetHolder()
	for field, text := range map[string]string{
		"holder.owner": holder.GetOwner(), "holder.network": holder.GetNetwork(), "holder.ifname": holder.GetIfname(),
	} {
		if len(text) > maxOwner {
			return asked, invalid(field, text[:32]+"...", fmt.Sprintf("is longer than %d bytes", maxOwner))
		}
	}
	if holder.GetOwner() == "" {
		return asked, invalid("holder.owner", "", "is required: whose the address is to be")
	}
	if text := request.GetAddress(); text != "" {
		if asked, err = cidr.ParseAddress(text); err != nil {
			return asked, invalid("address", text, cidr.Reason(err))
		}
	}
	return asked, nil
}

// claimFloating gives a node one address for one owner.
func (s *Server) claimFloating(
	ctx context.Context, request *clearwayv1.ClaimFloatingRequest,
) (*clearwayv1.ClaimFloatingResponse, error) {
	asked, err := checkClaimFloating(request)
	if err != nil {
		return nil, err
	}
	answer := &clearwayv1.ClaimFloatingResponse{}
	// One that asks for an address reads what the others of a batch are about to write.
	err = s.claims.do(ctx, asked.IsValid(), func(p *plan) error {
		answer.Incarnation = p.incarnation
		if err := s.mayClaimNow(p.state); err != nil {
			return err
		}
		c := &floatingClaim{plan: p, request: request, answer: answer, asked: asked, key: holderKeyOf(request.GetHolder())}
		return c.run()
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// floatingClaim is one claim against the state.
type floatingClaim struct {
	*plan
	request *clearwayv1.ClaimFloatingRequest
	answer  *clearwayv1.ClaimFloatingResponse
	asked   netip.Addr // invalid: any
	key     holderKey
	pools   []*poolState
}

func (c *floatingClaim) run() error {
	if err := c.choose(); err != nil {
		return err
	}
	// Two claims of one owner must not be planned together: each would find that it has nothing.
	c.marks = append(c.marks, record.Key(fmt.Sprintf("floating/%q/%q/%q", c.key.owner, c.key.network, c.key.ifname)))
	if prefix, found := c.mine(); found {
		return c.again(prefix)
	}
	if c.asked.IsValid() {
		return c.takeAsked()
	}
	return c.takeAny()
}

// choose finds the pools, and refuses those that are not for this node.
func (c *floatingClaim) choose() error {
	node := c.request.GetNode()
	if c.nodes[node] == nil {
		return status.Errorf(codes.Unauthenticated, "node %q is not registered: register again", node)
	}
	for _, name := range c.request.GetPools() {
		from := c.plan.pools[name]
		switch {
		case from == nil:
			return status.Errorf(codes.NotFound, "there is no pool %q", name)
		case from.Kind != pool.Floating:
			return status.Errorf(codes.FailedPrecondition, "pool %q is of kind %s; single addresses come from pools of kind %s",
				name, from.Kind, pool.Floating)
		case len(c.pools) > 0 && from.CIDR.Addr().Is4() != c.pools[0].CIDR.Addr().Is4():
			return invalid("pools", name, fmt.Sprintf("is of another family than pool %q; a claim is for one address", c.pools[0].Name))
		case !from.Selects(c.labelsOf(node)):
			return status.Errorf(codes.FailedPrecondition, "pool %q is not for node %q: its nodeSelector is %s", name, node, from.NodeSelector)
		}
		c.pools = append(c.pools, from)
	}
	return nil
}

// mine finds what the owner has, or had and is kept for him, in the pools: what is on this node goes first, then what he
// may have at once, then by the pools' order.
func (c *floatingClaim) mine() (best netip.Prefix, found bool) {
	rank := func(prefix netip.Prefix) int {
		block := c.blocks[prefix]
		switch {
		case c.owns(c.request.GetNode(), block):
			return 0
		case block.GetState() == clearwayv1.BlockState_BLOCK_STATE_COOLING && c.waitFor(block) == nil:
			return 2
		}
		return 1 // it is on its way, or its owner still is there: one is enough for him
	}
	for _, from := range c.pools {
		for _, prefix := range c.floats.of(c.key) {
			if !cidr.Contains(from.CIDR, prefix) || c.asked.IsValid() && prefix.Addr() != c.asked {
				continue
			}
			resting := c.blocks[prefix].GetState() == clearwayv1.BlockState_BLOCK_STATE_COOLING
			if resting && (c.kept(from, prefix) != "" || from.Draining() || from.Disabled) {
				continue // given to nobody any more, nor to him
			}
			if !found || rank(prefix) < rank(best) {
				best, found = prefix, true
			}
		}
	}
	return best, found
}

// again gives the owner what he has or had. The same node gets the same answer; another one waits until the one before has
// given it up, or rule 3 did.
func (c *floatingClaim) again(prefix netip.Prefix) error {
	block := c.blocks[prefix]
	if c.owns(c.request.GetNode(), block) {
		c.answer.Block = block
		c.done(func(revision int64) { c.answer.Revision = revision })
		return nil
	}
	if wait := c.waitFor(block); wait != nil {
		return wait
	}
	c.give(prefix, block.GetPool())
	return nil
}

// waitFor is why the owner cannot have his address here yet; nil: he can.
func (c *floatingClaim) waitFor(block *clearwayv1.BlockSpec) error {
	address := netip.MustParsePrefix(block.GetCidr()).Addr()
	var text string
	switch block.GetState() {
	case clearwayv1.BlockState_BLOCK_STATE_COOLING:
		after := block.GetFloating().GetOwnerAfter()
		if block.GetWithdrawn() || after == nil || !c.now.Before(after.AsTime()) {
			return nil
		}
		text = fmt.Sprintf("node %q, which had it, was said to be off, and peers may go by its routes until %s",
			block.GetNode(), after.AsTime().Format(time.RFC3339))
	case clearwayv1.BlockState_BLOCK_STATE_ORPHANED:
		text = fmt.Sprintf("node %q, which had it, is gone without a word; it comes free when the machine is said to be off "+
			"(clearwayctl delete node %s --powered-off), or nobody has held it for the orphanGrace", block.GetNode(), block.GetNode())
	default:
		text = fmt.Sprintf("node %q has it still, and gives it up when the attachment there is deleted; of a machine that is off "+
			"say so (clearwayctl delete node %s --powered-off)", block.GetNode(), block.GetNode())
	}
	return withDetails(status.New(codes.ResourceExhausted, fmt.Sprintf("%s is %s's, and cannot be had here yet: %s", address, c.key, text)),
		protoadapt.MessageV1Of(&clearwayv1.HandOver{Address: address.String(), Node: block.GetNode()}))
}

// takeAsked takes the address that was asked for, if nobody has it.
func (c *floatingClaim) takeAsked() error {
	at := slices.IndexFunc(c.pools, func(from *poolState) bool { return from.CIDR.Contains(c.asked) })
	if at < 0 {
		return invalid("address", c.asked.String(), "is in none of the pools that were named")
	}
	from := c.pools[at]
	only := netip.PrefixFrom(c.asked, c.asked.BitLen())
	if err := c.open(from); err != nil {
		return err
	}
	if why := c.kept(from, only); why != "" {
		return invalid("address", c.asked.String(), "is given to nobody: "+why)
	}
	if met, taken := c.liveOf(only).Overlap(only); taken {
		return status.Errorf(codes.FailedPrecondition, "%s was asked for, and is not free: %s", c.asked, c.takenText(met))
	}
	if err := c.take(only, from); err != nil {
		return err
	}
	c.give(only, from.Name)
	return nil
}

// takenText tells whose a block is.
func (s *state) takenText(prefix netip.Prefix) string {
	block := s.blocks[prefix]
	switch whose := holderKeyOf(block.GetFloating()); {
	case block == nil:
		return "it is being given to somebody"
	case block.GetFloating() == nil:
		return fmt.Sprintf("it is in block %s of pool %q, which is %s of node %q", prefix, block.GetPool(), stateName(block.GetState()), block.GetNode())
	case block.GetState() == clearwayv1.BlockState_BLOCK_STATE_COOLING:
		return fmt.Sprintf("it is kept for %s, who had it last, until %s", whose, block.GetFreeTime().AsTime().Format(time.RFC3339))
	default:
		return fmt.Sprintf("%s has it on node %q", whose, block.GetNode())
	}
}

// takeAny takes a free address of the first pool that has one: of the smallest free stretch, so that long ones stay whole.
func (c *floatingClaim) takeAny() error {
	var last error
	for _, from := range c.pools {
		if err := c.open(from); err != nil {
			last = err
			continue
		}
		prefix, err := c.carve(from, 0)
		if err == nil {
			c.give(prefix, from.Name)
			return nil
		}
		if status.Code(err) != codes.ResourceExhausted {
			return err
		}
		last = status.Errorf(codes.ResourceExhausted, "pool %q (%s) has no free address: %s", from.Name, from.CIDR, c.floatingUse(from))
	}
	return last
}

// open refuses a pool that gives no new address.
func (c *floatingClaim) open(from *poolState) error {
	switch {
	case from.Draining():
		return status.Errorf(codes.FailedPrecondition, "pool %q is being drained", from.Name)
	case from.Disabled:
		return status.Errorf(codes.FailedPrecondition, "pool %q is disabled", from.Name)
	}
	return nil
}

// kept tells why an address is given to nobody; "": it may be.
func (p *plan) kept(from *poolState, only netip.Prefix) string {
	if one := p.reservationOf(only.Addr(), p.now); one != nil {
		return "it is reserved: " + reservationText(one)
	}
	if contained(pool.Excluded(from.Pool, only, nil), only.Addr()) {
		return fmt.Sprintf("it is the gateway, or one of the first and last addresses, of pool %q", from.Name)
	}
	return ""
}

// floatingUse is who has a pool's addresses, in numbers.
func (s *state) floatingUse(from *poolState) string {
	held, kept, orphaned := 0, 0, 0
	for prefix := range from.space.All() {
		switch s.blocks[prefix].GetState() {
		case clearwayv1.BlockState_BLOCK_STATE_COOLING:
			kept++
		case clearwayv1.BlockState_BLOCK_STATE_ORPHANED:
			orphaned++
		default:
			held++
		}
	}
	return fmt.Sprintf("%d are held, %d are kept for owners who had them last (stickyTime %s), %d are of gone nodes", held, kept, from.StickyTime, orphaned)
}

// take marks a free address in the spaces, until the plan is written or undone.
func (c *floatingClaim) take(only netip.Prefix, from *poolState) error {
	live := c.liveOf(only)
	if err := live.Take(only); err != nil {
		return status.Errorf(codes.Internal, "pool %q and the live blocks disagree: %v", from.Name, err)
	}
	c.failed(func() { _ = live.Give(only) })
	if err := from.space.Take(only); err != nil {
		return status.Errorf(codes.Internal, "pool %q and the live blocks disagree: %v", from.Name, err)
	}
	c.failed(func() { _ = from.space.Give(only) })
	return nil
}

// give writes an address as the node's, for the owner. Its generation is the revision it is written at.
func (c *floatingClaim) give(prefix netip.Prefix, ofPool string) {
	node := c.request.GetNode()
	block := &clearwayv1.BlockSpec{
		Cidr: prefix.String(), Pool: ofPool, Node: node, NodeUid: c.nodes[node].GetMetadata().GetUid(),
		State: clearwayv1.BlockState_BLOCK_STATE_OWNED, RequestKey: c.request.GetRequestKey(), ClaimedTime: timestamppb.New(c.now),
		Floating: &clearwayv1.FloatingHolder{Owner: c.key.owner, Network: c.key.network, Ifname: c.key.ifname},
	}
	c.write(record.Op{Key: record.BlockKey(prefix), Value: mustMarshal(block)})
	c.sequences = append(c.sequences, ofPool)
	c.done(func(revision int64) { c.answer.Revision, c.answer.Block = revision, c.blocks[prefix] })
}

// rested is a block that its owner no longer has, and that nobody may have before some time: of a floating address nobody
// but its owner, who may have it at once where it is known to be withdrawn, and else after the rest.
func (p *plan) rested(block *clearwayv1.BlockSpec, until time.Time, withdrawn bool) *clearwayv1.BlockSpec {
	next := cooled(block, until)
	next.Withdrawn = withdrawn
	if next.GetFloating() == nil {
		return next
	}
	next.Floating = proto.CloneOf(next.GetFloating())
	next.Floating.OwnerAfter = nil
	if !withdrawn {
		next.Floating.OwnerAfter = timestamppb.New(until)
	}
	if sticky := p.now.Add(p.stickyTime(block.GetPool())); sticky.After(until) {
		next.FreeTime = timestamppb.New(sticky)
	}
	return next
}

func (s *state) stickyTime(ofPool string) time.Duration {
	if one := s.pools[ofPool]; one != nil && !one.Deleted {
		return one.StickyTime
	}
	return 0
}
