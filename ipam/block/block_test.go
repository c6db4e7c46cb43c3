package block

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"go4.org/netipx"
)

var start = time.Unix(1_000_000, 0)

func mustNew(t *testing.T, prefix string) *Block {
	t.Helper()
	b, err := New(netip.MustParsePrefix(prefix))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustAssign(t *testing.T, b *Block, now time.Time) netip.Addr {
	t.Helper()
	addr, ok := b.Assign(now)
	if !ok {
		t.Fatalf("no address: %+v", b.Count(now))
	}
	return addr
}

func TestNewRefusesWhatIsNoBlock(t *testing.T) {
	for _, prefix := range []netip.Prefix{{}, netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("10.0.0.0/15"),
		netip.MustParsePrefix("fd00::/64")} {
		if _, err := New(prefix); err == nil {
			t.Errorf("New(%v) succeeded", prefix)
		}
	}
}

func TestCooledFreedAddressRests(t *testing.T) {
	b := mustNew(t, "10.0.0.0/30")
	for range 4 {
		mustAssign(t, b, start)
	}
	freed := netip.MustParseAddr("10.0.0.2")
	b.Release(freed, start.Add(130*time.Second), "")
	if addr, ok := b.Assign(start.Add(129 * time.Second)); ok {
		t.Fatalf("%v given while it rests", addr)
	}
	if got := mustAssign(t, b, start.Add(130*time.Second)); got != freed {
		t.Fatalf("got %v", got)
	}
}

func TestCooledUnderPressureTheOldestFirst(t *testing.T) {
	b := mustNew(t, "10.0.0.0/30")
	for range 4 {
		mustAssign(t, b, start)
	}
	for i, last := range []string{"10.0.0.3", "10.0.0.0", "10.0.0.2"} {
		b.Release(netip.MustParseAddr(last), start.Add(time.Duration(i+10)*time.Second), "")
	}
	for _, want := range []string{"10.0.0.3", "10.0.0.0", "10.0.0.2"} {
		if got, ok := b.AssignEarly(start); !ok || got.String() != want {
			t.Fatalf("got %v %v, want %s", got, ok, want)
		}
	}
	if got, ok := b.AssignEarly(start); ok {
		t.Fatalf("a fifth address out of four: %v", got)
	}
}

func TestCooledStickyOwnerSkipsTheRest(t *testing.T) {
	b := mustNew(t, "10.0.0.0/30")
	addr := mustAssign(t, b, start)
	b.Release(addr, start.Add(time.Minute), "db-0")
	if err := b.AssignAt(addr, start, "db-1"); !errors.Is(err, ErrResting) {
		t.Fatalf("another owner: %v", err)
	}
	if err := b.AssignAt(addr, start, "db-0"); err != nil {
		t.Fatal(err)
	}
}

// The upper half comes free although addresses of it are used, because the fuller half is filled first.
func TestCooledHalvesComeFree(t *testing.T) {
	b := mustNew(t, "10.0.0.0/28")
	for range 12 {
		mustAssign(t, b, start)
	}
	now := start
	for range 100 { // short-lived Pods come and go
		addr := mustAssign(t, b, now)
		b.Release(addr, now, "")
		for last := byte(8); last < 12; last++ { // the first Pods of the upper half leave one by one
			if addr := netip.AddrFrom4([4]byte{10, 0, 0, last}); b.Assigned(addr) {
				b.Release(addr, now, "")
				break
			}
		}
		now = now.Add(time.Second)
	}
	for last := byte(8); last < 16; last++ {
		if b.Assigned(netip.AddrFrom4([4]byte{10, 0, 0, last})) {
			t.Errorf("10.0.0.%d is still in use", last)
		}
	}
}

func TestReservationOfWhatIsAssignedWaitsForItsRelease(t *testing.T) {
	b := mustNew(t, "10.0.0.0/31")
	addr := mustAssign(t, b, start)
	b.Exclude([]netipx.IPRange{netipx.IPRangeFrom(addr, addr)})
	if !b.Assigned(addr) {
		t.Fatal("the reservation took the address from its holder")
	}
	b.Release(addr, start, "")
	if got := mustAssign(t, b, start); got == addr {
		t.Fatal("a reserved address was given")
	}
	if err := b.AssignAt(addr, start, ""); !errors.Is(err, ErrExcluded) {
		t.Fatal(err)
	}
	b.Exclude(nil)
	if got := mustAssign(t, b, start); got != addr {
		t.Fatalf("after the reservation ended: %v", got)
	}
}

func TestRestoreAndRestSurviveOrder(t *testing.T) {
	b := mustNew(t, "fd00::/126")
	held, resting := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	if err := b.Restore(held); err != nil {
		t.Fatal(err)
	}
	if err := b.Restore(held); !errors.Is(err, ErrAssigned) {
		t.Fatal(err)
	}
	if !b.Rest(resting, start.Add(time.Minute), "") || b.Rest(held, start, "") {
		t.Fatal("Rest")
	}
	if got, want := b.Count(start), (Counts{Size: 4, Assigned: 1, Ready: 2, Cooling: 1}); got != want {
		t.Fatalf("%+v", got)
	}
	if got := b.Latest(); !got.Equal(start.Add(time.Minute)) {
		t.Fatal(got)
	}
}

func BenchmarkAssignRelease(b *testing.B) {
	for _, prefix := range []string{"10.0.0.0/26", "fd00::/112"} {
		b.Run(prefix, func(b *testing.B) {
			block, _ := New(netip.MustParsePrefix(prefix))
			now := start
			for b.Loop() {
				addr, ok := block.AssignEarly(now)
				if !ok {
					b.Fatal("full")
				}
				block.Release(addr, now.Add(130*time.Second), "")
				now = now.Add(time.Millisecond)
			}
		})
	}
}
