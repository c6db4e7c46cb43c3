package pool

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"math/bits"
	"net/netip"

	"github.com/clearway/clearway/ipam/cidr"
)

// Errors of Space. Those returned wrap one of these and name the prefixes.
var (
	// ErrOverlap: the prefix meets one that is taken.
	ErrOverlap = errors.New("overlaps")
	// ErrOutside: the prefix is not within the space.
	ErrOutside = errors.New("is outside of")
	// ErrNotTaken: exactly this prefix is not taken.
	ErrNotTaken = errors.New("is not taken in")
)

// OverlapError is ErrOverlap with the prefixes: Taken is the lowest taken one that Prefix meets.
type OverlapError struct{ Prefix, Taken netip.Prefix }

func (e *OverlapError) Error() string {
	return fmt.Sprintf("%s overlaps %s, which is taken", e.Prefix, e.Taken)
}

// Is makes it an ErrOverlap.
func (e *OverlapError) Is(target error) bool { return target == ErrOverlap }

// Space is one prefix and the prefixes taken out of it, of any sizes, none overlapping. It is the binary tree of
// halves, of which only the parts that are neither wholly free nor wholly taken are stored: its cost is by what is
// taken, not by the size of the prefix. Taking, giving and carving walk once from the root, at most 128 steps. Blocks
// that lie side by side, as Carve makes them, cost 24 bytes each; one far from all others 24 bytes for each bit
// between it and the nearest.
//
// A hole is a largest free prefix: one whose buddy is not wholly free. Free buddies become one hole of themselves.
//
// A Space is not safe for concurrent use.
type Space struct {
	prefix netip.Prefix
	root   ref
	nodes  arena
	taken  int
	holes  [129]uint64 // how many there are of each prefix length
}

// ref is a subtree: free, taken as one, or a node of the arena.
type ref uint32

const (
	free ref = iota
	taken
	firstNode
)

// node is a prefix that is neither wholly free nor taken as one.
type node struct {
	// holes has the lengths of the holes within. Bit d is length prefix.Bits()+1+d: the length of the whole space is
	// never a hole within a node.
	holes lengths
	// halves are the low and the high one; never both free, which would be a hole, not a node.
	halves [2]ref
}

// lengths is a set of up to 128 prefix lengths.
type lengths [2]uint64

func (l lengths) has(d int) bool { return l[d>>6]&(1<<(d&63)) != 0 }

// longest is the greatest member not above limit, or -1.
func (l lengths) longest(limit int) int {
	if limit >= 64 {
		if word := l[1] & (math.MaxUint64 >> (127 - limit)); word != 0 {
			return 127 - bits.LeadingZeros64(word)
		}
		limit = 63
	}
	return 63 - bits.LeadingZeros64(l[0]&(math.MaxUint64>>(63-limit)))
}

// NewSpace is an empty space: the whole prefix is free.
func NewSpace(prefix netip.Prefix) *Space {
	s := &Space{prefix: prefix.Masked()}
	s.holes[s.prefix.Bits()] = 1
	return s
}

// Prefix is what the space is of.
func (s *Space) Prefix() netip.Prefix { return s.prefix }

// Len is how many prefixes are taken.
func (s *Space) Len() int { return s.taken }

// Take marks a prefix as taken. ErrOutside and ErrOverlap (*OverlapError) name what is in the way; nothing is changed
// then.
func (s *Space) Take(prefix netip.Prefix) error {
	if err := s.inside(prefix); err != nil {
		return err
	}
	if met, found := s.Overlap(prefix); found {
		return &OverlapError{Prefix: prefix, Taken: met}
	}
	s.set(keyOf(prefix.Addr()), prefix.Bits(), taken)
	s.taken++
	return nil
}

// Give frees a prefix that was taken, exactly as it was taken; else it is ErrOutside or ErrNotTaken, and nothing is
// changed.
func (s *Space) Give(prefix netip.Prefix) error {
	if err := s.inside(prefix); err != nil {
		return err
	}
	if !s.Taken(prefix) {
		return fmt.Errorf("%s %w %s", prefix, ErrNotTaken, s.prefix)
	}
	s.set(keyOf(prefix.Addr()), prefix.Bits(), free)
	s.taken--
	return nil
}

// Carve takes a prefix of the given length out of the smallest hole that it fits in, so that large holes stay whole;
// of those the one of the lowest address, and its low end. It is false when no hole is large enough.
func (s *Space) Carve(length int) (netip.Prefix, bool) {
	if length < s.prefix.Bits() || length > s.prefix.Addr().BitLen() {
		return netip.Prefix{}, false
	}
	at, _, found := s.bestHole(s.prefix, length)
	if !found {
		return netip.Prefix{}, false
	}
	return s.takeAt(at, length), true
}

// CarveFrom is Carve out of parts of the space: prefixes of it of which none overlaps another. What of a hole lies in a
// part counts as a hole. Its cost is that of Carve for each part.
func (s *Space) CarveFrom(parts []netip.Prefix, length int) (netip.Prefix, bool) {
	var best key
	smallest := -1
	if length > s.prefix.Addr().BitLen() {
		return netip.Prefix{}, false
	}
	for _, part := range parts {
		if part.Bits() > length || s.inside(part) != nil {
			continue
		}
		at, hole, found := s.bestHole(part, length)
		if found && (hole > smallest || hole == smallest && at.less(best)) {
			best, smallest = at, hole
		}
	}
	if smallest < 0 {
		return netip.Prefix{}, false
	}
	return s.takeAt(best, length), true
}

