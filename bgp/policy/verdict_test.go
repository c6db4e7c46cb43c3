package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

var tor, mesh = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.12")

func block(t interface{ Fatal(...any) }, owners *Owners, cidr, node string, state clearwayv1.BlockState) {
	if _, err := owners.Apply(&clearwayv1.OwnershipEntry{Entry: &clearwayv1.OwnershipEntry_Block{
		Block: &clearwayv1.BlockOwner{Cidr: cidr, Node: node, State: state},
	}}); err != nil {
		t.Fatal(err)
	}
}

func node(t interface{ Fatal(...any) }, owners *Owners, entry *clearwayv1.NodeEntry) {
	if _, err := owners.Apply(&clearwayv1.OwnershipEntry{Entry: &clearwayv1.OwnershipEntry_Node{Node: entry}}); err != nil {
		t.Fatal(err)
	}
}

func testJudge(t *testing.T) *Judge {
	owners := &Owners{}
	node(t, owners, &clearwayv1.NodeEntry{Name: "n2", Addresses: []string{"192.0.2.12/24", "2001:db8::12/64"}, LocalAsNumbers: []uint32{65002}})
	node(t, owners, &clearwayv1.NodeEntry{Name: "n3", Addresses: []string{"203.0.113.3/32"}, AsNumber: 65003})
	for cidr, n := range map[string]string{"10.244.2.0/26": "n2", "10.244.3.0/26": "n3", "2001:db8:244:2::/122": "n2", "10.244.9.0/26": "ghost"} {
		block(t, owners, cidr, n, clearwayv1.BlockState_BLOCK_STATE_OWNED)
	}
	block(t, owners, "10.244.4.0/26", "n2", clearwayv1.BlockState_BLOCK_STATE_ORPHANED)
	block(t, owners, "10.244.5.0/26", "n2", clearwayv1.BlockState_BLOCK_STATE_COOLING)
	block(t, owners, "10.244.6.0/26", "n2", clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING)
	j := &Judge{
		Owners: owners, DefaultASN: 64512, Aggregates: map[netip.Prefix]struct{}{netip.MustParsePrefix("10.0.0.0/8"): {}},
		Peers: map[netip.Addr]Peer{
			tor:  {Session: Session{Address: tor, Origin: "BGPPeer/tor", LocalASN: 64512, PeerASN: 65101, EBGP: true}, AllowOwnAS: 1},
			mesh: {Session: Session{Address: mesh, Origin: "nodeMesh/n2", LocalASN: 64512, PeerASN: 64512}, MeshNode: "n2"},
		},
	}
	j.Own.Insert(netip.MustParsePrefix("10.244.1.0/26"), struct{}{})
	j.Pools.Insert(netip.MustParsePrefix("10.244.0.0/16"), "pods")
	j.Pools.Insert(netip.MustParsePrefix("2001:db8:244::/48"), "pods6")
	return j
}

func path(peer netip.Addr, prefix string, asns ...uint32) *route.Path {
	p := &route.Path{Peer: peer, Prefix: netip.MustParsePrefix(prefix), NextHop: peer, ASPath: asns, PeerASN: 64512}
	if len(asns) > 0 {
		p.PeerASN = asns[0]
	}
	return p
}

