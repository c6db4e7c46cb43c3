package fib

import (
	"strings"
	"testing"

	"github.com/clearway/clearway/bgp/route"
)

// families are the same story told in both.
var families = []struct {
	name, flag, prefix, hop1, hop2, hop3 string
	pref                                 string // ip(8) ends IPv6 routes with it
}{
	{"IPv4", "-4", "10.9.0.0/24", "10.0.1.9", "10.0.2.9", "10.0.3.9", ""},
	{"IPv6", "-6", "2001:db8:9::/64", "2001:db8:1::9", "2001:db8:2::9", "2001:db8:3::9", " pref medium"},
}

// A route of another with the same destination and metric is left alone, ours waits, and comes when it goes.
func TestForeignRoutesFirst(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			for _, foreign := range []string{
				f.prefix + " via " + f.hop3 + " dev n3 proto static metric 20",
				"blackhole " + f.prefix + " proto static metric 20",
			} {
				ip(t, f.flag+" route add "+foreign)
				before := shown(t, f.prefix)
				w, stop := run(t, Options{})
				w.apply(via(f.prefix, f.hop1))
				w.Settled()
				status := waitState(t, w, f.prefix, route.Conflict)
				if !strings.Contains(status.Reason, "protocol 4 (static)") || !strings.Contains(status.Reason, "metric 20") {
					t.Errorf("reason does not say whose route it is: %s", status.Reason)
				}
				w.apply(via(f.prefix, f.hop2))
				w.apply(none(f.prefix))
				w.apply(via(f.prefix, f.hop1, f.hop2))
				waitState(t, w, f.prefix, route.Conflict)
				if got := shown(t, f.prefix); got != before {
					t.Errorf("another's route was changed from\n %s\nto\n %s", before, got)
				}
				ip(t, f.flag+" route del "+foreign)
				waitState(t, w, f.prefix, route.Installed)
				w.apply(none(f.prefix))
				waitShown(t, f.prefix, "")
				stop()
			}
		})
	}
}

// Another's route that differs from ours in metric, protocol and table only, or in TOS, is no conflict and stays.
func TestForeignRoutesBeside(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			others := []string{
				f.prefix + " via " + f.hop3 + " dev n3 proto 73 metric 21",
				f.prefix + " via " + f.hop3 + " dev n3 proto static metric 19",
				f.prefix + " via " + f.hop3 + " dev n3 proto 73 metric 20 table 100",
			}
			for _, other := range others {
				ip(t, f.flag+" route add "+other)
			}
			before := ip(t, f.flag+" route show table all proto static") + ip(t, f.flag+" route show table 100") + ip(t, f.flag+" route show metric 21")
			w, stop := run(t, Options{})
			w.Settled()
			w.apply(via(f.prefix, f.hop1, f.hop2))
			waitState(t, w, f.prefix, route.Installed)
			w.apply(via(f.prefix, f.hop2))
			waitState(t, w, f.prefix, route.Installed)
			w.apply(none(f.prefix))
			waitFor(t, "ours to go", func() bool { return w.Count() == 0 })
			stop()
			after := ip(t, f.flag+" route show table all proto static") + ip(t, f.flag+" route show table 100") + ip(t, f.flag+" route show metric 21")
			if after != before {
				t.Errorf("others' routes were\n%s\nand are\n%s", before, after)
			}
		})
	}
}

// Somebody replaces our route by his own: it is his from then on.
func TestForeignRoutesTakeOver(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			w, _ := run(t, Options{})
			w.Settled()
			w.apply(via(f.prefix, f.hop1, f.hop2))
			waitState(t, w, f.prefix, route.Installed)
			ip(t, f.flag+" route replace "+f.prefix+" via "+f.hop3+" dev n3 proto static metric 20")
			waitState(t, w, f.prefix, route.Conflict)
			want := f.prefix + " via " + f.hop3 + " dev n3 proto static metric 20" + f.pref
			w.apply(via(f.prefix, f.hop2))
			waitState(t, w, f.prefix, route.Conflict)
			w.apply(none(f.prefix))
			waitFor(t, "count", func() bool { return w.Count() == 0 })
			if got := shown(t, f.prefix); got != want {
				t.Errorf("kernel has\n %s\nwant\n %s", got, want)
			}
		})
	}
}

