package fib

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/route"
)

// A comparison of many routes stops for what is more urgent, and what is written meanwhile is not undone by what the
// dump says of it.
func TestComparisonGivesWay(t *testing.T) {
	inNetns(t)
	fabric(t)
	w := open(t, Options{})
	w.Settled()
	many := blocks(5*breatheEvery, "10.0.1.9")
	w.Apply(many)
	w.turn(t.Context())
	d := <-w.core.resync.done // the first turn has begun it
	w.core.resync.begin()
	d.snap, d.err = takeSnapshot(w.core.dumps, w.who)
	if d.err != nil {
		t.Fatal(d.err)
	}
	changed, gone := via(many[0].Prefix.String(), "10.0.2.9"), none(many[1].Prefix.String())
	added := via("10.9.0.0/24", "10.0.1.9")
	stops := 0
	whole := w.applySnapshot(d.snap, func() bool {
		if stops++; stops == 1 {
			w.apply(changed, gone, added)
			w.turn(t.Context())
			expectState(t, w, changed, route.Installed)
			expectState(t, w, added, route.Installed)
		}
		return true
	})
	w.core.resync.end()
	if !whole || stops < 4 {
		t.Errorf("whole %v after %d stops, want at least 4", whole, stops)
	}
	if !w.core.adds.empty() || !w.core.removals.empty() {
		t.Error("the comparison has put something in line, though all is as desired")
	}
	if want := len(many); w.Count() != want {
		t.Errorf("Count = %d, want %d", w.Count(), want)
	}
	want := changed.Prefix.String() + " via 10.0.2.9 dev n2 proto 73 metric 20"
	if got := shown(t, changed.Prefix.String()); got != want {
		t.Errorf("kernel has\n %s\nwant\n %s", got, want)
	}
}

// A comparison that is given up has done no harm, and the next does the rest.
func TestComparisonGivenUp(t *testing.T) {
	inNetns(t)
	fabric(t)
	w := open(t, Options{})
	w.Settled()
	many := blocks(5*breatheEvery, "10.0.1.9")
	w.Apply(many)
	w.turn(t.Context())
	d := <-w.core.resync.done
	defer deaf(w)()
	ip(t, "route flush proto 73")
	if d.snap, d.err = takeSnapshot(w.core.dumps, w.who); d.err != nil {
		t.Fatal(d.err)
	}
	if w.applySnapshot(d.snap, func() bool { return false }) {
		t.Error("it was given up, and is told to be whole")
	}
	w.core.resync.end()
	w.compare(t)
	if n := len(pictureOf(t, w.core.dumps, w.who)); n < len(many) {
		t.Errorf("%d routes are in the kernel, want %d of ours and some", n, len(many))
	}
	for _, c := range many {
		expectState(t, w, c, route.Installed)
	}
}

// Whose the hops of one IPv6 route are, that the kernel has merged.
func TestHopsApart(t *testing.T) {
	a, b, c := leg{gateway: netip.MustParseAddr("2001:db8::a"), ifindex: 2, weight: 1}, leg{gateway: netip.MustParseAddr("2001:db8::b"), ifindex: 2, weight: 1},
		leg{gateway: netip.MustParseAddr("2001:db8::c"), ifindex: 3, weight: 1}
	in := newInterner()
	g := func(legs ...leg) *group { return in.intern(0, legs) }
	hole := in.intern(unix.RTN_BLACKHOLE, nil)
	p := netip.MustParsePrefix("2001:db8:9::/64")
	for _, tc := range []struct {
		name              string
		have              *group // what was ours
		had               *group // what was another's
		ours, theirs      *group // as the dump tells it
		wantOurs, wantHad *group
	}{
		{"all ours", g(a, b), nil, g(a, b), nil, g(a, b), nil},
		{"another's, known as such", g(a), g(b), g(a, b), nil, g(a), g(b)},
		{"another's is gone", g(a), g(b, c), g(a, b), nil, g(a), g(b)},
		{"another's, unknown: in doubt ours", g(a), nil, g(a, b), nil, g(a, b), nil},
		{"thought another's and written by us", g(a, b), g(b), g(a, b), nil, g(a, b), nil},
		{"all thought another's, under our name", nil, g(a, b), g(a, b), nil, g(a, b), nil},
		{"ours are hidden under another's name", g(b), g(a), nil, g(a, b), g(b), g(a)},
		{"only ours are left under another's name", g(b), g(a), nil, g(b), g(b), nil},
		{"another's alone", nil, nil, nil, g(a), nil, g(a)},
		{"ours are gone", g(b), nil, nil, g(a), nil, g(a)},
		{"our blackhole beside another's hops", hole, g(a), hole, g(a), hole, g(a)},
		{"our hops beside another's blackhole", g(a), hole, g(a), hole, g(a), hole},
	} {
		w := &Writer{who: who{protocol: 73, metric: 20, table: 254}, core: core{groups: in, reach: newReach()}}
		other := func(to *group) []otherRoute {
			if to == nil {
				return nil
			}
			return []otherRoute{{metric: 20, table: 254, kind: unix.RTN_UNICAST, to: to}}
		}
		cmp := comparison{w: w}
		gotOurs, gotOthers := cmp.apart(tc.have, tc.ours, other(tc.had), other(tc.theirs))
		var gotHad *group
		if i := placeIn(gotOthers, w.who); i >= 0 {
			gotHad = gotOthers[i].to
		}
		if gotOurs != tc.wantOurs || gotHad != tc.wantHad {
			t.Errorf("%s: of %s ours are %v and others' %v, want %v and %v", tc.name, p, gotOurs, gotHad, tc.wantOurs, tc.wantHad)
		}
	}
}

// A group that is asked for during a sweep is in use, though the sweep has passed its user by.
func TestSweepKeepsWhatIsAskedFor(t *testing.T) {
	in := newInterner()
	l := []leg{{gateway: netip.MustParseAddr("10.0.1.9"), ifindex: 2, weight: 1}}
	g := in.intern(0, l)
	in.beginSweep()
	in.intern(0, l)
	in.endSweep()
	if in.intern(0, l) != g {
		t.Error("it was forgotten")
	}
	in.beginSweep()
	in.endSweep()
	if in.size() != 0 {
		t.Error("what nobody asked for was kept")
	}
}

// Somebody adds a second IPv4 route under our name. One is left, as desired.
func TestDoubled(t *testing.T) {
	for _, how := range []string{"append", "prepend"} {
		inNetns(t)
		fabric(t)
		w := open(t, Options{})
		w.Settled()
		ours := via("10.9.0.0/24", "10.0.1.9")
		w.apply(ours)
		w.turn(t.Context())
		ip(t, "route "+how+" 10.9.0.0/24 via 10.0.2.9 proto 73 metric 20")
		w.turn(t.Context())
		for range 2 { // one removes the first of the two, one sees which is left
			w.compare(t)
		}
		expectState(t, w, ours, route.Installed)
		if got, want := shown(t, "10.9.0.0/24"), "10.9.0.0/24 via 10.0.1.9 dev n1 proto 73 metric 20"; got != want {
			t.Errorf("%s: kernel has\n %s\nwant\n %s", how, got, want)
		}
	}
}
