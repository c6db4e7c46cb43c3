package fib

import (
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// loopbackIndex is lo's interface index in every network namespace (the kernel's LOOPBACK_IFINDEX).
const loopbackIndex = 1

// drainLimit bounds the notifications taken in one go, so that a storm of them doesn't starve the writes.
const drainLimit = 4096

// drainMonitor takes what the kernel has told since. It runs before each batch, so that a route is replaced on the
// newest knowledge of whose it is. It reports whether all was taken.
func (w *Writer) drainMonitor() bool {
	if w.core.monitor == nil {
		return true
	}
	for range drainLimit {
		b, err := w.core.monitor.receive()
		switch {
		case errors.Is(err, unix.EAGAIN):
			w.core.round++
			return true
		case err != nil:
			w.metrics.overruns.Inc()
			w.log.Warn("the kernel dropped notifications; comparing everything", "error", err)
			w.lost("overrun")
			if !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, errTruncated) {
				return true
			}
			continue
		}
		w.takeEvents(b)
	}
	return false
}

func (w *Writer) takeEvents(b []byte) {
	for len(b) >= headerLen {
		m, rest, err := nextMessage(b)
		if err != nil {
			w.lost("unreadable")
			return
		}
		if err := w.takeEvent(m); err != nil {
			w.log.Warn("notification of the kernel could not be read", "type", m.kind, "error", err)
			w.lost("unreadable")
		}
		b = rest
	}
}

