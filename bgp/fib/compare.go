package fib

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
	"golang.org/x/sys/unix"
)

// breatheEvery is how many routes are compared in one go, before a look at what is more urgent. It is a fraction of a
// millisecond.
const breatheEvery = 1024

// comparison makes our picture of the kernel that of a snapshot.
type comparison struct {
	w       *Writer
	snap    *snapshot
	groups  map[*group]*group         // the snapshot's -> the writer's
	settled map[netip.Prefix]struct{} // prefixes of which all has been said, ours too
	seen    []bool                    // by index of snapshot.ours
	breathe func() bool
	count   int
}

// applySnapshot makes our picture of the kernel that of the snapshot, and puts in line what differs from before. Now
// and then it calls breathe, and gives up when that reports false; then it reports false too.
func (w *Writer) applySnapshot(snap *snapshot, breathe func() bool) bool {
	c := comparison{
		w: w, snap: snap, breathe: breathe, groups: make(map[*group]*group),
		settled: make(map[netip.Prefix]struct{}), seen: make([]bool, len(snap.ours)),
	}
	c.links()
	c.others()
	c.objects()
	in := w.core.groups
	in.beginSweep()
	if !c.known() || !c.unknown() {
		return false
	}
	for _, others := range w.core.reach.routes.All() {
		for _, o := range others {
			in.mark(o.to)
		}
	}
	if snap.partial { // routes that were not told may lead to them
		for _, g := range w.core.objects.made {
			in.mark(g)
		}
	}
	w.forget(in.endSweep())
	return true
}

// unhurried is for comparisons while nothing else goes on.
func unhurried() bool { return true }

func (c *comparison) links() {
	switch {
	case c.snap.linksPartial: // another is wanted anyway
	case c.w.core.resync.linksTouched:
		c.w.wantResync("link", resyncSoon)
	default:
		c.w.core.reach.replaceLinks(c.snap.links, c.snap.addrs)
		c.w.core.reachDirty = true
	}
}

// newer tells whether we know of a prefix what the dump can't.
func (c *comparison) newer(prefix netip.Prefix) bool {
	_, ok := c.w.core.resync.touched[prefix]
	return ok
}

// absent tells whether a prefix that the dump doesn't name is not in the kernel.
func (c *comparison) absent(prefix netip.Prefix) bool {
	return !c.snap.partial && (prefix.Addr().Is4() || !c.w.core.resync.unsteady())
}

func (c *comparison) adopt(g *group) *group {
	if g == nil {
		return nil
	}
	own, ok := c.groups[g]
	if !ok {
		own = c.w.core.groups.adopt(g)
		c.groups[g] = own
	}
	return own
}

// others takes the routes of others, all in one go: next hops must not be resolved through half of them.
func (c *comparison) others() {
	for prefix, told := range c.snap.others.All() {
		if !c.newer(prefix) {
			c.take(prefix, told)
		}
	}
	var gone []netip.Prefix
	for prefix := range c.w.core.reach.routes.All() {
		if !c.newer(prefix) && !has(c.snap.others, prefix) && c.absent(prefix) {
			gone = append(gone, prefix)
		}
	}
	for _, prefix := range gone {
		c.take(prefix, nil)
	}
}

func has(t *bart.Table[[]otherRoute], prefix netip.Prefix) bool {
	_, ok := t.Get(prefix)
	return ok
}

// take takes what the dump tells of others at a prefix.
func (c *comparison) take(prefix netip.Prefix, others []otherRoute) {
	reach := c.w.core.reach
	for i := range others {
		others[i].to = c.adopt(others[i].to)
	}
	had, _ := reach.routes.Get(prefix)
	if e := c.w.entries[prefix]; e != nil && (placeIn(had, c.w.who) >= 0 || placeIn(others, c.w.who) >= 0) {
		others = c.contested(e, had, others)
	}
	if !slices.Equal(had, others) {
		reach.set(prefix, others)
		c.w.core.reachDirty = true
	}
}

