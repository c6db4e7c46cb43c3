package fib

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

var us = who{protocol: 73, metric: 20, table: 254}

// What is written reads back as it was meant.
func TestMessageReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := newInterner()
		v6 := rapid.Bool().Draw(t, "v6")
		w := who{uint8(rapid.IntRange(5, 255).Draw(t, "protocol")), rapid.Uint32Min(1).Draw(t, "metric"), rapid.Uint32Min(1).Draw(t, "table")}
		prefix := genPrefix(v6).Draw(t, "prefix")
		var legs []leg
		for i := range rapid.IntRange(1, maxLegs).Draw(t, "legs") {
			l := leg{ifindex: i + 1, weight: rapid.IntRange(1, maxWeight).Draw(t, "weight"), onlink: rapid.Bool().Draw(t, "onlink")}
			l.gateway = genPrefix(v6 || rapid.Bool().Draw(t, "gateway v6")).Draw(t, "gateway").Addr()
			legs = append(legs, l)
		}
		if len(legs) == 1 {
			legs[0].weight = 1
		}
		var buf buffer
		buf.newRoute(7, unix.NLM_F_CREATE|unix.NLM_F_EXCL, prefix, w, 0, legs)
		buf.wantAck()
		m, rest, err := nextMessage(buf.b)
		if err != nil || len(rest) != 0 {
			t.Fatal(err, len(rest))
		}
		if m.kind != unix.RTM_NEWROUTE || m.seq != 7 || m.flags != unix.NLM_F_REQUEST|unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK {
			t.Fatalf("header %+v", m)
		}
		var r kernelRoute
		if ok, err := r.parse(m.body); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if r.prefix != prefix || !r.ours(w) || r.kind != unix.RTN_UNICAST {
			t.Fatalf("read %+v", r)
		}
		if got, want := r.group(in), in.intern(0, legs); got != want {
			t.Fatalf("read %v, want %v", got, want)
		}
	})
}

func genPrefix(v6 bool) *rapid.Generator[netip.Prefix] {
	return rapid.Custom(func(t *rapid.T) netip.Prefix {
		size := 4
		if v6 {
			size = 16
		}
		b := rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "bytes")
		addr, _ := netip.AddrFromSlice(b)
		return netip.PrefixFrom(addr, rapid.IntRange(0, 8*size).Draw(t, "bits")).Masked()
	})
}

// A removal names protocol, metric, table, and in IPv6 the hop: without them the kernel would take another's.
func TestDeletesNameOurs(t *testing.T) {
	var buf buffer
	buf.deleteRoute(1, netip.MustParsePrefix("10.9.0.0/24"), us)
	buf.deleteLeg(2, netip.MustParsePrefix("2001:db8::/64"), us, leg{gateway: netip.MustParseAddr("2001:db8:1::9"), ifindex: 3, weight: 1})
	rest := buf.b
	for len(rest) > 0 {
		m, next, err := nextMessage(rest)
		if err != nil {
			t.Fatal(err)
		}
		var r kernelRoute
		if ok, err := r.parse(m.body); !ok || err != nil || m.kind != unix.RTM_DELROUTE || !r.ours(us) {
			t.Errorf("message %d: kind %d, %+v, %v", m.seq, m.kind, r, err)
		}
		if m.seq == 2 && (len(r.legs) != 1 || r.legs[0].ifindex != 3 || !r.legs[0].gateway.IsValid()) {
			t.Errorf("IPv6 removal does not name its hop: %v", r.legs)
		}
		rest = next
	}
}

// Encoding a batch allocates nothing.
func TestEncodingAllocatesNothing(t *testing.T) {
	var buf buffer
	prefix, prefix6 := netip.MustParsePrefix("10.9.0.0/24"), netip.MustParsePrefix("2001:db8::/64")
	legs := []leg{{netip.MustParseAddr("10.0.0.9"), 2, 1, false}, {netip.MustParseAddr("2001:db8::9"), 3, 1, false}}
	encode := func() {
		buf.reset()
		for i := range uint32(batchOps) {
			buf.newRoute(i, unix.NLM_F_REPLACE, prefix, us, 0, legs)
			buf.deleteLeg(i, prefix6, us, legs[1])
			buf.deleteRoute(i, prefix, us)
		}
	}
	encode()
	if n := testing.AllocsPerRun(10, encode); n != 0 {
		t.Errorf("%v allocations", n)
	}
	in := newInterner()
	in.intern(0, legs)
	if n := testing.AllocsPerRun(10, func() { in.intern(0, legs) }); n != 0 {
		t.Errorf("interning: %v allocations", n)
	}
}

