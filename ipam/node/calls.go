package node

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

const (
	// overlapTime is how long what is kept is advertised beside the block that it was a part of, before that is withdrawn: every
	// peer has learned it by then. It counts while ipamd answers, so that the peers' ownership logs know it too.
	overlapTime = 3 * time.Second
	// lookAtCalls is how often call-backs are looked at without being woken, and those that failed tried again.
	lookAtCalls = time.Second
)

// hearCalls takes what a session's snapshot asks of the node's blocks.
func (n *Node) hearCalls(snapshot *clearwayv1.NodeSnapshot) {
	n.mu.Lock()
	n.calls = snapshot
	n.mu.Unlock()
	n.callDue.wake()
}

// answerCalls does what ipamd asks of the node's blocks (design, Split and call-back). Every step is journalled before
// it shows, and is found again in the journal or in ipamd's snapshot after any break.
func (n *Node) answerCalls(ctx context.Context) error {
	for {
		unanswered := n.answerOnce(ctx)
		var timer <-chan time.Time
		if unanswered || n.book.hasCalls() {
			timer = time.After(lookAtCalls)
		}
		select {
		case <-n.callDue:
		case <-timer:
		case <-ctx.Done():
			return nil
		}
	}
}

// hasCalls tells whether a call-back is under way.
func (b *book) hasCalls() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.blocks, func(o *ownBlock) bool { return o.call != nil || o.Withdrawing && o.returning == nil })
}

// answerOnce looks at all call-backs once, and tells whether one of them could not be answered.
func (n *Node) answerOnce(ctx context.Context) (unanswered bool) {
	n.mu.Lock()
	snapshot := n.calls
	n.mu.Unlock()
	if s := n.session(); s != nil && snapshot.GetIncarnation() == s.incarnation {
		for _, spec := range snapshot.GetBlocks() {
			if err := n.answerCall(ctx, s, spec); err != nil && ctx.Err() == nil {
				unanswered = true
				n.log.Warn("a call-back could not be answered yet", "block", spec.GetCidr(), "error", err)
			}
			if err := n.releaseStray(ctx, s, spec); err != nil && ctx.Err() == nil {
				unanswered = true
				n.log.Warn("an address that nobody waits for could not be given back yet", "address", spec.GetCidr(), "error", err)
			}
		}
	}
	if n.book.beginWithdrawals() {
		n.returnDue.wake()
	}
	return unanswered
}

// answerCall brings one block in line with what ipamd asks of it.
func (n *Node) answerCall(ctx context.Context, s *session, spec *clearwayv1.BlockSpec) error {
	call := spec.GetCallBack()
	if call == nil || spec.GetState() != clearwayv1.BlockState_BLOCK_STATE_OWNED {
		return n.uncall(ctx, spec, "")
	}
	if err := n.uncall(ctx, spec, call.GetId()); err != nil {
		return err
	}
	todo := n.book.call(spec)
	switch {
	case todo.nothing:
		return nil
	case todo.refusal != "":
		return n.sendAnswer(ctx, s, spec, todo.refusal)
	case todo.whole:
		n.log.Info("a free block is called back", "block", spec.GetCidr(), "for", call.GetWantedBy())
		n.returnDue.wake()
		return nil
	case !todo.durable:
		if _, err := n.write(ctx, todo.call); err != nil {
			n.book.dropCall(todo.call)
			return err
		}
		n.log.Info("a free part is called back; it is sealed", "block", spec.GetCidr(), "part", todo.call.Part, "for", call.GetWantedBy())
	}
	return n.sendAnswer(ctx, s, spec, "")
}

// sendAnswer tells ipamd that a part is sealed, or why not, and takes over what becomes of the block.
func (n *Node) sendAnswer(ctx context.Context, s *session, spec *clearwayv1.BlockSpec, refusal string) error {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	answer, err := s.client.AnswerCallBack(ctx, &clearwayv1.AnswerCallBackRequest{
		Node: n.options.Node, SessionId: s.id, Id: spec.GetCallBack().GetId(), Cidr: spec.GetCidr(),
		Generation: spec.GetGeneration(), Refusal: refusal,
	})
	if err != nil {
		if status.Code(err) == codes.FailedPrecondition { // nobody calls it back any more; what became of it comes by snapshot
			return nil
		}
		s.judge(err)
		return err
	}
	if refusal != "" {
		n.log.Info("a call-back was declined", "block", spec.GetCidr(), "called", spec.GetCallBack().GetCidr(), "reason", refusal)
	}
	return n.takeSplits(ctx, answer.GetBlocks(), nil)
}

// uncall opens a sealed part again that is no longer called back, or by another id.
func (n *Node) uncall(ctx context.Context, spec *clearwayv1.BlockSpec, id string) error {
	r, open := n.book.overtaken(spec, id)
	if !open {
		return nil
	}
	_, err := n.write(ctx, r)
	return err
}

