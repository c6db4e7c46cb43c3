package fib

import (
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"
	"golang.org/x/sys/unix"
)

// How soon a comparison with the kernel is wanted.
const (
	// resyncEvery bounds how long a difference that was never told can last.
	resyncEvery = 60 * time.Second
	// resyncGap keeps a busy kernel from being dumped over and over: a dump of 100k routes costs a tenth of a second.
	resyncGap  = time.Second
	resyncSoon = 100 * time.Millisecond
	resyncNow  = time.Duration(0)
	// touchLimit bounds what is remembered during a dump; past it the dump is thrown away.
	touchLimit = 1 << 20
)

// resync is the comparison of everything with the kernel: a dump in a goroutine and on a socket of its own, while the
// writer works on. What was written or told meanwhile is newer than the dump, and is left out of the comparison.
type resync struct {
	done    chan dumped
	running bool
	reason  string
	at      time.Time // when the next one begins
	last    time.Time // when the last one began

	touched      map[netip.Prefix]struct{} // since the running dump began
	linksTouched bool
}

type dumped struct {
	snap *snapshot
	err  error
}

func (r *resync) touch(prefix netip.Prefix) {
	if r.running && len(r.touched) <= touchLimit {
		r.touched[prefix] = struct{}{}
	}
}

// wantResync asks for one, not before resyncGap after the last.
func (w *Writer) wantResync(reason string, in time.Duration) {
	r := &w.core.resync
	at := time.Now().Add(in)
	if earliest := r.last.Add(resyncGap); at.Before(earliest) {
		at = earliest
	}
	if r.reason == "" || at.Before(r.at) {
		r.reason, r.at = reason, at
	}
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
	r.running, r.reason, r.last, r.at = true, "", now, now.Add(resyncEvery)
	r.touched, r.linksTouched = make(map[netip.Prefix]struct{}), false
	dumps := w.core.dumps
	go func() {
		start := time.Now()
		snap, err := takeSnapshot(dumps, w.who)
		since(w.metrics.dumps, start)
		r.done <- dumped{snap, err}
	}()
}

// endResync compares the dump.
func (w *Writer) endResync(d dumped) {
	w.drainMonitor() // what was told since the dump began is newer
	r := &w.core.resync
	r.running = false
	switch {
	case d.err != nil:
		w.log.Error("compare with the kernel", "error", d.err)
		w.wantResync("retry", resyncGap)
	case len(r.touched) > touchLimit:
		w.wantResync("retry", resyncGap)
	default:
		if d.snap.partial {
			w.wantResync("interrupted", resyncGap)
		}
		w.applySnapshot(d.snap)
	}
	r.touched = nil
}

// applySnapshot makes our picture of the kernel that of the snapshot, and puts in line what differs from before.
func (w *Writer) applySnapshot(snap *snapshot) {
	if !w.core.resync.linksTouched {
		w.core.reach.replaceLinks(snap.links, snap.addrs)
	} else {
		w.wantResync("link", resyncSoon)
	}
	foreign := w.applyOthers(snap)
	w.applyOurs(snap, foreign)
	w.core.reachDirty = true
	w.sweep()
}

// applyOthers takes the routes of others. It returns the prefixes where one stands in our place.
func (w *Writer) applyOthers(snap *snapshot) map[netip.Prefix][]leg {
	c := &w.core
	old := c.reach.routes
	c.reach.routes = new(bart.Table[[]otherRoute])
	for i := range snap.others {
		at := &snap.others[i]
		if !w.newer(at.prefix) {
			at.route.to = c.groups.adopt(at.route.to)
			c.reach.addRoute(at.prefix, at.route, false)
		}
	}
	for prefix, others := range old.All() {
		if w.newer(prefix) || snap.partial && !has(c.reach.routes, prefix) {
			c.reach.routes.Insert(prefix, others)
		}
	}
	return w.strangers(old)
}

func has(t *bart.Table[[]otherRoute], prefix netip.Prefix) bool {
	_, ok := t.Get(prefix)
	return ok
}

