package fib

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// modelKernel is a slow, obvious Linux: all that stands at one destination and metric, in order.
type modelKernel struct {
	v6     bool
	routes []modelRoute
}

// modelRoute is an IPv4 route, or in IPv6 a hop or a blackhole.
type modelRoute struct {
	ours   bool
	reject uint8
	legs   []leg // IPv6: one, or none
}

func (k *modelKernel) ways() int { return len(k.routes) }

func (k *modelKernel) foreign() (theirs []modelRoute) {
	for _, r := range k.routes {
		if !r.ours {
			theirs = append(theirs, r)
		}
	}
	return theirs
}

// have is what a dump tells of ours.
func (k *modelKernel) have(in *interner) (g *group) {
	for _, r := range k.routes {
		if r.ours {
			g = in.with(g, r.reject, r.legs)
		}
	}
	return g
}

// split cuts a request in what the kernel keeps: IPv4 the whole, IPv6 hops.
func (k *modelKernel) split(reject uint8, legs []leg) (parts []modelRoute) {
	if !k.v6 {
		return []modelRoute{{true, reject, legs}}
	}
	if reject != 0 {
		parts = append(parts, modelRoute{true, reject, nil})
	}
	for i := range legs {
		parts = append(parts, modelRoute{true, 0, legs[i : i+1]})
	}
	return parts
}

func (k *modelKernel) do(t *rapid.T, st step, least func()) {
	switch st.kind {
	case stepCreate:
		if len(k.routes) > 0 {
			t.Fatalf("create where there is %v: the kernel refuses", k.routes)
		}
		k.routes = k.split(st.reject, st.legs)
	case stepReplace:
		if k.v6 {
			t.Fatal("IPv6 is never replaced")
		}
		if len(k.routes) == 0 {
			t.Fatal("replace where there is nothing")
		}
		k.routes[0] = k.split(st.reject, st.legs)[0] // whosever it is
	case stepAppend:
		if st.reject != 0 && len(st.legs) > 0 {
			t.Fatalf("a request is for a blackhole or for hops, not both: %+v", st)
		}
		for _, part := range k.split(st.reject, st.legs) {
			if slices.ContainsFunc(k.routes, part.same) {
				t.Fatalf("append of %v to %v: the kernel has it", part, k.routes)
			}
			k.routes = append(k.routes, part)
		}
	case stepDrop:
		for _, part := range k.split(st.reject, st.legs) {
			k.routes = slices.DeleteFunc(k.routes, func(r modelRoute) bool { return r.ours && r.same(part) })
			least()
		}
	case stepDelete:
		if at := slices.IndexFunc(k.routes, func(r modelRoute) bool { return r.ours }); at >= 0 {
			k.routes = slices.Delete(k.routes, at, at+1)
		}
	}
}

func (r modelRoute) same(o modelRoute) bool {
	return r.reject == o.reject && len(r.legs) == len(o.legs) && (len(r.legs) == 0 || r.legs[0].sameHop(o.legs[0]))
}

func genGroup(v6 bool) *rapid.Generator[[]leg] {
	return rapid.Custom(func(t *rapid.T) []leg {
		var legs []leg
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(1, 5), 0, 4, rapid.ID[int]).Draw(t, "hops") {
			l := leg{gateway: netip.AddrFrom4([4]byte{10, 0, byte(i), 9}), ifindex: i, weight: rapid.IntRange(1, 3).Draw(t, "weight")}
			if v6 {
				l.gateway = netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::9", i))
			}
			legs = append(legs, l)
		}
		if len(legs) == 1 {
			legs[0].weight = 1
		}
		return legs
	})
}

// The planner against the model kernel: whatever is there and whatever is desired, its steps end, they end with what
// is desired, others' routes are as they were, and where there was a way and is to be one, there always is one.
func TestPlanReachesTheDesired(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := newInterner()
		v6 := rapid.Bool().Draw(t, "v6")
		prefix := netip.MustParsePrefix("10.9.0.0/24")
		if v6 {
			prefix = netip.MustParsePrefix("2001:db8:9::/64")
		}
		draw := func(name string) *group {
			legs := genGroup(v6).Draw(t, name)
			if len(legs) == 0 && rapid.Bool().Draw(t, name+" blackhole") {
				return in.intern(unix.RTN_BLACKHOLE, nil)
			}
			return in.intern(0, legs)
		}
		k := &modelKernel{v6: v6}
		if had := draw("had"); had != nil {
			k.routes = k.split(had.reject, had.legs)
		}
		if rapid.Bool().Draw(t, "foreign") {
			hop := leg{gateway: prefix.Addr(), ifindex: 9, weight: 1}
			k.routes = slices.Insert(k.routes, rapid.IntRange(0, len(k.routes)).Draw(t, "at"), modelRoute{false, 0, []leg{hop}})
		}
		target := draw("target")
		theirs := k.foreign()
		wayBefore, foreign := k.ways() > 0, len(theirs) > 0
		check := func() {
			if !slices.EqualFunc(theirs, k.foreign(), modelRoute.same) {
				t.Fatalf("others' routes were %v and are %v", theirs, k.foreign())
			}
			if wayBefore && target != nil && k.ways() == 0 {
				t.Fatal("a gap")
			}
		}
		steps := 0
		for ; ; steps++ {
			st := next(prefix, target, k.have(in), foreign)
			if st.kind == stepNone {
				break
			}
			if steps > maxSteps {
				t.Fatalf("does not end: %v", st)
			}
			k.do(t, st, check)
			check()
		}
		want := target
		if foreign && k.have(in) != target && !lone(k.have(in), target) {
			want = nil // ours stepped aside
		}
		if got := k.have(in); got != want && !(v6 && lone(got, want)) {
			t.Fatalf("ended with %v, desired %v", got, want)
		}
	})
}

// lone tells of two groups with the same one hop: its weight means nothing.
func lone(a, b *group) bool {
	return a != nil && b != nil && len(a.legs) == 1 && len(b.legs) == 1 && a.reject == b.reject && a.legs[0].sameHop(b.legs[0])
}

func TestRetryAfterGrowsToABound(t *testing.T) {
	if got := retryAfter(1); got != firstRetry {
		t.Errorf("first retry after %v", got)
	}
	last := retryAfter(1)
	for tries := 2; tries < 100; tries++ {
		if got := retryAfter(tries); got < last || got > lastRetry {
			t.Fatalf("retry %d after %v, the one before after %v", tries, got, last)
		} else {
			last = got
		}
	}
	if last != lastRetry {
		t.Errorf("never comes to %v, but to %v", lastRetry, last)
	}
}
