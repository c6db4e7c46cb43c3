package fib

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/route"
)

// overrun makes the kernel drop notifications to the writer: what is told from now on is lost until it reads again.
func overrun(t testing.TB, w *Writer) {
	t.Helper()
	if err := unix.SetsockoptInt(w.core.monitor.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 2048); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		ip(t, "route add 172.16.0.0/16 via 10.0.2.9")
		ip(t, "route del 172.16.0.0/16 via 10.0.2.9")
	}
}

// The kernel drops notifications: everything is compared, and what was missed is seen.
func TestOverrun(t *testing.T) {
	inNetns(t)
	fabric(t)
	w := open(t, Options{})
	w.Settled()
	stop := start(t, w)
	w.apply(via("10.9.0.0/24", "10.0.1.9"), via("10.9.1.0/24", "172.31.0.1"), via("10.9.2.0/24", "10.0.1.9"))
	waitState(t, w, "10.9.0.0/24", route.Installed)
	waitState(t, w, "10.9.2.0/24", route.Installed)
	waitState(t, w, "10.9.1.0/24", route.Unresolved)
	stop()

	overrun(t, w) // nobody reads
	ip(t, "route add 172.31.0.0/16 via 10.0.2.9")
	ip(t, "route del 10.9.0.0/24 proto 73")
	ip(t, "route replace 10.9.2.0/24 via 10.0.3.9 proto static metric 20")

	stop = start(t, w)
	waitShown(t, "10.9.0.0/24", "10.9.0.0/24 via 10.0.1.9 dev n1 proto 73 metric 20")
	waitShown(t, "10.9.1.0/24", "10.9.1.0/24 via 10.0.2.9 dev n2 proto 73 metric 20")
	waitState(t, w, "10.9.2.0/24", route.Conflict)
	waitShown(t, "10.9.2.0/24", "10.9.2.0/24 via 10.0.3.9 dev n3 proto static metric 20")
	stop()
	if n := testutil.ToFloat64(w.metrics.overruns); n == 0 {
		t.Error("no overrun was seen: the test has tested nothing")
	}
	if n := testutil.ToFloat64(w.metrics.resyncs.WithLabelValues("overrun")); n == 0 {
		t.Error("no comparison was made for it")
	}
}

// Another takes our place, and the kernel's word of it is lost. What is to change of ours waits until the comparison,
// and does not overwrite what is his now, nor join it; what can't harm him is done at once.
func TestOverrunHoldsBackReplacements(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			inNetns(t)
			fabric(t)
			free := map[string]string{"IPv4": "10.9.5.0/24", "IPv6": "2001:db8:95::/64"}[f.name]
			w := open(t, Options{})
			w.Settled()
			kept := via(free, f.hop1)
			w.apply(via(f.prefix, f.hop1), kept)
			w.turn(t.Context())
			overrun(t, w)
			ip(t, f.flag+" route replace "+f.prefix+" via "+f.hop3+" dev n3 proto static metric 20")
			theirs := shown(t, f.prefix)

			if w.core.resync.running { // it began before
				w.endResync(t.Context(), <-w.core.resync.done)
			}
			ours, created := via(f.prefix, f.hop2), via(strings.Replace(free, "5", "6", 1), f.hop1)
			kept = via(free, f.hop2)
			w.apply(ours, kept, created)
			w.turn(t.Context())
			if n := testutil.ToFloat64(w.metrics.overruns); n == 0 {
				t.Fatal("no overrun was seen")
			}
			if got := shown(t, f.prefix); got != theirs {
				t.Fatalf("another's route was\n %s\nand is\n %s", theirs, got)
			}
			expectState(t, w, ours, route.Pending)
			expectState(t, w, kept, route.Pending)
			expectState(t, w, created, route.Installed)
			if !w.core.resync.running {
				t.Error("the comparison that they wait for has not begun at once")
			}
			w.compare(t)
			expectState(t, w, ours, route.Conflict)
			expectState(t, w, kept, route.Installed)
			if got := shown(t, f.prefix); got != theirs {
				t.Errorf("another's route was\n %s\nand is\n %s", theirs, got)
			}
			if got := shown(t, free); !strings.Contains(got, f.hop2) || strings.Contains(got, f.hop1) {
				t.Errorf("%s was not replaced after the comparison: %s", free, got)
			}
		})
	}
}

// A dump that was under way when notifications were lost is not believed: it may be older than what was lost.
func TestOverrunDuringADump(t *testing.T) {
	inNetns(t)
	fabric(t)
	w := open(t, Options{})
	w.Settled()
	ours := via("10.9.0.0/24", "10.0.1.9")
	w.apply(ours)
	w.turn(t.Context())
	stale := <-w.core.resync.done // the first turn has begun it
	overrun(t, w)
	ip(t, "route replace 10.9.0.0/24 via 10.0.3.9 proto static metric 20")
	w.endResync(t.Context(), stale)
	if !w.core.deaf {
		t.Fatal("a dump from before the overrun was taken for the truth after it")
	}
	ours = via("10.9.0.0/24", "10.0.2.9")
	w.apply(ours)
	w.turn(t.Context())
	w.compare(t)
	expectState(t, w, ours, route.Conflict)
	if got, want := shown(t, "10.9.0.0/24"), "10.9.0.0/24 via 10.0.3.9 dev n3 proto static metric 20"; got != want {
		t.Errorf("kernel has\n %s\nwant\n %s", got, want)
	}
}

// What was held back goes too when everything is to go.
func TestOverrunBeforeFlush(t *testing.T) {
	inNetns(t)
	fabric(t)
	w := open(t, Options{})
	w.Settled()
	w.apply(via("10.9.0.0/24", "10.0.1.9"))
	w.turn(t.Context())
	overrun(t, w)
	w.apply(via("10.9.0.0/24", "10.0.2.9"))
	w.turn(t.Context())
	if len(w.core.heldBack) != 1 {
		t.Fatalf("%d are held back, want 1", len(w.core.heldBack))
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if got := ip(t, "route show proto 73"); got != "" {
		t.Errorf("left: %s", got)
	}
}

// A batch that was not answered may or may not have been carried out: a dump under way knows no better.
func TestUnansweredIsNewerThanADump(t *testing.T) {
	inNetns(t)
	fabric(t)
	w := open(t, Options{})
	w.core.resync.begin()
	defer w.core.resync.end()
	e := w.entryOf(via("10.9.0.0/24", "10.0.1.9").Prefix)
	w.core.ops = append(w.core.ops[:0], op{e: e, step: step{kind: stepDelete}})
	w.unanswered(unix.EAGAIN)
	w.core.ops = w.core.ops[:0]
	if _, ok := w.core.resync.touched[e.prefix]; !ok {
		t.Error("the prefix is not known to have been touched")
	}
}

// What changes while the first dump is made asks for another.
func TestUnsteadyAdoption(t *testing.T) {
	for _, change := range []string{"-6 route add 2001:db8:99::/64 via 2001:db8:1::9", "link set n3 down"} {
		inNetns(t)
		fabric(t)
		w := open(t, Options{})
		w.drainMonitor()
		w.core.resync.reason = ""
		ip(t, change)
		if err := w.adopt(); err != nil {
			t.Fatal(err)
		}
		if w.core.resync.reason == "" {
			t.Errorf("%s: no comparison is wanted", change)
		}
	}
}