func TestSafeImport(t *testing.T) {
	set := path(tor, "10.244.2.0/26", 65101, 64512)
	set.HasASSet = true
	for _, c := range []struct {
		name string
		path *route.Path
		with func(*Judge)
		want Verdict
	}{
		{"the owner's block, by its cluster AS", path(tor, "10.244.2.0/26", 65101, 64512), nil, Verdict{Accept, BlockOfOwner}},
		{"by the AS it shows its routers", path(tor, "10.244.2.0/26", 65101, 65002), nil, Verdict{Accept, BlockOfOwner}},
		{"by the AS of its own", path(tor, "10.244.3.0/26", 65101, 65003), nil, Verdict{Accept, BlockOfOwner}},
		{"IPv6", path(tor, "2001:db8:244:2::/122", 65101, 64512), nil, Verdict{Accept, BlockOfOwner}},
		{"another AS originated it", path(tor, "10.244.3.0/26", 65101, 64512), nil, Verdict{Reject, OriginASN}},
		{"the router itself originated it", path(tor, "10.244.2.0/26", 65101), nil, Verdict{Reject, OriginASN}},
		{"an AS_SET hides who", set, nil, Verdict{Reject, OriginHidden}},
		{"orphaned is still somebody's", path(tor, "10.244.4.0/26", 65101, 64512), nil, Verdict{Accept, BlockOfOwner}},
		{"withdrawing is still somebody's", path(tor, "10.244.6.0/26", 65101, 64512), nil, Verdict{Accept, BlockOfOwner}},
		{"cooling is nobody's", path(tor, "10.244.5.0/26", 65101, 64512), nil, Verdict{Reject, BlockAtRest}},
		{"the owner is not known yet", path(tor, "10.244.9.0/26", 65101, 64512), nil, Verdict{Pending, OwnerUnknown}},
		{"nor will be for a while", path(tor, "10.244.9.0/26", 65101, 64512), func(j *Judge) { j.Alone = true }, Verdict{Accept, BlockOfOwner}},
		{"mesh: its own", path(mesh, "10.244.2.0/26"), nil, Verdict{Accept, BlockOfOwner}},
		{"mesh: another's", path(mesh, "10.244.3.0/26"), nil, Verdict{Reject, BlockOfOther}},
		{"mesh: an aggregate", path(mesh, "10.0.0.0/8"), nil, Verdict{Reject, PieceOfBlock}},
		{"mesh: our AS in the path", path(mesh, "10.244.2.0/26", 64512), nil, Verdict{Reject, OwnASLoop}},
		{"aggregate", path(tor, "10.0.0.0/8", 65101), nil, Verdict{Accept, Aggregate}},
		{"default route", path(tor, "0.0.0.0/0", 65101), nil, Verdict{Reject, DefaultRoute}},
		{"default route, IPv6", path(tor, "::/0", 65101), nil, Verdict{Reject, DefaultRoute}},
		{"node subnet", path(tor, "192.0.2.0/24", 65101), nil, Verdict{Reject, NodeSubnet}},
		{"node address", path(tor, "203.0.113.3/32", 65101), nil, Verdict{Reject, NodeSubnet}},
		{"half of a node subnet", path(tor, "192.0.2.128/25", 65101), nil, Verdict{Reject, NodeSubnet}},
		{"own block", path(tor, "10.244.1.0/26", 65101, 64512), nil, Verdict{Reject, OwnBlock}},
		{"piece of the own block, whatever the scope", path(tor, "10.244.1.7/32", 65101), all, Verdict{Reject, OwnBlock}},
		{"own AS twice", path(tor, "10.244.2.0/26", 65101, 64512, 65101, 64512), nil, Verdict{Reject, OwnASLoop}},
		{"piece of a block", path(tor, "10.244.2.32/27", 65101, 64512), nil, Verdict{Reject, PieceOfBlock}},
		{"more than a block", path(tor, "10.244.2.0/25", 65101, 64512), nil, Verdict{Reject, PieceOfBlock}},
		{"piece of a resting block waits", path(tor, "10.244.5.0/27", 65101, 64512), nil, Verdict{Pending, NotNamedYet}},
		{"not named yet", path(tor, "10.244.8.0/26", 65101, 64512), nil, Verdict{Pending, NotNamedYet}},
		{"alone", path(tor, "10.244.8.0/26", 65101, 64512), func(j *Judge) { j.Alone = true }, Verdict{Accept, TakenAlone}},
		{"alone, yet a piece", path(tor, "10.244.2.32/27", 65101), func(j *Judge) { j.Alone = true }, Verdict{Reject, PieceOfBlock}},
		{"outside", path(tor, "198.51.100.0/24", 65101), nil, Verdict{Reject, OutsidePools}},
		{"outside, alone", path(tor, "198.51.100.0/24", 65101), func(j *Judge) { j.Alone = true }, Verdict{Reject, OutsidePools}},
		{"Pools: anything inside", path(tor, "10.244.2.32/27", 65101), pools, Verdict{Accept, ScopePools}},
		{"Pools: the pool", path(tor, "10.244.0.0/16", 65101), pools, Verdict{Accept, ScopePools}},
		{"Pools: outside", path(tor, "198.51.100.0/24", 65101), pools, Verdict{Reject, OutsidePools}},
		{"Pools: default route", path(tor, "0.0.0.0/0", 65101), pools, Verdict{Reject, DefaultRoute}},
		{"All: default route", path(tor, "0.0.0.0/0", 65101), all, Verdict{Accept, ScopeAll}},
		{"filter before scope", path(tor, "0.0.0.0/0", 65101), func(j *Judge) {
			all(j)
			peer := j.Peers[tor]
			peer.Import = Chain{{Name: "no", Rules: []FilterRule{{}}}}
			j.Peers[tor] = peer
		}, Verdict{Reject, Filtered}},
		{"we are its next hop", path(netip.MustParseAddr("192.0.2.11"), "10.244.2.0/26", 65101, 64512), func(j *Judge) {
			j.Peers[netip.MustParseAddr("192.0.2.11")] = j.Peers[tor]
			j.Self[0] = netip.MustParseAddr("192.0.2.11")
		}, Verdict{Reject, OwnNextHop}},
		{"a stranger", path(netip.MustParseAddr("192.0.2.99"), "10.244.2.0/26", 64512), nil, Verdict{Reject, UnknownPeer}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := testJudge(t)
			if c.with != nil {
				c.with(j)
			}
			if got, _ := j.Judge(c.path); got != c.want {
				t.Errorf("%v by %v, not %v by %v: %s", got.Decision, got.Rule, c.want.Decision, c.want.Rule, j.Explain(c.path))
			}
			if why := j.Explain(c.path); len(why) < 10 || strings.Contains(why, "%!") {
				t.Errorf("explained as %q", why)
			}
		})
	}
}

