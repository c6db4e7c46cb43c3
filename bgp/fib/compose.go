package fib

import (
	"math"
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
	var shares []share
	for _, hop := range want.NextHops {
		got := resolveFor(want, hop, resolve)
		if len(got.legs) == 0 && reason == "" {
			reason = got.reason
		}
		shares = appendShares(shares, hop.Weight, got.legs)
	}
	if len(shares) == 0 {
		if reason == "" {
			reason = "it has no next hop"
		}
		return 0, nil, reason
	}
	return 0, weigh(shares), ""
}

func resolveFor(want *route.Kernel, hop route.NextHop, resolve func(route.NextHop) resolution) resolution {
	got := resolve(hop)
	if want.Prefix.Addr().Is6() && len(got.legs) > 0 && got.legs[0].gateway.Is4() {
		return unresolved("next hop %s: an IPv6 prefix cannot have an IPv4 next hop", hop.Addr)
	}
	return got
}

// share is a leg and the part of the traffic it is to carry, in next-hop weights.
type share struct {
	leg  leg
	part float64
}

// appendShares deals a next hop's weight out to the legs it resolves to.
func appendShares(shares []share, weight uint8, legs []leg) []share {
	total := 0
	for _, l := range legs {
		total += l.weight
	}
	for _, l := range legs {
		part := float64(max(weight, 1)) * float64(l.weight) / float64(total)
		at := slices.IndexFunc(shares, func(s share) bool { return s.leg.sameHop(l) })
		if at >= 0 {
			shares[at].part += part
			continue
		}
		shares = append(shares, share{l, part})
	}
	return shares
}

// weigh turns parts into the kernel's weights: the smallest whole numbers up to 256 in the same ratio.
func weigh(shares []share) []leg {
	slices.SortFunc(shares, func(a, b share) int { return compareLegs(a.leg, b.leg) })
	shares = shares[:min(len(shares), maxLegs)]
	top, whole := 0.0, true
	for _, s := range shares {
		top = max(top, s.part)
		whole = whole && s.part == math.Trunc(s.part)
	}
	scale := 1.0
	if !whole || top > maxWeight {
		scale = maxWeight / top
	}
	legs, divisor := make([]leg, len(shares)), 0
	for i, s := range shares {
		legs[i] = s.leg
		legs[i].weight = max(1, int(math.Round(s.part*scale)))
		divisor = gcd(divisor, legs[i].weight) // a lone leg comes to 1
	}
	for i := range legs {
		legs[i].weight /= divisor
	}
	return legs
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
