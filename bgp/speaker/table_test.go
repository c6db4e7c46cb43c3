package speaker

import (
	"cmp"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clearway/clearway/bgp/route"
)

// What is taken, put together, is what the peers tell; whatever is applied, staled, swept and dropped in between.
func TestTableAgreesWithATwin(t *testing.T) {
	peers := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")}
	type key struct {
		peer   netip.Addr
		prefix netip.Prefix
		id     uint32 // RFC 7911
	}
	rapid.Check(t, func(t *rapid.T) {
		table := NewTable()
		twin := map[key]bool{} // and whether it is stale
		taken := map[netip.Prefix][]*route.Path{}
		now := time.Unix(1000, 0)
		until := map[netip.Addr]time.Time{}
		for _, peer := range peers {
			table.AddPeer(peer)
		}
		forget := func(peer netip.Addr, which func(netip.Prefix, bool) bool) {
			for k, stale := range twin {
				if k.peer == peer && which(k.prefix, stale) {
					delete(twin, k)
				}
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			peer := rapid.SampledFrom(peers).Draw(t, "peer")
			switch rapid.IntRange(0, 7).Draw(t, "step") {
			case 0, 1, 2:
				prefix := netip.MustParsePrefix(rapid.SampledFrom([]string{"10.0.0.0/26", "10.0.0.64/26", "2001:db8::/122"}).Draw(t, "prefix"))
				update := Update{Prefix: prefix, ID: uint32(rapid.IntRange(0, 2).Draw(t, "id"))}
				at := key{peer, prefix, update.ID}
				if delete(twin, at); rapid.IntRange(0, 2).Draw(t, "kind") > 0 {
					update.Path = &route.Path{Prefix: prefix, PathID: update.ID, Peer: peer}
					twin[at] = false
				}
				table.Apply(peer, []Update{update})
			case 3:
				deadline := now.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "seconds")) * time.Second)
				for k := range twin {
					if k.peer == peer {
						twin[k], until[peer] = true, deadline
					}
				}
				table.Stale(peer, deadline, [2]time.Duration{})
			case 4:
				family := rapid.SampledFrom([]route.Family{route.IPv4, route.IPv6}).Draw(t, "family")
				forget(peer, func(p netip.Prefix, stale bool) bool { return stale && route.FamilyOf(p) == family })
				table.Sweep(peer, family)
			case 5:
				now = now.Add(time.Second)
				for _, p := range peers {
					if !until[p].After(now) {
						forget(p, func(_ netip.Prefix, stale bool) bool { return stale })
					}
				}
				table.Expire(now)
			case 6:
				forget(peer, func(netip.Prefix, bool) bool { return true })
				table.RemovePeer(peer)
				table.AddPeer(peer)
			case 7:
				for _, learned := range table.Take(2) {
					taken[learned.Prefix] = learned.Paths
				}
			}
		}
		for learned := table.Take(1); len(learned) > 0; learned = table.Take(1) {
			taken[learned[0].Prefix] = learned[0].Paths
		}
		got := map[key]bool{}
		counts := map[netip.Addr]int64{}
		for prefix, paths := range taken {
			for i, path := range paths {
				if i > 0 && cmp.Or(paths[i-1].Peer.Compare(path.Peer), cmp.Compare(paths[i-1].PathID, path.PathID)) >= 0 {
					t.Fatalf("%s: paths are not in order of their peers and identifiers, each once", prefix)
				}
				got[key{path.Peer, prefix, path.PathID}] = path.Stale
				counts[path.Peer]++
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(twin) {
			t.Fatalf("taken\n%v\nand told\n%v", got, twin)
		}
		for _, peer := range peers {
			if table.Received(peer) != counts[peer] {
				t.Fatalf("%s: %d received, %d there", peer, table.Received(peer), counts[peer])
			}
		}
	})
}

// However often a prefix changes before it is taken, it is taken once: the memory does not grow with what peers do.
func TestTableIsBounded(t *testing.T) {
	table := NewTable()
	peer, prefix := netip.MustParseAddr("192.0.2.1"), netip.MustParsePrefix("10.0.0.0/26")
	table.AddPeer(peer)
	for i := range 100000 {
		table.Apply(peer, []Update{{Prefix: prefix, Path: &route.Path{Prefix: prefix, Peer: peer, MED: uint32(i)}}})
	}
	if learned := table.Take(10); len(learned) != 1 || learned[0].Paths[0].MED != 99999 {
		t.Errorf("%v", learned)
	}
	table.Apply(peer, []Update{{Prefix: prefix}})
	table.Take(10)
	if table.entries.Size() != 0 || table.dirty != nil {
		t.Error("a prefix that nobody tells is still held")
	}
}

