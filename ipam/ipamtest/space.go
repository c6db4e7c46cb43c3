package ipamtest

import (
	"math/big"
	"net/netip"
	"slices"

	"github.com/clearway/clearway/ipam/cidr"
)

// Space is the twin of pool.Space: a list of what is taken, and holes worked out anew by halving.
type Space struct {
	Prefix netip.Prefix
	Taken  []netip.Prefix // in no order
}

// Take adds a prefix and tells whether it could.
func (s *Space) Take(prefix netip.Prefix) bool {
	if !cidr.Contains(s.Prefix, prefix) || s.meets(prefix) {
		return false
	}
	s.Taken = append(s.Taken, prefix)
	return true
}

// Give removes a prefix and tells whether it was there.
func (s *Space) Give(prefix netip.Prefix) bool {
	i := slices.Index(s.Taken, prefix)
	if i < 0 {
		return false
	}
	s.Taken = slices.Delete(s.Taken, i, i+1)
	return true
}

// Carve takes the low end of the smallest, lowest hole that a prefix of the given length fits in.
func (s *Space) Carve(length int) (netip.Prefix, bool) {
	best := netip.Prefix{}
	for _, hole := range s.Holes() {
		if hole.Bits() <= length && (!best.IsValid() || hole.Bits() > best.Bits()) {
			best = hole
		}
	}
	if !best.IsValid() {
		return netip.Prefix{}, false
	}
	carved := netip.PrefixFrom(best.Addr(), length)
	s.Taken = append(s.Taken, carved)
	return carved, true
}

// CarveFrom is Carve out of parts: the holes are those of each part by itself.
func (s *Space) CarveFrom(parts []netip.Prefix, length int) (netip.Prefix, bool) {
	best := netip.Prefix{}
	for _, part := range parts {
		for _, hole := range s.holesIn(part) {
			better := !best.IsValid() || hole.Bits() > best.Bits() || hole.Bits() == best.Bits() && hole.Addr().Less(best.Addr())
			if hole.Bits() <= length && better {
				best = hole
			}
		}
	}
	if !best.IsValid() {
		return netip.Prefix{}, false
	}
	carved := netip.PrefixFrom(best.Addr(), length)
	s.Taken = append(s.Taken, carved)
	return carved, true
}

// FreeBlocks counts the prefixes of a length that are still free.
func (s *Space) FreeBlocks(length int) *big.Int { return s.FreeIn(s.Prefix, length) }

// FreeIn counts those within a part.
func (s *Space) FreeIn(part netip.Prefix, length int) *big.Int {
	sum := new(big.Int)
	for _, hole := range s.holesIn(part) {
		if hole.Bits() <= length {
			sum.Add(sum, new(big.Int).Lsh(big.NewInt(1), uint(length-hole.Bits())))
		}
	}
	return sum
}

// Holes are the largest free prefixes, in ascending order.
func (s *Space) Holes() []netip.Prefix { return s.holesIn(s.Prefix) }

func (s *Space) holesIn(prefix netip.Prefix) []netip.Prefix {
	if !s.meets(prefix) {
		return []netip.Prefix{prefix}
	}
	low, high, ok := cidr.Halves(prefix)
	if !ok || slices.ContainsFunc(s.Taken, func(t netip.Prefix) bool { return cidr.Contains(t, prefix) }) {
		return nil
	}
	return append(s.holesIn(low), s.holesIn(high)...)
}

func (s *Space) meets(prefix netip.Prefix) bool { return slices.ContainsFunc(s.Taken, prefix.Overlaps) }

// Sorted is what is taken, in ascending order.
func (s *Space) Sorted() []netip.Prefix {
	byAddress := func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) }
	return slices.SortedFunc(slices.Values(s.Taken), byAddress)
}
