package block

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	"go4.org/netipx"
)

// MaxBits is how many host bits a block may have: 65536 addresses.
const MaxBits = 16

// Why an address was not given.
var (
	ErrOutside  = errors.New("address is not in the block")
	ErrAssigned = errors.New("address is assigned")
	ErrExcluded = errors.New("address is excluded")
	ErrResting  = errors.New("address rests after its last use")
	ErrSealed   = errors.New("block is sealed")
)

// Block is the addresses of one prefix.
type Block struct {
	prefix netip.Prefix
	size   int
	sealed bool
	// sealedPart is sealed by itself; invalid: none is.
	sealedPart netip.Prefix

	// Every address is in exactly one of: assigned, rests, fresh, or none of them when it is excluded or in the sealed
	// part. Such a one may be assigned or in rests besides; it is then not handed out when it comes free.
	assigned bitmap
	excluded bitmap
	rests    map[int]rest
	halves   [2]half
}

// rest is what is known of an address that was freed.
type rest struct {
	until time.Time
	owner string
}

// New returns a block with no address assigned. The prefix must be masked and have at most MaxBits host bits.
func New(prefix netip.Prefix) (*Block, error) {
	host := prefix.Addr().BitLen() - prefix.Bits()
	if !prefix.IsValid() || prefix.Masked() != prefix || host > MaxBits {
		return nil, fmt.Errorf("block %s: a block is an aligned prefix of at most %d addresses", prefix, 1<<MaxBits)
	}
	size := 1 << host
	b := &Block{prefix: prefix, size: size, assigned: newBitmap(size), excluded: newBitmap(size), rests: map[int]rest{}}
	b.index()
	return b, nil
}

// Prefix is the block's.
func (b *Block) Prefix() netip.Prefix { return b.prefix }

// Sealed tells whether the block gives no new addresses.
func (b *Block) Sealed() bool { return b.sealed }

// Seal sets whether the block gives new addresses. Releasing goes on.
func (b *Block) Seal(sealed bool) { b.sealed = sealed }

// SealPart makes one part of the block give no new addresses, whatever holds of the block; of the zero Prefix: none.
// False: the prefix is no part of it, and nothing was changed.
func (b *Block) SealPart(prefix netip.Prefix) bool {
	if prefix.IsValid() && !b.holds(prefix) {
		return false
	}
	if prefix != b.sealedPart {
		b.sealedPart = prefix
		b.index()
	}
	return true
}

// Unused tells whether no address of a part of the block is assigned. It is false for what is no part of it.
func (b *Block) Unused(prefix netip.Prefix) bool {
	if !b.holds(prefix) {
		return false
	}
	first := b.offset(prefix.Addr())
	for i := range 1 << (prefix.Addr().BitLen() - prefix.Bits()) {
		if b.assigned.has(first + i) {
			return false
		}
	}
	return true
}

// holds tells whether a prefix is a part of the block, or all of it.
func (b *Block) holds(prefix netip.Prefix) bool {
	return prefix.Masked() == prefix && prefix.Bits() >= b.prefix.Bits() && b.prefix.Contains(prefix.Addr())
}

// inSealedPart tells whether an address is in the part that is sealed by itself.
func (b *Block) inSealedPart(i int) bool {
	return b.sealedPart.IsValid() && b.sealedPart.Contains(b.addr(i))
}

// Part is a block of its own out of this one, with all that is known of its addresses. The prefix must lie in the block.
func (b *Block) Part(prefix netip.Prefix) (*Block, error) {
	if !b.holds(prefix) {
		return nil, fmt.Errorf("%s in %s: %w", prefix, b.prefix, ErrOutside)
	}
	part, err := New(prefix)
	if err != nil {
		return nil, err
	}
	part.sealed = b.sealed
	first := b.offset(prefix.Addr())
	for i := range part.size {
		if b.assigned.has(first + i) {
			part.assigned.set(i)
		}
		if b.excluded.has(first + i) {
			part.excluded.set(i)
		}
		if r, rests := b.rests[first+i]; rests {
			part.rests[i] = r
		}
	}
	part.index()
	return part, nil
}

// Exclude replaces the ranges out of which no address is given. What is assigned in them stays assigned, and is not
// given again after its release. Ranges may reach beyond the block.
func (b *Block) Exclude(ranges []netipx.IPRange) {
	b.excluded = newBitmap(b.size)
	whole := netipx.RangeOfPrefix(b.prefix)
	for _, r := range ranges {
		if !r.IsValid() || !r.Overlaps(whole) {
			continue
		}
		from, to := r.From(), r.To()
		if from.Less(whole.From()) {
			from = whole.From()
		}
		if whole.To().Less(to) {
			to = whole.To()
		}
		for i := b.offset(from); i <= b.offset(to); i++ {
			b.excluded.set(i)
		}
	}
	b.index()
}

