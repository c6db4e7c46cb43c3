package fib

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/route"
)

const (
	// batchOps is how many requests go to the kernel at once. More gain nothing (it works them off one by one), and
	// hold up what is urgent.
	batchOps = 256
	// batchOutcomes bounds how many entries at rest are looked at in between.
	batchOutcomes = 4 * batchOps
	// batchBytes bounds a batch of large multipath routes.
	batchBytes = 64 << 10
)

// op is one request under way.
type op struct {
	e      *entry // nil: it is about a nexthop object alone
	step   step
	object uint32 // the nexthop object's id; 0: none
	errs   kernelError
}

// outcome is a status to be published.
type outcome struct {
	e      *entry
	state  route.InstallState
	reason string
}

// writeAll works until nothing is in line, or ctx ends.
func (w *Writer) writeAll(ctx context.Context) {
	for ctx.Err() == nil && w.writeBatch() {
	}
	w.publish()
}

// writeBatch sends one batch. It reports whether there may be more to do.
func (w *Writer) writeBatch() bool {
	c := &w.core
	drained := w.drainMonitor()
	if c.blind = c.deaf || !drained; !c.blind {
		w.release()
	}
	for _, e := range c.waiting {
		c.adds.push(e)
	}
	c.waiting = c.waiting[:0]
	c.ops = c.ops[:0]
	c.requests.buf.reset()
	for w.roomInBatch() && !c.adds.empty() {
		w.take(c.adds.pop(), false)
	}
	for len(c.ops) == 0 && c.adds.empty() && !c.removals.empty() && w.roomInBatch() {
		for w.roomInBatch() && !c.removals.empty() {
			w.take(c.removals.pop(), true)
		}
	}
	if len(c.ops) > 0 {
		w.exchange()
	}
	w.publish()
	return !drained || !c.adds.empty() || !c.removals.empty() || len(c.waiting) > 0
}

// release puts the entries in line that were held back.
func (w *Writer) release() {
	for _, e := range w.core.heldBack {
		w.core.adds.push(e)
	}
	w.core.heldBack = nil
}

func (w *Writer) roomInBatch() bool {
	return len(w.core.ops) < batchOps && len(w.core.requests.buf.b) < batchBytes && len(w.core.outcomes) < batchOutcomes
}

// take puts the next step of an entry in the batch, or finds that it is at rest. Steps that remove are put off until
// those that add are done.
func (w *Writer) take(e *entry, removing bool) {
	other, foreign := w.core.reach.at(e.prefix, w.who)
	st := w.plan(e, foreign || e.blocked)
	if st.kind.removes() && !removing {
		w.core.removals.push(e)
		return
	}
	if w.core.blind && st.kind.trusts() {
		w.core.heldBack = append(w.core.heldBack, e) // and it stays queued
		return
	}
	e.queued = false
	if st.kind == stepNone {
		w.rest(e, other, foreign)
		return
	}
	if !st.kind.removes() && w.awaitsObject(e) {
		e.queued = true
		w.core.waiting = append(w.core.waiting, e)
		return
	}
	if e.steps++; e.steps > maxSteps {
		w.refused(e, "the kernel's route keeps changing under us")
		w.wantResync("unstable", resyncSoon)
		return
	}
	e.round = w.core.round
	w.encode(e, st)
}

func (w *Writer) plan(e *entry, foreign bool) step {
	if e.target == nil && !w.core.settled && !e.withdrawn {
		return step{} // NoEarlyPrune: what was adopted stays until its source has said that it goes
	}
	if e.doubled {
		return step{kind: stepDelete} // takes the first of the two; then we look which is left
	}
	return next(e.prefix, e.target, e.have, foreign)
}