func TestInternIsOnePointerPerGroup(t *testing.T) {
	in := newInterner()
	a, b := leg{netip.MustParseAddr("10.0.0.9"), 2, 1, false}, leg{netip.MustParseAddr("10.0.1.9"), 3, 2, false}
	if in.intern(0, []leg{a, b}) != in.intern(0, []leg{b, a}) {
		t.Error("the order of legs makes a difference")
	}
	other := b
	other.weight = 3
	onlink := b
	onlink.onlink = true
	groups := []*group{in.intern(0, []leg{a, b}), in.intern(0, []leg{a, other}), in.intern(0, []leg{a, onlink}), in.intern(0, []leg{a}), in.intern(6, nil), in.intern(6, []leg{a})}
	slices.SortFunc(groups, func(a, b *group) int { return strings.Compare(fmt.Sprintf("%p", a), fmt.Sprintf("%p", b)) })
	if len(slices.Compact(groups)) != 6 {
		t.Error("distinct groups share a pointer")
	}
	if in.intern(0, nil) != nil {
		t.Error("nothing is not nil")
	}
	in.beginSweep()
	in.mark(in.intern(6, nil))
	in.endSweep()
	if len(in.groups) != 1 {
		t.Errorf("%d groups after the sweep, want the marked one", len(in.groups))
	}
}

func TestErrorInWords(t *testing.T) {
	for _, tc := range []struct {
		err  kernelError
		want string
	}{
		{kernelError{errno: unix.ENETUNREACH}, "kernel refused: network is unreachable (ENETUNREACH)"},
		{kernelError{unix.EINVAL, "Nexthop has invalid gateway"}, "kernel refused: invalid argument (EINVAL): Nexthop has invalid gateway"},
	} {
		if got := tc.err.Error(); got != tc.want {
			t.Errorf("%s, want %s", got, tc.want)
		}
	}
}

// Whatever bytes come, the parsers end, and don't panic.
func FuzzParse(f *testing.F) {
	var buf buffer
	legs := []leg{{netip.MustParseAddr("10.0.0.9"), 2, 1, false}, {netip.MustParseAddr("2001:db8::9"), 3, 1, true}}
	buf.newRoute(1, 0, netip.MustParsePrefix("10.9.0.0/24"), us, 0, legs)
	f.Add(slices.Clone(buf.b))
	buf.reset()
	buf.newRoute(1, 0, netip.MustParsePrefix("2001:db8::/64"), us, unix.RTN_BLACKHOLE, nil)
	buf.deleteLeg(2, netip.MustParsePrefix("2001:db8::/64"), us, legs[1])
	f.Add(slices.Clone(buf.b))
	buf.reset()
	buf.dumpLinks(1)
	buf.dumpAddrs(2)
	f.Add(slices.Clone(buf.b))
	buf.reset()
	buf.begin(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS|unix.NLM_F_CAPPED, 3)
	buf.b = append(buf.b, make([]byte, 20)...)
	buf.attr(unix.NLMSGERR_ATTR_MSG, 4)
	buf.b = append(buf.b, "bad\x00"...)
	buf.end()
	f.Add(slices.Clone(buf.b))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := newInterner()
		var r kernelRoute
		for len(b) >= headerLen {
			m, rest, err := nextMessage(b)
			if err != nil {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			if ok, err := r.parse(m.body); ok && err == nil {
				if !r.prefix.IsValid() || r.prefix != r.prefix.Masked() {
					t.Fatalf("prefix %v", r.prefix)
				}
				r.group(in)
			}
			if l, ok, err := parseLink(m.body); ok && err == nil && l.running && !l.up {
				t.Fatal("running and not up")
			}
			if a, ok, err := parseAddr(m.body); ok && err == nil && (!a.addr.IsValid() || !a.prefix.IsValid()) {
				t.Fatalf("address %v", a)
			}
			parseError(m)
			b = rest
		}
	})
}
