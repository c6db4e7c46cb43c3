package fib

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/route"
)

// Links, carriers and addresses come and go while routes of all kinds change. When all are back, the kernel has what
// is desired, hop by hop and weight by weight.
func TestLinksUnderRoutes(t *testing.T) {
	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	for _, tc := range []struct {
		name  string
		every time.Duration
		plain int
	}{
		{"compared now and then", resyncEvery, plainGateways},
		{"compared all the time", time.Microsecond, plainGateways},
		{"by objects, compared now and then", resyncEvery, 0},
		{"by objects, compared all the time", time.Microsecond, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			soakLinks(t, rand.New(rand.NewPCG(seed, 2)), rounds, tc.every, tc.plain)
		})
	}
}

func soakLinks(t *testing.T, rand *rand.Rand, rounds int, every time.Duration, plain int) {
	inNetns(t)
	fabric(t)
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	for _, n := range []string{"n1", "n2", "n3"} {
		sysctl(t, "net/ipv6/conf/"+n+"/keep_addr_on_down", "1")
	}
	w, _ := runComparing(t, every, plain)
	w.Settled()
	desired := make(map[netip.Prefix]string)
	for range rounds {
		for range 60 {
			if rand.IntN(4) == 0 {
				shake(t, rand)
				continue
			}
			p := soakPrefix(rand.IntN(12))
			change, words := anyRoute(rand, p)
			w.apply(change)
			if desired[p] = words; words == "" {
				delete(desired, p)
			}
		}
		calm(t)
		var last string
		for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if last = unlike(t, h, w, desired); last == "" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(last)
			}
		}
	}
}

// anyRoute makes one up, and tells it in words: "" is none.
func anyRoute(rand *rand.Rand, p netip.Prefix) (route.Change, string) {
	if rand.IntN(6) == 0 {
		return blackhole(p.String()), "blackhole"
	}
	var words []string
	for i := range 3 {
		if rand.IntN(2) == 0 {
			words = append(words, fmt.Sprintf("%s*%d", soakHop(p.Addr().Is6(), i), 1+rand.IntN(2)))
		}
	}
	switch len(words) {
	case 0:
		return none(p.String()), ""
	case 1:
		words[0] = words[0][:strings.Index(words[0], "*")] + "*1" // a weight alone is none
	default:
		if !slices.ContainsFunc(words, func(hop string) bool { return strings.HasSuffix(hop, "*1") }) {
			for i := range words { // the smallest numbers in this ratio
				words[i] = strings.Replace(words[i], "*2", "*1", 1)
			}
		}
	}
	return via(p.String(), words...), strings.Join(words, " ")
}

// shake does something to a link, or to the nexthop objects.
func shake(t *testing.T, rand *rand.Rand) {
	i := 1 + rand.IntN(3)
	ip(t, []string{
		fmt.Sprintf("link set n%d down", i), fmt.Sprintf("link set n%d up", i),
		fmt.Sprintf("link set n%d-far down", i), fmt.Sprintf("link set n%d-far up", i),
		fmt.Sprintf("-4 addr flush dev n%d", i), fmt.Sprintf("addr replace 10.0.%d.1/24 dev n%d", i, i),
		"nexthop flush",
	}[rand.IntN(7)])
}

// calm brings all links up, with their addresses.
func calm(t *testing.T) {
	for i := 1; i <= 3; i++ {
		ip(t, fmt.Sprintf("link set n%d-far up", i))
		ip(t, fmt.Sprintf("link set n%d up", i))
		ip(t, fmt.Sprintf("addr replace 10.0.%d.1/24 dev n%d", i, i))
	}
}

// unlike tells the first difference between the kernel, by another parser than ours, and what is desired.
func unlike(t *testing.T, h *netlink.Handle, w *Writer, desired map[netip.Prefix]string) string {
	found := make(map[netip.Prefix][]string)
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := h.RouteListFiltered(family, &netlink.Route{Table: 254, Protocol: 73}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			t.Fatal(err)
		}
		for _, r := range routes {
			addr, _ := netip.AddrFromSlice(r.Dst.IP)
			bits, _ := r.Dst.Mask.Size()
			p := netip.PrefixFrom(addr.Unmap(), bits)
			found[p] = append(found[p], wordsOf(r)...)
		}
	}
	delete(found, sentinelPrefix)
	for i := range 12 {
		p := soakPrefix(i)
		slices.Sort(found[p])
		status := w.Status(p)
		if got := strings.Join(found[p], " "); got != desired[p] || desired[p] != "" && status.State != route.Installed {
			return fmt.Sprintf("%s: kernel has %q, want %q (%v: %s)", p, got, desired[p], status.State, status.Reason)
		}
	}
	if w.Count() != len(desired) {
		return fmt.Sprintf("Count = %d, want %d", w.Count(), len(desired))
	}
	return ""
}

func wordsOf(r netlink.Route) (words []string) {
	if r.Type == unix.RTN_BLACKHOLE {
		return []string{"blackhole"}
	}
	hops := r.MultiPath
	if len(hops) == 0 {
		hops = []*netlink.NexthopInfo{{Gw: r.Gw}}
	}
	for _, hop := range hops {
		gw, _ := netip.AddrFromSlice(hop.Gw)
		words = append(words, fmt.Sprintf("%s*%d", gw.Unmap(), hop.Hops+1))
	}
	return words
}
