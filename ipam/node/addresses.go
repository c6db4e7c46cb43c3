package node

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clearway/clearway/ipam/node/journal"
	"github.com/clearway/clearway/ipam/spool"
)

const (
	// longestWait is how long an ADD waits for a block when its caller gave no deadline; kubelet gives up after 4
	// minutes, and retries are better early.
	longestWait = 30 * time.Second
	// answerMargin is how long before its deadline an ADD gives up, at most, so that its reason still arrives.
	answerMargin = 500 * time.Millisecond
	// lookAgain is how often a waiting ADD looks without being woken: rests end by themselves.
	lookAgain = 250 * time.Millisecond
	// undoTimeout bounds what is done for a caller that has gone.
	undoTimeout = 10 * time.Second
	// gcAtOnce is how many releases of a GC share the journal's writes.
	gcAtOnce = 64
)

// add gives an attachment its addresses, or tells those it has.
func (n *Node) add(ctx context.Context, r request) (*assignment, error) {
	ctx, cancel := withMargin(ctx)
	defer cancel()
	if err := n.await(ctx); err != nil {
		return nil, err
	}
	if err := n.replayOf(ctx, r.key); err != nil {
		return nil, err
	}
	e, err := n.book.begin(ctx, r.key, false)
	if err != nil {
		return nil, err
	}
	defer n.book.end(e)
	if n.book.buried(r) {
		return nil, errDeleted
	}
	if held := n.book.heldAgain(r.key); held != nil {
		return held, nil
	}
	if answered := n.book.ask(r); answered != nil {
		defer answered()
		n.lookDue.wake()
	}
	taken, err := n.reserve(ctx, r, e)
	if err != nil {
		return nil, err
	}
	return n.confirm(ctx, r, e, taken)
}

// withMargin ends the wait a little before the caller's own deadline.
func withMargin(ctx context.Context) (context.Context, context.CancelFunc) {
	left := longestWait
	if deadline, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(deadline))
	}
	return context.WithTimeout(ctx, left-min(answerMargin, left/10))
}

// await waits until it is known what to go by.
func (n *Node) await(ctx context.Context) error {
	select {
	case <-n.settled:
		return nil
	default:
	}
	select {
	case <-n.settled:
		return nil
	case <-ctx.Done():
		return refuse(cniTryLater, "the machine was started anew and ipamd has not confirmed yet which blocks are this node's")
	}
}

// reserve waits until every family has an address, or until it is clear that none will.
func (n *Node) reserve(ctx context.Context, r request, e *entry) ([]held, error) {
	var told string // why ipamd gives no floating address yet
	var done func()
	defer func() {
		if done != nil {
			done()
		}
	}()
	for {
		if errors.Is(context.Cause(ctx), context.Canceled) {
			return nil, errDeleted // its caller has gone; a DEL follows, or did already
		}
		taken, short, err := n.book.reserve(r)
		if err != nil || short == nil {
			if err != nil || n.book.runsLow(taken) {
				n.claims.wake() // a block may be due, before the last address is gone
			}
			return taken, n.explain(err)
		}
		if short.claim {
			n.claims.wake()
		}
		if short.quota {
			n.quotaDue.wake()
		}
		if short.floating != nil {
			if done == nil {
				done = n.askFloating(short.floating.holder)
			}
			pending, err := n.claimFloating(ctx, r, short.floating)
			switch {
			case err != nil:
				return nil, err
			case pending == nil:
				continue // it is there
			}
			if ctx.Err() == nil {
				told = pending.Error() // else it says no more than that the time is over
			}
			short.text += ": " + told
		}
		select {
		case <-short.changed:
		case <-time.After(lookAgain):
		case <-e.deleted:
			return nil, errDeleted
		case <-ctx.Done():
			return nil, refuse(cniTryLater, "no address was free before the deadline: %s", short.text)
		}
	}
}

// confirm makes a reservation durable, or undoes it.
func (n *Node) confirm(ctx context.Context, r request, e *entry, taken []held) (*assignment, error) {
	record := assignRecord{key: r.key, Pod: r.pod, Addrs: taken, Time: n.now(), Netns: r.netns, Owner: r.owner, Quotas: taken[0].quotas}
	if _, err := n.write(ctx, record); err != nil {
		if !errors.Is(err, journal.ErrPoisoned) { // else it may be on disk: then nobody else may have them
			n.book.undo(taken)
		}
		return nil, err
	}
	if slices.ContainsFunc(taken, func(h held) bool { return h.Block.IsSingleIP() }) {
		n.stateDue.wake() // a floating address is advertised from now on
	}
	held := n.book.heldBy(r.key)
	if held == nil {
		return nil, refuse(cniIO, "the journal gave the addresses of %s to another attachment", r.key)
	}
	if isClosed(e.deleted) { // the DEL waits for us, and releases what is held
		return nil, errDeleted
	}
	if errors.Is(context.Cause(ctx), context.Canceled) {
		// The plugin was killed or gave up. The DEL that follows may have been answered before we were here.
		return nil, errors.Join(errDeleted, n.release(context.WithoutCancel(ctx), held))
	}
	return held, nil
}

