package pool

import (
	"encoding/binary"
	"net/netip"
)

// set makes the subtree of a key and length a leaf. What is there must be the other leaf: all free before it is taken,
// taken as one before it is free. It splits holes on the way down, and on the way up merges free buddies and brings
// the nodes' sets of holes up to date.
func (s *Space) set(at key, length int, to ref) {
	base := s.prefix.Bits()
	var trail [128]ref // nodes from the root down: trail[i] has length base+i
	slot := &s.root
	for depth := base; depth < length; depth++ {
		if *slot == free {
			*slot = s.split(depth)
		}
		trail[depth-base] = *slot
		slot = &s.nodes.at(*slot).halves[at.bit(depth)]
	}
	*slot = to
	if to == free {
		s.holes[length]++
	} else {
		s.holes[length]--
	}
	for depth := length - 1; depth >= base; depth-- {
		here := trail[depth-base]
		if n := s.nodes.at(here); n.halves != [2]ref{free, free} {
			if !s.refresh(n, depth) {
				return // nothing new for those above either
			}
			continue
		}
		s.merge(here, depth)
		if depth == base {
			s.root = free
		} else {
			s.nodes.at(trail[depth-1-base]).halves[at.bit(depth-1)] = free
		}
	}
}

// split makes a node of a hole of a length: its two halves are holes now.
func (s *Space) split(length int) ref {
	s.holes[length]--
	s.holes[length+1] += 2
	return s.nodes.add()
}

// merge undoes split.
func (s *Space) merge(here ref, length int) {
	s.holes[length+1] -= 2
	s.holes[length]++
	s.nodes.remove(here)
}

// refresh works the set of holes of a node of a length out again, and tells whether it is another one.
func (s *Space) refresh(n *node, length int) bool {
	var holes lengths
	for _, half := range n.halves {
		switch half {
		case free:
			d := length - s.prefix.Bits()
			holes[d>>6] |= 1 << (d & 63)
		case taken:
		default:
			within := s.nodes.at(half).holes
			holes[0] |= within[0]
			holes[1] |= within[1]
		}
	}
	changed := holes != n.holes
	n.holes = holes
	return changed
}

// arena holds the nodes in pages that never move, so that growing neither copies nor leaves garbage.
type arena struct {
	pages []*[pageSize]node
	used  int // nodes handed out, removed ones included
	spare ref // first removed node; each names the next in halves[0]
}

const pageSize = 1024

func (a *arena) at(r ref) *node {
	i := r - firstNode
	return &a.pages[i/pageSize][i%pageSize]
}

// add is a node whose halves are free.
func (a *arena) add() ref {
	if r := a.spare; r != 0 {
		a.spare = a.at(r).halves[0]
		*a.at(r) = node{}
		return r
	}
	if a.used == len(a.pages)*pageSize {
		a.pages = append(a.pages, new([pageSize]node))
	}
	a.used++
	return firstNode + ref(a.used-1)
}

func (a *arena) remove(r ref) {
	a.at(r).halves[0] = a.spare
	a.spare = r
}

// key is an address as bits from the left: bit 0 is its first, in either family.
type key struct{ hi, lo uint64 }

func keyOf(addr netip.Addr) key {
	if addr.Is4() {
		raw := addr.As4()
		return key{uint64(binary.BigEndian.Uint32(raw[:])) << 32, 0}
	}
	raw := addr.As16()
	return key{binary.BigEndian.Uint64(raw[:8]), binary.BigEndian.Uint64(raw[8:])}
}

func (k key) less(other key) bool { return k.hi < other.hi || k.hi == other.hi && k.lo < other.lo }

// bit is the bit at a depth, 0 or 1.
func (k key) bit(depth int) int {
	if depth < 64 {
		return int(k.hi >> (63 - depth) & 1)
	}
	return int(k.lo >> (127 - depth) & 1)
}

// with is k with the bit at a depth set.
func (k key) with(depth int) key {
	if depth < 64 {
		k.hi |= 1 << (63 - depth)
	} else {
		k.lo |= 1 << (127 - depth)
	}
	return k
}

// prefixAt is the prefix of a length that a key lies in, in the space's family.
func (s *Space) prefixAt(k key, length int) netip.Prefix {
	if s.prefix.Addr().Is4() {
		var raw [4]byte
		binary.BigEndian.PutUint32(raw[:], uint32(k.hi>>32))
		return netip.PrefixFrom(netip.AddrFrom4(raw), length).Masked()
	}
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], k.hi)
	binary.BigEndian.PutUint64(raw[8:], k.lo)
	return netip.PrefixFrom(netip.AddrFrom16(raw), length).Masked()
}
