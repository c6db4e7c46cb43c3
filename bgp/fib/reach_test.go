package fib

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/clearway/clearway/bgp/route"
)

// host is a node with eth0 and eth1 up, eth2 without carrier, and a tunnel.
func host(in *interner, routes ...string) *reach {
	r := newReach()
	for i, name := range []string{"lo", "eth0", "eth1", "eth2", "tun0"} {
		r.setLink(kernelLink{index: i + 1, name: name, up: true, running: name != "eth2", loopback: name == "lo"})
	}
	for _, a := range []struct {
		ifindex int
		addr    string
	}{
		{1, "127.0.0.1/8"}, {2, "10.0.0.1/24"}, {3, "10.0.1.1/24"}, {4, "10.0.2.1/24"},
		{2, "2001:db8:0::1/64"}, {4, "2001:db8:2::1/64"}, {2, "fe80::1/64"}, {3, "fe80::2/64"},
	} {
		p := netip.MustParsePrefix(a.addr)
		r.setAddr(kernelAddr{a.ifindex, p.Addr(), p.Masked()})
		r.addTest(in, p.Masked().String()+" dev "+string(rune('0'+a.ifindex)))
	}
	for _, text := range routes {
		r.addTest(in, text)
	}
	r.settle()
	return r
}

// addTest takes a route in a few words: PREFIX [KIND] [via GATEWAY] [dev INDEX] [weight N] ... [metric N] [encap].
func (r *reach) addTest(in *interner, text string) {
	words := strings.Fields(text)
	o := otherRoute{kind: unix.RTN_UNICAST, table: unix.RT_TABLE_MAIN, protocol: unix.RTPROT_STATIC}
	var legs []leg
	l := leg{weight: 1}
	for i := 1; i < len(words); i++ {
		value := func() string { i++; return words[i] }
		number := func() int { return netip.MustParsePrefix("0.0.0.0/" + value()).Bits() }
		switch words[i] {
		case "via":
			l.gateway = netip.MustParseAddr(value())
		case "dev":
			l.ifindex = number()
			legs = append(legs, l)
			l = leg{weight: 1}
		case "weight":
			legs[len(legs)-1].weight = number()
		case "metric":
			o.metric = uint32(number())
		case "encap":
			o.encap = true
		case "blackhole":
			o.kind = unix.RTN_BLACKHOLE
		case "unreachable":
			o.kind = unix.RTN_UNREACHABLE
		}
	}
	o.to = in.intern(0, legs)
	if o.kind != unix.RTN_UNICAST {
		o.to = in.intern(o.kind, nil)
	}
	r.addRoute(netip.MustParsePrefix(words[0]), o, false)
}

