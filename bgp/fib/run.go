package fib

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// reachGap keeps next hops from being worked out anew at each of many changes in a row.
const reachGap = 10 * time.Millisecond

// kickGap bounds how often all refused routes are tried again because the kernel has changed.
const kickGap = time.Second

// Run keeps the kernel as desired until ctx ends, and then leaves it as it is. It returns an error only when it could
// not start.
func (w *Writer) Run(ctx context.Context) error {
	if !w.running.TryLock() {
		return errRunning
	}
	defer w.running.Unlock()
	if w.core.requests == nil {
		return errors.New("route writer is closed")
	}
	readable, stop := w.watchMonitor()
	defer stop()
	defer w.awaitDump()
	if w.core.resync.at.IsZero() {
		w.core.resync.at = time.Now().Add(w.core.resync.every)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.inbox.wake:
		case <-readable.ready:
		case d := <-w.core.resync.done:
			w.endResync(ctx, d)
		case f := <-w.flushes:
			f.done <- w.flushAll(f.ctx)
		case <-timer.C:
		}
		w.turn(ctx)
		readable.rearm()
		timer.Reset(time.Until(w.nextDue()))
	}
}

// turn does all that is due.
func (w *Writer) turn(ctx context.Context) {
	w.drainMonitor()
	w.takeInbox()
	now := time.Now()
	w.reevaluate(now)
	for e := w.core.retries.due(now); e != nil; e = w.core.retries.due(now) {
		w.enqueue(e)
	}
	w.writeAll(ctx)
	w.beginResync(now)
}

// nextDue is when something is to be done without being told.
func (w *Writer) nextDue() time.Time {
	c := &w.core
	due := c.resync.at
	if c.resync.running {
		due = time.Now().Add(resyncEvery)
	}
	if len(c.retries) > 0 && c.retries[0].at.Before(due) {
		due = c.retries[0].at
	}
	if at := c.reachAt.Add(reachGap); c.reachDirty && at.Before(due) {
		due = at
	}
	return due
}

// reevaluate resolves the next hops anew when the kernel's links, addresses or others' routes have changed, and puts
// the routes in line that lead elsewhere now.
func (w *Writer) reevaluate(now time.Time) {
	c := &w.core
	if !c.reachDirty || now.Sub(c.reachAt) < reachGap {
		return
	}
	c.reachDirty, c.reachAt = false, now
	c.reach.settle()
	w.noteGateways()
	moved := false
	for hop, old := range c.hops {
		if got := c.reach.resolve(hop); !got.equal(old) {
			c.hops[hop] = got
			moved = true
		}
	}
	if moved {
		w.retargetAll()
	}
	for _, e := range c.flushed {
		if w.entries[e.prefix] == e { // or it was withdrawn meanwhile, and is forgotten
			w.enqueue(e)
		}
	}
	c.flushed = nil
	w.kick(now)
}

// retargetAll also forgets next hops that no route has any more.
func (w *Writer) retargetAll() {
	used := make(map[netip.Addr]resolution, len(w.core.hops))
	for _, e := range w.entries {
		if e.want == nil {
			continue
		}
		for _, hop := range e.want.NextHops {
			used[hop.Addr] = w.resolve(hop)
		}
		if w.retarget(e) {
			e.tries = 0
			w.enqueue(e)
		}
	}
	w.core.hops = used
}

// kick tries refused routes again: what they wanted for may have come.
func (w *Writer) kick(now time.Time) {
	if len(w.core.retries) == 0 || now.Sub(w.core.kickedAt) < kickGap {
		return
	}
	w.core.kickedAt = now
	for _, one := range slices.Clone(w.core.retries) {
		w.enqueue(one.e)
	}
}

// watch tells when the monitor has something to read.
type watch struct {
	ready chan struct{}
	again chan struct{}
}

func (r watch) rearm() { poke(r.again) }

// watchMonitor waits for the monitor in a goroutine of its own. It never reads: that is Run's, so that notifications
// and writes have one order.
func (w *Writer) watchMonitor() (watch, func()) {
	r := watch{ready: make(chan struct{}, 1), again: make(chan struct{}, 1)}
	m := w.core.monitor
	ended := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(ended)
		for m.wait() == nil {
			poke(r.ready)
			select {
			case <-stop:
				return
			case <-r.again:
			}
		}
	}()
	return r, func() {
		close(stop)
		m.interrupt(true)
		<-ended
		m.interrupt(false)
	}
}

// awaitDump lets a running dump end before the sockets can be closed.
func (w *Writer) awaitDump() {
	if w.core.resync.running {
		<-w.core.resync.done
		w.core.resync.end()
		w.core.resync.at = time.Now()
	}
}
