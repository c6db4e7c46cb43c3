package node

import (
	"context"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

const (
	// lookIdle is how often idle blocks are looked for, and returnAgain how soon a return that failed is tried again.
	lookIdle    = 15 * time.Second
	returnAgain = 2 * time.Second
	// withdrawTime is how long after a block left State.Blocks it is given back: BGP has told the peers by then. The
	// block's own rest, which ipamd counts from there, is far longer.
	withdrawTime = 2 * time.Second
)

// returnsAtOnce bounds how many blocks are given back side by side.
const returnsAtOnce = 16

// giveBack returns blocks that have been free for long, while a further free block's worth remains, and those of
// pools that are drained as they empty.
func (n *Node) giveBack(ctx context.Context) error {
	tick := time.NewTicker(lookIdle)
	defer tick.Stop()
	for {
		var work errgroup.Group
		work.SetLimit(returnsAtOnce)
		for _, r := range n.book.returnable() {
			work.Go(func() error {
				err := n.returnBlock(ctx, r)
				if err != nil && ctx.Err() == nil {
					n.log.Warn("block could not be given back yet", "block", r.CIDR, "error", err)
				}
				return err
			})
		}
		var again <-chan time.Time
		if work.Wait() != nil { // each told its own failure
			again = time.After(returnAgain)
		}
		select {
		case <-n.book.emptied:
		case <-n.returnDue:
		case <-again:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// returnable are the blocks being given back, and those that begin to be now: sealed at once, so that no ADD takes an
// address of them any more. Of idle ones it is one at a time.
func (b *book) returnable() []returnRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []returnRecord
	for _, o := range b.blocks {
		// In a block whose journal was lost there may be addresses that nobody here knows of. One of which a part is called
		// back may be two for ipamd by now.
		if o.returning == nil && o.draining && !o.blockRecord.Sealed && !o.Withdrawing && o.call == nil && o.Count(b.now()).Assigned == 0 {
			o.giveBack(uuid.NewString())
		}
		if o.floats() && b.spare(o) {
			o.giveBack(uuid.NewString())
		}
		if o.returning != nil {
			all = append(all, *o.returning)
		}
	}
	if len(all) > 0 || b.settings == nil || b.settings.ipam.BlockIdleTime == 0 {
		return all
	}
	if o := b.idle(b.now()); o != nil {
		all = append(all, o.giveBack(uuid.NewString()))
	}
	return all
}

// giveBack begins to give a block back, under a request key.
func (o *ownBlock) giveBack(key string) returnRecord {
	o.returning = &returnRecord{CIDR: o.CIDR, RequestKey: key, RestUntil: o.Latest()}
	o.reseal()
	return *o.returning
}

// idle finds a block to give back: the highest that was wholly free for the idle time, when the others of its pool have
// a whole block of its size ready besides. The last one of a pool is kept.
func (b *book) idle(now time.Time) *ownBlock {
	for i := len(b.blocks) - 1; i >= 0; i-- {
		o := b.blocks[i]
		if o.freeSince.IsZero() || o.Block.Sealed() || o.call != nil || o.floats() || now.Sub(o.freeSince) < b.settings.ipam.BlockIdleTime {
			continue
		}
		mine := o.Count(now)
		others := b.useLocked(o.Pool, now)
		needed := max(mine.Size-mine.Excluded, b.settings.ipam.LowWaterOf(uint64(mine.Size)))
		if mine.Assigned == 0 && others.blocks-others.sealed > 1 && others.Ready-mine.Ready >= needed {
			return o
		}
	}
	return nil
}

// returnBlock gives one block back: journalled, withdrawn, told to ipamd, forgotten. Each step may be repeated.
func (n *Node) returnBlock(ctx context.Context, r returnRecord) error {
	if !n.book.returnJournalled(r.CIDR) {
		if _, err := n.write(ctx, r); err != nil {
			n.book.keep(r.CIDR)
			return err
		}
		n.log.Info("giving a block back", "block", r.CIDR)
	}
	n.notify()
	select {
	case <-time.After(withdrawTime):
	case <-ctx.Done():
		return nil
	}
	s := n.session()
	if s == nil {
		return errOffline
	}
	generation, ok := n.book.generation(r.CIDR)
	if !ok {
		return nil
	}
	call, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	request := &clearwayv1.ReleaseBlockRequest{
		Node: n.options.Node, SessionId: s.id, RequestKey: r.RequestKey, Cidr: r.CIDR.String(), Generation: generation,
	}
	if !r.RestUntil.IsZero() {
		request.RestUntil = timestamppb.New(r.RestUntil)
	}
	if _, err := s.client.ReleaseBlock(call, request); err != nil {
		s.judge(err)
		return err
	}
	_, err := n.write(ctx, blockGoneRecord{CIDR: r.CIDR, Generation: generation})
	return err
}

// returnJournalled tells whether the journal has it that a block is being given back.
func (b *book) returnJournalled(prefix netip.Prefix) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.findBlock(prefix)
	return o != nil && o.returnDurable
}

// keep takes back that a block is being given back, when that could not be journalled.
func (b *book) keep(prefix netip.Prefix) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o := b.findBlock(prefix); o != nil && !o.returnDurable {
		o.returning = nil
		o.reseal()
	}
}

func (b *book) generation(prefix netip.Prefix) (int64, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.findBlock(prefix)
	if o == nil {
		return 0, false
	}
	return o.Generation, true
}
