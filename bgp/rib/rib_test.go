package rib

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
)

func hop(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}) }

func pathTo(n int, change func(*route.Path)) *route.Path {
	p := &route.Path{Peer: hop(n), NextHop: hop(n), EBGP: true, LocalPref: 100, ASPath: []uint32{uint32(65000 + n), 64512}, ASPathLen: 2}
	if change != nil {
		change(p)
	}
	return p
}

// The steps have the numbers of the ladder in decide.go.
func TestDecisionProcess(t *testing.T) {
	for _, c := range []struct {
		step   string
		second func(*route.Path)
		want   string
	}{
		{"equal: both, multipath relax", nil, "192.0.2.1 192.0.2.2"},
		{"0 stale", func(p *route.Path) { p.Stale = true; p.LocalPref = 200 }, "192.0.2.1"},
		{"0 long-lived stale, passed on", func(p *route.Path) { p.LongLived = true; p.LocalPref = 200 }, "192.0.2.1"},
		{"1 LOCAL_PREF, higher wins", func(p *route.Path) { p.LocalPref = 101; p.ASPathLen = 9 }, "192.0.2.2"},
		{"2 AS_PATH, shorter wins", func(p *route.Path) { p.ASPathLen = 1; p.Origin = 2 }, "192.0.2.2"},
		{"3 ORIGIN, lower wins", func(p *route.Path) { p.Origin = 1 }, "192.0.2.1"},
		{"4 MED of the same neighbour AS", func(p *route.Path) { p.MED = 5; p.ASPath = []uint32{65001, 64512} }, "192.0.2.1"},
		{"4 MED of another neighbour AS", func(p *route.Path) { p.MED = 5 }, "192.0.2.1 192.0.2.2"},
		{"5 eBGP before iBGP", func(p *route.Path) { p.EBGP = false }, "192.0.2.1"},
		{"one next hop twice is one", func(p *route.Path) { p.NextHop = hop(1) }, "192.0.2.1"},
	} {
		t.Run(c.step, func(t *testing.T) {
			for _, paths := range [][]*route.Path{
				{pathTo(1, nil), pathTo(2, c.second)}, {pathTo(2, c.second), pathTo(1, nil)},
			} {
				var hops []string
				for _, next := range New(nil).kernel(netip.Prefix{}, best(paths)).NextHops {
					hops = append(hops, next.Addr.String())
				}
				if got := strings.Join(hops, " "); got != c.want {
					t.Errorf("%s, not %s", got, c.want)
				}
			}
		})
	}
}

// A MED of one AS does not shield paths of another from comparison, whatever the order (the known trap of comparing in
// pairs along a list).
func TestMEDDoesNotDependOnOrder(t *testing.T) {
	paths := []*route.Path{
		pathTo(1, func(p *route.Path) { p.MED = 10; p.ASPath = []uint32{1, 2} }),
		pathTo(2, func(p *route.Path) { p.MED = 5; p.ASPath = []uint32{3, 2} }),
		pathTo(3, func(p *route.Path) { p.MED = 0; p.ASPath = []uint32{1, 2} }),
	}
	rapid.Check(t, func(t *rapid.T) {
		var peers []string
		for _, p := range best(rapid.Permutation(paths).Draw(t, "order")) {
			peers = append(peers, p.Peer.String())
		}
		slices.Sort(peers)
		if fmt.Sprint(peers) != "[192.0.2.2 192.0.2.3]" {
			t.Fatal(peers)
		}
	})
}

