package fib

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/route"
)

// Nothing of an earlier run is removed before every source has spoken; but what its source withdraws goes at once.
func TestNoEarlyPrune(t *testing.T) {
	inNetns(t)
	fabric(t)
	w, stop := run(t, Options{})
	if w.Sentinel() {
		t.Error("a sentinel was found where we never ran")
	}
	w.apply(via("10.9.1.0/24", "10.0.1.9"), via("10.9.2.0/24", "10.0.1.9"), via("10.9.3.0/24", "10.0.1.9"),
		via("2001:db8:9::/64", "2001:db8:1::9", "2001:db8:2::9"), via("2001:db8:a::/64", "2001:db8:1::9"))
	waitFor(t, "routes", func() bool { return w.Count() == 5 })
	stop()

	w, _ = run(t, Options{})
	if !w.Sentinel() {
		t.Error("the sentinel of the last run was not found")
	}
	if w.Count() != 5 {
		t.Errorf("adopted %d routes, want 5", w.Count())
	}
	w.apply(via("10.9.1.0/24", "10.0.2.9"), via("10.9.4.0/24", "10.0.1.9"), none("10.9.3.0/24"))
	waitShown(t, "10.9.1.0/24", "10.9.1.0/24 via 10.0.2.9 dev n2 proto 73 metric 20")
	waitState(t, w, "10.9.4.0/24", route.Installed)
	waitShown(t, "10.9.3.0/24", "")
	w.apply(via("2001:db8:a::/64", "2001:db8:ffff::1")) // its next hop is not known yet: what is there stays
	waitState(t, w, "2001:db8:a::/64", route.Unresolved)
	for _, kept := range []string{"10.9.2.0/24", "2001:db8:9::/64", "2001:db8:a::/64"} {
		if shown(t, kept) == "" {
			t.Errorf("%s was pruned early", kept)
		}
	}
	w.Settled()
	waitShown(t, "10.9.2.0/24", "")
	waitShown(t, "2001:db8:9::/64", "")
	waitShown(t, "2001:db8:a::/64", "")
	waitShown(t, "192.0.0.8/32", "blackhole 192.0.0.8 proto 73 metric 20")
	waitFor(t, "count", func() bool { return w.Count() == 2 })
}

// Whatever a route changes to, there is a way at every moment: the kernel tells of no removal before the addition.
func TestReplaceLeavesNoGap(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			w, _ := run(t, Options{})
			w.Settled()
			w.apply(via(f.prefix, f.hop1))
			waitState(t, w, f.prefix, route.Installed)
			seen := watchRoutes(t)
			for _, change := range []route.Change{
				via(f.prefix, f.hop2), via(f.prefix, f.hop1, f.hop2), via(f.prefix, f.hop1, f.hop3), via(f.prefix, f.hop1, f.hop3+"*3"),
				blackhole(f.prefix), via(f.prefix, f.hop2, f.hop3), via(f.prefix, f.hop1, f.hop2, f.hop3), via(f.prefix, f.hop3),
				blackhole(f.prefix), via(f.prefix, f.hop1),
			} {
				w.apply(change)
				waitState(t, w, f.prefix, route.Installed)
			}
			hops, rejects := 1, 0
			for _, e := range seen() {
				switch came := e.kind == unix.RTM_NEWROUTE; {
				case e.prefix.String() != f.prefix:
					continue
				case f.name == "IPv4" && came && e.flags&unix.NLM_F_REPLACE != 0: // in place
				case f.name == "IPv6" && e.flags&unix.NLM_F_REPLACE != 0:
					t.Errorf("IPv6 was replaced: %+v", e)
				case came && e.reject:
					rejects++
				case came:
					hops = e.legs // IPv6 tells all hops of the metric
				case e.reject:
					rejects--
				default:
					hops -= e.legs
				}
				if hops+rejects < 1 {
					t.Errorf("no way after %+v", e)
				}
			}
			want := f.prefix + " via " + f.hop1 + " dev n1 proto 73 metric 20" + f.pref
			if got := shown(t, f.prefix); got != want {
				t.Errorf("kernel has\n %s\nwant\n %s", got, want)
			}
		})
	}
}

// seenRoute is a notification about a route.
type seenRoute struct {
	kind, flags uint16
	prefix      netip.Prefix
	legs        int
	reject      bool
}

