package fib

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/route"
)

// maxLegs bounds the hops of one route. The kernel's IPv4 takes 255.
const maxLegs = 128

// compose finds where the kernel is to lead a desired route: a blackhole, or the legs that its next hops resolve to.
// Where some next hops resolve and others don't, those that do carry the traffic. Where none does, reason says why.
func compose(want *route.Kernel, resolve func(route.NextHop) resolution) (reject uint8, legs []leg, reason string) {
	if want.Blackhole {
		return unix.RTN_BLACKHOLE, nil, ""
	}
	if len(want.NextHops) == 1 {
		got := resolveFor(want, want.NextHops[0], resolve)
		if len(got.legs) <= 1 {
			return 0, got.legs, got.reason
		}
	}
	var ways []way
	for _, hop := range want.NextHops {
		got := resolveFor(want, hop, resolve)
		if len(got.legs) > 0 {
			ways = append(ways, newWay(hop.Weight, got.legs))
		} else if reason == "" {
			reason = got.reason
		}
	}
	if len(ways) == 0 {
		return 0, nil, cmp.Or(reason, "it has no next hop")
	}
	return 0, weigh(deal(ways)), ""
}

func resolveFor(want *route.Kernel, hop route.NextHop, resolve func(route.NextHop) resolution) resolution {
	got := resolve(hop)
	if want.Prefix.Addr().Is6() && len(got.legs) > 0 && got.legs[0].gateway.Is4() {
		return unresolved("next hop %s: an IPv6 prefix cannot have an IPv4 next hop", hop.Addr)
	}
	return got
}

// way is a next hop that resolves: its weight, and the legs that share it by theirs.
type way struct {
	weight, total int
	legs          []leg
}

func newWay(weight uint8, legs []leg) way {
	w := way{weight: int(max(weight, 1)), legs: legs}
	for _, l := range legs {
		w.total += l.weight
	}
	return w
}

// share is a leg and the part of the traffic it is to carry, in a unit common to all.
type share struct {
	leg  leg
	part int
}

// finest bounds the unit in which weights are dealt out. Past it they are rounded.
const finest = 1 << 24

// deal gives each leg its part. A leg that several next hops come to carries the parts of all.
func deal(ways []way) (shares []share) {
	unit := 1
	for _, w := range ways {
		unit = min(unit/gcd(unit, w.total)*w.total, finest)
	}
	for _, w := range ways {
		for _, l := range w.legs {
			part := max(1, w.weight*l.weight*unit/w.total)
			at := slices.IndexFunc(shares, func(s share) bool { return s.leg.sameHop(l) })
			if at < 0 {
				shares = append(shares, share{l, part})
				continue
			}
			shares[at].part += part
		}
	}
	return shares
}

// weigh turns parts into the kernel's weights: the smallest whole numbers in the same ratio, or nearly so where they
// would pass 256.
func weigh(shares []share) []leg {
	slices.SortFunc(shares, func(a, b share) int { return compareLegs(a.leg, b.leg) })
	shares = shares[:min(len(shares), maxLegs)]
	divisor, top := 0, 0
	for _, s := range shares {
		divisor, top = gcd(divisor, s.part), max(top, s.part)
	}
	legs := make([]leg, len(shares))
	for i, s := range shares {
		legs[i] = s.leg
		legs[i].weight = s.part / divisor
		if top/divisor > maxWeight {
			legs[i].weight = max(1, (s.part*maxWeight+top/2)/top)
		}
	}
	return legs
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