// Assign gives the next rested address by the order Cooled; false: there is none.
func (b *Block) Assign(now time.Time) (netip.Addr, bool) {
	if b.sealed {
		return netip.Addr{}, false
	}
	h := b.fullest(now)
	if h == nil {
		return netip.Addr{}, false
	}
	i := h.next()
	b.take(i)
	return b.addr(i), true
}

// AssignEarly gives the address whose rest ends first, although it still rests: for use under pressure, when there is
// no rested one anywhere and none to come.
func (b *Block) AssignEarly(now time.Time) (netip.Addr, bool) {
	if addr, ok := b.Assign(now); ok || b.sealed {
		return addr, ok
	}
	h := b.earliest(now)
	if h == nil {
		return netip.Addr{}, false
	}
	i := h.resting.items[0].offset
	b.take(i)
	return b.addr(i), true
}

// Earliest tells when the rest of the first of the resting addresses ends; false: none rests.
func (b *Block) Earliest(now time.Time) (time.Time, bool) {
	if b.sealed {
		return time.Time{}, false
	}
	h := b.earliest(now)
	if h == nil {
		return time.Time{}, false
	}
	return h.resting.items[0].until, true
}

// AssignAt gives one address that was asked for. One that still rests is given only to the owner who had it; an empty
// owner never had one. The error wraps one of the Err values.
func (b *Block) AssignAt(addr netip.Addr, now time.Time, owner string) error {
	if !b.prefix.Contains(addr) {
		return fmt.Errorf("%s in %s: %w", addr, b.prefix, ErrOutside)
	}
	i := b.offset(addr)
	last, resting := b.rests[i]
	switch {
	case b.sealed || b.inSealedPart(i):
		return fmt.Errorf("%s in %s: %w", addr, b.prefix, ErrSealed)
	case b.assigned.has(i):
		return fmt.Errorf("%s: %w", addr, ErrAssigned)
	case b.excluded.has(i):
		return fmt.Errorf("%s: %w", addr, ErrExcluded)
	case resting && now.Before(last.until) && (owner == "" || owner != last.owner):
		return fmt.Errorf("%s until %s: %w", addr, last.until.UTC().Format(time.RFC3339), ErrResting)
	}
	b.take(i)
	return nil
}

// Restore marks an address as assigned whatever the rules say: it is so already. ErrOutside and ErrAssigned remain.
func (b *Block) Restore(addr netip.Addr) error {
	if !b.prefix.Contains(addr) {
		return fmt.Errorf("%s in %s: %w", addr, b.prefix, ErrOutside)
	}
	i := b.offset(addr)
	if b.assigned.has(i) {
		return fmt.Errorf("%s: %w", addr, ErrAssigned)
	}
	b.take(i)
	return nil
}

// Release frees an assigned address, which then rests until the given time. The owner may have it back earlier; it may
// be empty. False: the address is not assigned here, and nothing was changed.
func (b *Block) Release(addr netip.Addr, until time.Time, owner string) bool {
	if !b.prefix.Contains(addr) {
		return false
	}
	i := b.offset(addr)
	if !b.assigned.has(i) {
		return false
	}
	b.assigned.clear(i)
	b.halfOf(i).assigned--
	b.lay(i, rest{until, owner})
	return true
}

// Cancel takes an assignment back of which nobody has made use: the address is fresh.
func (b *Block) Cancel(addr netip.Addr) {
	if !b.Assigned(addr) {
		return
	}
	i := b.offset(addr)
	h := b.halfOf(i)
	b.assigned.clear(i)
	h.assigned--
	switch {
	case b.excluded.has(i):
	case b.inSealedPart(i):
		h.sealed++
	default:
		h.refresh(i)
	}
}

// Rest marks an address that is not assigned as freed before: what Release left, found again after a restart.
func (b *Block) Rest(addr netip.Addr, until time.Time, owner string) bool {
	if !b.prefix.Contains(addr) || b.assigned.has(b.offset(addr)) {
		return false
	}
	i := b.offset(addr)
	b.drop(i)
	b.lay(i, rest{until, owner})
	return true
}

// Resting calls yield for each address that rests beyond now, in no order.
func (b *Block) Resting(now time.Time, yield func(addr netip.Addr, until time.Time, owner string)) {
	for i, r := range b.rests {
		if now.Before(r.until) {
			yield(b.addr(i), r.until, r.owner)
		}
	}
}

// RestOf is until when an address rests, or rested, and for whom; the zero time: it was not used before.
func (b *Block) RestOf(addr netip.Addr) (until time.Time, owner string) {
	if !b.prefix.Contains(addr) {
		return time.Time{}, ""
	}
	r := b.rests[b.offset(addr)]
	return r.until, r.owner
}

// Latest is the end of the last rest of any address, or the zero time.
func (b *Block) Latest() time.Time {
	var latest time.Time
	for _, r := range b.rests {
		if latest.Before(r.until) {
			latest = r.until
		}
	}
	return latest
}

