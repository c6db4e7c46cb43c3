package speaker

import (
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
				update := Update{Prefix: prefix}
				if delete(twin, key{peer, prefix}); rapid.IntRange(0, 2).Draw(t, "kind") > 0 {
					update.Path = &route.Path{Prefix: prefix, Peer: peer}
					twin[key{peer, prefix}] = false
				}
				table.Apply(peer, []Update{update})
			case 3:
				deadline := now.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "seconds")) * time.Second)
				for k := range twin {
					if k.peer == peer {
						twin[k], until[peer] = true, deadline
					}
				}
				table.Stale(peer, deadline)
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
				if i > 0 && !paths[i-1].Peer.Less(path.Peer) {
					t.Fatalf("%s: paths are not in order of their peers, each once", prefix)
				}
				got[key{path.Peer, prefix}] = path.Stale
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
	if len(table.entries) != 0 || table.dirty != nil {
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
