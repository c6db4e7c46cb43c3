package fib

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/clearway/clearway/bgp/route"
)

// deaf keeps a writer from reading what the kernel tells until hear is called, and then it hears all of it.
func deaf(w *Writer) (hear func()) {
	m := w.core.monitor
	w.core.monitor = nil
	return func() { w.core.monitor = m }
}

// compare makes one whole comparison with the kernel, and does what comes of it.
func (w *Writer) compare(t testing.TB) {
	t.Helper()
	if w.core.resync.running { // it began before what the test is about
		w.endResync(t.Context(), <-w.core.resync.done)
	}
	w.core.resync.at = time.Time{}
	w.turn(t.Context())
	if !w.core.resync.running {
		t.Fatal("no comparison has begun")
	}
	w.endResync(t.Context(), <-w.core.resync.done)
	w.turn(t.Context())
}

// expectState is for a writer that a test drives turn by turn.
func expectState(t testing.TB, w *Writer, change route.Change, want route.InstallState) {
	t.Helper()
	if got := w.Status(change.Prefix); got.State != want {
		t.Fatalf("%s is %v (%s), want %v; kernel has %s", change.Prefix, got.State, got.Reason, want, shown(t, change.Prefix.String()))
	}
}

// Another's route goes and the kernel's word of it is lost: the comparison finds that our place is free.
func TestForeignRoutesGoneUnheard(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			w := open(t, Options{})
			w.Settled()
			foreign := f.flag + " route %s " + f.prefix + " via " + f.hop3 + " dev n3 proto static metric 20"
			ip(t, strings.Replace(foreign, "%s", "add", 1))
			ours := via(f.prefix, f.hop1)
			w.apply(ours)
			w.turn(t.Context())
			expectState(t, w, ours, route.Conflict)
			hear := deaf(w)
			ip(t, strings.Replace(foreign, "%s", "del", 1))
			w.compare(t)
			expectState(t, w, ours, route.Installed)
			hear()
		})
	}
}

// Another's hop is told together with one of ours that we have dropped meanwhile, so that this one seems another's
// too. The comparison finds that it is nobody's, and our place is free.
func TestForeignRoutesHeardLate(t *testing.T) {
	inNetns(t)
	fabric(t)
	f := families[1]
	w := open(t, Options{})
	w.Settled()
	w.apply(via(f.prefix, f.hop1, f.hop2))
	w.turn(t.Context())
	hear := deaf(w)
	ip(t, "-6 route append "+f.prefix+" via "+f.hop3+" dev n3 proto static metric 20")
	w.apply(via(f.prefix, f.hop1))
	w.turn(t.Context())
	hear()
	ours := via(f.prefix, f.hop2)
	w.apply(ours)
	w.turn(t.Context())
	expectState(t, w, ours, route.Conflict)
	ip(t, "-6 route del "+f.prefix+" via "+f.hop3+" dev n3 proto static metric 20")
	w.turn(t.Context())
	w.compare(t)
	expectState(t, w, ours, route.Installed)
}

// Another adds several hops to our IPv6 route in one message, which the kernel tells under our name. The kernel's
// refusal to remove them for us is how we know whose they are, and it is asked once.
func TestForeignRoutesAppendedTogether(t *testing.T) {
	inNetns(t)
	fabric(t)
	f := families[1]
	w := open(t, Options{})
	w.Settled()
	ours := via(f.prefix, f.hop1)
	w.apply(ours)
	w.turn(t.Context())
	theirs := f.prefix + " proto static metric 20 nexthop via " + f.hop2 + " nexthop via " + f.hop3
	ip(t, "-6 route append "+theirs)
	w.turn(t.Context())
	w.compare(t)
	expectState(t, w, ours, route.Conflict)
	for range 3 {
		w.compare(t)
		expectState(t, w, ours, route.Conflict)
		if w.core.resync.reason == "merged" {
			t.Error("the kernel was asked again to remove what is another's")
		}
	}
	for _, hop := range []string{f.hop2, f.hop3} {
		if got := shown(t, f.prefix); !strings.Contains(got, hop) {
			t.Errorf("another's hop %s is gone: %s", hop, got)
		}
	}
	ip(t, "-6 route del "+theirs)
	w.turn(t.Context())
	expectState(t, w, ours, route.Installed)
}

