package fib

import (
	"errors"
	"net/netip"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/clearway/clearway/bgp/route"
)

// A restart with the same desires writes nothing: the kernel's routes are found as they are.
func TestRestartWritesNothing(t *testing.T) {
	inNetns(t)
	fabric(t)
	changes := append(blocks(2000, "10.0.1.9"), via("2001:db8:9::/64", "2001:db8:1::9", "2001:db8:2::9"),
		via("10.9.0.0/24", "10.0.1.9*3", "10.0.2.9"), blackhole("10.9.1.0/24"), blackhole("2001:db8:a::/64"))
	w, stop := run(t, Options{})
	w.Apply(changes)
	w.Settled()
	waitFor(t, "routes", func() bool { return w.Count() == len(changes) })
	stop()

	seen := watchRoutes(t)
	w, stop = run(t, Options{})
	w.Apply(changes)
	w.Settled()
	waitFor(t, "routes", func() bool { return w.stateCount(route.Installed) == len(changes) })
	stop()
	if got := seen(); len(got) > 0 {
		t.Errorf("%d writes, the first: %+v", len(got), got[0])
	}
}

// Run ends, and leaves no goroutine, whatever is going on; a second Run at once is refused, a later one works.
func TestRunEndsCleanly(t *testing.T) {
	inNetns(t)
	fabric(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	w, stop := run(t, Options{})
	w.Apply(blocks(20_000, "10.0.1.9"))
	waitFor(t, "some routes", func() bool { return w.Count() > 0 })
	if err := w.Run(t.Context()); !errors.Is(err, errRunning) {
		t.Errorf("a second Run: %v", err)
	}
	if err := w.Close(); err == nil {
		t.Error("Close while Run runs is taken")
	}
	stop()
}

// Everybody may call at once, and nobody waits for the kernel.
func TestConcurrentUse(t *testing.T) {
	inNetns(t)
	fabric(t)
	w, _ := run(t, Options{})
	var callers sync.WaitGroup
	for c := range 4 {
		callers.Go(func() {
			for i := range 200 {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(20 + c), byte(i), 0}), 24).String()
				w.apply(via(p, "10.0.1.9"))
				w.apply(via(p, "10.0.2.9"))
				w.Status(netip.MustParsePrefix(p))
				w.Count()
				if i%2 == 0 {
					w.apply(none(p))
				}
			}
			w.Settled()
		})
	}
	callers.Wait()
	waitFor(t, "the odd ones", func() bool { return w.Count() == 400 && w.stateCount(route.Installed) == 400 })
	if n := len(w.Changed()); n > 1 {
		t.Errorf("%d tokens", n)
	}
}

// Of changes that can't be, each is refused, and the others of the same call are taken.
func TestApplyRefuses(t *testing.T) {
	inNetns(t)
	fabric(t)
	w, _ := run(t, Options{})
	p := netip.MustParsePrefix("10.9.7.0/24")
	w.apply(
		via("10.9.0.0/24", "10.0.1.9"),
		route.Change{},
		via("10.9.1.1/24", "10.0.1.9"),
		route.Change{Prefix: p, Route: via("10.9.8.0/24", "10.0.1.9").Route},
		via("192.0.0.8/32", "10.0.1.9"),
		none("192.0.0.8/32"),
		via("10.9.2.0/24", "10.0.1.9"),
	)
	waitState(t, w, "10.9.0.0/24", route.Installed)
	waitState(t, w, "10.9.2.0/24", route.Installed)
	waitShown(t, "192.0.0.8/32", "blackhole 192.0.0.8 proto 73 metric 20")
	if w.Count() != 2 {
		t.Errorf("Count = %d, want 2", w.Count())
	}
}

// Of another's at the sentinel's place nothing is changed, and the next run is not taken for a restart.
func TestForeignRoutesAtTheSentinel(t *testing.T) {
	inNetns(t)
	ip(t, "route add blackhole 192.0.0.8/32 proto static metric 20")
	w, _ := run(t, Options{})
	if w.Sentinel() {
		t.Error("another's route was taken for the sentinel")
	}
	waitShown(t, "192.0.0.8/32", "blackhole 192.0.0.8 proto static metric 20")
}

// BenchmarkOpen adopts 100k routes.
func BenchmarkOpen(b *testing.B) {
	inNetns(b)
	fabric(b)
	w, stop := run(b, Options{})
	w.Settled()
	timed(b, w, stepCreate, blocks(100_000, "10.0.1.9"))
	stop()
	for b.Loop() {
		again, err := Open(Options{})
		if err != nil {
			b.Fatal(err)
		}
		if again.Count() != 100_000 {
			b.Fatal(again.Count())
		}
		again.Close()
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/open")
}