func (w *Writer) encode(e *entry, st step) {
	buf, s := &w.core.requests.buf, w.core.requests
	switch st.kind {
	case stepDelete:
		w.core.ops = append(w.core.ops, op{e: e, step: st})
		buf.deleteRoute(s.nextSeq(), e.prefix, w.who)
	case stepDrop:
		if st.reject != 0 {
			w.core.ops = append(w.core.ops, op{e: e, step: step{kind: stepDrop, reject: st.reject}})
			buf.deleteLeg(s.nextSeq(), e.prefix, w.who, leg{ifindex: loopbackIndex})
		}
		for i := range st.legs {
			w.core.ops = append(w.core.ops, op{e: e, step: step{kind: stepDrop, legs: st.legs[i : i+1]}})
			buf.deleteLeg(s.nextSeq(), e.prefix, w.who, st.legs[i])
		}
	default:
		id := w.objectFor(e.target)
		w.core.ops = append(w.core.ops, op{e: e, step: st, object: id})
		if id != 0 {
			buf.newRouteTo(s.nextSeq(), st.kind.flags(), e.prefix, w.who, id)
			return
		}
		buf.newRoute(s.nextSeq(), st.kind.flags(), e.prefix, w.who, st.reject, st.legs)
	}
}

// exchange sends the batch and takes the answers: the kernel tells each refusal, and acknowledges the last request,
// so that all others before it were carried out.
func (w *Writer) exchange() {
	c := &w.core
	start := time.Now()
	first := c.requests.seq - uint32(len(c.ops)) + 1
	c.requests.buf.wantAck()
	err := c.requests.send()
	if err == nil {
		err = w.collect(first)
	}
	since(w.metrics.batches, start)
	if err != nil {
		w.unanswered(err)
		return
	}
	for i := range c.ops {
		w.answered(&c.ops[i])
	}
}

// collect reads answers until the one to the last request.
func (w *Writer) collect(first uint32) error {
	c := &w.core
	for {
		b, err := c.requests.receive()
		if err != nil {
			return err
		}
		for len(b) >= headerLen {
			var m message
			if m, b, err = nextMessage(b); err != nil {
				return err
			}
			at := int(m.seq - first)
			if m.kind != unix.NLMSG_ERROR || at < 0 || at >= len(c.ops) {
				continue // an answer that came too late for its batch
			}
			c.ops[at].errs.errno, c.ops[at].errs.words = parseError(m)
			if at == len(c.ops)-1 {
				return nil
			}
		}
	}
}

// unanswered deals with a batch of which it is not known what the kernel did.
func (w *Writer) unanswered(err error) {
	w.log.Error("no answer from the kernel about a batch of routes", "routes", len(w.core.ops), "error", err)
	for i := range w.core.ops {
		o := &w.core.ops[i]
		if o.e == nil {
			w.loseObject(o.object, refused)
			continue
		}
		w.core.resync.touch(o.e.prefix)
		w.refused(o.e, "no answer from the kernel: "+err.Error())
	}
	w.wantResync("unanswered", resyncNow)
}

func (w *Writer) answered(o *op) {
	if o.e == nil {
		w.objectAnswered(o)
		return
	}
	if o.errs.errno == 0 {
		w.metrics.writes.WithLabelValues(o.step.kind.String()).Inc()
		w.carriedOut(o)
		return
	}
	if o.step.kind.removes() && o.errs.errno == unix.ESRCH {
		w.goneAlready(o)
		return
	}
	w.metrics.refused.WithLabelValues(unix.ErrnoName(o.errs.errno)).Inc()
	switch {
	case o.errs.errno == unix.EEXIST:
		// Somebody's route is where we thought there was none. A look at the kernel will tell whose.
		o.e.blocked = true
		w.core.resync.touch(o.e.prefix)
		w.wantResync("conflict", resyncSoon)
		w.enqueue(o.e)
	case o.errs.errno == unix.EINVAL && o.object != 0:
		w.withoutObject(o)
	case o.errs.errno == unix.ENOENT && o.step.kind == stepReplace:
		w.setHave(o.e, nil) // somebody removed ours
		w.enqueue(o.e)
	default:
		w.refused(o.e, o.errs.Error())
	}
}

