package fib

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/vishvananda/netlink"

	"github.com/clearway/clearway/bgp/route"
)

// blocks makes n distinct /24s, all by one next hop.
func blocks(n int, hop string) []route.Change {
	addr := netip.MustParseAddr(hop)
	changes := make([]route.Change, n)
	for i := range changes {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(20 + i>>16), byte(i >> 8), byte(i), 0}), 24)
		changes[i] = route.Change{Prefix: p, Route: &route.Kernel{Prefix: p, NextHops: []route.NextHop{{Addr: addr}}}}
	}
	return changes
}

func withdrawn(changes []route.Change) []route.Change {
	gone := make([]route.Change, len(changes))
	for i, c := range changes {
		gone[i].Prefix = c.Prefix
	}
	return gone
}

// timed applies changes, and tells how long it took until the kernel had carried out as many requests of a kind.
func timed(b *testing.B, w *Writer, kind stepKind, changes []route.Change) time.Duration {
	b.Helper()
	done := w.metrics.writes.WithLabelValues(kind.String())
	want := testutil.ToFloat64(done) + float64(len(changes))
	start := time.Now()
	w.Apply(changes)
	for testutil.ToFloat64(done) < want {
		if time.Since(start) > time.Minute {
			b.Fatalf("%v of %v %v requests done", testutil.ToFloat64(done), want, kind)
		}
		time.Sleep(100 * time.Microsecond)
	}
	return time.Since(start)
}

// BenchmarkWriter adds, replaces and deletes routes by the writer and, in the same namespace, by the netlink library's
// one request at a time.
func BenchmarkWriter(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("routes=%d/by=writer", n), func(b *testing.B) { benchmarkWriter(b, n) })
		b.Run(fmt.Sprintf("routes=%d/by=library", n), func(b *testing.B) { benchmarkLibrary(b, n) })
	}
}

func benchmarkWriter(b *testing.B, n int) {
	inNetns(b)
	fabric(b)
	w, _ := run(b, Options{})
	w.Settled()
	var add, replace, remove time.Duration
	for b.Loop() {
		first, second := blocks(n, "10.0.1.9"), blocks(n, "10.0.2.9")
		gone := withdrawn(first)
		add += timed(b, w, stepCreate, first)
		replace += timed(b, w, stepReplace, second)
		remove += timed(b, w, stepDelete, gone)
	}
	report(b, n, add, replace, remove)
}

func benchmarkLibrary(b *testing.B, n int) {
	inNetns(b)
	fabric(b)
	h, err := netlink.NewHandle()
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	link1, err1 := h.LinkByName("n1")
	link2, err2 := h.LinkByName("n2")
	if err1 != nil || err2 != nil {
		b.Fatal(err1, err2)
	}
	each := func(do func(*netlink.Route) error, link netlink.Link, hop string) time.Duration {
		start := time.Now()
		for _, c := range blocks(n, hop) {
			dst := &net.IPNet{IP: c.Prefix.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}
			r := &netlink.Route{Dst: dst, Gw: net.ParseIP(hop), LinkIndex: link.Attrs().Index, Protocol: 73, Priority: 20}
			if err := do(r); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(start)
	}
	var add, replace, remove time.Duration
	for b.Loop() {
		add += each(h.RouteReplace, link1, "10.0.1.9")
		replace += each(h.RouteReplace, link2, "10.0.2.9")
		remove += each(h.RouteDel, link2, "10.0.2.9")
	}
	report(b, n, add, replace, remove)
}

func report(b *testing.B, n int, add, replace, remove time.Duration) {
	for name, took := range map[string]time.Duration{"add": add, "replace": replace, "delete": remove} {
		b.ReportMetric(float64(n)*float64(b.N)/took.Seconds(), name+"s/s")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkOneChange changes one route among 100k: from Apply until the kernel has it.
func BenchmarkOneChange(b *testing.B) { benchmarkOneChange(b, resyncEvery) }

// BenchmarkResync changes one route among 100k while the writer does nothing else but compare them with the kernel.
// The worst is how long a comparison holds up a change.
func BenchmarkResync(b *testing.B) { benchmarkOneChange(b, time.Microsecond) }

func benchmarkOneChange(b *testing.B, every time.Duration) {
	inNetns(b)
	fabric(b)
	w, _ := runComparing(b, every, plainGateways)
	w.Settled()
	const n = 100_000
	timed(b, w, stepCreate, blocks(n, "10.0.1.9"))
	hops, i := []string{"10.0.2.9", "10.0.1.9"}, 0
	var took []time.Duration
	one := netip.MustParsePrefix("20.0.5.0/24")
	for b.Loop() {
		start := time.Now()
		w.apply(via(one.String(), hops[i%2]))
		for w.Status(one).State != route.Installed {
			<-w.Changed()
		}
		took = append(took, time.Since(start))
		i++
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)-1].Microseconds()), "worst-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "99%-µs")
}
