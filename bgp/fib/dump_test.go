package fib

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/route"
)

// ipBatch runs many commands of ip(8) in the test's namespace.
func ipBatch(t testing.TB, family string, lines []string) {
	t.Helper()
	c := exec.Command("ip", family, "-batch", "-")
	c.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("ip %s -batch: %v: %s", family, err, out)
	}
}

// manyLinks makes so many that the kernel tells them in several parts, between which they can change.
func manyLinks(t testing.TB) int {
	t.Helper()
	var lines []string
	for i := range 150 {
		lines = append(lines, fmt.Sprintf("link add name a%d type veth peer name b%d", i, i))
	}
	ipBatch(t, "-4", lines)
	return 2*len(lines) + 1 // and lo
}

// testSocket is a request socket that goes with the test.
func testSocket(t testing.TB) *socket {
	t.Helper()
	s, err := openSocket()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	return s
}

// A dump that the kernel calls interrupted is begun again, and what was told before doesn't count.
func TestInterruptedDumpIsRepeated(t *testing.T) {
	inNetns(t)
	n := manyLinks(t)
	s, snap, tries := testSocket(t), &snapshot{groups: newInterner()}, 0
	err := snap.section(s, func() { tries++; s.buf.dumpLinks(s.nextSeq()) }, func(m message) error {
		if tries == 1 && len(snap.links) == 0 {
			ip(t, "link del a7")
		}
		return snap.takeLink(m)
	})
	if err != nil || tries != 2 || snap.partial {
		t.Fatalf("%d tries, partial %v, error %v; want two that end well", tries, snap.partial, err)
	}
	names := make(map[string]bool)
	for _, l := range snap.links {
		names[l.name] = true
	}
	if len(snap.links) != n-2 || len(names) != n-2 || names["a7"] {
		t.Errorf("%d links of %d names, a7 among them: %v; want %d without it", len(snap.links), len(names), names["a7"], n-2)
	}
}

// A kernel that never holds still is asked a bounded number of times, and the answer is known to be partial.
func TestInterruptedDumpIsGivenUp(t *testing.T) {
	inNetns(t)
	manyLinks(t)
	s, snap, tries, last := testSocket(t), &snapshot{groups: newInterner()}, 0, 0
	err := snap.section(s, func() { tries++; s.buf.dumpLinks(s.nextSeq()) }, func(m message) error {
		if last < tries {
			last = tries
			ip(t, fmt.Sprintf("link del a%d", tries))
		}
		return snap.takeLink(m)
	})
	if err != nil || tries != dumpTries || !snap.partial {
		t.Errorf("%d tries, partial %v, error %v; want %d, and partial", tries, snap.partial, err, dumpTries)
	}
	s.buf.reset()
	s.buf.dumpLinks(s.nextSeq())
	if err := s.dump(func(message) error { return nil }); err != nil {
		t.Errorf("the socket is no good any more: %v", err)
	}
}

// What is missing from a partial dump of links and addresses is not taken to be gone: no next hop is lost by it.
func TestPartialDumpTakesNothingAway(t *testing.T) {
	inNetns(t)
	fabric(t)
	w := open(t, Options{})
	w.Settled()
	ours := via("10.9.0.0/24", "10.0.1.9")
	w.apply(ours)
	w.turn(t.Context())
	d := <-w.core.resync.done // the first turn has begun it
	d.snap.links, d.snap.addrs, d.snap.linksPartial = nil, nil, true
	w.endResync(t.Context(), d)
	w.core.reachAt = w.core.reachAt.Add(-reachGap)
	w.turn(t.Context())
	expectState(t, w, ours, route.Installed)
	if w.core.resync.reason != "interrupted" {
		t.Errorf("the next comparison is wanted because of %q, want interrupted", w.core.resync.reason)
	}
}

