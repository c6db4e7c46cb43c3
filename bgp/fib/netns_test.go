package fib

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/route"
)

// inNetns puts the test in a network namespace of its own, which goes with the test's thread. Commands the test
// starts and sockets it opens are in it; goroutines it starts are not.
func inNetns(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the runtime ends the thread with the test's goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no right to make a network namespace: %v", err)
		}
		t.Skipf("SKIPPED, NOT TESTED: no right to make a network namespace (%v); run as root", err)
	}
	ip(t, "link set lo up")
}

// ip runs ip(8) in the test's namespace.
func ip(t testing.TB, args string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
	return string(out)
}

// fabric makes links n1, n2 and n3, each with both families on-link and a silent far end:
// 10.0.1.1/24 and 2001:db8:1::1/64 on n1, .2. on n2, .3. on n3.
func fabric(t testing.TB) {
	t.Helper()
	for i, name := range []string{"n1", "n2", "n3"} {
		ip(t, fmt.Sprintf("link add name %s type veth peer name %s-far", name, name))
		ip(t, fmt.Sprintf("addr add 10.0.%d.1/24 dev %s", i+1, name))
		ip(t, fmt.Sprintf("-6 addr add 2001:db8:%d::1/64 dev %s nodad", i+1, name))
		ip(t, "link set "+name+"-far up")
		ip(t, "link set "+name+" up")
	}
	waitFor(t, "links up", func() bool {
		return strings.Count(ip(t, "-6 route show table main"), "2001:db8:") == 3 && !strings.Contains(ip(t, "link show"), "LOWERLAYERDOWN")
	})
}

// waitFor waits until the condition holds, at most ten seconds.
func waitFor(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// open opens a writer in the test's namespace.
func open(t testing.TB, opts Options) *Writer {
	t.Helper()
	w, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// run opens a writer and runs it until the test ends, or stop is called.
func run(t testing.TB, opts Options) (w *Writer, stop func()) {
	t.Helper()
	w = open(t, opts)
	return w, start(t, w)
}

// runComparing is run for a writer that compares with the kernel at least so often, and writes as many gateways of an
// interface plainly.
func runComparing(t testing.TB, every time.Duration, plain int) (w *Writer, stop func()) {
	t.Helper()
	w = open(t, Options{})
	w.core.objects.limit = plain
	w.core.resync.every, w.core.resync.gap = every, min(every, resyncGap)
	return w, start(t, w)
}

// start runs a writer until the test ends, or stop is called.
func start(t testing.TB, w *Writer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// via is a desired route.
func via(prefix string, hops ...string) route.Change {
	p := netip.MustParsePrefix(prefix)
	k := &route.Kernel{Prefix: p}
	for _, hop := range hops {
		addr, weight, _ := strings.Cut(hop, "*")
		h := route.NextHop{Addr: netip.MustParseAddr(addr)}
		if weight != "" {
			fmt.Sscan(weight, &h.Weight)
		}
		k.NextHops = append(k.NextHops, h)
	}
	return route.Change{Prefix: p, Route: k}
}

func blackhole(prefix string) route.Change {
	p := netip.MustParsePrefix(prefix)
	return route.Change{Prefix: p, Route: &route.Kernel{Prefix: p, Blackhole: true}}
}

func none(prefix string) route.Change {
	return route.Change{Prefix: netip.MustParsePrefix(prefix)}
}

func (w *Writer) apply(changes ...route.Change) { w.Apply(changes) }

// waitState waits until a prefix has a state.
func waitState(t testing.TB, w *Writer, prefix string, want route.InstallState) route.InstallStatus {
	t.Helper()
	p := netip.MustParsePrefix(prefix)
	var got route.InstallStatus
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if got = w.Status(p); got.State == want {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is %v (%s), want %v\n%s", p, got.State, got.Reason, want, shown(t, prefix))
		}
	}
}

// shown is what ip(8) shows of a prefix in the main table, one line, spaces single; "" when there is none.
func shown(t testing.TB, prefix string) string {
	t.Helper()
	family := "-4"
	if netip.MustParsePrefix(prefix).Addr().Is6() {
		family = "-6"
	}
	return strings.Join(strings.Fields(ip(t, family+" route show exact "+prefix)), " ")
}

// hopsShown is shown with the hops in order: the kernel keeps IPv6 hops as they came.
func hopsShown(t testing.TB, prefix string) string {
	parts := strings.Split(shown(t, prefix), " nexthop ")
	slices.Sort(parts[1:])
	return strings.Join(parts, " nexthop ")
}

// waitShown waits until ip(8) shows a prefix as wanted.
func waitShown(t testing.TB, prefix, want string) {
	t.Helper()
	var got string
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if got = shown(t, prefix); got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("kernel has\n %s\nwant\n %s", got, want)
		}
	}
}