func TestResolve(t *testing.T) {
	for _, tc := range []struct {
		name   string
		routes []string
		next   string
		want   string // legs, or part of the reason
	}{
		{"on-link", nil, "10.0.0.9", "via 10.0.0.9 dev 2"},
		{"on-link, IPv6", nil, "2001:db8::9", "via 2001:db8::9 dev 2"},
		{"link-local with its interface", nil, "fe80::9%eth1", "via fe80::9 dev 3"},
		{"link-local with its interface's number", nil, "fe80::9%3", "via fe80::9 dev 3"},
		{"link-local without an interface", nil, "fe80::9", "names no interface"},
		{"link-local on an interface that is not", nil, "fe80::9%eth9", "no interface eth9"},
		{"link-local on one that is down", nil, "fe80::9%eth2", "eth2 is down"},
		{"own link-local", nil, "fe80::2%eth1", "address of this node"},
		{"another interface's own link-local", nil, "fe80::1%eth1", "via fe80::1 dev 3"},
		{"own address", nil, "10.0.0.1", "address of this node"},
		{"no route", nil, "192.0.2.1", "no route to it but our own"},
		{"unspecified", nil, "0.0.0.0", "not an address of a router"},
		{"multicast", nil, "224.0.0.1", "not an address of a router"},
		{"loopback", nil, "127.0.0.2", "not an address of a router"},
		{"through a gateway", []string{"192.0.2.0/24 via 10.0.0.254 dev 2"}, "192.0.2.1", "via 10.0.0.254 dev 2"},
		{"through the default route", []string{"0.0.0.0/0 via 10.0.0.254 dev 2"}, "192.0.2.1", "via 10.0.0.254 dev 2"},
		{"through the default route, IPv6", []string{"::/0 via fe80::9 dev 3"}, "2001:db8:ffff::1", "via fe80::9 dev 3"},
		{"longest prefix", []string{"0.0.0.0/0 via 10.0.0.254 dev 2", "192.0.2.0/24 via 10.0.1.254 dev 3"}, "192.0.2.1", "via 10.0.1.254 dev 3"},
		{"lowest metric", []string{"192.0.2.0/24 via 10.0.0.254 dev 2 metric 9", "192.0.2.0/24 via 10.0.1.254 dev 3 metric 5"}, "192.0.2.1", "via 10.0.1.254 dev 3"},
		{"ECMP", []string{"192.0.2.0/24 via 10.0.0.254 dev 2 weight 2 via 10.0.1.254 dev 3"}, "192.0.2.1", "via 10.0.0.254 dev 2 weight 2, via 10.0.1.254 dev 3"},
		{"ECMP with a dead leg", []string{"192.0.2.0/24 via 10.0.0.254 dev 2 via 10.0.2.254 dev 4"}, "192.0.2.1", "via 10.0.0.254 dev 2"},
		{"through a dead leg, and a shorter prefix", []string{"192.0.2.0/24 via 10.0.2.254 dev 4", "0.0.0.0/0 via 10.0.0.254 dev 2"}, "192.0.2.1", "via 10.0.0.254 dev 2"},
		{"a worse metric where the better is dead", []string{"192.0.2.0/24 via 10.0.2.254 dev 4", "192.0.2.0/24 via 10.0.0.254 dev 2 metric 9"}, "192.0.2.1", "via 10.0.0.254 dev 2"},
		{"on-link at an interface that is down, not through the default", []string{"0.0.0.0/0 via 10.0.0.254 dev 2"}, "10.0.2.9", "eth2, where it is on-link, is down"},
		{"the same, IPv6", []string{"::/0 via fe80::9 dev 3"}, "2001:db8:2::9", "eth2, where it is on-link, is down"},
		{"on-link at one that is down, and a longer prefix", []string{"10.0.2.8/29 via 10.0.0.254 dev 2"}, "10.0.2.9", "via 10.0.0.254 dev 2"},
		{"on-link at one that is down, and at one that is up", []string{"10.0.2.0/24 dev 3"}, "10.0.2.9", "via 10.0.2.9 dev 3"},
		{"blackhole", []string{"192.0.2.0/24 blackhole", "0.0.0.0/0 via 10.0.0.254 dev 2"}, "192.0.2.1", "is a blackhole one"},
		{"unreachable", []string{"192.0.2.0/24 unreachable"}, "192.0.2.1", "is a unreachable one"},
		{"encapsulated", []string{"192.0.2.0/24 via 10.0.0.254 dev 2 encap"}, "192.0.2.1", "encapsulates"},
		{"IPv4 through an IPv6 gateway", []string{"192.0.2.0/24 via fe80::9 dev 3"}, "192.0.2.1", "via fe80::9 dev 3"},
		{"by a tunnel", []string{"192.0.2.0/24 dev 5"}, "192.0.2.1", "via 192.0.2.1 dev 5"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := newInterner()
			got := host(in, tc.routes...).resolve(netip.MustParseAddr(tc.next))
			if len(got.legs) > 0 {
				if text := in.intern(0, got.legs).String(); text != tc.want {
					t.Errorf("resolves to %s, want %s", text, tc.want)
				}
				return
			}
			if !strings.Contains(got.reason, tc.want) || !strings.Contains(got.reason, strings.Split(tc.next, "%")[0]) {
				t.Errorf("reason %q, want the next hop and %q", got.reason, tc.want)
			}
		})
	}
}

// Against a twin that looks at every route for each next hop.
func TestResolveLikeItsTwin(t *testing.T) {
	type modelled struct {
		prefix netip.Prefix
		metric uint32
		leg    leg
	}
	rapid.Check(t, func(t *rapid.T) {
		in := newInterner()
		r := newReach()
		for i := 1; i <= 4; i++ {
			r.setLink(kernelLink{index: i, name: string(rune('a' + i)), up: true, running: rapid.Bool().Draw(t, "running"), loopback: i == 1})
		}
		var all []modelled
		for range rapid.IntRange(0, 12).Draw(t, "routes") {
			addr := netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 3).Draw(t, "b")), byte(rapid.IntRange(0, 3).Draw(t, "c")), 0})
			m := modelled{
				prefix: netip.PrefixFrom(addr, rapid.SampledFrom([]int{0, 8, 16, 23, 24}).Draw(t, "bits")).Masked(),
				metric: uint32(rapid.IntRange(0, 3).Draw(t, "metric")),
				leg:    leg{ifindex: rapid.IntRange(1, 4).Draw(t, "dev"), weight: 1},
			}
			same := func(o modelled) bool { return o.prefix == m.prefix && o.metric == m.metric }
			if slices.ContainsFunc(all, same) {
				continue
			}
			all = append(all, m)
			r.addRoute(m.prefix, otherRoute{metric: m.metric, table: 254, kind: unix.RTN_UNICAST, to: in.intern(0, []leg{m.leg})}, false)
		}
		r.settle()
		next := netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 3).Draw(t, "nb")), byte(rapid.IntRange(0, 3).Draw(t, "nc")), 9})
		var best *modelled
		for i, m := range all {
			usable := r.links[m.leg.ifindex].running && m.leg.ifindex != 1
			if usable && m.prefix.Contains(next) && (best == nil || m.prefix.Bits() > best.prefix.Bits() ||
				m.prefix.Bits() == best.prefix.Bits() && m.metric < best.metric) {
				best = &all[i]
			}
		}
		got := r.resolve(next)
		switch {
		case best == nil && len(got.legs) > 0:
			t.Fatalf("%s resolves to %v, and no route leads there", next, got.legs)
		case best != nil && (len(got.legs) != 1 || got.legs[0].ifindex != best.leg.ifindex || got.legs[0].gateway != next):
			t.Fatalf("%s resolves to %v (%s), want dev %d", next, got.legs, got.reason, best.leg.ifindex)
		}
	})
}

