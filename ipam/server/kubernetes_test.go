package server_test

import (
	"fmt"
	"testing"
	"time"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func machines(nodes ...*clearwayv1.KubernetesNode) map[string]*clearwayv1.KubernetesNode {
	all := map[string]*clearwayv1.KubernetesNode{}
	for i, node := range nodes {
		if node != nil {
			all[fmt.Sprint("n", i+1)] = node
		}
	}
	return all
}

// TestNodesThatKubernetesHasNoMore: a Node that is gone is deleted here only when its agent is away as well, for a while; its
// blocks are then orphaned, and those of one that is said to be off rest.
func TestNodesThatKubernetesHasNoMore(t *testing.T) {
	for name, c := range map[string]struct {
		then    map[string]*clearwayv1.KubernetesNode
		leaves  bool // the agent does
		wait    time.Duration
		want    clearwayv1.BlockState
		deleted bool
	}{
		"it is there":                            {machines(&clearwayv1.KubernetesNode{Uid: "u1"}), true, time.Hour, clearwayv1.BlockState_BLOCK_STATE_OWNED, false},
		"gone, and its agent is there":           {machines(), false, time.Hour, clearwayv1.BlockState_BLOCK_STATE_OWNED, false},
		"gone just now":                          {machines(), true, 30 * time.Second, clearwayv1.BlockState_BLOCK_STATE_OWNED, false},
		"gone":                                   {machines(), true, 2 * time.Minute, clearwayv1.BlockState_BLOCK_STATE_ORPHANED, true},
		"said to be off":                         {machines(&clearwayv1.KubernetesNode{Uid: "u1", PoweredOff: true}), true, 2 * time.Minute, clearwayv1.BlockState_BLOCK_STATE_COOLING, true},
		"said to be off, and its agent is there": {machines(&clearwayv1.KubernetesNode{Uid: "u1", PoweredOff: true}), false, 2 * time.Minute, clearwayv1.BlockState_BLOCK_STATE_OWNED, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, newFake())
			d.apply(ipPool("pods", "10.244.0.0/16"))
			ctx := testContext(t)
			if err := d.server.SeeNodes(ctx, machines(&clearwayv1.KubernetesNode{Uid: "u1"})); err != nil {
				t.Fatal(err)
			}
			a := d.agent("n1")
			a.mustClaim("pods", "k1")
			if err := d.server.SeeNodes(ctx, c.then); err != nil {
				t.Fatal(err)
			}
			d.clock.Advance(c.wait)
			if c.leaves {
				_ = a.conn.Close()
				d.eventually("the agent is lost", func() bool {
					nodes, _ := d.list(&clearwayv1.ListRequest{Kind: "Node"})
					return len(nodes) == 1 && nodes[0].GetNode().GetStatus().GetPhase() == "Lost"
				})
			}
			for range 2 {
				if err := d.server.SeeNodes(ctx, c.then); err != nil {
					t.Fatal(err)
				}
			}
			blocks, _ := d.list(&clearwayv1.ListRequest{Kind: "Block"})
			nodes, _ := d.list(&clearwayv1.ListRequest{Kind: "Node"})
			if len(blocks) != 1 || blocks[0].GetBlock().GetSpec().GetState() != c.want || (len(nodes) == 0) != c.deleted {
				t.Errorf("blocks %v, nodes %v", blocks, nodes)
			}
		})
	}
}

// TestWhatKubernetesSaidLasts: a new leader goes by what the one before was told.
func TestWhatKubernetesSaidLasts(t *testing.T) {
	records := newFake()
	d := start(t, records)
	ctx := testContext(t)
	if err := d.server.SeeNodes(ctx, machines(&clearwayv1.KubernetesNode{Uid: "u1", Labels: map[string]string{"rack": "r1"}})); err != nil {
		t.Fatal(err)
	}
	if err := d.server.SeeNamespaces(ctx, map[string]*clearwayv1.KubernetesNamespace{"a": {Labels: map[string]string{"x": "y"}}}); err != nil {
		t.Fatal(err)
	}
	d.stop()
	d = start(t, records)
	d.agent("n1")
	nodes, _ := d.list(&clearwayv1.ListRequest{Kind: "Node"})
	if len(nodes) != 1 || nodes[0].GetNode().GetStatus().GetLabels()["rack"] != "r1" || nodes[0].GetNode().GetMetadata().GetUid() != "u1" {
		t.Errorf("nodes: %v", nodes)
	}
}

// TestManyNodesAreSeenInPieces: more than one transaction takes.
func TestManyNodesAreSeenInPieces(t *testing.T) {
	d := start(t, newFake())
	all := map[string]*clearwayv1.KubernetesNode{}
	for i := range 250 {
		all[fmt.Sprint("m", i)] = &clearwayv1.KubernetesNode{Uid: fmt.Sprint("u", i)}
	}
	if err := d.server.SeeNodes(testContext(t), all); err != nil {
		t.Fatal(err)
	}
	a := d.agent("m249")
	nodes, _ := d.list(&clearwayv1.ListRequest{Kind: "Node"})
	if len(nodes) != 1 || nodes[0].GetNode().GetMetadata().GetUid() != "u249" {
		t.Errorf("%v, %v", a, nodes)
	}
}
