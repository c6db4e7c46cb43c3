package fib

import (
	"net/netip"
	"testing"
)

// TestLook: what the kernel has is told as it is, whatever the writer believes, and who goes before ours.
func TestLook(t *testing.T) {
	inNetns(t)
	fabric(t)
	w, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	for _, line := range []string{
		"route add 10.1.0.0/26 via 10.0.1.2 proto 73 metric 20", // hidden by a route of the same prefix
		"route add 10.1.0.0/26 via 10.0.2.2 proto static metric 5",
		"route add 10.1.0.64/26 proto 73 metric 20 nexthop via 10.0.1.2 nexthop via 10.0.2.2 weight 3", // a part of it is another's
		"route add 10.1.0.80/32 via 10.0.3.2 proto static",
		"route add 10.1.0.130/32 dev n3 proto static",          // a Pod's, as the plugins write it
		"route add blackhole 10.1.0.128/26 proto 73 metric 20", // alone
		"route add 10.1.0.192/26 via 10.0.1.2 proto 73 metric 20",
		"route add 10.1.0.192/26 via 10.0.2.2 proto static metric 500", // goes after ours
		"-6 route add fd00:1::/64 via 2001:db8:1::2 proto 73 metric 20",
		"route add 10.1.1.0/24 via 10.0.1.2 proto static metric 20", // not ours
	} {
		ip(t, line)
	}
	look, err := w.Look()
	if err != nil || look.Partial {
		t.Fatal(err, look.Partial)
	}
	for _, c := range []struct{ prefix, hops, hidden string }{
		{"10.1.0.0/26", "via 10.0.1.2 dev n1", "10.1.0.0/26 via 10.0.2.2 dev n2 proto 4 metric 5"},
		{"10.1.0.64/26", "via 10.0.1.2 dev n1, via 10.0.2.2 dev n2 weight 3", "10.1.0.80/32 via 10.0.3.2 dev n3 proto 4 metric 0"},
		{"10.1.0.128/26", "blackhole", ""},
		{"10.1.0.192/26", "via 10.0.1.2 dev n1", ""},
		{"fd00:1::/64", "via 2001:db8:1::2 dev n1", ""},
	} {
		prefix := netip.MustParsePrefix(c.prefix)
		seen, ok := look.Ours[prefix]
		text := ""
		if seen.Blackhole {
			text = "blackhole"
		}
		for i, hop := range seen.Hops {
			if i > 0 {
				text += ", "
			}
			text += hop.String()
		}
		if !ok || text != c.hops || look.HiddenBy(prefix) != c.hidden {
			t.Errorf("%s: %q, hidden by %q", prefix, text, look.HiddenBy(prefix))
		}
	}
	if len(look.Ours) != 5 {
		t.Errorf("%d routes are ours: %v", len(look.Ours), look.Ours)
	}
	onLink := map[netip.Prefix]bool{}
	for _, prefix := range look.OnLink {
		onLink[prefix] = true
	}
	if !onLink[netip.MustParsePrefix("10.0.1.0/24")] || !onLink[netip.MustParsePrefix("2001:db8:1::/64")] {
		t.Errorf("on-link: %v", look.OnLink)
	}
}