func TestCompose(t *testing.T) {
	in := newInterner()
	r := host(in,
		"192.0.2.0/24 via 10.0.0.254 dev 2 via 10.0.1.254 dev 3",
		"198.51.100.0/24 via 10.0.0.254 dev 2 weight 3 via 10.0.1.254 dev 3")
	for _, tc := range []struct {
		name   string
		change route.Change
		want   string
	}{
		{"one", via("10.9.0.0/24", "10.0.0.9"), "via 10.0.0.9 dev 2"},
		{"one with a weight", via("10.9.0.0/24", "10.0.0.9*7"), "via 10.0.0.9 dev 2"},
		{"two", via("10.9.0.0/24", "10.0.0.9", "10.0.1.9"), "via 10.0.0.9 dev 2, via 10.0.1.9 dev 3"},
		{"weights in smallest numbers", via("10.9.0.0/24", "10.0.0.9*200", "10.0.1.9*100"), "via 10.0.0.9 dev 2 weight 2, via 10.0.1.9 dev 3"},
		{"those that resolve", via("10.9.0.0/24", "10.0.0.9*4", "203.0.113.1"), "via 10.0.0.9 dev 2"},
		{"none resolves", via("10.9.0.0/24", "203.0.113.1", "203.0.113.2"), "!next hop 203.0.113.1: no route"},
		{"one by two", via("10.9.0.0/24", "192.0.2.1"), "via 10.0.0.254 dev 2, via 10.0.1.254 dev 3"},
		{"one by two weighted", via("10.9.0.0/24", "198.51.100.1"), "via 10.0.0.254 dev 2 weight 3, via 10.0.1.254 dev 3"},
		{"half by two, half by one", via("10.9.0.0/24", "192.0.2.1", "10.0.1.9"), "via 10.0.0.254 dev 2, via 10.0.1.9 dev 3 weight 2, via 10.0.1.254 dev 3"},
		{"two that meet", via("10.9.0.0/24", "10.0.0.254", "10.0.1.9", "192.0.2.1"), "via 10.0.0.254 dev 2 weight 3, via 10.0.1.9 dev 3 weight 2, via 10.0.1.254 dev 3"},
		{"blackhole", blackhole("10.9.0.0/24"), "blackhole"},
		{"no hop", via("10.9.0.0/24"), "!no next hop"},
		{"IPv6 by IPv4", via("2001:db8:9::/64", "10.0.0.9"), "!an IPv6 prefix cannot have an IPv4 next hop"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reject, legs, reason := compose(tc.change.Route, func(hop route.NextHop) resolution { return r.resolve(hop.Addr) })
			if why, bad := strings.CutPrefix(tc.want, "!"); bad {
				if len(legs) > 0 || !strings.Contains(reason, why) {
					t.Errorf("legs %v, reason %q, want none and %q", legs, reason, why)
				}
				return
			}
			if got := in.intern(reject, legs).String(); got != tc.want {
				t.Errorf("leads to %s, want %s", got, tc.want)
			}
		})
	}
}

// Weights keep their ratio within what the kernel can express.
func TestWeigh(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var shares []share
		for i := range rapid.IntRange(1, 200).Draw(t, "legs") {
			part := rapid.IntRange(1, 1<<30).Draw(t, "part")
			shares = append(shares, share{leg{gateway: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), ifindex: 1}, part})
		}
		kept := shares[:min(len(shares), maxLegs)]
		legs := weigh(slices.Clone(shares))
		if len(legs) != len(kept) {
			t.Fatalf("%d legs of %d", len(legs), len(shares))
		}
		if len(legs) == 1 && legs[0].weight != 1 {
			t.Fatalf("a lone leg of weight %d", legs[0].weight)
		}
		top := slices.MaxFunc(kept, func(a, b share) int { return a.part - b.part }).part
		for i, l := range legs {
			// Within one unit of the finest weight, 1/256 of the largest.
			ideal, got := float64(kept[i].part)/float64(top), float64(l.weight)/float64(maxOf(legs))
			if l.weight < 1 || l.weight > maxWeight || math.Abs(ideal-got) > 1.0/maxWeight {
				t.Fatalf("leg %d: weight %d of %d, want the ratio %v", i, l.weight, maxOf(legs), ideal)
			}
		}
	})
}

func maxOf(legs []leg) int {
	return slices.MaxFunc(legs, func(a, b leg) int { return a.weight - b.weight }).weight
}