// strangers are the hops, known from before, that others have added to IPv6 routes of ours: a dump does not tell
// whose they are.
func (w *Writer) strangers(old *bart.Table[[]otherRoute]) map[netip.Prefix][]leg {
	known := make(map[netip.Prefix][]leg)
	for prefix, e := range w.entries {
		if !prefix.Addr().Is6() || e.have == nil {
			continue
		}
		others, _ := old.Get(prefix)
		for _, o := range others {
			if o.metric == w.who.metric && o.table == w.who.table && o.to.mergeable() {
				known[prefix] = append(known[prefix], o.to.legs...)
			}
		}
	}
	return known
}

// newer tells whether we know of a prefix what the dump can't.
func (w *Writer) newer(prefix netip.Prefix) bool {
	_, ok := w.core.resync.touched[prefix]
	return ok
}

// applyOurs takes the routes of ours.
func (w *Writer) applyOurs(snap *snapshot, strangers map[netip.Prefix][]leg) {
	seen := make(map[netip.Prefix]*group, len(snap.ours))
	doubled := make(map[netip.Prefix]bool)
	for _, at := range snap.ours {
		to := w.core.groups.adopt(at.to)
		if had := seen[at.prefix]; had != nil {
			doubled[at.prefix] = at.prefix.Addr().Is4()
			to = w.core.groups.with(had, to.reject, to.legs)
		}
		seen[at.prefix] = to
	}
	for prefix, to := range seen {
		if !w.newer(prefix) {
			w.found(prefix, w.withoutStrangers(prefix, to, strangers[prefix]), doubled[prefix])
		}
	}
	for prefix, e := range w.entries {
		if _, ok := seen[prefix]; !ok && !w.newer(prefix) && !snap.partial {
			w.found(prefix, w.hiddenIn(prefix, e.have), false)
		}
	}
}

// withoutStrangers takes known hops of others out of what looks like ours, and keeps them in mind as theirs.
func (w *Writer) withoutStrangers(prefix netip.Prefix, to *group, strangers []leg) *group {
	theirs := slices.DeleteFunc(slices.Clone(strangers), func(l leg) bool { return !slices.ContainsFunc(to.legs, l.sameHop) })
	if len(theirs) == 0 {
		return to
	}
	w.core.reach.addRoute(prefix, otherRoute{metric: w.who.metric, table: w.who.table, kind: unix.RTN_UNICAST, to: w.core.groups.intern(0, theirs)}, false)
	return w.core.groups.without(to, 0, theirs)
}

// hiddenIn is what is left of ours where the dump names none: hops inside another's IPv6 route, which goes by the
// name of its first hop.
func (w *Writer) hiddenIn(prefix netip.Prefix, have *group) *group {
	other, ok := w.core.reach.at(prefix, w.who)
	if !ok || !prefix.Addr().Is6() || !have.mergeable() || !other.to.mergeable() {
		return nil
	}
	ours := slices.DeleteFunc(slices.Clone(have.legs), func(l leg) bool { return !slices.ContainsFunc(other.to.legs, l.sameHop) })
	if len(ours) == 0 {
		return nil
	}
	whole := other
	whole.to = w.core.groups.without(other.to, 0, ours)
	w.core.reach.deleteRoute(prefix, other, w.core.groups)
	if whole.to != nil {
		w.core.reach.addRoute(prefix, whole, false)
	}
	return w.core.groups.intern(0, ours)
}

// found takes what the kernel has of ours at a prefix.
func (w *Writer) found(prefix netip.Prefix, to *group, doubled bool) {
	e := w.entries[prefix]
	if e == nil {
		e = w.entryOf(prefix)
	}
	if e.have == to && !e.blocked && !doubled {
		return
	}
	e.blocked = false
	w.setHave(e, to)
	e.doubled = doubled
	w.enqueue(e)
}

// sweep forgets groups that nothing leads to any more.
func (w *Writer) sweep() {
	in := w.core.groups
	in.beginSweep()
	for _, e := range w.entries {
		in.mark(e.have)
		in.mark(e.target)
	}
	for _, others := range w.core.reach.routes.All() {
		for _, o := range others {
			in.mark(o.to)
		}
	}
	in.endSweep()
}
