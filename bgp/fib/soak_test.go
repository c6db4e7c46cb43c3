package fib

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/route"
)

// neighbour is another routing daemon on the same host, with the bad taste to use our metric, and a memory of the
// hops it has in the kernel.
type neighbour struct {
	t    testing.TB
	h    *netlink.Handle
	rand *rand.Rand
	hops map[netip.Prefix]map[netip.Addr]bool
}

// each interface's next hops, in both families
func soakHop(v6 bool, i int) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::9", i+1))
	}
	return netip.AddrFrom4([4]byte{10, 0, byte(i + 1), 9})
}

func (n *neighbour) route(p netip.Prefix, hop netip.Addr) *netlink.Route {
	return &netlink.Route{
		Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Gw:  hop.AsSlice(), Protocol: unix.RTPROT_STATIC, Priority: 20,
	}
}

// act does something to the route of p, and remembers what the kernel made of it.
func (n *neighbour) act(w *Writer, p netip.Prefix) {
	hop := soakHop(p.Addr().Is6(), n.rand.IntN(3))
	r := n.route(p, hop)
	switch kind := n.rand.IntN(5); {
	case kind == 4 && p.Addr().Is6():
		n.appendTwo(p, hop, soakHop(true, n.rand.IntN(3)))
	case kind == 0:
		if err := n.h.RouteAdd(r); err == nil {
			n.hops[p] = map[netip.Addr]bool{hop: true}
		} else if !errors.Is(err, unix.EEXIST) {
			n.t.Fatalf("add %v: %v", r, err)
		}
	case kind == 1 && p.Addr().Is6():
		err := n.h.RouteAppend(r)
		if err == nil && n.hops[p] == nil {
			n.hops[p] = make(map[netip.Addr]bool)
		}
		if err == nil {
			n.hops[p][hop] = true
		} else if !errors.Is(err, unix.EEXIST) {
			n.t.Fatalf("append %v: %v", r, err)
		}
	case kind == 1:
		// IPv4 has one writer at a time here: replacing at the very moment that we do is a matter of luck.
		n.quiet(w, p)
		if err := n.h.RouteReplace(r); err != nil {
			n.t.Fatalf("replace %v: %v", r, err)
		}
		n.hops[p] = map[netip.Addr]bool{hop: true}
		n.quiet(w, p)
	default:
		for hop := range n.hops[p] {
			if err := n.h.RouteDel(n.route(p, hop)); err != nil {
				n.t.Fatalf("its own hop %s of %s is not there to be deleted: %v", hop, p, err)
			}
		}
		delete(n.hops, p)
	}
}

// appendTwo adds two hops in one message.
func (n *neighbour) appendTwo(p netip.Prefix, one, two netip.Addr) {
	if one == two {
		return
	}
	r := n.route(p, one)
	r.Gw, r.MultiPath = nil, []*netlink.NexthopInfo{{Gw: one.AsSlice()}, {Gw: two.AsSlice()}}
	err := n.h.RouteAppend(r)
	if errors.Is(err, unix.EEXIST) {
		return // one of them is there, so that the kernel has taken neither
	}
	if err != nil {
		n.t.Fatalf("append %v: %v", r, err)
	}
	if n.hops[p] == nil {
		n.hops[p] = make(map[netip.Addr]bool)
	}
	n.hops[p][one], n.hops[p][two] = true, true
}

// quiet waits until the writer is through with p.
func (n *neighbour) quiet(w *Writer, p netip.Prefix) {
	waitFor(n.t, p.String()+" to be quiet", func() bool {
		w.mu.RLock()
		_, known := w.entries[p]
		w.mu.RUnlock()
		status := w.Status(p)
		if !known {
			return !w.inbox.has(p)
		}
		return status.State != route.Pending && (n.hops[p] == nil || status.State != route.Installed)
	})
	time.Sleep(2 * time.Millisecond)
}

// kernelHops are the hops of each prefix at metric 20: ours where the kernel lets them be told, else all.
func (n *neighbour) kernelHops(protocol int) map[netip.Prefix][]netip.Addr {
	found := make(map[netip.Prefix][]netip.Addr)
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := n.h.RouteListFiltered(family, &netlink.Route{Table: 254}, netlink.RT_FILTER_TABLE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			n.t.Fatal(err)
		}
		for _, r := range routes {
			if r.Dst == nil || r.Priority != 20 || protocol != 0 && int(r.Protocol) != protocol || r.Type != unix.RTN_UNICAST {
				continue
			}
			addr, _ := netip.AddrFromSlice(r.Dst.IP)
			bits, _ := r.Dst.Mask.Size()
			p := netip.PrefixFrom(addr.Unmap(), bits)
			hops := r.MultiPath
			if len(hops) == 0 {
				hops = []*netlink.NexthopInfo{{Gw: r.Gw}}
			}
			for _, hop := range hops {
				gw, _ := netip.AddrFromSlice(hop.Gw)
				found[p] = append(found[p], gw.Unmap())
			}
		}
	}
	for _, hops := range found {
		slices.SortFunc(hops, netip.Addr.Compare)
	}
	return found
}

