package block

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go4.org/netipx"
	"pgregory.net/rapid"

	"github.com/clearway/clearway/ipam/cidr"
)

// twin is the slow and obvious block: one record an address, every choice a walk over all of them.
type twin struct {
	prefix netip.Prefix
	all    []*twinAddress
	sealed bool
	part   netip.Prefix // sealed
}

type twinAddress struct {
	addr               netip.Addr
	assigned, excluded bool
	until              time.Time
	owner              string
}

func newTwin(prefix netip.Prefix) *twin {
	t := &twin{prefix: prefix}
	for addr := prefix.Addr(); prefix.Contains(addr); addr = addr.Next() {
		t.all = append(t.all, &twinAddress{addr: addr})
	}
	return t
}

func (t *twin) halves() [][]*twinAddress {
	return [][]*twinAddress{t.all[:len(t.all)/2], t.all[len(t.all)/2:]}
}

func (t *twin) barred(a *twinAddress) bool { return t.part.IsValid() && t.part.Contains(a.addr) }

func (t *twin) assign(now time.Time) (netip.Addr, bool) {
	var best *twinAddress
	most := -1
	for _, half := range t.halves() {
		assigned := 0
		var ready []*twinAddress
		for _, a := range half {
			if a.assigned {
				assigned++
			} else if !a.excluded && !t.barred(a) && !now.Before(a.until) {
				ready = append(ready, a)
			}
		}
		if len(ready) > 0 && assigned > most {
			slices.SortStableFunc(ready, func(a, b *twinAddress) int { return a.until.Compare(b.until) })
			best, most = ready[0], assigned
		}
	}
	if best == nil || t.sealed {
		return netip.Addr{}, false
	}
	best.assigned, best.until, best.owner = true, time.Time{}, ""
	return best.addr, true
}

func (t *twin) assignEarly(now time.Time) (netip.Addr, bool) {
	if addr, ok := t.assign(now); ok || t.sealed {
		return addr, ok
	}
	var best *twinAddress
	for _, a := range t.all {
		if !a.assigned && !a.excluded && !t.barred(a) && (best == nil || a.until.Before(best.until)) {
			best = a
		}
	}
	if best == nil {
		return netip.Addr{}, false
	}
	best.assigned, best.until, best.owner = true, time.Time{}, ""
	return best.addr, true
}

func (t *twin) assignAt(addr netip.Addr, now time.Time, owner string) error {
	for _, a := range t.all {
		if a.addr != addr {
			continue
		}
		switch {
		case t.sealed || t.barred(a):
			return ErrSealed
		case a.assigned:
			return ErrAssigned
		case a.excluded:
			return ErrExcluded
		case now.Before(a.until) && (owner == "" || owner != a.owner):
			return ErrResting
		}
		a.assigned, a.until, a.owner = true, time.Time{}, ""
		return nil
	}
	return ErrOutside
}

func (t *twin) release(addr netip.Addr, until time.Time, owner string) bool {
	for _, a := range t.all {
		if a.addr == addr && a.assigned {
			a.assigned, a.until, a.owner = false, until, owner
			return true
		}
	}
	return false
}

func (t *twin) exclude(ranges []netipx.IPRange) {
	for _, a := range t.all {
		a.excluded = slices.ContainsFunc(ranges, func(r netipx.IPRange) bool { return r.Contains(a.addr) })
	}
}

func (t *twin) count(now time.Time) Counts {
	counts := Counts{Size: len(t.all)}
	for _, a := range t.all {
		switch {
		case a.assigned:
			counts.Assigned++
		case a.excluded:
			counts.Excluded++
		case t.barred(a):
			counts.Sealed++
		case now.Before(a.until):
			counts.Cooling++
		default:
			counts.Ready++
		}
	}
	return counts
}

