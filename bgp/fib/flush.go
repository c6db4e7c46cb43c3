package fib

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/clearway/clearway/bgp/route"
)

// flushRequest asks Run to flush.
type flushRequest struct {
	ctx  context.Context
	done chan error
}

// flushRounds bounds how often Flush looks whether all is gone.
const flushRounds = 5

// Flush removes every route of ours from the kernel, the sentinel too: for leaving a node for good. It works while Run
// runs or after it has ended. What is applied afterwards is ignored. It returns an error when routes are left.
func (w *Writer) Flush(ctx context.Context) error {
	request := flushRequest{ctx, make(chan error, 1)}
	for {
		if w.running.TryLock() {
			defer w.running.Unlock()
			if w.core.requests == nil {
				return errors.New("flush routes: route writer is closed")
			}
			return w.flushAll(ctx)
		}
		select {
		case w.flushes <- request:
			return <-request.done
		case <-ctx.Done():
			return fmt.Errorf("flush routes: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond): // Run may have ended meanwhile
		}
	}
}

// flushAll drops all desires, and removes until a look at the kernel finds none of ours.
func (w *Writer) flushAll(ctx context.Context) error {
	w.awaitDump()
	w.core.settled, w.core.flushing = true, true
	w.inbox.take()
	w.inbox.merged()
	w.core.deaf = false // what is left to do are removals, and those name what is ours
	w.resolveDoubts()
	left := 0
	for range flushRounds {
		if ctx.Err() != nil {
			return fmt.Errorf("flush routes: %w", ctx.Err())
		}
		w.undesireAll()
		w.writeAll(ctx)
		snap, err := takeSnapshot(w.core.dumps, w.who)
		if err != nil {
			return fmt.Errorf("flush routes: %w", err)
		}
		if left = len(snap.ours); left == 0 && !snap.partial {
			w.forgetAll()
			w.log.Info("all routes are removed from the kernel")
			return nil
		}
		w.applySnapshot(snap, unhurried)
	}
	return fmt.Errorf("flush routes: %d are left after %d rounds", left, flushRounds)
}

func (w *Writer) undesireAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range slices.Collect(maps.Values(w.entries)) {
		if e.sentinel && e.have != nil {
			w.held.Add(1) // from now on it is a route like others
		}
		e.want, e.target, e.why, e.sentinel, e.withdrawn = nil, nil, "", false, true
		w.setStateLocked(e, route.InstallState(e.state), e.reason)
		w.enqueue(e)
	}
}