func scope(s Scope) func(*Judge) {
	return func(j *Judge) {
		peer := j.Peers[tor]
		peer.Scope = s
		j.Peers[tor] = peer
	}
}

var pools, all = scope(Pools), scope(All)

// The log in any pieces gives what the whole at once gives, and its effects name every block that changed: those and
// no others are to be judged again.
func TestLogPiecesAndEffects(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var log Log
		want := map[string]string{}
		revision := int64(0)
		ticks := rapid.IntRange(1, 8).Draw(t, "ticks")
		for tick := range ticks {
			before := fmt.Sprint(want)
			old := map[string]string{}
			for cidr, owner := range want {
				old[cidr] = owner
			}
			reset := tick == 0 || rapid.Bool().Draw(t, "reset")
			if reset {
				clear(want)
			}
			revision++
			var effect Effect
			pieces := rapid.IntRange(1, 4).Draw(t, "pieces")
			for i := range pieces {
				piece := &clearwayv1.WatchOwnershipResponse{Incarnation: "i", Revision: revision, Reset_: reset && i == 0, Complete: i == pieces-1}
				for range rapid.IntRange(0, 4).Draw(t, "entries") {
					cidr := fmt.Sprintf("10.244.0.%d/28", rapid.IntRange(0, 15).Draw(t, "block")*16)
					owner, deleted := fmt.Sprintf("n%d", rapid.IntRange(1, 3).Draw(t, "node")), rapid.Bool().Draw(t, "deleted")
					piece.Entries = append(piece.Entries, &clearwayv1.OwnershipEntry{Deleted: deleted, Entry: &clearwayv1.OwnershipEntry_Block{
						Block: &clearwayv1.BlockOwner{Cidr: cidr, Node: owner, State: clearwayv1.BlockState_BLOCK_STATE_OWNED},
					}})
					if want[cidr] = owner; deleted {
						delete(want, cidr)
					}
				}
				got, err := log.Receive(piece)
				if err != nil {
					t.Fatal(err)
				}
				if !piece.GetComplete() && (len(got.Blocks) > 0 || got.Nodes) {
					t.Fatalf("half a tick took effect: %v (was %s)", got, before)
				}
				effect.merge(got)
			}
			check(t, log.Owners(), want)
			for cidr := range union(old, want) {
				if old[cidr] != want[cidr] && !strings.Contains(fmt.Sprint(effect.Blocks), cidr) {
					t.Fatalf("%s went from %q to %q and is not named in %v", cidr, old[cidr], want[cidr], effect.Blocks)
				}
			}
		}
	})
}

func union(a, b map[string]string) map[string]bool {
	keys := map[string]bool{}
	for _, m := range []map[string]string{a, b} {
		for key := range m {
			keys[key] = true
		}
	}
	return keys
}

func check(t *rapid.T, owners *Owners, want map[string]string) {
	if owners.Size() != len(want) {
		t.Fatalf("%d blocks, not %v", owners.Size(), want)
	}
	for cidr, owner := range want {
		if b, _ := owners.Block(netip.MustParsePrefix(cidr)); b.Node != owner {
			t.Fatalf("%s is %q's, not %q's", cidr, b.Node, owner)
		}
	}
}

// overlapping agrees with a look at every block.
func TestOverlappingAgreesWithALookAtEveryBlock(t *testing.T) {
	prefix := func(t *rapid.T, name string) netip.Prefix {
		bits := rapid.IntRange(24, 32).Draw(t, name+" bits")
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 255).Draw(t, name))}), bits).Masked()
	}
	rapid.Check(t, func(t *rapid.T) {
		owners := &Owners{}
		var live []netip.Prefix
		for range rapid.IntRange(0, 6).Draw(t, "blocks") {
			p := prefix(t, "block")
			state := clearwayv1.BlockState_BLOCK_STATE_OWNED
			if rapid.Bool().Draw(t, "cooling") {
				state = clearwayv1.BlockState_BLOCK_STATE_COOLING
			}
			block(t, owners, p.String(), "n", state)
		}
		for p, b := range owners.blocks.All() {
			if b.live() {
				live = append(live, p)
			}
		}
		asked, want := prefix(t, "asked"), false
		for _, p := range live {
			want = want || p != asked && p.Overlaps(asked)
		}
		if _, _, got := owners.overlapping(asked); got != want {
			t.Fatalf("%s: %v, with %v", asked, got, live)
		}
	})
}