func (s *Space) takeAt(at key, length int) netip.Prefix {
	s.set(at, length, taken)
	s.taken++
	return s.prefixAt(at, length)
}

// bestHole is the address and length of the smallest, lowest hole for a prefix of a length, within a part.
func (s *Space) bestHole(part netip.Prefix, length int) (at key, hole int, found bool) {
	at = keyOf(part.Addr())
	here, depth := s.root, s.prefix.Bits()
	for ; here >= firstNode && depth < part.Bits(); depth++ {
		here = s.nodes.at(here).halves[at.bit(depth)]
	}
	if here < firstNode {
		return at, part.Bits(), here == free
	}
	want := s.nodes.at(here).holes.longest(length - s.prefix.Bits() - 1)
	if want < 0 {
		return at, 0, false
	}
	for ; ; depth++ { // here is a node of length depth, with such a hole in it
		n := s.nodes.at(here)
		half := 0
		if !s.halfHas(n.halves[0], depth+1, want) {
			half = 1
			at = at.with(depth)
		}
		if here = n.halves[half]; here == free {
			return at, depth + 1, true
		}
	}
}

// halfHas tells whether a subtree of a length has, or is, a hole of the length that bit d stands for.
func (s *Space) halfHas(half ref, length, d int) bool {
	switch half {
	case free:
		return length == s.prefix.Bits()+1+d
	case taken:
		return false
	}
	return s.nodes.at(half).holes.has(d)
}

// FreeBlocks is how many prefixes of the given length could still be taken, saturating at the largest uint64.
func (s *Space) FreeBlocks(length int) uint64 {
	if length < 0 || length > s.prefix.Addr().BitLen() {
		return 0
	}
	var sum uint64
	for hole := s.prefix.Bits(); hole <= length; hole++ {
		count := s.holes[hole]
		if count == 0 {
			continue
		}
		if length-hole >= 64 {
			return math.MaxUint64
		}
		over, product := bits.Mul64(count, 1<<(length-hole))
		total, carry := bits.Add64(sum, product, 0)
		if over != 0 || carry != 0 {
			return math.MaxUint64
		}
		sum = total
	}
	return sum
}

// FreeIn is FreeBlocks within a part of the space, counted up to a limit: its cost grows with that.
func (s *Space) FreeIn(part netip.Prefix, length int, most uint64) uint64 {
	if s.inside(part) != nil || length > s.prefix.Addr().BitLen() {
		return 0
	}
	at, here, depth := keyOf(part.Addr()), s.root, s.prefix.Bits()
	for ; here >= firstNode && depth < part.Bits(); depth++ {
		here = s.nodes.at(here).halves[at.bit(depth)]
	}
	return s.freeUnder(here, part.Bits(), length, most)
}

func (s *Space) freeUnder(here ref, depth, length int, most uint64) uint64 {
	switch {
	case depth > length || here == taken:
		return 0
	case here == free && length-depth >= 64:
		return most
	case here == free:
		return min(most, 1<<(length-depth))
	case s.nodes.at(here).holes.longest(length-s.prefix.Bits()-1) < 0:
		return 0
	}
	halves := s.nodes.at(here).halves
	low := s.freeUnder(halves[0], depth+1, length, most)
	if low == most {
		return most
	}
	return low + s.freeUnder(halves[1], depth+1, length, most-low)
}

// Holes yields each length of which there are holes, with their number, the largest holes first.
func (s *Space) Holes() iter.Seq2[int, uint64] {
	return func(yield func(int, uint64) bool) {
		for length, count := range s.holes {
			if count > 0 && !yield(length, count) {
				return
			}
		}
	}
}

// Taken tells whether exactly this prefix is taken.
func (s *Space) Taken(prefix netip.Prefix) bool {
	met, found := s.Overlap(prefix)
	return found && met == prefix
}

// Overlap is the lowest taken prefix that shares an address with the given one.
func (s *Space) Overlap(prefix netip.Prefix) (netip.Prefix, bool) {
	if !s.prefix.Overlaps(prefix) {
		return netip.Prefix{}, false
	}
	at := keyOf(prefix.Masked().Addr())
	if prefix.Bits() < s.prefix.Bits() {
		at = keyOf(s.prefix.Addr())
	}
	depth, here := s.prefix.Bits(), s.root
	for here >= firstNode && depth < prefix.Bits() {
		here = s.nodes.at(here).halves[at.bit(depth)]
		depth++
	}
	for met := range s.walk(here, at, depth) {
		return met, true
	}
	return netip.Prefix{}, false
}

// All yields what is taken, in ascending order. The space must not change meanwhile.
func (s *Space) All() iter.Seq[netip.Prefix] {
	return s.walk(s.root, keyOf(s.prefix.Addr()), s.prefix.Bits())
}

func (s *Space) walk(from ref, at key, depth int) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) { s.visit(from, at, depth, yield) }
}

func (s *Space) visit(here ref, at key, depth int, yield func(netip.Prefix) bool) bool {
	switch here {
	case free:
		return true
	case taken:
		return yield(s.prefixAt(at, depth))
	}
	halves := s.nodes.at(here).halves
	return s.visit(halves[0], at, depth+1, yield) && s.visit(halves[1], at.with(depth), depth+1, yield)
}

func (s *Space) inside(prefix netip.Prefix) error {
	if !prefix.IsValid() || prefix.Masked() != prefix || !cidr.Contains(s.prefix, prefix) {
		return fmt.Errorf("%s %w %s", prefix, ErrOutside, s.prefix)
	}
	return nil
}
