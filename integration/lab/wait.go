package lab

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// pollInterval is short beside anything a lab waits for, and long beside what one look costs.
const pollInterval = 50 * time.Millisecond

// Poll calls fn until it succeeds or the context ends; then the error tells what was waited for and what stood in
// the way last.
func Poll(ctx context.Context, what string, fn func() error) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	started := time.Now()
	for {
		err := fn()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w", time.Since(started).Round(100*time.Millisecond), what, err)
		case <-tick.C:
		}
	}
}

// Eventually fails the test when fn has not succeeded within the deadline. It returns how long it took.
func Eventually(t testing.TB, deadline time.Duration, what string, fn func() error) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	started := time.Now()
	if err := Poll(ctx, what, fn); err != nil {
		t.Fatal(err)
	}
	return time.Since(started)
}

// Always fails the test when fn fails at any time within the duration.
func Always(t testing.TB, duration time.Duration, what string, fn func() error) {
	t.Helper()
	end := time.NewTimer(duration)
	defer end.Stop()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	started := time.Now()
	for {
		if err := fn(); err != nil {
			t.Fatalf("%s, after %s: %v", what, time.Since(started).Round(time.Millisecond), err)
		}
		select {
		case <-end.C:
			return
		case <-tick.C:
		}
	}
}

// waitFor polls until a program that was just started answers, and gives up when it has ended.
func waitFor(ctx context.Context, p *Process, fn func() error) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	go func() {
		select {
		case <-p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := Poll(ctx, p.Name+" to answer", fn)
	if err != nil && !p.Running() {
		return fmt.Errorf("%s ended at once: %v\n%s", p.Name, p.cmd.ProcessState, p.Tail(20))
	}
	return err
}