// contested settles a prefix where another stands, or stood, in our place: what is ours there, and what is left of
// others. It goes in line in any case, as its status depends on theirs.
func (c *comparison) contested(e *entry, had, others []otherRoute) []otherRoute {
	var ours *group
	doubled := false
	if i, ok := c.snap.at[e.prefix]; ok {
		c.seen[i] = true
		ours, doubled = c.adopt(c.snap.ours[i].to), c.snap.ours[i].doubled
	}
	if e.prefix.Addr().Is6() {
		ours, others = c.apart(e.have, ours, had, others)
	}
	c.settled[e.prefix] = struct{}{}
	c.w.found(e, ours, doubled)
	c.w.enqueue(e)
	return others
}

// apart tells our hops from others' where the kernel has merged them into one IPv6 route: a dump gives it the
// protocol of its first hop only. Under our name, those hops are others' that we know as such from before; in doubt a
// hop is ours, because then we shall remove it if it is not desired, and the kernel will refuse if it is another's.
// Under another's name, those are ours that we have written.
func (c *comparison) apart(have, ours *group, had, others []otherRoute) (*group, []otherRoute) {
	in, who := c.w.core.groups, c.w.who
	at := slices.IndexFunc(others, func(o otherRoute) bool { return o.inPlace(who) && o.mergeable() })
	switch {
	case at < 0 && ours != nil:
		theirs := hopsWithout(common(ours.legs, strangers(had, who)), have.hops())
		if len(theirs) == 0 || len(theirs) == len(ours.legs) {
			return ours, others // the name says that one of them at least is ours
		}
		stranger := otherRoute{metric: who.metric, table: who.table, kind: unix.RTN_UNICAST, to: in.intern(0, theirs)}
		return in.without(ours, 0, theirs), withRoute(others, stranger)
	case at >= 0 && len(ours.hops()) == 0:
		hidden := common(have.hops(), others[at].to.legs)
		if len(hidden) == 0 {
			return ours, others
		}
		if others[at].to = in.without(others[at].to, 0, hidden); others[at].to == nil {
			others = slices.Delete(others, at, at+1)
		}
		return in.with(ours, 0, hidden), others
	}
	return ours, others
}

// strangers are the hops that others were known to have in our place.
func strangers(had []otherRoute, w who) (legs []leg) {
	for _, o := range had {
		if o.inPlace(w) && o.mergeable() {
			legs = append(legs, o.to.legs...)
		}
	}
	return legs
}

// common are the legs whose hop is among others.
func common(legs, others []leg) []leg { return hopsWithout(legs, hopsWithout(legs, others)) }

// known compares each prefix that we know of. On the way it marks the groups in use.
func (c *comparison) known() bool {
	in := c.w.core.groups
	for prefix, e := range c.w.entries {
		if !c.goOn() {
			return false
		}
		i, told := c.snap.at[prefix]
		if told {
			c.seen[i] = true
		}
		switch _, settled := c.settled[prefix]; {
		case settled || c.newer(prefix):
		case told:
			c.w.found(e, c.adopt(c.snap.ours[i].to), c.snap.ours[i].doubled)
		case c.absent(prefix):
			c.w.found(e, nil, false)
		}
		in.mark(e.have)
		in.mark(e.target)
	}
	return true
}

// unknown adopts the routes under our name that we didn't know of.
func (c *comparison) unknown() bool {
	for i, at := range c.snap.ours {
		if !c.goOn() {
			return false
		}
		if !c.seen[i] && !c.newer(at.prefix) {
			c.w.found(c.w.entryOf(at.prefix), c.adopt(at.to), at.doubled)
		}
	}
	return true
}

func (c *comparison) goOn() bool {
	c.count++
	return c.count%breatheEvery != 0 || c.breathe()
}

// found takes what the kernel has of ours at a prefix.
func (w *Writer) found(e *entry, to *group, doubled bool) {
	if e.prefix.Addr().Is6() && loneHop(to) && loneHop(e.have) {
		told := to.legs[0]
		told.weight = e.have.legs[0].weight // a lone hop is told without it, and has it again when another is added
		if told == e.have.legs[0] {
			to = e.have
		}
	}
	if e.have == to && !e.blocked && !doubled {
		return
	}
	e.blocked = false
	w.setHave(e, to)
	e.doubled = doubled
	w.enqueue(e)
}

func loneHop(g *group) bool { return g != nil && g.reject == 0 && len(g.legs) == 1 }