// watchRoutes notes what the kernel tells of routes from now on.
func watchRoutes(t testing.TB) func() []seenRoute {
	t.Helper()
	m, err := openMonitor(0xffffffff)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.close() })
	return func() (seen []seenRoute) {
		var r kernelRoute
		for {
			b, err := m.receive()
			if errors.Is(err, unix.EAGAIN) {
				return seen
			}
			if err != nil {
				t.Fatal(err)
			}
			for len(b) > 0 {
				var msg message
				if msg, b, err = nextMessage(b); err != nil {
					t.Fatal(err)
				}
				if msg.kind != unix.RTM_NEWROUTE && msg.kind != unix.RTM_DELROUTE {
					continue
				}
				if ok, err := r.parse(msg.body); err != nil || !ok {
					t.Fatal(ok, err)
				}
				seen = append(seen, seenRoute{msg.kind, msg.flags, r.prefix, len(r.legs), r.reject() != 0})
			}
		}
	}
}

// A link goes down and comes back, in each of the ways that can happen: ECMP heals, and a route without another way
// goes, and both come back.
func TestLinkDown(t *testing.T) {
	for _, f := range families {
		for _, how := range []struct{ name, down, up string }{
			{"carrier", "link set n2-far down", "link set n2-far up"},
			{"admin", "link set n2 down", "link set n2 up"},
		} {
			t.Run(f.name+" "+how.name, func(t *testing.T) {
				inNetns(t)
				fabric(t)
				if f.name == "IPv6" {
					sysctl(t, "net/ipv6/conf/n2/keep_addr_on_down", "1")
				}
				w, _ := run(t, Options{})
				w.Settled()
				lone := netip.MustParsePrefix(f.prefix).Addr().Next().String()
				lone = netip.PrefixFrom(netip.MustParseAddr(lone), netip.MustParseAddr(lone).BitLen()).String()
				w.apply(via(f.prefix, f.hop1, f.hop2), via(lone, f.hop2))
				waitState(t, w, f.prefix, route.Installed)
				waitState(t, w, lone, route.Installed)
				both := shown(t, f.prefix)

				ip(t, how.down)
				waitShown(t, f.prefix, f.prefix+" via "+f.hop1+" dev n1 proto 73 metric 20"+f.pref)
				waitState(t, w, lone, route.Unresolved)
				waitShown(t, lone, "")
				if n := w.Count(); n != 1 {
					t.Errorf("Count = %d, want 1", n)
				}

				ip(t, how.up)
				waitShown(t, f.prefix, both)
				waitState(t, w, lone, route.Installed)
				if shown(t, lone) == "" {
					t.Error("the lone route did not come back")
				}
			})
		}
	}
}

// A link goes down and comes back before the writer looks: the kernel has removed the routes by it meanwhile, and for
// IPv4 has not said so.
func TestLinkBlinks(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			sysctl(t, "net/ipv6/conf/n2/keep_addr_on_down", "1")
			w := open(t, Options{})
			w.Settled()
			w.apply(via(f.prefix, f.hop2))
			w.turn(t.Context())
			want := shown(t, f.prefix)
			ip(t, "link set n2 down")
			ip(t, "link set n2 up")
			waitFor(t, "the connected routes", func() bool {
				return strings.Contains(ip(t, "-6 route show dev n2"), "2001:db8:2::/64 proto kernel") && strings.Contains(ip(t, "route show dev n2"), "10.0.2.0/24")
			})
			if got := shown(t, f.prefix); got != "" || want == "" {
				t.Fatalf("the kernel kept %q of %q", got, want)
			}
			w.turn(t.Context())
			waitFor(t, "the route to come back", func() bool { w.turn(t.Context()); return shown(t, f.prefix) == want })
		})
	}
}

