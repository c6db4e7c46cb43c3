package fib

import (
	"testing"

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