// carriedOut notes what a request did, and looks for the next step.
func (w *Writer) carriedOut(o *op) {
	e, in := o.e, w.core.groups
	switch o.step.kind {
	case stepCreate, stepReplace:
		w.setHave(e, in.intern(o.step.reject, o.step.legs))
	case stepAppend:
		w.setHave(e, in.with(e.have, o.step.reject, o.step.legs))
	case stepDrop:
		w.setHave(e, in.without(e.have, o.step.reject, o.step.legs))
	case stepDelete:
		w.setHave(e, nil)
		if e.doubled {
			e.doubled, e.blocked = false, true
			w.wantResync("doubled", resyncSoon)
		}
	}
	e.tries = 0
	w.enqueue(e)
}

// goneAlready notes that what was to be removed is not there, or not as ours. A hop that another added to our IPv6
// route looks like ours in a dump; the kernel's refusal to take it for our protocol is how we learn of it.
func (w *Writer) goneAlready(o *op) {
	w.carriedOut(o)
	if o.step.kind != stepDrop || len(o.step.legs) == 0 {
		return
	}
	in := w.core.groups
	w.core.reach.addHops(o.e.prefix, otherRoute{
		metric: w.who.metric, table: w.who.table, kind: unix.RTN_UNICAST, to: in.intern(0, o.step.legs),
	}, in)
	w.wantResync("merged", resyncSoon)
}

// refused puts an entry off; it is tried again, at growing intervals, and when the kernel changes.
func (w *Writer) refused(e *entry, reason string) {
	if e.retrySlot != 0 {
		return // another request for it in the same batch was refused too
	}
	e.tries = min(e.tries+1, maxTries)
	e.steps = 0
	w.core.retries.schedule(e, time.Now().Add(retryAfter(int(e.tries))))
	w.note(e, route.Failed, reason)
}

// rest notes the status of an entry about which there is nothing to do.
func (w *Writer) rest(e *entry, other otherRoute, foreign bool) {
	e.steps = 0
	switch {
	case e.want == nil && !e.sentinel:
		w.note(e, route.Installed, "kept until every source has spoken")
	case e.target == nil:
		w.note(e, route.Unresolved, e.why)
	case foreign || e.blocked:
		w.note(e, route.Conflict, conflict(other, foreign, w.who))
	case e.have != nil:
		w.note(e, route.Installed, "")
	}
}

func conflict(other otherRoute, known bool, w who) string {
	whose := "another program"
	if known && other.protocol != 0 {
		whose = fmt.Sprintf("protocol %d (%s)", other.protocol, protocolName(other.protocol))
	}
	return fmt.Sprintf("a route of %s has the same destination and metric %d: it is left alone", whose, w.metric)
}

func protocolName(protocol uint8) string {
	if name, ok := taken[int(protocol)]; ok {
		return name
	}
	return "not a known one"
}

func (w *Writer) note(e *entry, state route.InstallState, reason string) {
	w.core.outcomes = append(w.core.outcomes, outcome{e, state, reason})
}

// publish makes the noted statuses visible, and forgets entries of which nothing is left.
func (w *Writer) publish() {
	c := &w.core
	if len(c.outcomes) == 0 {
		return
	}
	changed := false
	w.mu.Lock()
	for _, o := range c.outcomes {
		changed = changed || o.e.state != installState(o.state) || o.e.reason != o.reason
		w.setStateLocked(o.e, o.state, o.reason)
		if o.e.idle() && !o.e.queued {
			delete(w.entries, o.e.prefix)
			changed = true
		}
	}
	w.mu.Unlock()
	for i := range c.outcomes {
		e := c.outcomes[i].e
		if e.idle() && !e.queued {
			c.retries.cancel(e)
		}
		c.outcomes[i] = outcome{}
	}
	c.outcomes = c.outcomes[:0]
	if changed {
		poke(w.changed)
	}
}