// All links of an ECMP route go down and come back before the writer looks. No link was its only one, and yet the
// kernel has removed it; no comparison is needed to know.
func TestLinksBlinkTogether(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			for _, n := range []string{"n1", "n2"} {
				sysctl(t, "net/ipv6/conf/"+n+"/keep_addr_on_down", "1")
			}
			sysctl(t, "net/ipv6/route/skip_notify_on_dev_down", "1")
			w := open(t, Options{})
			w.core.resync.at = time.Now().Add(time.Hour)
			w.core.resync.last = w.core.resync.at // none before that
			w.Settled()
			w.apply(via(f.prefix, f.hop1, f.hop2))
			w.turn(t.Context())
			want := hopsShown(t, f.prefix)
			ip(t, "link set n1 down")
			ip(t, "link set n2 down")
			ip(t, "link set n1 up")
			ip(t, "link set n2 up")
			waitFor(t, "the connected routes", func() bool {
				six, four := ip(t, "-6 route show proto kernel"), ip(t, "route show proto kernel")
				return strings.Contains(six, "2001:db8:1::/64") && strings.Contains(six, "2001:db8:2::/64") &&
					strings.Contains(four, "10.0.1.0/24") && strings.Contains(four, "10.0.2.0/24")
			})
			if got := shown(t, f.prefix); got != "" || want == "" {
				t.Fatalf("the kernel kept %q of %q", got, want)
			}
			waitFor(t, "the route to come back", func() bool { w.turn(t.Context()); return hopsShown(t, f.prefix) == want })
			if w.core.resync.running {
				t.Error("it took a comparison")
			}
		})
	}
}

func sysctl(t testing.TB, name, value string) {
	t.Helper()
	path := "/proc/sys/" + name // of the namespace of the thread that opens it
	f, err := unix.Open(path, unix.O_WRONLY, 0)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	defer unix.Close(f)
	if _, err := unix.Write(f, []byte(value)); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// The last IPv4 address of an interface goes, and the kernel removes every IPv4 route by it without a word.
func TestLastAddressGone(t *testing.T) {
	inNetns(t)
	fabric(t)
	w, _ := run(t, Options{})
	w.Settled()
	w.apply(via("10.9.0.0/24", "10.0.1.9"), via("10.9.1.0/24", "10.0.1.9", "10.0.2.9"))
	waitState(t, w, "10.9.0.0/24", route.Installed)
	waitState(t, w, "10.9.1.0/24", route.Installed)
	ip(t, "addr del 10.0.1.1/24 dev n1")
	waitState(t, w, "10.9.0.0/24", route.Unresolved)
	waitShown(t, "10.9.1.0/24", "10.9.1.0/24 via 10.0.2.9 dev n2 proto 73 metric 20")
	ip(t, "addr add 10.0.1.1/24 dev n1")
	waitShown(t, "10.9.0.0/24", "10.9.0.0/24 via 10.0.1.9 dev n1 proto 73 metric 20")
	waitState(t, w, "10.9.1.0/24", route.Installed)
}

// What others take away of ours is put back.
func TestRemovedByOthers(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			w, _ := run(t, Options{})
			w.Settled()
			w.apply(via(f.prefix, f.hop1, f.hop2))
			waitState(t, w, f.prefix, route.Installed)
			want := hopsShown(t, f.prefix)
			ip(t, f.flag+" route del "+f.prefix+" metric 20")
			waitFor(t, "the route to come back", func() bool { return hopsShown(t, f.prefix) == want })
			ip(t, f.flag+" route flush proto 73")
			waitFor(t, "the route to come back", func() bool { return hopsShown(t, f.prefix) == want })
			waitShown(t, "192.0.0.8/32", "blackhole 192.0.0.8 proto 73 metric 20")
			if f.name == "IPv6" {
				ip(t, "-6 route del "+f.prefix+" via "+f.hop1+" dev n1 metric 20")
				waitFor(t, "the route to come back", func() bool { return hopsShown(t, f.prefix) == want })
			}
			waitFor(t, "count", func() bool { return w.Count() == 1 })
		})
	}
}

