package view

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/clearway/clearway/proto/clearway/v1"
)

// Sorted returns the objects in the order people look for them: by address where that is what they are about, events
// by time, all others by name.
func Sorted(objects []clearwayv1.Object) []clearwayv1.Object {
	sorted := slices.Clone(objects)
	slices.SortStableFunc(sorted, compare)
	return sorted
}

func compare(a, b clearwayv1.Object) int {
	switch x := a.(type) {
	case *clearwayv1.Block:
		if y, ok := b.(*clearwayv1.Block); ok {
			return Addresses(x.GetSpec().GetCidr(), y.GetSpec().GetCidr())
		}
	case *clearwayv1.Assignment:
		if y, ok := b.(*clearwayv1.Assignment); ok {
			return Addresses(x.GetSpec().GetAddress(), y.GetSpec().GetAddress())
		}
	case *clearwayv1.BGPSession:
		if y, ok := b.(*clearwayv1.BGPSession); ok {
			return cmp.Or(Natural(x.GetSpec().GetNode(), y.GetSpec().GetNode()),
				Addresses(x.GetSpec().GetPeerAddress(), y.GetSpec().GetPeerAddress()))
		}
	case *clearwayv1.Route:
		if y, ok := b.(*clearwayv1.Route); ok {
			return cmp.Or(Natural(x.GetSpec().GetNode(), y.GetSpec().GetNode()),
				strings.Compare(x.GetSpec().GetDirection(), y.GetSpec().GetDirection()),
				Addresses(x.GetSpec().GetPrefix(), y.GetSpec().GetPrefix()))
		}
	case *clearwayv1.Event:
		if y, ok := b.(*clearwayv1.Event); ok {
			return x.GetSpec().GetTime().AsTime().Compare(y.GetSpec().GetTime().AsTime())
		}
	}
	return Natural(a.GetMetadata().GetName(), b.GetMetadata().GetName())
}

// Addresses compares addresses or prefixes by value: IPv4 first, then by address, then the shorter prefix. What is
// neither comes last, in natural order.
func Addresses(a, b string) int {
	x, xOK := prefix(a)
	y, yOK := prefix(b)
	switch {
	case xOK && yOK:
		return cmp.Or(x.Addr().Compare(y.Addr()), cmp.Compare(x.Bits(), y.Bits()))
	case xOK:
		return -1
	case yOK:
		return 1
	}
	return Natural(a, b)
}

func prefix(text string) (netip.Prefix, bool) {
	if whole, err := netip.ParsePrefix(text); err == nil {
		return whole, true
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr, addr.BitLen()), true
}

// Natural compares texts with the numbers in them by value: "node2" comes before "node10".
func Natural(a, b string) int {
	x, y := a, b
	for x != "" && y != "" {
		m, n := digits(x), digits(y)
		if m == 0 || n == 0 {
			if x[0] != y[0] {
				return cmp.Compare(x[0], y[0])
			}
			x, y = x[1:], y[1:]
			continue
		}
		number, other := strings.TrimLeft(x[:m], "0"), strings.TrimLeft(y[:n], "0")
		if order := cmp.Or(cmp.Compare(len(number), len(other)), strings.Compare(number, other)); order != 0 {
			return order
		}
		x, y = x[m:], y[n:]
	}
	// The last makes the order total: "a01" and "a1" differ.
	return cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(a, b))
}

// digits counts the digits that text begins with.
func digits(text string) int {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return i
		}
	}
	return len(text)
}