// Assigned tells whether an address is.
func (b *Block) Assigned(addr netip.Addr) bool {
	return b.prefix.Contains(addr) && b.assigned.has(b.offset(addr))
}

// Counts are of addresses. Size = Assigned + Ready + Cooling + Sealed + Excluded.
type Counts struct {
	Size     int
	Assigned int
	// Ready may be given now, were the block not sealed.
	Ready int
	// Cooling are freed and still rest.
	Cooling int
	// Sealed are neither assigned nor excluded, in a part that is sealed by itself.
	Sealed int
	// Excluded are neither assigned nor ever to be given.
	Excluded int
}

// Count counts. Its cost does not grow with the block, apart from the rests that ended since the last call.
func (b *Block) Count(now time.Time) Counts {
	counts := Counts{Size: b.size}
	for i := range b.halves {
		h := &b.halves[i]
		h.settle(now)
		counts.Assigned += h.assigned
		counts.Sealed += h.sealed
		counts.Ready += h.ready()
		counts.Cooling += len(h.resting.items)
	}
	counts.Excluded = counts.Size - counts.Assigned - counts.Ready - counts.Cooling - counts.Sealed
	return counts
}

// take makes an address assigned and takes it out of whatever else it was in.
func (b *Block) take(i int) {
	b.drop(i)
	b.assigned.set(i)
	b.halfOf(i).assigned++
}

// drop takes an unassigned address out of fresh, or out of the rests.
func (b *Block) drop(i int) {
	h := b.halfOf(i)
	if b.inSealedPart(i) {
		delete(b.rests, i)
		if !b.excluded.has(i) {
			h.sealed--
		}
		return
	}
	if r, ok := b.rests[i]; ok {
		delete(b.rests, i)
		h.forget(item{i, r.until})
		return
	}
	h.unfresh(i)
}

// lay puts an unassigned address to rest.
func (b *Block) lay(i int, r rest) {
	b.rests[i] = r
	switch {
	case b.excluded.has(i):
	case b.inSealedPart(i):
		b.halfOf(i).sealed++
	default:
		b.halfOf(i).resting.push(item{i, r.until})
	}
}

// fullest is the half to assign from: the one with more assigned among those that have a rested address, the lower of
// equals; nil: neither has one.
func (b *Block) fullest(now time.Time) *half {
	var best *half
	for i := range b.halves {
		h := &b.halves[i]
		h.settle(now)
		if h.ready() > 0 && (best == nil || h.assigned > best.assigned) {
			best = h
		}
	}
	return best
}

func (b *Block) earliest(now time.Time) *half {
	var best *half
	for i := range b.halves {
		h := &b.halves[i]
		h.settle(now)
		if len(h.resting.items) > 0 && (best == nil || h.resting.items[0].before(best.resting.items[0])) {
			best = h
		}
	}
	return best
}

// index makes the halves anew out of assigned, excluded and rests.
func (b *Block) index() {
	middle := b.size / 2
	b.halves = [2]half{newHalf(0, middle), newHalf(middle, b.size)}
	for i := range b.size {
		h := b.halfOf(i)
		_, rests := b.rests[i]
		switch {
		case b.assigned.has(i):
			h.assigned++
		case b.excluded.has(i):
		case b.inSealedPart(i):
			h.sealed++
		case rests:
			h.resting.push(item{i, b.rests[i].until})
		default:
			h.fresh.set(i - h.from)
			h.freshCount++
		}
	}
}

func (b *Block) halfOf(i int) *half {
	if i < b.size/2 {
		return &b.halves[0]
	}
	return &b.halves[1]
}

// offset is an address's distance from the block's first. The block has at most 16 host bits, so the last two bytes
// tell it.
func (b *Block) offset(addr netip.Addr) int {
	raw := addr.AsSlice()
	low := int(raw[len(raw)-2])<<8 | int(raw[len(raw)-1])
	return low & (b.size - 1)
}

func (b *Block) addr(i int) netip.Addr {
	raw := b.prefix.Addr().AsSlice()
	raw[len(raw)-2] |= byte(i >> 8)
	raw[len(raw)-1] |= byte(i)
	addr, _ := netip.AddrFromSlice(raw)
	return addr
}

// bitmap is a set of small numbers.
type bitmap []uint64

func newBitmap(size int) bitmap { return make(bitmap, (size+63)/64) }

func (m bitmap) has(i int) bool { return m[i/64]&(1<<(i%64)) != 0 }
func (m bitmap) set(i int)      { m[i/64] |= 1 << (i % 64) }
func (m bitmap) clear(i int)    { m[i/64] &^= 1 << (i % 64) }

// first is the lowest member at or above word's first; -1: none.
func (m bitmap) first(word int) int {
	for ; word < len(m); word++ {
		if m[word] != 0 {
			return word*64 + bits.TrailingZeros64(m[word])
		}
	}
	return -1
}
