package plan

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/fleet"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func meta(name string) *clearwayv1.ObjectMeta { return &clearwayv1.ObjectMeta{Name: name} }

// drawFleet makes a small cluster: few names and values, so that two of them have much in common.
func drawFleet(t *rapid.T, label string) *fleet.Fleet {
	draw := func(what string, most int) int { return rapid.IntRange(0, most).Draw(t, label+" "+what) }
	objects := []clearwayv1.Object{
		&clearwayv1.IPPool{Kind: "IPPool", Metadata: meta("pods"), Spec: &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/16"}},
		&clearwayv1.BGPConfiguration{Kind: "BGPConfiguration", Metadata: meta("default"), Spec: &clearwayv1.BGPConfigurationSpec{
			AsNumber: uint32(64512 + draw("asn", 1)), NodeMesh: []string{"None", "Full"}[draw("mesh", 1)],
		}},
		&clearwayv1.BGPFilter{Kind: "BGPFilter", Metadata: meta("half"), Spec: &clearwayv1.BGPFilterSpec{Rules: []*clearwayv1.BGPFilterRule{
			{Action: "Reject", Prefixes: []*clearwayv1.PrefixMatch{{Cidr: "10.244.0.0/26"}}},
		}}},
	}
	for i := range 3 {
		if draw(fmt.Sprint("node", i), 3) > 0 {
			objects = append(objects, &clearwayv1.Node{Kind: "Node", Metadata: meta(fmt.Sprint("n", i)), Spec: &clearwayv1.NodeSpec{
				Addresses: []string{fmt.Sprintf("192.0.2.%d/24", 11+i)}, Labels: map[string]string{"rack": fmt.Sprint(draw(fmt.Sprint("rack", i), 1))},
			}})
		}
		if draw(fmt.Sprint("peer", i), 2) > 0 {
			spec := &clearwayv1.BGPPeerSpec{PeerAddress: fmt.Sprintf("192.0.2.%d", 1+i), PeerAsn: uint32(65101 + draw(fmt.Sprint("peerASN", i), 1))}
			if draw(fmt.Sprint("filtered", i), 1) > 0 {
				spec.ExportFilters = []string{"half"}
			}
			if rack := draw(fmt.Sprint("selects", i), 2); rack < 2 {
				spec.NodeSelector = &clearwayv1.LabelSelector{MatchLabels: map[string]string{"rack": fmt.Sprint(rack)}}
			}
			objects = append(objects, &clearwayv1.BGPPeer{Kind: "BGPPeer", Metadata: meta(fmt.Sprint("p", i)), Spec: spec})
		}
		cidr := fmt.Sprintf("10.244.0.%d/26", 64*i)
		if owner := draw(fmt.Sprint("owner", i), 3); owner < 3 {
			objects = append(objects, &clearwayv1.Block{Kind: "Block", Metadata: meta(clearwayv1.PrefixName(cidr)), Spec: &clearwayv1.BlockSpec{
				Cidr: cidr, Node: fmt.Sprint("n", owner), State: clearwayv1.BlockState_BLOCK_STATE_OWNED,
			}})
		}
	}
	return fleet.New(objects...)
}

// TestStepBack: the step back undoes the step: what comes goes, what is gained is lost, and what begins anew does so again,
// for the same fields. From a fleet to itself there is no step.
func TestStepBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one, other := drawFleet(t, "one"), drawFleet(t, "other")
		forth, back := Compare(one, other, Limits{}), Compare(other, one, Limits{})
		if same := Compare(one, one, Limits{}); len(same.Nodes) > 0 || same.Disturbs() || same.Added+same.Kept > 0 {
			t.Fatalf("from a fleet to itself: %+v", same)
		}
		if forth.Added != back.Gone || forth.Gone != back.Added || forth.Reset != back.Reset || forth.Kept != back.Kept || forth.Same != back.Same {
			t.Fatalf("forth %+v\nback %+v", forth, back)
		}
		if len(forth.Nodes) != len(back.Nodes) {
			t.Fatalf("forth on %d nodes, back on %d", len(forth.Nodes), len(back.Nodes))
		}
		opposite := map[config.Effect]config.Effect{
			config.SessionAdded: config.SessionRemoved, config.SessionRemoved: config.SessionAdded,
			config.SessionReset: config.SessionReset, config.SessionKept: config.SessionKept,
		}
		for i, node := range forth.Nodes {
			if len(node.Sessions) != len(back.Nodes[i].Sessions) {
				t.Fatalf("forth %+v\nback %+v", node, back.Nodes[i])
			}
			for j, there := range node.Sessions {
				again := back.Nodes[i].Sessions[j]
				if there.Peer != again.Peer || again.Effect != opposite[there.Effect] || !reflect.DeepEqual(there.Forcing, again.Forcing) ||
					!reflect.DeepEqual(there.Gained, again.Lost) || !reflect.DeepEqual(there.Lost, again.Gained) || !reflect.DeepEqual(there.Changed, again.Changed) {
					t.Fatalf("forth %+v\nback %+v", there, again)
				}
			}
		}
	})
}

// TestLimitsAreThoseOfTheStep: what was passed before is no news.
func TestLimitsAreThoseOfTheStep(t *testing.T) {
	at := func(blocks int) *fleet.Fleet {
		objects := []clearwayv1.Object{
			&clearwayv1.Node{Kind: "Node", Metadata: meta("n"), Spec: &clearwayv1.NodeSpec{Addresses: []string{"192.0.2.11/24"}}},
			&clearwayv1.BGPPeer{Kind: "BGPPeer", Metadata: meta("tor"), Spec: &clearwayv1.BGPPeerSpec{PeerAddress: "192.0.2.1", PeerAsn: 65101}},
		}
		for i := range blocks {
			objects = append(objects, &clearwayv1.Block{Kind: "Block", Metadata: meta(fmt.Sprint("b", i)), Spec: &clearwayv1.BlockSpec{
				Cidr: fmt.Sprintf("10.244.%d.0/26", i), Node: "n", State: clearwayv1.BlockState_BLOCK_STATE_OWNED,
			}})
		}
		return fleet.New(objects...)
	}
	for _, c := range []struct{ before, after, want int }{{1, 2, 0}, {2, 3, 1}, {3, 4, 0}, {3, 2, 0}} {
		if got := Compare(at(c.before), at(c.after), Limits{MaxPrefixes: 2}); len(got.Limits) != c.want {
			t.Errorf("from %d to %d blocks: %v", c.before, c.after, got.Limits)
		}
	}
}