// Two daemons at the same prefixes and the same metric: whatever they do, the other's routes are as it made them, and
// ours are as desired wherever it has none. So it is when the writer compares with the kernel now and then, and when
// it does nothing else.
func TestForeignRoutesUnderAnotherDaemon(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for _, tc := range []struct {
		name  string
		every time.Duration
		seeds int
		plain int
	}{
		{"compared now and then", resyncEvery, 1, plainGateways},
		{"compared all the time", time.Microsecond, 2, plainGateways},
		{"by objects, compared now and then", resyncEvery, 1, 0},
		{"by objects, compared all the time", time.Microsecond, 2, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for i := range tc.seeds {
				seed := uint64(time.Now().UnixNano()) + uint64(i)
				t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { soak(t, seed, rounds, tc.every, tc.plain) })
			}
		})
	}
}

func soak(t *testing.T, seed uint64, rounds int, every time.Duration, plain int) {
	inNetns(t)
	fabric(t)
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	n := &neighbour{t, h, rand.New(rand.NewPCG(seed, 1)), make(map[netip.Prefix]map[netip.Addr]bool)}
	w, stop := runComparing(t, every, plain)
	w.Settled()
	desired := make(map[netip.Prefix][]netip.Addr)
	for round := range rounds {
		for range 80 {
			p := soakPrefix(n.rand.IntN(12))
			if n.rand.IntN(3) == 0 {
				n.act(w, p)
				continue
			}
			change := soakChange(n.rand, p)
			w.apply(change)
			delete(desired, p)
			if change.Route != nil {
				for _, hop := range change.Route.NextHops {
					desired[p] = append(desired[p], hop.Addr)
				}
			}
		}
		if round%4 == 3 {
			stop()
			w, stop = runComparing(t, every, plain)
			for p, hops := range desired {
				w.apply(soakRoute(p, hops))
			}
			w.Settled()
		}
		n.agree(w, desired)
	}
}

func soakPrefix(i int) netip.Prefix {
	if i%2 == 0 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i), 0}), 24)
	}
	return netip.MustParsePrefix(fmt.Sprintf("2001:db8:9:%d::/64", i))
}

func soakChange(rand *rand.Rand, p netip.Prefix) route.Change {
	var hops []netip.Addr
	for i := range 3 {
		if rand.IntN(2) == 0 {
			hops = append(hops, soakHop(p.Addr().Is6(), i))
		}
	}
	if len(hops) == 0 {
		return route.Change{Prefix: p}
	}
	return soakRoute(p, hops)
}

func soakRoute(p netip.Prefix, hops []netip.Addr) route.Change {
	k := &route.Kernel{Prefix: p}
	for _, hop := range hops {
		k.NextHops = append(k.NextHops, route.NextHop{Addr: hop})
	}
	return route.Change{Prefix: p, Route: k}
}

// agree waits until the kernel has what both want, and the statuses say so.
func (n *neighbour) agree(w *Writer, desired map[netip.Prefix][]netip.Addr) {
	n.t.Helper()
	var last string
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if last = n.differs(w, desired); last == "" {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("%s\n%s", last, ip(n.t, "-6 route show metric 20")+ip(n.t, "-4 route show metric 20"))
		}
	}
}

func (n *neighbour) differs(w *Writer, desired map[netip.Prefix][]netip.Addr) string {
	kernel := n.kernelHops(0)
	for i := range 12 {
		p := soakPrefix(i)
		theirs := slices.SortedFunc(maps.Keys(n.hops[p]), netip.Addr.Compare)
		want := desired[p]
		state := w.Status(p).State
		if len(theirs) > 0 {
			want = theirs
			// After a restart a hop of another's inside our IPv6 route can't be told from ours, and needn't be.
			merged := state == route.Installed && slices.Equal(kernel[p], desired[p])
			if desired[p] != nil && state != route.Conflict && !merged {
				return fmt.Sprintf("%s is %v, and another's hops %v are there", p, state, theirs)
			}
			for _, hop := range theirs { // ours may stand beside, unchanged from before
				if !slices.Contains(kernel[p], hop) {
					n.t.Fatalf("%s: another's hop %s is gone; kernel has %v", p, hop, kernel[p])
				}
			}
			if desired[p] != nil {
				continue
			}
		} else if desired[p] != nil && state != route.Installed {
			return fmt.Sprintf("%s is %v (%s), desired %v, kernel has %v", p, state, w.Status(p).Reason, desired[p], kernel[p])
		}
		if !slices.Equal(kernel[p], want) {
			return fmt.Sprintf("%s: kernel has %v, want %v (state %v)", p, kernel[p], want, state)
		}
	}
	return ""
}