func (w *Writer) takeEvent(m message) error {
	switch m.kind {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return w.takeRoute(m)
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return w.takeLink(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return w.takeAddr(m)
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		return w.takeObject(m)
	}
	return nil
}

func (w *Writer) takeRoute(m message) error {
	r := &w.core.event
	ok, err := r.parse(m.body)
	if !ok || r.cloned || !slices.Contains(tablesOf(w.who), r.table) {
		return err
	}
	place := r.samePlace(w.who)
	if place {
		w.unsure(r.prefix)
	}
	switch replaced := m.flags&unix.NLM_F_REPLACE != 0; {
	case m.kind == unix.RTM_NEWROUTE && r.ours(w.who):
		w.oursCame(r, replaced, m.flags&unix.NLM_F_APPEND != 0)
	case m.kind == unix.RTM_NEWROUTE:
		w.otherCame(r, place, replaced)
	case place:
		w.wentFromOurPlace(r)
	default:
		w.core.resync.touch(r.prefix)
		w.core.reach.deleteRoute(r.prefix, r.other(w.core.groups), w.core.groups)
		w.core.reachDirty = true
	}
	return nil
}

// unsure asks for a look at the kernel when somebody else touched a prefix that we wrote in the last batch: the order
// of the two is not known.
func (w *Writer) unsure(prefix netip.Prefix) {
	if e, ok := w.entries[prefix]; ok {
		e.blocked = false
		if e.round == w.core.round && e.round != 0 {
			w.wantResync("raced", resyncSoon)
		}
	}
}

// oursCame takes a route under our name that was not written by this process.
func (w *Writer) oursCame(r *kernelRoute, replaced, appended bool) {
	e, in := w.entryOf(r.prefix), w.core.groups
	switch {
	case replaced || e.have == nil:
		w.setHave(e, r.group(in))
	case r.prefix.Addr().Is4():
		// A second IPv4 route beside ours, under our name; the planner knows one.
		w.wantResync("doubled", resyncSoon)
	default:
		w.setHave(e, in.with(e.have, r.reject(), r.legs))
	}
	w.enqueue(e)
}

// otherCame takes a route of others.
func (w *Writer) otherCame(r *kernelRoute, place, replaced bool) {
	w.core.resync.touch(r.prefix)
	w.core.reachDirty = true
	in := w.core.groups
	o := r.other(in)
	e := w.entries[r.prefix]
	if !place || e == nil {
		w.core.reach.addRoute(r.prefix, o, replaced)
		return
	}
	switch {
	case replaced:
		_, beside := w.core.reach.at(r.prefix, w.who)
		if beside && e.have != nil {
			w.wantResync("raced", resyncSoon) // which of the two it took the place of is not said
		}
		w.setHave(e, nil)
	case e.have.mergeable() && o.mergeable() && r.prefix.Addr().Is6():
		o.to = in.without(o.to, 0, e.have.legs) // the kernel tells our hops with theirs
	}
	if o.to != nil {
		w.core.reach.addRoute(r.prefix, o, replaced)
	}
	w.enqueue(e)
}

// wentFromOurPlace takes a removal at a destination and metric of ours. In IPv6 it may name hops of both.
func (w *Writer) wentFromOurPlace(r *kernelRoute) {
	in := w.core.groups
	o := r.other(in)
	e := w.entries[r.prefix]
	v6 := r.prefix.Addr().Is6()
	if e != nil && (r.ours(w.who) || v6 && o.mergeable()) {
		if v6 {
			w.setHave(e, in.without(e.have, r.reject(), r.legs))
		} else {
			w.setHave(e, nil)
		}
	}
	w.core.resync.touch(r.prefix)
	if w.core.reach.deleteRoute(r.prefix, o, in) {
		w.core.reachDirty = true
	}
	if left, ok := w.core.reach.at(r.prefix, w.who); ok && v6 && left.mergeable() && e != nil && e.want != nil {
		w.wantResync("merged", resyncSoon) // what is left may be ours, from before a restart: its name tells now
	}
	if e != nil {
		w.enqueue(e)
	}
}

func (w *Writer) takeLink(m message) error {
	l, ok, err := parseLink(m.body)
	if !ok {
		return err
	}
	c := &w.core
	gone := m.kind == unix.RTM_DELLINK
	had, known := c.reach.links[l.index]
	if gone {
		c.reach.deleteLink(l.index)
	} else if !c.reach.setLink(l) {
		return nil
	}
	c.resync.linksTouched = true
	c.reachDirty = true
	if gone || !l.carrier && (!known || had.carrier) {
		w.objectsFlushedBy(l.index)
	}
	if gone || !l.up && (!known || had.up) {
		w.flushedBy(l.index, true)
		w.flushedBy(l.index, false)
		w.wantResync("link", resyncSoon)
	}
	return nil
}

func (w *Writer) takeAddr(m message) error {
	a, ok, err := parseAddr(m.body)
	if !ok {
		return err
	}
	c := &w.core
	if m.kind == unix.RTM_NEWADDR {
		if c.reach.setAddr(a) {
			c.resync.linksTouched, c.reachDirty = true, true
		}
		return nil
	}
	c.reach.deleteAddr(a)
	c.resync.linksTouched, c.reachDirty = true, true
	if a.addr.Is4() && !c.reach.hasIPv4(a.ifindex) {
		w.flushedBy(a.ifindex, true)
	}
	// The kernel also removes routes whose preferred source went, and does not say so.
	w.wantResync("address", resyncSoon)
	return nil
}

// flushedBy takes it that the kernel has removed every route of one family that had no hop left but by the interface.
// It does so when an interface goes down, and for IPv4 when its last address goes; for IPv4 it never says so, for
// IPv6 it may be told not to (skip_notify_on_dev_down). Should it be wrong, creating the route anew will be refused,
// and a look at the kernel puts it right.
func (w *Writer) flushedBy(ifindex int, v4 bool) {
	c := &w.core
	var gone []*entry
	for prefix, e := range w.entries {
		if prefix.Addr().Is4() != v4 || !c.reach.leftBy(ifindex, e.have) {
			continue
		}
		if other, ok := c.reach.at(prefix, w.who); !ok || v4 || !other.mergeable() || c.reach.leftBy(ifindex, other.to) {
			gone = append(gone, e) // or else another's hop keeps the IPv6 route, and ours in it
		}
	}
	for _, prefix := range c.reach.forgetVia(ifindex, v4, w.mergedInto) {
		c.resync.touch(prefix)
		if e, ok := w.entries[prefix]; ok {
			w.enqueue(e)
		}
	}
	for _, e := range gone {
		w.setHave(e, nil)
	}
	c.flushed = append(c.flushed, gone...)
	c.reachDirty = true
}

// mergedInto is the route of ours of which the kernel has made another's a part, or nil.
func (w *Writer) mergedInto(prefix netip.Prefix, o otherRoute) *group {
	e, ok := w.entries[prefix]
	if !ok || prefix.Addr().Is4() || !o.inPlace(w.who) || !o.mergeable() || !e.have.mergeable() {
		return nil
	}
	return e.have
}
