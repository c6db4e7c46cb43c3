package node

import (
	"net/netip"
	"slices"
	"time"

	"github.com/clearway/clearway/ipam/pool"
)

// stickies are the addresses that rest for an owner who may have them again (rule Cooled's sticky owner). It is part of the
// book, under its mutex, and no more than a hint: the block knows for whom an address rests.
type stickies struct {
	addrs map[stickyKey]netip.Addr
	// sweepAt is how many there may be before those that are of no use any more are looked for.
	sweepAt int
}

type stickyKey struct {
	owner string
	is4   bool
}

// leastSweep is from how many on stickies are swept. Then it is twice as many as were left, so that each costs little.
const leastSweep = 1024

// keep notes that an address rests for an owner.
func (s *stickies) keep(b *book, owner string, addr netip.Addr) {
	if owner == "" {
		return
	}
	if s.addrs == nil {
		s.addrs, s.sweepAt = map[stickyKey]netip.Addr{}, leastSweep
	}
	if len(s.addrs) >= s.sweepAt {
		s.sweep(b)
	}
	s.addrs[stickyKey{owner, addr.Is4()}] = addr
}

func (s *stickies) sweep(b *book) {
	now := b.now()
	for key, addr := range s.addrs {
		if _, rests := b.restsFor(addr, key.owner, now); !rests {
			delete(s.addrs, key)
		}
	}
	s.sweepAt = max(leastSweep, 2*len(s.addrs))
}

// restsFor tells until when an address rests for an owner.
func (b *book) restsFor(addr netip.Addr, owner string, now time.Time) (until time.Time, rests bool) {
	o := b.blockOf(addr)
	if o == nil {
		return time.Time{}, false
	}
	until, last := o.RestOf(addr)
	return until, last == owner && now.Before(until)
}

// takeSticky gives an owner the address again that he had last, if it is in one of the pools and still rests.
func (b *book) takeSticky(pools []pool.Pool, r request, now time.Time) (held, bool) {
	if len(b.sticky.addrs) == 0 {
		return held{}, false
	}
	owner := r.holder().String()
	key := stickyKey{owner, pools[0].CIDR.Addr().Is4()}
	addr, known := b.sticky.addrs[key]
	if !known {
		return held{}, false
	}
	until, rests := b.restsFor(addr, owner, now)
	if !rests {
		delete(b.sticky.addrs, key)
		return held{}, false
	}
	o := b.blockOf(addr)
	at := slices.IndexFunc(pools, func(p pool.Pool) bool { return p.Name == o.Pool })
	if at < 0 || o.AssignAt(addr, now, owner) != nil {
		return held{}, false
	}
	h := b.reserveLocked(pools[at], o, addr, r.key)
	h.rested, h.owner = until, owner
	return h, true
}