// FRR and others let routes lead to nexthop objects. The kernel doesn't merge such a route with ours, even where both
// have the same gateway: it is theirs whole, and ours stays ours.
func TestForeignRoutesByNexthopObject(t *testing.T) {
	for _, f := range families {
		for _, hop := range []string{f.hop1, f.hop3} {
			t.Run(f.name+" "+hop, func(t *testing.T) {
				inNetns(t)
				fabric(t)
				dev := map[string]string{f.hop1: "n1", f.hop3: "n3"}[hop]
				ip(t, f.flag+" nexthop add id 7 via "+hop+" dev "+dev)
				w := open(t, Options{})
				w.Settled()
				ours := via(f.prefix, f.hop1)
				w.apply(ours)
				w.turn(t.Context())
				ip(t, f.flag+" route append "+f.prefix+" nhid 7 proto static metric 20")
				w.turn(t.Context())
				expectState(t, w, ours, route.Conflict)
				for range 2 {
					w.compare(t)
					expectState(t, w, ours, route.Conflict)
					if w.Count() != 1 {
						t.Errorf("Count = %d, want 1: ours stands beside", w.Count())
					}
				}
				w.apply(none(f.prefix))
				w.turn(t.Context())
				if got := shown(t, f.prefix); strings.Contains(got, "proto 73") || !strings.Contains(got, "nhid 7") {
					t.Errorf("kernel has %s, want the static one alone", got)
				}
			})
		}
	}
}

// The link of one of two merged hops goes down. The other hop keeps the kernel's IPv6 route, and the dead one in it.
func TestLinkOfAMergedHopGoesDown(t *testing.T) {
	f := families[1]
	for _, tc := range []struct {
		link string
		want route.InstallState
		left []string
	}{
		{"n1", route.Unresolved, []string{f.hop3}},       // ours: it is taken out
		{"n3", route.Conflict, []string{f.hop1, f.hop3}}, // another's: it is still there
	} {
		t.Run(tc.link, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			sysctl(t, "net/ipv6/conf/"+tc.link+"/keep_addr_on_down", "1")
			w := open(t, Options{})
			w.core.resync.at = time.Now().Add(time.Hour)
			w.core.resync.last = w.core.resync.at // none before that
			w.Settled()
			ours := via(f.prefix, f.hop1)
			w.apply(ours)
			w.turn(t.Context())
			ip(t, "-6 route append "+f.prefix+" via "+f.hop3+" dev n3 proto static metric 20")
			w.turn(t.Context())
			expectState(t, w, ours, route.Conflict)
			ip(t, "link set "+tc.link+" down")
			w.core.reachAt = w.core.reachAt.Add(-reachGap)
			w.turn(t.Context())
			expectState(t, w, ours, tc.want)
			got := shown(t, f.prefix)
			for _, hop := range []string{f.hop1, f.hop3} {
				if strings.Contains(got, hop) != slices.Contains(tc.left, hop) {
					t.Errorf("kernel has %s, want hops %v", got, tc.left)
				}
			}
		})
	}
}

