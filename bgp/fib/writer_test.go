package fib

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/clearway/clearway/bgp/route"
)

// Each way of leading somewhere, in both families, as ip(8) shows it.
func TestRouteKinds(t *testing.T) {
	inNetns(t)
	fabric(t)
	for _, tc := range []struct {
		name   string
		change route.Change
		want   string
	}{
		{"IPv4", via("10.9.0.0/24", "10.0.1.9"), "10.9.0.0/24 via 10.0.1.9 dev n1 proto 73 metric 20"},
		{"IPv6", via("2001:db8:9::/64", "2001:db8:1::9"), "2001:db8:9::/64 via 2001:db8:1::9 dev n1 proto 73 metric 20 pref medium"},
		{"IPv4 blackhole", blackhole("10.9.1.0/24"), "blackhole 10.9.1.0/24 proto 73 metric 20"},
		{"IPv6 blackhole", blackhole("2001:db8:a::/64"), "blackhole 2001:db8:a::/64 dev lo proto 73 metric 20 pref medium"},
		{
			"IPv4 ECMP", via("10.9.2.0/24", "10.0.1.9", "10.0.2.9"),
			"10.9.2.0/24 proto 73 metric 20 nexthop via 10.0.1.9 dev n1 weight 1 nexthop via 10.0.2.9 dev n2 weight 1",
		},
		{
			"IPv4 weights", via("10.9.3.0/24", "10.0.1.9*4", "10.0.2.9*2"),
			"10.9.3.0/24 proto 73 metric 20 nexthop via 10.0.1.9 dev n1 weight 2 nexthop via 10.0.2.9 dev n2 weight 1",
		},
		{
			"IPv6 ECMP", via("2001:db8:b::/64", "2001:db8:1::9", "2001:db8:2::9*3"),
			"2001:db8:b::/64 proto 73 metric 20 pref medium nexthop via 2001:db8:1::9 dev n1 weight 1 nexthop via 2001:db8:2::9 dev n2 weight 3",
		},
		{
			"IPv4 through IPv6 (RFC 8950)", via("10.9.4.0/24", "fe80::9%n2"),
			"10.9.4.0/24 via inet6 fe80::9 dev n2 proto 73 metric 20",
		},
		{
			"IPv4 ECMP through both families", via("10.9.5.0/24", "10.0.1.9", "2001:db8:2::9"),
			"10.9.5.0/24 proto 73 metric 20 nexthop via 10.0.1.9 dev n1 weight 1 nexthop via inet6 2001:db8:2::9 dev n2 weight 1",
		},
		{"IPv6 link-local", via("2001:db8:c::/64", "fe80::9%n3"), "2001:db8:c::/64 via fe80::9 dev n3 proto 73 metric 20 pref medium"},
		{"default", via("0.0.0.0/0", "10.0.1.9"), "default via 10.0.1.9 dev n1 proto 73 metric 20"},
		{"host", via("10.9.6.1/32", "10.0.1.9"), "10.9.6.1 via 10.0.1.9 dev n1 proto 73 metric 20"},
	} {
		w, stop := run(t, Options{})
		w.apply(tc.change)
		prefix := tc.change.Prefix.String()
		waitState(t, w, prefix, route.Installed)
		if got := shown(t, prefix); got != tc.want {
			t.Errorf("%s: kernel has\n %s\nwant\n %s", tc.name, got, tc.want)
		}
		if w.Count() != 1 {
			t.Errorf("%s: Count = %d, want 1", tc.name, w.Count())
		}
		w.apply(none(prefix))
		waitShown(t, prefix, "")
		waitFor(t, "count", func() bool { return w.Count() == 0 })
		stop()
	}
}

// A hop has its weight whichever way it comes and whatever it was before, and a comparison finds nothing to mend.
func TestWeights(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			w := open(t, Options{})
			w.Settled()
			for _, step := range []struct {
				hops []string
				want string // weights in order of hop
			}{
				{[]string{f.hop1}, ""},
				{[]string{f.hop1, f.hop2 + "*3"}, "1 3"},
				{[]string{f.hop1 + "*2", f.hop2 + "*3"}, "2 3"},
				{[]string{f.hop1}, ""}, // alone it has no weight to be seen, and the kernel keeps it
				{[]string{f.hop1, f.hop3}, "1 1"},
				{[]string{f.hop1, f.hop2 + "*3", f.hop3 + "*2"}, "1 3 2"},
			} {
				change := via(f.prefix, step.hops...)
				w.apply(change)
				w.turn(t.Context())
				expectState(t, w, change, route.Installed)
				for range 2 {
					got := hopsShown(t, f.prefix)
					var weights []string
					for _, hop := range strings.Split(got, " nexthop ")[1:] {
						weights = append(weights, strings.Fields(hop)[5])
					}
					if strings.Join(weights, " ") != step.want {
						t.Fatalf("%v: kernel has %s, want weights %s", step.hops, got, step.want)
					}
					writes := written(w)
					w.compare(t)
					if written(w) != writes {
						t.Errorf("%v: the comparison has led to writes", step.hops)
					}
				}
			}
		})
	}
}

// written is how many requests the kernel has carried out.
func written(w *Writer) (n float64) {
	for kind := stepCreate; kind <= stepDelete; kind++ {
		n += testutil.ToFloat64(w.metrics.writes.WithLabelValues(kind.String()))
	}
	return n
}
