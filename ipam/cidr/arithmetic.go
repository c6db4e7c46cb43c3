package cidr

import (
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"

	"go4.org/netipx"
)

// u128 is an address as a number; an IPv4 address is in the low 32 bits.
type u128 struct{ hi, lo uint64 }

func number(a netip.Addr) u128 {
	if a.Is4() {
		raw := a.As4()
		return u128{0, uint64(binary.BigEndian.Uint32(raw[:]))}
	}
	raw := a.As16()
	return u128{binary.BigEndian.Uint64(raw[:8]), binary.BigEndian.Uint64(raw[8:])}
}

// address is the number as an address of the family of like. The number must fit it.
func (u u128) address(like netip.Addr) netip.Addr {
	if like.Is4() {
		var raw [4]byte
		binary.BigEndian.PutUint32(raw[:], uint32(u.lo))
		return netip.AddrFrom4(raw)
	}
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], u.hi)
	binary.BigEndian.PutUint64(raw[8:], u.lo)
	return netip.AddrFrom16(raw)
}

func (u u128) add(v u128) (sum u128, overflow bool) {
	lo, carry := bits.Add64(u.lo, v.lo, 0)
	hi, carry := bits.Add64(u.hi, v.hi, carry)
	return u128{hi, lo}, carry != 0
}

func (u u128) sub(v u128) u128 {
	lo, borrow := bits.Sub64(u.lo, v.lo, 0)
	hi, _ := bits.Sub64(u.hi, v.hi, borrow)
	return u128{hi, lo}
}

// shl is u shifted left by n, 0 to 127 bits.
func (u u128) shl(n int) u128 {
	if n >= 64 {
		return u128{u.lo << (n - 64), 0}
	}
	return u128{u.hi<<n | u.lo>>(64-n), u.lo << n}
}

// Add is the address n after a. It is false when the family ends before.
func Add(a netip.Addr, n uint64) (netip.Addr, bool) {
	return addNumber(a, u128{0, n})
}

// Subtract is the address n before a. It is false when the family begins after.
func Subtract(a netip.Addr, n uint64) (netip.Addr, bool) {
	if from := number(a); from.hi == 0 && from.lo < n {
		return netip.Addr{}, false
	}
	return number(a).sub(u128{0, n}).address(a), true
}

func addNumber(a netip.Addr, n u128) (netip.Addr, bool) {
	sum, overflow := number(a).add(n)
	if overflow || (a.Is4() && (sum.hi != 0 || sum.lo > math.MaxUint32)) {
		return netip.Addr{}, false
	}
	return sum.address(a), true
}

// Distance is how many steps lie between from and to, saturating at the largest uint64. The addresses must be of one
// family, and to not before from.
func Distance(from, to netip.Addr) uint64 {
	difference := number(to).sub(number(from))
	if difference.hi != 0 {
		return math.MaxUint64
	}
	return difference.lo
}

// Last is the last address of a prefix: for IPv4 its broadcast address.
func Last(p netip.Prefix) netip.Addr { return netipx.PrefixLastIP(p) }

// Count is how many addresses a prefix has, saturating at the largest uint64 (from an IPv6 /64 on).
func Count(p netip.Prefix) uint64 { return Blocks(p, p.Addr().BitLen()) }

// Blocks is how many prefixes of the given length a prefix holds: 0 when it is smaller itself, saturating at the
// largest uint64.
func Blocks(p netip.Prefix, length int) uint64 {
	depth := length - p.Bits()
	switch {
	case depth < 0 || length > p.Addr().BitLen():
		return 0
	case depth >= 64:
		return math.MaxUint64
	}
	return 1 << depth
}

// Nth is the n-th prefix of the given length within p, from 0 on. It is false when there are fewer.
func Nth(p netip.Prefix, length int, n uint64) (netip.Prefix, bool) {
	if count := Blocks(p, length); n >= count {
		return netip.Prefix{}, false
	}
	addr := p.Masked().Addr()
	if n > 0 { // n below the count, so the shift is less than the width
		addr, _ = addNumber(addr, u128{0, n}.shl(addr.BitLen()-length))
	}
	return netip.PrefixFrom(addr, length), true
}

// Halves are the two prefixes, one bit longer, that a prefix consists of. It is false for a single address.
func Halves(p netip.Prefix) (low, high netip.Prefix, ok bool) {
	if p.IsSingleIP() {
		return netip.Prefix{}, netip.Prefix{}, false
	}
	length := p.Bits() + 1
	low = netip.PrefixFrom(p.Masked().Addr(), length)
	high, _ = Buddy(low)
	return low, high, true
}

// Buddy is the other half of a prefix's parent. It is false for a prefix of length 0.
func Buddy(p netip.Prefix) (netip.Prefix, bool) {
	if p.Bits() <= 0 {
		return netip.Prefix{}, false
	}
	addr := p.Masked().Addr()
	bit := u128{0, 1}.shl(addr.BitLen() - p.Bits())
	value := number(addr)
	flipped := u128{value.hi ^ bit.hi, value.lo ^ bit.lo}
	return netip.PrefixFrom(flipped.address(addr), p.Bits()), true
}

// Parent is the prefix, one bit shorter, that holds p and its buddy. It is false for a prefix of length 0.
func Parent(p netip.Prefix) (netip.Prefix, bool) {
	if p.Bits() <= 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked(), true
}

// Contains tells whether every address of inner is in outer; a prefix contains itself.
func Contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
