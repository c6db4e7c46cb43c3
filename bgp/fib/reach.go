package fib

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/gaissmai/bart"
	"golang.org/x/sys/unix"
)

// reach is what the kernel can reach without our routes: interfaces, addresses, and the routes of others. It is how
// BGP next hops are resolved. A route of ours never enters it, so that a next hop can't resolve through itself.
//
// The kernel has resolved its own routes already (each hop is a gateway on-link at an interface), therefore one step
// is all the recursion there is: next hop -> another's route -> that route's gateway and interface.
type reach struct {
	links  map[int]kernelLink
	addrs  map[kernelAddr]struct{}
	routes *bart.Table[[]otherRoute] // in ascending order of metric

	// derived from links and addrs by settle
	own   map[ownAddr]struct{}
	down  *bart.Table[string] // prefixes on-link at interfaces that are not running -> interface name
	names map[string]int      // interface name -> index
	stale bool
}

// ownAddr is an address of this node. A link-local one belongs to its interface; ifindex is 0 for the others.
type ownAddr struct {
	addr    netip.Addr
	ifindex int
}

// otherRoute is a route that is not ours.
type otherRoute struct {
	metric, table  uint32
	protocol, kind uint8
	tos, sourceLen uint8
	encap          bool
	object         bool // it leads to a nexthop object
	source         netip.Addr
	to             *group // legs; also of unreachable ones
}

// inPlace tells whether the route stands exactly where a route of ours for its prefix stands or would stand.
func (o otherRoute) inPlace(w who) bool {
	return o.metric == w.metric && o.table == w.table && o.tos == 0 && o.sourceLen == 0
}

// mergeable tells whether the kernel's IPv6 multipath would merge the route with others of its metric. A route that
// leads to a nexthop object stays by itself.
func (o otherRoute) mergeable() bool { return !o.object && o.to.mergeable() }

// placeIn is the index of a route in our place, or -1.
func placeIn(others []otherRoute, w who) int {
	return slices.IndexFunc(others, func(o otherRoute) bool { return o.inPlace(w) })
}

// withRoute adds a route to those of one prefix, in order of metric. It doesn't change others.
func withRoute(others []otherRoute, o otherRoute) []otherRoute {
	all := append(slices.Clone(others), o)
	slices.SortStableFunc(all, func(a, b otherRoute) int { return cmp.Compare(a.metric, b.metric) })
	return all
}

// same tells whether two are one route to the kernel. IPv6 merges all hops of one metric that have a gateway.
func (o otherRoute) same(p otherRoute, v6 bool) bool {
	if o.metric != p.metric || o.table != p.table || o.tos != p.tos || o.sourceLen != p.sourceLen {
		return false
	}
	if v6 && o.mergeable() && p.mergeable() {
		return true
	}
	return o.protocol == p.protocol && o.kind == p.kind && o.to == p.to
}

func newReach() *reach {
	return &reach{routes: new(bart.Table[[]otherRoute]), links: make(map[int]kernelLink), addrs: make(map[kernelAddr]struct{}), stale: true}
}

// settle rebuilds what is derived from links and addresses, where they have changed.
func (r *reach) settle() {
	if !r.stale {
		return
	}
	r.stale = false
	r.own = make(map[ownAddr]struct{}, len(r.addrs))
	r.down = new(bart.Table[string])
	r.names = make(map[string]int, len(r.links))
	for _, l := range r.links {
		r.names[l.name] = l.index
	}
	for a := range r.addrs {
		if a.addr.Is6() && a.addr.IsLinkLocalUnicast() {
			r.own[ownAddr{a.addr, a.ifindex}] = struct{}{}
			continue
		}
		r.own[ownAddr{addr: a.addr}] = struct{}{}
		if link, ok := r.links[a.ifindex]; ok && !link.running {
			r.down.Insert(a.prefix, link.name)
		}
	}
}

// setLink takes a link as it is now. It reports whether anything that matters changed.
func (r *reach) setLink(l kernelLink) bool {
	if r.links[l.index] == l {
		return false
	}
	r.links[l.index] = l
	r.stale = true
	return true
}

func (r *reach) deleteLink(index int) {
	delete(r.links, index)
	for a := range r.addrs {
		if a.ifindex == index {
			delete(r.addrs, a)
		}
	}
	r.stale = true
}