// release frees what an attachment holds. The caller has begun its entry.
func (n *Node) release(ctx context.Context, a *assignment) error {
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	now := n.now()
	until := now.Add(n.book.cooldown())
	_, err := n.write(ctx, releaseRecord{key: a.key, Number: a.number, Time: now, Until: until})
	return err
}

// del frees what an attachment holds. One that holds nothing, or that another Pod has by now, is done already.
func (n *Node) del(ctx context.Context, k key, uid string) error {
	if cause := n.journal.Cause(); cause != nil {
		return &cniError{code: cniIO, msg: "the journal cannot be written", err: cause}
	}
	n.book.bury(k)
	e, err := n.book.begin(ctx, k, true)
	if err != nil {
		return err
	}
	defer n.book.end(e)
	held := n.book.heldBy(k)
	if held == nil || !held.isOf(uid) {
		return nil
	}
	return n.release(ctx, held)
}

// delOld is del of what the attachment got by the journal's record of a number or before. False: something newer is
// there, or somebody works on it.
func (n *Node) delOld(ctx context.Context, k key, uid string, through uint64) (bool, error) {
	e := n.book.beginIdle(k)
	if e == nil {
		return !n.book.known(k), nil
	}
	defer n.book.end(e)
	held := n.book.heldBy(k)
	if held == nil || !held.isOf(uid) {
		return true, nil
	}
	if held.number > through {
		return false, nil
	}
	return true, n.release(ctx, held)
}

// collect frees every attachment of a network that is not among the valid ones. What came after the collection began
// is not judged by a list of before.
func (n *Node) collect(ctx context.Context, network string, valid map[key]bool) (int, error) {
	all, through := n.book.assignments()
	var work errgroup.Group
	work.SetLimit(gcAtOnce)
	freed := make([]int, len(all))
	for i, a := range all {
		if a.key.Network != network || valid[a.key] {
			continue
		}
		work.Go(func() error {
			done, err := n.delOld(ctx, a.key, "", through)
			if done && err == nil {
				freed[i] = 1
				n.log.Info("collected an attachment that is no longer valid", "attachment", a.key, "pod", a.pod)
			}
			return err
		})
	}
	err := work.Wait()
	released := 0
	for _, one := range freed {
		released += one
	}
	return released, err
}

// check tells whether an attachment holds exactly these addresses.
func (n *Node) check(k key, addresses []netip.Addr) error {
	held := n.book.heldBy(k)
	if held == nil {
		return refuse(cniNotHeld, "attachment %s holds no address here", k)
	}
	have := make([]netip.Addr, 0, len(held.addrs))
	for _, h := range held.addrs {
		have = append(have, h.Addr)
		if !n.book.covers(h.Addr) {
			return refuse(cniNotHeld, "address %s of attachment %s is in no block of this node any more", h.Addr, k)
		}
	}
	for _, addr := range addresses {
		if !slices.Contains(have, addr) {
			return refuse(cniNotHeld, "attachment %s holds %v, not %s", k, have, addr)
		}
	}
	for _, addr := range have {
		if !slices.Contains(addresses, addr) {
			return refuse(cniNotHeld, "attachment %s holds %s, which its result does not have", k, addr)
		}
	}
	return nil
}

// replayOf does a spooled DEL of the attachment before a new ADD of it is answered. Of two ADDs at once both may find
// it; what the first of them got is newer than the DEL, and stays.
func (n *Node) replayOf(ctx context.Context, k key) error {
	if n.options.SpoolDir == "" {
		return nil
	}
	through := n.book.number()
	entry, found, err := spool.Find(n.options.SpoolDir, spool.Attachment{Network: k.Network, ContainerID: k.Container, Ifname: k.Ifname})
	if err != nil || !found {
		return err
	}
	e, err := n.book.begin(ctx, k, false)
	if err != nil {
		return err
	}
	defer n.book.end(e)
	held := n.book.heldBy(k)
	if held != nil && held.number <= through && held.isOf(entry.Request.PodUID()) {
		if err := n.release(ctx, held); err != nil {
			return err
		}
	}
	return spool.Remove(entry)
}

// replaySpool does the spooled DELs. One whose attachment is being worked on, or got something since the spool was
// read, is left for the next time: an ADD looks for its own.
func (n *Node) replaySpool(ctx context.Context) error {
	if n.options.SpoolDir == "" {
		return nil
	}
	through := n.book.number()
	entries, err := spool.Read(n.options.SpoolDir)
	faults := []error{err}
	for _, entry := range entries {
		from := entry.Request.Attachment
		k := key{Network: from.Network, Container: from.ContainerID, Ifname: from.Ifname}
		done, err := n.delOld(ctx, k, entry.Request.PodUID(), through)
		if done && err == nil {
			err = spool.Remove(entry)
			n.log.Info("replayed a DEL that came while the agent was down", "attachment", k)
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// write appends a record to the journal and has it applied.
func (n *Node) write(ctx context.Context, r record) (uint64, error) {
	entry, err := encode(r)
	if err != nil {
		return 0, err
	}
	number, err := n.journal.Append(ctx, entry)
	switch {
	case err == nil:
		n.mirrorDue.wake()
		return number, nil
	case ctx.Err() != nil:
		return 0, &cniError{code: cniTryLater, msg: "the journal's disk is too slow", err: err}
	}
	return 0, &cniError{code: cniIO, msg: "the journal cannot be written", err: err}
}
