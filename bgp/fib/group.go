package fib

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A leg is one way out as the kernel has it: a gateway that is on-link at an interface.
type leg struct {
	gateway netip.Addr // without zone; invalid when the destination itself is on-link
	ifindex int
	weight  int  // 1 to 256
	onlink  bool // the gateway is taken to be on-link whatever the interface's prefixes (RTNH_F_ONLINK)
}

// sameHop tells whether two legs are one to the kernel's IPv6 multipath, which knows them by gateway and interface.
func (l leg) sameHop(o leg) bool { return l.gateway == o.gateway && l.ifindex == o.ifindex }

func compareLegs(a, b leg) int {
	return cmp.Or(a.gateway.Compare(b.gateway), cmp.Compare(a.ifindex, b.ifindex), cmp.Compare(a.weight, b.weight))
}

func (l leg) String() string {
	if !l.gateway.IsValid() {
		return fmt.Sprintf("dev %d", l.ifindex)
	}
	return fmt.Sprintf("via %s dev %d", l.gateway, l.ifindex)
}

// A group is where a route leads. It is immutable and interned: within one interner two groups are equal when they
// are the same pointer. nil means no route. (This is also the unit that a kernel nexthop object stands for.)
type group struct {
	// reject is the route type (RTN_BLACKHOLE, ...) of a route that drops; 0 when there is none. In IPv6 it may stand
	// beside legs for the moment between an add and a delete: the kernel has both at one metric.
	reject uint8
	// legs in the order of compareLegs, without repeated hops.
	legs []leg
	// manner is how IPv4 routes to it are written: see objects.go.
	manner manner
	// used is the sweep in which the group was last seen in use.
	used uint64
}

func (g *group) String() string {
	if g == nil {
		return "none"
	}
	var parts []string
	if g.reject != 0 {
		parts = append(parts, rejectName(g.reject))
	}
	for _, l := range g.legs {
		part := l.String()
		if l.weight != 1 {
			part += fmt.Sprintf(" weight %d", l.weight)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

// mergeable tells whether the kernel's IPv6 multipath would merge the route with others of its metric: it takes only
// hops with a gateway.
func (g *group) mergeable() bool {
	if g == nil || g.reject != 0 || len(g.legs) == 0 {
		return false
	}
	return !slices.ContainsFunc(g.legs, func(l leg) bool { return !l.gateway.IsValid() })
}

// hops are the legs, none of a nil group.
func (g *group) hops() []leg {
	if g == nil {
		return nil
	}
	return g.legs
}

// interner gives one pointer for each distinct group.
type interner struct {
	groups  map[string]*group
	key     []byte
	scratch []leg
	sweep   uint64
}

func newInterner() *interner { return &interner{groups: make(map[string]*group)} }

// intern takes legs in any order. It neither changes nor keeps the slice, and allocates only for a new group.
func (in *interner) intern(reject uint8, legs []leg) *group {
	if reject == 0 && len(legs) == 0 {
		return nil
	}
	in.scratch = append(in.scratch[:0], legs...)
	legs = normal(in.scratch)
	in.key = append(in.key[:0], reject)
	for _, l := range legs {
		in.key = appendLegKey(in.key, l)
	}
	if g, ok := in.groups[string(in.key)]; ok {
		g.used = in.sweep // whoever asked may have been passed by the sweep already
		return g
	}
	g := &group{reject: reject, legs: slices.Clone(legs), used: in.sweep}
	in.groups[string(in.key)] = g
	return g
}

// normal sorts, and drops repeated hops (their weights add up).
func normal(legs []leg) []leg {
	slices.SortFunc(legs, compareLegs)
	kept := legs[:0]
	for _, l := range legs {
		if n := len(kept); n > 0 && kept[n-1].sameHop(l) {
			kept[n-1].weight = min(kept[n-1].weight+l.weight, maxWeight)
			continue
		}
		kept = append(kept, l)
	}
	return kept
}

// adopt is this interner's pointer for a group of another's.
func (in *interner) adopt(g *group) *group {
	if g == nil {
		return nil
	}
	return in.intern(g.reject, g.legs)
}

// with is g and more; g may be nil.
func (in *interner) with(g *group, reject uint8, legs []leg) *group {
	if g == nil {
		return in.intern(reject, legs)
	}
	if reject == 0 {
		reject = g.reject
	}
	return in.intern(reject, append(hopsWithout(g.legs, legs), legs...))
}

// without is what is left of g, nil if nothing; g may be nil.
func (in *interner) without(g *group, reject uint8, legs []leg) *group {
	if g == nil {
		return nil
	}
	left := g.reject
	if reject == left {
		left = 0
	}
	return in.intern(left, hopsWithout(g.legs, legs))
}

func appendLegKey(key []byte, l leg) []byte {
	flags := byte(l.gateway.BitLen() / 32)
	if l.onlink {
		flags |= 0x80
	}
	key = append(key, flags)
	key = binary.NativeEndian.AppendUint32(key, uint32(l.ifindex))
	key = binary.NativeEndian.AppendUint16(key, uint16(l.weight))
	switch {
	case l.gateway.Is4():
		a := l.gateway.As4()
		return append(key, a[:]...)
	case l.gateway.Is6():
		a := l.gateway.As16()
		return append(key, a[:]...)
	}
	return key
}

// size is how many distinct groups are held.
func (in *interner) size() int { return len(in.groups) }

// beginSweep, then mark every group in use, then endSweep: what was not marked is forgotten, and told.
func (in *interner) beginSweep() { in.sweep++ }

func (in *interner) mark(g *group) {
	if g != nil {
		g.used = in.sweep
	}
}

func (in *interner) endSweep() (unused []*group) {
	for key, g := range in.groups {
		if g.used != in.sweep {
			delete(in.groups, key)
			unused = append(unused, g)
		}
	}
	return unused
}