// overtaken is the record that opens a part again, if the block's call is another than what ipamd asks now.
func (b *book) overtaken(spec *clearwayv1.BlockSpec, id string) (callRecord, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.asked(spec)
	if o == nil || !o.callDurable || o.call.ID == id {
		return callRecord{}, false
	}
	return callRecord{CIDR: o.CIDR, Part: o.call.Part}, true
}

// asked finds the block of a spec, at its generation.
func (b *book) asked(spec *clearwayv1.BlockSpec) *ownBlock {
	r, err := parseBlock(spec)
	if err != nil {
		return nil
	}
	o := b.findBlock(r.CIDR)
	if o == nil || o.Generation != r.Generation {
		return nil
	}
	return o
}

// todo is what is to be done about a call-back.
type todo struct {
	nothing bool
	refusal string
	// whole: the block is being given back.
	whole bool
	// call is the part that is sealed, durable once the journal has it.
	call    callRecord
	durable bool
}

// call seals what is called back, unless it cannot be given. From then on no ADD takes an address of it.
func (b *book) call(spec *clearwayv1.BlockSpec) todo {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.asked(spec)
	called, err := netip.ParsePrefix(spec.GetCallBack().GetCidr())
	switch {
	case o == nil || o.returning != nil || o.Withdrawing:
		return todo{nothing: true}
	case o.call != nil:
		return todo{call: *o.call, durable: o.callDurable}
	case o.blockRecord.Sealed:
		return todo{refusal: "the block is sealed: its addresses are not all accounted for"}
	case err == nil && called == o.CIDR:
		if o.Count(b.now()).Assigned > 0 {
			return todo{refusal: "an address of the block is assigned"}
		}
		o.giveBack(spec.GetCallBack().GetId())
		b.pool(o.Pool).heldOff = b.now().Add(calledBackPause)
		return todo{whole: true}
	case err != nil || called.Masked() != called || called.Bits() < o.CIDR.Bits() || !o.CIDR.Contains(called.Addr()):
		return todo{refusal: "what is called back is no part of the block"}
	case !o.Unused(called):
		return todo{refusal: "an address of the part is assigned"}
	}
	o.call = &callRecord{CIDR: o.CIDR, Part: called, ID: spec.GetCallBack().GetId()}
	o.reseal()
	return todo{call: *o.call}
}

// dropCall takes a call back that could not be journalled.
func (b *book) dropCall(r callRecord) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o := b.findBlock(r.CIDR); o != nil && !o.callDurable {
		o.call = nil
		o.reseal()
	}
}

// beginWithdrawals begins to give those parts back beside which the kept ones have been advertised for long enough.
func (b *book) beginWithdrawals() (begun bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if !b.offlineSince.IsZero() || now.Sub(b.onlineSince) < overlapTime {
		return false
	}
	for _, o := range b.blocks {
		if o.Withdrawing && o.returning == nil && now.Sub(o.since) >= overlapTime {
			o.giveBack(uuid.NewString())
			if o.blockRecord.Sealed || !o.Parent.IsValid() { // the journal that knew what rests is lost
				o.returning.RestUntil = now.Add(b.settings.configuration().Cooldown)
			}
			begun = true
		}
	}
	return begun
}

// takeSplits journals what blocks of ours have become, where ipamd names parts of them in their place. Repeating is
// harmless.
func (n *Node) takeSplits(ctx context.Context, specs []*clearwayv1.BlockSpec, sealed []string) error {
	for _, r := range n.book.splits(specs, sealed) {
		if _, err := n.write(ctx, r); err != nil {
			return err
		}
		for _, part := range r.Parts {
			n.log.Info("block was split", "block", r.CIDR, "part", part.CIDR, "withdrawing", part.Withdrawing)
		}
		if stranded := n.book.stranded(r.CIDR); len(stranded) > 0 {
			n.log.Error("a part of a block is no longer this node's", "block", r.CIDR, "stranded", stranded)
		}
		n.notify()
		n.callDue.wake()
	}
	return nil
}

// splits are the blocks of ours that a list does not name, and of which it names parts that are newer.
func (b *book) splits(specs []*clearwayv1.BlockSpec, sealed []string) []splitRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []splitRecord
	for _, o := range b.blocks {
		r := splitRecord{CIDR: o.CIDR}
		named := false
		for _, spec := range specs {
			part, err := parseBlock(spec)
			named = named || err == nil && part.CIDR == o.CIDR
			if err != nil || part.CIDR.Bits() <= o.CIDR.Bits() || !o.CIDR.Contains(part.CIDR.Addr()) || part.Generation <= o.Generation {
				continue
			}
			part.Sealed = o.blockRecord.Sealed || slices.Contains(sealed, spec.GetCidr())
			if part.Withdrawing {
				part.Parent = o.CIDR
			}
			r.Parts = append(r.Parts, part)
		}
		if !named && len(r.Parts) > 0 {
			all = append(all, r)
		}
	}
	return all
}