// While IPv6 routes change, the kernel leaves some out of a dump without a word. So what is missing from such a dump
// is not taken to be gone, and is when a quiet dump misses it too.
func TestUnsteadyDumpTakesNothingAway(t *testing.T) {
	for _, f := range families {
		for _, changing := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s changing %v", f.name, changing), func(t *testing.T) {
				inNetns(t)
				fabric(t)
				ip(t, f.flag+" route add default via "+f.hop2)
				w := open(t, Options{})
				w.Settled()
				far := map[string]string{"IPv4": "172.31.0.1", "IPv6": "2001:db8:f::1"}[f.name]
				ours := via(f.prefix, far)
				w.apply(ours)
				w.turn(t.Context())
				expectState(t, w, ours, route.Installed)
				d := <-w.core.resync.done // the first turn has begun it
				all := netip.PrefixFrom(unspecified(familyOf(ours.Prefix.Addr())), 0)
				d.snap.others.Delete(all)
				if changing {
					w.apply(via("2001:db8:99::/64", "2001:db8:1::9"))
					w.turn(t.Context())
				}
				w.endResync(t.Context(), d)
				w.core.reachAt = w.core.reachAt.Add(-reachGap)
				w.turn(t.Context())
				want := route.Unresolved
				if f.name == "IPv6" && changing {
					want = route.Installed
				}
				expectState(t, w, ours, want)
				if changing && w.core.resync.reason != "unsteady" {
					t.Errorf("the next comparison is wanted because of %q, want unsteady", w.core.resync.reason)
				}
			})
		}
	}
}

// A kernel without strict checks tells the routes of all tables, whichever was asked for: the picture is the same.
func TestDumpWithoutStrictCheck(t *testing.T) {
	inNetns(t)
	fabric(t)
	for _, f := range families {
		for i, how := range []string{"proto 73 metric 20", "proto 73 metric 20 table 100", "proto 73 metric 20 table 1000", "proto static metric 40 table 1000", "proto static metric 30"} {
			ip(t, fmt.Sprintf("%s route add %s via %s %s", f.flag, f.prefix, []string{f.hop1, f.hop2, f.hop3}[i%3], how))
		}
	}
	for _, table := range []uint32{254, 100, 1000} {
		w := who{protocol: 73, metric: 20, table: table}
		strict, lax := testSocket(t), testSocket(t)
		if err := unix.SetsockoptInt(lax.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 0); err != nil {
			t.Fatal(err)
		}
		want, got := pictureOf(t, strict, w), pictureOf(t, lax, w)
		if !slices.Equal(got, want) {
			t.Errorf("table %d: without strict checks\n %v\nwith\n %v", table, got, want)
		}
		ours := slices.DeleteFunc(slices.Clone(got), func(line string) bool { return !strings.HasPrefix(line, "ours") })
		if len(ours) != 2 {
			t.Errorf("table %d: ours are %v, want one of each family", table, ours)
		}
	}
}

// pictureOf is a snapshot in words.
func pictureOf(t testing.TB, s *socket, w who) (lines []string) {
	t.Helper()
	snap, err := takeSnapshot(s, w)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range snap.ours {
		lines = append(lines, fmt.Sprintf("ours %s %s %v", r.prefix, r.to, r.doubled))
	}
	for prefix, others := range snap.others.All() {
		for _, o := range others {
			lines = append(lines, fmt.Sprintf("other %s table %d metric %d proto %d kind %d %s", prefix, o.table, o.metric, o.protocol, o.kind, o.to))
		}
	}
	slices.Sort(lines)
	return lines
}

// What is asked of the kernel beyond the plain is a convenience: an old kernel's refusal of it is no failure.
func TestSocketOfAnOldKernel(t *testing.T) {
	refused := func(answer error) func(int) error { return func(int) error { return answer } }
	if err := conveniences(refused(unix.ENOPROTOOPT)); err != nil {
		t.Errorf("options that the kernel does not know: %v", err)
	}
	if err := conveniences(refused(unix.EPERM)); !errors.Is(err, unix.EPERM) {
		t.Errorf("options that the kernel refuses: %v", err)
	}
}