// Updates of a peer that is not, or no longer, wanted are not kept.
func TestTableIgnoresStrangers(t *testing.T) {
	table := NewTable()
	peer, prefix := netip.MustParseAddr("192.0.2.1"), netip.MustParsePrefix("10.0.0.0/26")
	table.Apply(peer, []Update{{Prefix: prefix, Path: &route.Path{Prefix: prefix, Peer: peer}}})
	if learned := table.Take(10); len(learned) != 0 {
		t.Errorf("%v", learned)
	}
}

// Beyond its limit a peer adds nothing, of that family; what it has may change and go.
func TestTableLimit(t *testing.T) {
	table := NewTable()
	peer := netip.MustParseAddr("192.0.2.1")
	table.AddPeer(peer)
	table.Limit(peer, 2)
	apply := func(prefix string, tells bool) [2]bool {
		update := Update{Prefix: netip.MustParsePrefix(prefix)}
		if tells {
			update.Path = &route.Path{Prefix: update.Prefix, Peer: peer}
		}
		return table.Apply(peer, []Update{update})
	}
	for _, step := range []struct {
		prefix string
		tells  bool
		over   [2]bool
		counts [2]int64
	}{
		{"10.0.0.0/26", true, [2]bool{}, [2]int64{1, 0}},
		{"10.0.1.0/26", true, [2]bool{}, [2]int64{2, 0}},
		{"10.0.0.0/26", true, [2]bool{}, [2]int64{2, 0}}, // told anew
		{"10.0.2.0/26", true, [2]bool{true, false}, [2]int64{2, 0}},
		{"2001:db8::/122", true, [2]bool{}, [2]int64{2, 1}},
		{"10.0.3.0/26", false, [2]bool{}, [2]int64{2, 1}},
		{"10.0.1.0/26", false, [2]bool{}, [2]int64{1, 1}},
		{"10.0.2.0/26", true, [2]bool{}, [2]int64{2, 1}},
	} {
		if over := apply(step.prefix, step.tells); over != step.over || table.Counts(peer) != step.counts {
			t.Errorf("%s %v: over %v, counts %v; want %v, %v", step.prefix, step.tells, over, table.Counts(peer), step.over, step.counts)
		}
	}
}

// RFC 9494: after the restart time stale paths are kept as the last choice, for the time that was agreed on in their family,
// but for those that say NO_LLGR. A peer that breaks off again gets no second helping; one that has told all does.
func TestTableLongLived(t *testing.T) {
	table := NewTable()
	peer := netip.MustParseAddr("192.0.2.1")
	table.AddPeer(peer)
	four, never, six := netip.MustParsePrefix("10.0.0.0/26"), netip.MustParsePrefix("10.0.0.64/26"), netip.MustParsePrefix("2001:db8::/122")
	tell := func() {
		table.Apply(peer, []Update{
			{Prefix: four, Path: &route.Path{Prefix: four, Peer: peer}},
			{Prefix: never, Path: &route.Path{Prefix: never, Peer: peer, Communities: []uint32{noLLGR}}},
			{Prefix: six, Path: &route.Path{Prefix: six, Peer: peer}},
		})
	}
	show := func() string {
		text := ""
		for prefix, at := range table.entries.All() {
			for _, p := range at.paths {
				text += fmt.Sprintf("%s stale %v long-lived %v, ", prefix, p.Stale, p.LongLived)
			}
		}
		return text
	}
	now := time.Unix(1000, 0)
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	tell()
	table.Stale(peer, at(10), [2]time.Duration{100 * time.Second, 0})
	table.Expire(at(9))
	if table.LongLived(peer) || table.Received(peer) != 3 {
		t.Fatalf("before the restart time is over: %s", show())
	}
	table.Expire(at(10))
	if got, want := show(), "10.0.0.0/26 stale true long-lived true, "; got != want || !table.LongLived(peer) {
		t.Fatalf("after the restart time: %swant %s", got, want)
	}
	table.Stale(peer, at(500), [2]time.Duration{time.Hour, time.Hour})
	table.Expire(at(109))
	if table.Received(peer) != 1 {
		t.Fatal("gone before its time")
	}
	table.Expire(at(110))
	if table.Received(peer) != 0 || table.HasStale(peer) {
		t.Fatalf("kept beyond its time: %s", show())
	}
	tell()
	table.Stale(peer, at(120), [2]time.Duration{100 * time.Second, 100 * time.Second})
	table.Expire(at(120))
	table.Extend(peer, at(180)) // it is back
	tell()
	table.Sweep(peer, route.IPv4)
	table.Sweep(peer, route.IPv6)
	if table.HasStale(peer) || table.LongLived(peer) || table.Received(peer) != 3 {
		t.Fatalf("after it told all: %s", show())
	}
	table.Stale(peer, at(300), [2]time.Duration{})
	if table.Expire(at(299)); table.Received(peer) != 3 {
		t.Fatalf("the next time it breaks off: %s", show())
	}
}