func (r *reach) setAddr(a kernelAddr) bool {
	if _, ok := r.addrs[a]; ok {
		return false // IPv6 repeats an address at each router advertisement
	}
	r.addrs[a] = struct{}{}
	r.stale = true
	return true
}

func (r *reach) deleteAddr(a kernelAddr) {
	delete(r.addrs, a)
	r.stale = true
}

// addRoute takes a route of others. With replace, it takes the place of all at its metric.
func (r *reach) addRoute(prefix netip.Prefix, o otherRoute, replace bool) {
	v6 := prefix.Addr().Is6()
	r.routes.Modify(prefix, func(had []otherRoute, _ bool) ([]otherRoute, bool) {
		kept := make([]otherRoute, 0, len(had)+1)
		for _, h := range had {
			gone := h.same(o, v6) || replace && h.metric == o.metric && h.table == o.table && h.tos == o.tos
			if !gone {
				kept = append(kept, h)
			}
		}
		return withRoute(kept, o), false
	})
}

// deleteRoute forgets a route of others; in IPv6 only the hops that o names. It reports whether it was known.
func (r *reach) deleteRoute(prefix netip.Prefix, o otherRoute, in *interner) bool {
	v6, found := prefix.Addr().Is6(), false
	r.routes.Modify(prefix, func(had []otherRoute, ok bool) ([]otherRoute, bool) {
		kept := make([]otherRoute, 0, len(had))
		for _, h := range had {
			if found || !h.same(o, v6) {
				kept = append(kept, h)
				continue
			}
			found = true
			if v6 && h.mergeable() && o.mergeable() {
				if h.to = in.without(h.to, 0, o.to.legs); h.to != nil {
					kept = append(kept, h)
				}
			}
		}
		return kept, len(kept) == 0
	})
	return found
}

// set takes all routes of others for a prefix.
func (r *reach) set(prefix netip.Prefix, others []otherRoute) {
	if len(others) == 0 {
		r.routes.Delete(prefix)
		return
	}
	r.routes.Insert(prefix, others)
}

// addHops takes hops of others that the kernel has merged with others that may be known already.
func (r *reach) addHops(prefix netip.Prefix, o otherRoute, in *interner) {
	had, _ := r.routes.Get(prefix)
	for _, h := range had {
		if h.same(o, true) {
			h.to = in.with(h.to, 0, o.to.legs)
			o = h
		}
	}
	r.addRoute(prefix, o, false)
}

// at tells of a route of others that stands exactly where ours for prefix stands or would stand.
func (r *reach) at(prefix netip.Prefix, w who) (otherRoute, bool) {
	others, _ := r.routes.Get(prefix)
	if i := placeIn(others, w); i >= 0 {
		return others[i], true
	}
	return otherRoute{}, false
}

// resolution is what a BGP next hop comes to: legs, or why there are none. The weights of several legs are those of
// the route they come from.
type resolution struct {
	legs   []leg
	reason string
}

func (a resolution) equal(b resolution) bool {
	return a.reason == b.reason && slices.Equal(a.legs, b.legs)
}

func unresolved(format string, args ...any) resolution {
	return resolution{reason: fmt.Sprintf(format, args...)}
}

// resolve finds the way to a BGP next hop. settle must have run since the last change.
func (r *reach) resolve(next netip.Addr) resolution {
	switch {
	case !next.IsValid() || next.IsUnspecified() || next.IsMulticast() || next.IsLoopback():
		return unresolved("next hop %s is not an address of a router", next)
	case next.IsLinkLocalUnicast() && next.Is6():
		return r.resolveLinkLocal(next)
	}
	if _, own := r.own[ownAddr{addr: next}]; own {
		return unresolved("next hop %s is an address of this node", next)
	}
	return r.resolveGlobal(next)
}

func (r *reach) resolveLinkLocal(next netip.Addr) resolution {
	if next.Zone() == "" {
		return unresolved("next hop %s is link-local and names no interface", next)
	}
	index, ok := r.names[next.Zone()]
	if !ok {
		index, _ = strconv.Atoi(next.Zone())
	}
	link, ok := r.links[index]
	plain := next.WithZone("")
	_, own := r.own[ownAddr{plain, index}]
	switch {
	case !ok:
		return unresolved("next hop %s: there is no interface %s", next, next.Zone())
	case !link.running:
		return unresolved("next hop %s: interface %s is down", next, link.name)
	case own:
		return unresolved("next hop %s is an address of this node", next)
	}
	return resolution{legs: []leg{{gateway: plain, ifindex: index, weight: 1}}}
}