// TestCooledOrderAgreesWithTwin drives the block and its twin through the same random life. The clock only goes
// forward here: what has rested once stays rested for the block, which the twin does not remember.
func TestCooledOrderAgreesWithTwin(t *testing.T) {
	prefixes := []netip.Prefix{
		netip.MustParsePrefix("10.1.2.64/28"), netip.MustParsePrefix("10.1.2.7/32"), netip.MustParsePrefix("10.1.254.0/23"),
		netip.MustParsePrefix("fd00::1:0/122"), netip.MustParsePrefix("10.0.0.6/31"),
	}
	rapid.Check(t, func(rt *rapid.T) {
		prefix := rapid.SampledFrom(prefixes).Draw(rt, "prefix")
		b, err := New(prefix)
		if err != nil {
			rt.Fatal(err)
		}
		slow := newTwin(prefix)
		now := time.Unix(1_000_000, 0)
		anyAddr := func() netip.Addr { return rapid.SampledFrom(slow.all).Draw(rt, "address").addr }
		owners := rapid.SampledFrom([]string{"", "a", "b"})
		rt.Repeat(map[string]func(*rapid.T){
			"assign": func(rt *rapid.T) {
				got, ok := b.Assign(now)
				want, wantOK := slow.assign(now)
				if got != want || ok != wantOK {
					rt.Fatalf("Assign = %v %v, want %v %v", got, ok, want, wantOK)
				}
			},
			"assign early": func(rt *rapid.T) {
				got, ok := b.AssignEarly(now)
				want, wantOK := slow.assignEarly(now)
				if got != want || ok != wantOK {
					rt.Fatalf("AssignEarly = %v %v, want %v %v", got, ok, want, wantOK)
				}
			},
			"restore": func(rt *rapid.T) {
				addr := anyAddr()
				got, was := b.Restore(addr), false
				for _, a := range slow.all {
					if a.addr == addr {
						was, a.assigned, a.until, a.owner = a.assigned, true, time.Time{}, ""
					}
				}
				if (got != nil) != was {
					rt.Fatalf("Restore(%v) = %v, assigned: %v", addr, got, was)
				}
			},
			"assign at": func(rt *rapid.T) {
				addr, owner := anyAddr(), owners.Draw(rt, "owner")
				got, want := b.AssignAt(addr, now, owner), slow.assignAt(addr, now, owner)
				if !errors.Is(got, want) {
					rt.Fatalf("AssignAt(%v) = %v, want %v", addr, got, want)
				}
			},
			"release": func(rt *rapid.T) {
				addr, owner := anyAddr(), owners.Draw(rt, "owner")
				until := now.Add(time.Duration(rapid.IntRange(0, 200).Draw(rt, "rest")) * time.Second)
				if got, want := b.Release(addr, until, owner), slow.release(addr, until, owner); got != want {
					rt.Fatalf("Release(%v) = %v, want %v", addr, got, want)
				}
			},
			"cancel": func(rt *rapid.T) {
				addr := anyAddr()
				b.Cancel(addr)
				slow.release(addr, time.Time{}, "")
			},
			"exclude": func(rt *rapid.T) {
				from, to := anyAddr(), anyAddr()
				ranges := []netipx.IPRange{netipx.IPRangeFrom(from, to)}
				if !ranges[0].IsValid() {
					ranges = nil
				}
				b.Exclude(ranges)
				slow.exclude(ranges)
			},
			"seal": func(rt *rapid.T) {
				slow.sealed = rapid.Bool().Draw(rt, "sealed")
				b.Seal(slow.sealed)
			},
			"seal part": func(rt *rapid.T) {
				length := rapid.IntRange(b.Prefix().Bits(), b.Prefix().Addr().BitLen()).Draw(rt, "length")
				if slow.part = netip.PrefixFrom(anyAddr(), length).Masked(); rapid.Bool().Draw(rt, "open") {
					slow.part = netip.Prefix{}
				}
				if !b.SealPart(slow.part) {
					rt.Fatalf("%s is no part of %s", slow.part, b.Prefix())
				}
				if b.SealPart(netip.MustParsePrefix("192.0.2.0/32")) {
					rt.Fatal("an address outside of the block is a part of it")
				}
			},
			"split": func(rt *rapid.T) {
				low, high, ok := cidr.Halves(b.Prefix())
				if !ok || rapid.IntRange(0, 3).Draw(rt, "seldom") > 0 {
					return
				}
				i := rapid.IntRange(0, 1).Draw(rt, "kept")
				kept, all := [2]netip.Prefix{low, high}[i], slow.halves()[i]
				unused := !slices.ContainsFunc(all, func(a *twinAddress) bool { return a.assigned })
				if got := b.Unused(kept); got != unused {
					rt.Fatalf("Unused(%s) = %v, want %v", kept, got, unused)
				}
				if b, err = b.Part(kept); err != nil {
					rt.Fatal(err)
				}
				slow = &twin{prefix: kept, all: all, sealed: slow.sealed}
			},
			"wait": func(rt *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(rt, "seconds")) * time.Second)
			},
			"": func(rt *rapid.T) {
				if got, want := b.Count(now), slow.count(now); got != want {
					rt.Fatalf("Count = %+v, want %+v", got, want)
				}
			},
		})
	})
}