// Hops of ours from before a restart are hidden in a route that goes by another's name. When the other goes, its name
// goes too, and a comparison is made at once to see what is left, though not every source has spoken yet.
func TestForeignRoutesHidOurs(t *testing.T) {
	inNetns(t)
	fabric(t)
	f := families[1]
	ip(t, "-6 route add "+f.prefix+" via "+f.hop3+" dev n3 proto static metric 20")
	ip(t, "-6 route append "+f.prefix+" via "+f.hop1+" dev n1 proto 73 metric 20")
	w := open(t, Options{})
	ours := via(f.prefix, f.hop1)
	w.apply(ours)
	w.turn(t.Context())
	expectState(t, w, ours, route.Conflict)
	w.endResync(t.Context(), <-w.core.resync.done)
	w.core.resync.reason = ""
	ip(t, "-6 route del "+f.prefix+" via "+f.hop3+" dev n3 proto static metric 20")
	w.turn(t.Context())
	if w.core.resync.reason == "" {
		t.Error("no comparison is wanted")
	}
	w.compare(t)
	expectState(t, w, ours, route.Installed)
}

// More is told than is read in one go, and the last of it is that another took our place: a change of ours waits until
// all is read.
func TestForeignRoutesBehindManyNotifications(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			w := open(t, Options{})
			w.Settled()
			w.apply(via(f.prefix, f.hop1))
			w.turn(t.Context())
			var lines []string
			for range drainLimit + 500 { // each is told twice; a turn reads before and after it takes what was applied
				lines = append(lines, "route add 172.16.0.0/16 via 10.0.2.9", "route del 172.16.0.0/16 via 10.0.2.9")
			}
			ipBatch(t, "-4", lines)
			ip(t, f.flag+" route replace "+f.prefix+" via "+f.hop3+" dev n3 proto static metric 20")
			theirs := shown(t, f.prefix)
			ours := via(f.prefix, f.hop2)
			w.apply(ours)
			w.turn(t.Context())
			if testutil.ToFloat64(w.metrics.overruns) > 0 {
				t.Fatal("the kernel has lost some of it")
			}
			expectState(t, w, ours, route.Conflict)
			if got := shown(t, f.prefix); got != theirs {
				t.Errorf("another's route was\n %s\nand is\n %s", theirs, got)
			}
		})
	}
}

// A hop of ours from before a restart is hidden in a route that goes by another's name, and nobody desires it any more.
// It goes when every source has spoken, or on Flush, and another's hops stay.
func TestForeignRoutesHideWhatIsToGo(t *testing.T) {
	f := families[1]
	for _, tc := range []struct {
		name   string
		change func(w *Writer)
		want   string
		left   []string
	}{
		{"not settled", func(w *Writer) {}, "", []string{f.hop3, f.hop2, f.hop1}},
		{"settled", (*Writer).Settled, "", []string{f.hop3, f.hop2}},
		{"flushed", func(w *Writer) {
			if err := w.Flush(t.Context()); err != nil {
				t.Error(err)
			}
		}, "", []string{f.hop3, f.hop2}},
		{"another desired", func(w *Writer) { w.apply(via(f.prefix, "fe80::7%n1")); w.Settled() }, "Conflict", []string{f.hop3, f.hop2}},
		{"desired", func(w *Writer) { w.apply(via(f.prefix, f.hop1)); w.Settled() }, "Conflict", []string{f.hop3, f.hop2, f.hop1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			ip(t, "-6 route add "+f.prefix+" via "+f.hop3+" dev n3 proto static metric 20")
			ip(t, "-6 route append "+f.prefix+" via "+f.hop1+" dev n1 proto 73 metric 20")
			ip(t, "-6 route append "+f.prefix+" via "+f.hop2+" dev n2 proto static metric 20")
			w := open(t, Options{})
			tc.change(w)
			w.turn(t.Context())
			for range 2 {
				got := shown(t, f.prefix)
				for _, hop := range []string{f.hop1, f.hop2, f.hop3, "fe80::7"} {
					if strings.Contains(got, hop) != slices.Contains(tc.left, hop) {
						t.Errorf("kernel has %s, want hops %v", got, tc.left)
					}
				}
				if tc.name == "flushed" {
					return
				}
				if status := w.Status(via(f.prefix).Prefix); tc.want != "" && status.State != route.Conflict {
					t.Errorf("it is %v (%s), want %s", status.State, status.Reason, tc.want)
				}
				w.compare(t)
			}
		})
	}
}