// resolveGlobal goes from the longest prefix that covers the next hop to the shortest, and takes the first route that
// can be used. A default route counts: that is how a node reaches those behind its ToR. But where the next hop is
// on-link at an interface that is down, a shorter prefix is no way to it: it would lead out of the wrong port.
func (r *reach) resolveGlobal(next netip.Addr) resolution {
	host := netip.PrefixFrom(next, next.BitLen())
	onDown, downName, isDown := r.down.LookupPrefixLPM(host)
	down := unresolved("next hop %s: interface %s, where it is on-link, is down", next, downName)
	for prefix, others := range r.routes.Supernets(host) {
		if isDown && prefix.Bits() < onDown.Bits() {
			return down
		}
		for _, o := range others {
			if o.tos != 0 || o.sourceLen != 0 {
				continue
			}
			if got, usable := r.through(next, prefix, o); usable {
				return got
			}
		}
	}
	if isDown {
		return down
	}
	return unresolved("next hop %s: no route to it but our own", next)
}

// through resolves a next hop by one route. It reports false when the route leads nowhere now, so that another may.
func (r *reach) through(next netip.Addr, prefix netip.Prefix, o otherRoute) (resolution, bool) {
	switch {
	case o.kind != unix.RTN_UNICAST:
		return unresolved("next hop %s: the route %s to it is a %s one", next, prefix, rejectName(o.kind)), true
	case o.encap:
		return unresolved("next hop %s: the route %s to it encapsulates", next, prefix), true
	case o.to == nil:
		return resolution{}, false
	}
	var legs []leg
	for _, l := range o.to.legs {
		link, ok := r.links[l.ifindex]
		if !ok || !link.running || link.loopback {
			continue
		}
		if !l.gateway.IsValid() {
			l.gateway = next
		}
		legs = append(legs, l)
	}
	return resolution{legs: legs}, len(legs) > 0
}

// rejectName is ip-route(8)'s word for a route type.
func rejectName(kind uint8) string {
	switch kind {
	case unix.RTN_BLACKHOLE:
		return "blackhole"
	case unix.RTN_UNREACHABLE:
		return "unreachable"
	case unix.RTN_PROHIBIT:
		return "prohibit"
	case unix.RTN_THROW:
		return "throw"
	case unix.RTN_LOCAL:
		return "local"
	case unix.RTN_UNICAST:
		return "unicast"
	}
	return "type " + strconv.Itoa(int(kind))
}

func (r *reach) hasIPv4(ifindex int) bool {
	for a := range r.addrs {
		if a.ifindex == ifindex && a.addr.Is4() {
			return true
		}
	}
	return false
}

// leftBy tells whether a route has lost its last way with the interface: one by it, and all others by interfaces that
// are down too.
func (r *reach) leftBy(ifindex int, g *group) bool {
	if g == nil || g.reject != 0 {
		return false
	}
	by := false
	for _, l := range g.legs {
		if l.ifindex == ifindex {
			by = true
		} else if r.links[l.ifindex].up {
			return false
		}
	}
	return by
}

// forgetVia drops the routes of one family that have lost their last way with the interface, and tells their
// prefixes. A route stays that the kernel has merged with one of ours which has a way.
func (r *reach) forgetVia(ifindex int, v4 bool, merged func(netip.Prefix, otherRoute) *group) []netip.Prefix {
	left := make(map[netip.Prefix][]otherRoute)
	for prefix, others := range r.routes.All() {
		via := func(o otherRoute) bool {
			if !r.leftBy(ifindex, o.to) {
				return false
			}
			ours := merged(prefix, o)
			return ours == nil || r.leftBy(ifindex, ours)
		}
		if prefix.Addr().Is4() == v4 && slices.ContainsFunc(others, via) {
			left[prefix] = slices.DeleteFunc(slices.Clone(others), via)
		}
	}
	for prefix, others := range left {
		r.set(prefix, others)
	}
	return slices.Collect(maps.Keys(left))
}

func (r *reach) replaceLinks(links []kernelLink, addrs []kernelAddr) {
	clear(r.links)
	for _, l := range links {
		r.links[l.index] = l
	}
	clear(r.addrs)
	for _, a := range addrs {
		r.addrs[a] = struct{}{}
	}
	r.stale = true
}
