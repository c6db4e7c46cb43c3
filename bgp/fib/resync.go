package fib

import (
	"context"
	"net/netip"
	"time"
)

// How soon a comparison with the kernel is wanted.
const (
	// resyncEvery bounds how long a difference that was never told can last.
	resyncEvery = 60 * time.Second
	// resyncGap keeps a busy kernel from being dumped over and over: a dump of 100k routes costs a tenth of a second.
	resyncGap  = time.Second
	resyncSoon = 100 * time.Millisecond
	resyncNow  = time.Duration(0)
	// unsteadyGaps is how many gaps to wait before the next try to see what is absent: while somebody is busy with
	// IPv6 routes, each try is likely to be in vain.
	unsteadyGaps = 5
	// touchLimit bounds what is remembered during a dump; past it the dump is thrown away.
	touchLimit = 1 << 20
)

// resync is the comparison of everything with the kernel: a dump in a goroutine and on a socket of its own, while the
// writer works on. What was written or told meanwhile is newer than the dump, and is left out of the comparison. It
// is running from the beginning of the dump to the end of the comparison.
type resync struct {
	every time.Duration // from one to the next at the latest: resyncEvery
	gap   time.Duration // from one to the next at least: resyncGap

	done    chan dumped
	running bool
	reason  string
	at      time.Time // when the next one begins
	last    time.Time // when the last one began

	// Since the running one began:
	touched      map[netip.Prefix]struct{}
	touchedIPv6  bool
	objects      map[uint32]struct{} // nexthop objects that came or went
	linksTouched bool
	spoilt       bool // notifications were lost, so that touched is not all
}

type dumped struct {
	snap *snapshot
	err  error
}

func (r *resync) touch(prefix netip.Prefix) {
	if r.running && len(r.touched) <= touchLimit {
		r.touched[prefix] = struct{}{}
		r.touchedIPv6 = r.touchedIPv6 || prefix.Addr().Is6()
	}
}

func (r *resync) touchObject(id uint32) {
	if r.running {
		r.objects[id] = struct{}{}
	}
}

func (r *resync) objectTouched(id uint32) bool {
	_, ok := r.objects[id]
	return ok
}

func (r *resync) begin() {
	r.running, r.touched, r.touchedIPv6, r.linksTouched, r.spoilt = true, make(map[netip.Prefix]struct{}), false, false, false
	r.objects = make(map[uint32]struct{})
}

func (r *resync) end() { r.running, r.touched, r.objects = false, nil, nil }

// unsteady tells whether a dump of IPv6 routes may have left some out that were there all the time. Where the table
// changes between two parts of the answer, the kernel begins anew and skips as many routes as it has told already;
// if some of those are gone meanwhile, as many others are never told, and nothing says so. (IPv4 goes on at the
// prefix where it was.)
func (r *resync) unsteady() bool { return r.touchedIPv6 || r.linksTouched }

// wantResync asks for one, not before its gap after the last.
func (w *Writer) wantResync(reason string, in time.Duration) {
	r := &w.core.resync
	at := time.Now().Add(in)
	if earliest := r.last.Add(r.gap); at.Before(earliest) {
		at = earliest
	}
	if r.reason == "" || at.Before(r.at) {
		r.reason, r.at = reason, at
	}
}

// lost notes that something the kernel told was not heard. From now until the next comparison has ended it is not
// known of any route of ours whether it still stands there, and alone.
func (w *Writer) lost(reason string) {
	c := &w.core
	if !c.deaf {
		c.resync.last = time.Time{} // no gap the first time: replacements wait for it
	}
	c.deaf, c.resync.spoilt = true, true
	w.wantResync(reason, resyncNow)
}

// beginResync starts a dump, if one is due and none is running.
func (w *Writer) beginResync(now time.Time) {
	r := &w.core.resync
	if r.running || now.Before(r.at) {
		return
	}
	reason := r.reason
	if reason == "" {
		reason = "timer"
	}
	w.metrics.resyncs.WithLabelValues(reason).Inc()
	w.log.Debug("comparing with the kernel", "reason", reason)
	r.reason, r.last, r.at = "", now, now.Add(r.every)
	r.begin()
	dumps := w.core.dumps
	go func() {
		start := time.Now()
		snap, err := takeSnapshot(dumps, w.who)
		since(w.metrics.dumps, start)
		r.done <- dumped{snap, err}
	}()
}

// endResync compares the dump.
func (w *Writer) endResync(ctx context.Context, d dumped) {
	r := &w.core.resync
	defer r.end()
	for !w.drainMonitor() { // what was told since the dump began is newer: all of it must be known
		if ctx.Err() != nil {
			return
		}
	}
	switch {
	case d.err != nil:
		w.log.Error("compare with the kernel", "error", d.err)
		w.wantResync("retry", r.gap)
	case r.spoilt: // the next is wanted already
	case len(r.touched) > touchLimit:
		w.wantResync("retry", r.gap)
	default:
		w.compareWith(ctx, d.snap)
	}
}

// compareWith takes the picture of a dump, and looks after what is urgent meanwhile.
func (w *Writer) compareWith(ctx context.Context, snap *snapshot) {
	r := &w.core.resync
	whole := w.applySnapshot(snap, func() bool {
		w.turn(ctx)
		return ctx.Err() == nil && !r.spoilt && len(r.touched) <= touchLimit
	})
	switch {
	case !whole:
		w.wantResync("retry", r.gap)
		return
	case snap.partial || snap.linksPartial:
		w.wantResync("interrupted", r.gap)
	case r.unsteady():
		w.wantResync("unsteady", unsteadyGaps*r.gap)
	}
	if !snap.partial {
		w.core.deaf = false
	}
}
