package fib

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/clearway/clearway/bgp/route"
)

// mergeChunk bounds how many entries are touched under one hold of Writer.mu.
const mergeChunk = 512

// refuses says what is wrong with a change, or nothing.
func (w *Writer) refuses(c route.Change) string {
	switch {
	case !c.Prefix.IsValid():
		return "not a prefix"
	case c.Prefix != c.Prefix.Masked():
		return "host bits are set: it should be " + c.Prefix.Masked().String()
	case c.Prefix.Addr().Is4In6():
		return "an IPv4 prefix in IPv6 form"
	case c.Prefix == sentinelPrefix:
		return "the prefix is kept for the writer's own mark"
	case c.Route != nil && c.Route.Prefix != c.Prefix:
		return "the route is for another prefix, " + c.Route.Prefix.String()
	}
	return ""
}

// takeInbox merges what was applied since the last turn.
func (w *Writer) takeInbox() {
	changes, settled := w.inbox.take()
	defer w.inbox.merged()
	if w.core.flushing {
		return
	}
	prefixes := slices.Collect(maps.Keys(changes))
	for chunk := range slices.Chunk(prefixes, mergeChunk) {
		touched := w.merge(chunk, changes)
		for _, e := range touched {
			w.retarget(e)
			w.enqueue(e)
		}
	}
	if settled && !w.core.settled {
		w.core.settled = true
		w.prune()
		w.resolveDoubts()
	}
}

func (w *Writer) merge(prefixes []netip.Prefix, changes map[netip.Prefix]*route.Kernel) []*entry {
	touched := make([]*entry, 0, len(prefixes))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, prefix := range prefixes {
		e, want := w.entries[prefix], changes[prefix]
		if e == nil {
			if want == nil {
				continue
			}
			e = w.addEntryLocked(prefix)
		}
		e.want, e.withdrawn, e.steps, e.tries = want, want == nil, 0, 0
		w.setStateLocked(e, route.Pending, "")
		touched = append(touched, e)
	}
	return touched
}

// prune puts all that is of ours and not desired in line to go.
func (w *Writer) prune() {
	pruned := 0
	for _, e := range w.entries {
		if e.target == nil && e.have != nil {
			w.enqueue(e)
			pruned++
		}
	}
	w.log.Info("every source has spoken", "pruned", pruned)
}

// retarget finds where a desired route leads now. It reports whether that changed.
func (w *Writer) retarget(e *entry) bool {
	if e.sentinel {
		return false
	}
	var target *group
	why := ""
	if e.want != nil {
		w.core.reach.settle()
		reject, legs, reason := compose(e.want, w.resolve)
		target, why = w.core.groups.intern(reject, legs), reason
	}
	if target == e.target && why == e.why {
		return false
	}
	e.target, e.why = target, why
	return true
}

// resolve remembers what each next hop comes to until the kernel changes: thousands of routes share one.
func (w *Writer) resolve(hop route.NextHop) resolution {
	got, ok := w.core.hops[hop.Addr]
	if !ok {
		got = w.core.reach.resolve(hop.Addr)
		w.core.hops[hop.Addr] = got
	}
	return got
}

// entryOf is the entry of a prefix, made if need be.
func (w *Writer) entryOf(prefix netip.Prefix) *entry {
	if e, ok := w.entries[prefix]; ok {
		return e
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.addEntryLocked(prefix)
}

func (w *Writer) addEntryLocked(prefix netip.Prefix) *entry {
	e := &entry{prefix: prefix}
	w.entries[prefix] = e
	return e
}

// setStateLocked keeps the counts, which are of desired routes only.
func (w *Writer) setStateLocked(e *entry, state route.InstallState, reason string) {
	if e.counted {
		w.counts[route.InstallState(e.state)]--
	}
	e.state, e.reason = installState(state), reason
	if e.counted = e.want != nil; e.counted {
		w.counts[state]++
	}
}

// setHave notes what the kernel has of ours.
func (w *Writer) setHave(e *entry, g *group) {
	if !e.sentinel {
		switch {
		case e.have == nil && g != nil:
			w.held.Add(1)
		case e.have != nil && g == nil:
			w.held.Add(-1)
		}
	}
	e.have = g
	w.core.resync.touch(e.prefix)
}

// enqueue puts an entry in line to be worked on.
func (w *Writer) enqueue(e *entry) {
	if e.queued {
		return
	}
	e.queued = true
	w.core.retries.cancel(e)
	w.core.adds.push(e)
}