// Somebody adds a route of his at our destination and metric (IPv4 keeps both, IPv6 merges the hops): whatever
// happens to ours, his stays as he made it.
func TestForeignRoutesAppended(t *testing.T) {
	for _, f := range families {
		for _, how := range []string{"append", "prepend"} {
			for _, restart := range []bool{false, true} {
				name := f.name + " " + how
				if restart {
					name += " and restart"
				}
				t.Run(name, func(t *testing.T) {
					inNetns(t)
					fabric(t)
					w, stop := run(t, Options{})
					w.Settled()
					w.apply(via(f.prefix, f.hop1, f.hop2))
					waitState(t, w, f.prefix, route.Installed)
					ip(t, f.flag+" route "+how+" "+f.prefix+" via "+f.hop3+" dev n3 proto static metric 20")
					waitState(t, w, f.prefix, route.Conflict)
					if restart {
						stop()
						w, _ = run(t, Options{})
						w.apply(via(f.prefix, f.hop1, f.hop2))
						w.Settled()
					}
					w.apply(via(f.prefix, f.hop1))
					want := f.prefix + " via " + f.hop3 + " dev n3 proto static metric 20" + f.pref
					theirsStays := func() bool { return strings.Contains(shown(t, f.prefix), "via "+f.hop3) }
					waitFor(t, "ours to change", func() bool { return !strings.Contains(shown(t, f.prefix), "via "+f.hop2) })
					if !theirsStays() {
						t.Fatalf("another's hop is gone: %s", shown(t, f.prefix))
					}
					w.apply(none(f.prefix))
					waitFor(t, "ours to go", func() bool { return !strings.Contains(shown(t, f.prefix), "via "+f.hop1) })
					waitShown(t, f.prefix, want)
					ip(t, f.flag+" route del "+f.prefix+" proto static metric 20")
					w.apply(via(f.prefix, f.hop1))
					waitState(t, w, f.prefix, route.Installed)
					waitShown(t, f.prefix, f.prefix+" via "+f.hop1+" dev n1 proto 73 metric 20"+f.pref)
				})
			}
		}
	}
}

// A route for a connected prefix stands beside the connected route.
func TestForeignRoutesConnected(t *testing.T) {
	inNetns(t)
	fabric(t)
	w, _ := run(t, Options{})
	w.Settled()
	w.apply(blackhole("10.0.1.0/24"), blackhole("2001:db8:1::/64"))
	waitState(t, w, "10.0.1.0/24", route.Installed)
	waitState(t, w, "2001:db8:1::/64", route.Installed)
	w.apply(none("10.0.1.0/24"), none("2001:db8:1::/64"))
	waitShown(t, "10.0.1.0/24", "10.0.1.0/24 dev n1 proto kernel scope link src 10.0.1.1")
	waitShown(t, "2001:db8:1::/64", "2001:db8:1::/64 dev n1 proto kernel metric 256 pref medium")
}

// What another did a moment before a batch is known to it.
func TestForeignRoutesAtTheLastMoment(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			w := open(t, Options{})
			w.apply(via(f.prefix, f.hop1))
			w.turn(t.Context())
			w.apply(via(f.prefix, f.hop2))
			w.takeInbox() // the change is in line
			ip(t, f.flag+" route replace "+f.prefix+" via "+f.hop3+" dev n3 proto static metric 20")
			w.writeAll(t.Context())
			want := f.prefix + " via " + f.hop3 + " dev n3 proto static metric 20" + f.pref
			if got := shown(t, f.prefix); got != want {
				t.Errorf("kernel has\n %s\nwant\n %s", got, want)
			}
			waitState(t, w, f.prefix, route.Conflict)
		})
	}
}

// What another did, and the kernel never told, is still not written over.
func TestForeignRoutesUnheard(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			w := open(t, Options{})
			m := w.core.monitor
			w.core.monitor = nil // deaf
			ip(t, f.flag+" route add "+f.prefix+" via "+f.hop3+" dev n3 proto static metric 20")
			before := shown(t, f.prefix)
			w.apply(via(f.prefix, f.hop1, f.hop2))
			w.turn(t.Context())
			waitState(t, w, f.prefix, route.Conflict)
			if got := shown(t, f.prefix); got != before {
				t.Errorf("another's route was\n %s\nand is\n %s", before, got)
			}
			w.core.monitor = m
		})
	}
}