// A next hop is found through routes of others as they come and go.
func TestRecursiveNextHop(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			far := map[string]string{"IPv4": "172.31.0.1", "IPv6": "2001:db8:f::1"}[f.name]
			net := map[string]string{"IPv4": "172.31.0.0/16", "IPv6": "2001:db8:f::/48"}[f.name]
			w, _ := run(t, Options{})
			w.Settled()
			w.apply(via(f.prefix, far))
			status := waitState(t, w, f.prefix, route.Unresolved)
			if !strings.Contains(status.Reason, far) {
				t.Errorf("reason does not name the next hop: %s", status.Reason)
			}
			expect := func(hop, dev string) {
				t.Helper()
				waitShown(t, f.prefix, f.prefix+" via "+hop+" dev "+dev+" proto 73 metric 20"+f.pref)
			}
			ip(t, f.flag+" route add default via "+f.hop1)
			expect(f.hop1, "n1")
			ip(t, f.flag+" route add "+net+" via "+f.hop2)
			expect(f.hop2, "n2")
			ip(t, f.flag+" route add "+net+" via "+f.hop3+" metric 5")
			if f.name == "IPv4" { // metric 0 is better than 5; in IPv6 no metric is 1024
				expect(f.hop2, "n2")
			} else {
				expect(f.hop3, "n3")
			}
			ip(t, f.flag+" route flush root "+net)
			expect(f.hop1, "n1")
			ip(t, f.flag+" route add blackhole "+net)
			waitState(t, w, f.prefix, route.Unresolved)
			waitShown(t, f.prefix, "")
		})
	}
}

// What the kernel refuses is told with its errno in words, and stops nothing else.
func TestRefusedRoute(t *testing.T) {
	inNetns(t)
	fabric(t)
	w, _ := run(t, Options{})
	changes := []route.Change{via("10.9.0.0/24", "10.0.1.255")} // the broadcast address is no gateway
	for i := range 200 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 10, byte(i), 0}), 24)
		changes = append(changes, via(p.String(), "10.0.1.9"))
	}
	w.Apply(changes)
	status := waitState(t, w, "10.9.0.0/24", route.Failed)
	if !strings.HasPrefix(status.Reason, "kernel refused: ") || !strings.Contains(status.Reason, "(EINVAL)") {
		t.Errorf("reason: %s", status.Reason)
	}
	waitFor(t, "the others", func() bool { return w.Count() == 200 })
	ip(t, "addr del 10.0.1.1/24 dev n1")
	ip(t, "addr add 10.0.1.1/22 dev n1") // now it is an ordinary address
	waitState(t, w, "10.9.0.0/24", route.Installed)
}

// Flush takes all of ours away, the sentinel too, and nothing else; with Run and after it.
func TestFlush(t *testing.T) {
	for _, running := range []bool{true, false} {
		inNetns(t)
		fabric(t)
		ip(t, "route add 10.9.9.0/24 via 10.0.1.9 proto static metric 20")
		w, stop := run(t, Options{})
		w.apply(via("10.9.0.0/24", "10.0.1.9"), via("2001:db8:9::/64", "2001:db8:1::9", "2001:db8:2::9"), via("10.9.9.0/24", "10.0.2.9"))
		waitFor(t, "routes", func() bool { return w.Count() == 2 })
		if !running {
			stop()
		}
		if err := w.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		if got := ip(t, "route show proto 73") + ip(t, "-6 route show proto 73"); got != "" || w.Count() != 0 {
			t.Errorf("left: %s (Count %d)", got, w.Count())
		}
		waitShown(t, "10.9.9.0/24", "10.9.9.0/24 via 10.0.1.9 dev n1 proto static metric 20")
		stop()
	}
}

// In a table of its own the writer touches no other, and still finds next hops in the main one.
func TestOwnTable(t *testing.T) {
	inNetns(t)
	fabric(t)
	ip(t, "route add 10.9.0.0/24 via 10.0.2.9 proto 73 metric 20")
	w, stop := run(t, Options{Table: 1000})
	w.Settled()
	w.apply(via("10.9.0.0/24", "10.0.1.9"), via("2001:db8:9::/64", "2001:db8:1::9"))
	waitState(t, w, "10.9.0.0/24", route.Installed)
	waitState(t, w, "2001:db8:9::/64", route.Installed)
	lines := strings.Fields(ip(t, "route show table 1000 10.9.0.0/24"))
	if !slices.Contains(lines, "10.0.1.9") {
		t.Errorf("table 1000 has %v", lines)
	}
	waitShown(t, "10.9.0.0/24", "10.9.0.0/24 via 10.0.2.9 dev n2 proto 73 metric 20")
	stop()
	again, _ := run(t, Options{Table: 1000})
	if !again.Sentinel() || again.Count() != 2 {
		t.Errorf("after a restart: sentinel %v, %d routes", again.Sentinel(), again.Count())
	}
}