// Changes, one after the other, make what the table of a twin says that computes all anew.
func TestChangesAddUpToTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		allowed := map[netip.Addr]policy.Decision{}
		table := New(func(p *route.Path) (policy.Verdict, *route.Path) { return policy.Verdict{Decision: allowed[p.Peer]}, p })
		told := map[netip.Prefix][]*route.Path{}
		kernelHas := map[netip.Prefix]*route.Kernel{}
		take := func(change route.Change, changed bool) {
			if !changed {
				return
			}
			if before := kernelHas[change.Prefix]; sameRoute(before, change.Route) {
				t.Fatalf("a change that changes nothing: %v", change)
			}
			if kernelHas[change.Prefix] = change.Route; change.Route == nil {
				delete(kernelHas, change.Prefix)
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 3).Draw(t, "prefix"))}), 32)
			if rapid.Bool().Draw(t, "rejudge") {
				allowed[hop(rapid.IntRange(1, 3).Draw(t, "peer"))] = policy.Decision(rapid.IntRange(0, 2).Draw(t, "decision"))
				for p := range told {
					take(table.Rejudge(p))
				}
			} else {
				told[prefix] = nil
				for n := range rapid.IntRange(0, 3).Draw(t, "paths") {
					told[prefix] = append(told[prefix], pathTo(n+1, func(p *route.Path) {
						p.Prefix, p.ASPathLen = prefix, rapid.IntRange(1, 2).Draw(t, "length")
					}))
				}
				take(table.Set(route.Learned{Prefix: prefix, Paths: told[prefix]}))
			}
			checkTwin(t, table, told, allowed, kernelHas)
		}
	})
}

func checkTwin(t *rapid.T, table *Table, told map[netip.Prefix][]*route.Path, allowed map[netip.Addr]policy.Decision, kernelHas map[netip.Prefix]*route.Kernel) {
	counts, waiting, routes := map[netip.Addr]Count{}, 0, 0
	for prefix, paths := range told {
		var accepted []*route.Path
		pending := false
		for _, p := range paths {
			count := counts[p.Peer]
			count.add(allowed[p.Peer], 1)
			counts[p.Peer] = count
			pending = pending || allowed[p.Peer] == policy.Pending
			if allowed[p.Peer] == policy.Accept {
				accepted = append(accepted, p)
			}
		}
		if pending {
			waiting++
		}
		want := New(nil).kernel(prefix, best(accepted))
		if want != nil {
			routes++
		}
		if !sameRoute(kernelHas[prefix], want) {
			t.Fatalf("%s: the kernel has %v, and should have %v", prefix, kernelHas[prefix], want)
		}
	}
	if routes != len(kernelHas) || len(table.Waiting()) != waiting {
		t.Fatalf("%d routes of %d, %d of %d wait", len(kernelHas), routes, len(table.Waiting()), waiting)
	}
	for n := range 4 {
		if got := table.Peer(hop(n)); got != counts[hop(n)] {
			t.Fatalf("%s counts %+v, not %+v", hop(n), got, counts[hop(n)])
		}
	}
}

// Touching names what shares addresses with a prefix: what covers it, itself, and its parts.
func TestTouching(t *testing.T) {
	table := New(func(p *route.Path) (policy.Verdict, *route.Path) { return policy.Verdict{}, p })
	for _, text := range []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "::/0"} {
		table.Set(route.Learned{Prefix: netip.MustParsePrefix(text), Paths: []*route.Path{pathTo(1, nil)}})
	}
	got := table.Touching(netip.MustParsePrefix("10.1.0.0/16"))
	slices.SortFunc(got, netip.Prefix.Compare)
	if fmt.Sprint(got) != "[10.0.0.0/8 10.1.0.0/16 10.1.2.0/24]" {
		t.Error(got)
	}
}

// The cost of a change is that of the prefix, whatever the size of the table.
func BenchmarkOneOfManyChanges(b *testing.B) {
	for _, size := range []int{1000, 100000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			table := New(func(p *route.Path) (policy.Verdict, *route.Path) { return policy.Verdict{Decision: policy.Accept}, p })
			learned := make([]route.Learned, size)
			for i := range learned {
				prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
				learned[i] = route.Learned{Prefix: prefix, Paths: []*route.Path{pathTo(1, nil)}}
				table.Set(learned[i])
			}
			b.ResetTimer()
			for i := range b.N {
				table.Set(route.Learned{Prefix: learned[i%size].Prefix, Paths: []*route.Path{pathTo(1+i&1, nil)}})
			}
		})
	}
}
