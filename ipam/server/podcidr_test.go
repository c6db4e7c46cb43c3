package server_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func (d *ipamd) seeNodes(all map[string]*clearwayv1.KubernetesNode) {
	d.t.Helper()
	if err := d.server.SeeNodes(testContext(d.t), all); err != nil {
		d.t.Fatal(err)
	}
}

// TestUsePodCIDR: a node's block is what Kubernetes gave its Node, once, and nobody else's.
func TestUsePodCIDR(t *testing.T) {
	d := start(t, newFake())
	rigid := func(s *clearwayv1.IPPoolSpec) { s.Layout, s.UsePodCidr = "Rigid", true }
	d.apply(ipPool("pods", "10.244.0.0/16", rigid), ipPool("pods6", "fd00:10:244::/56", rigid))
	d.seeNodes(map[string]*clearwayv1.KubernetesNode{
		"n1": {Uid: "u1", PodCidrs: []string{"10.244.7.0/24", "fd00:10:244:7::/64"}},
		"n2": {Uid: "u2", PodCidrs: []string{"10.9.0.0/24"}},
	})
	a, b := d.agent("n1"), d.agent("n2")
	if got := a.mustClaim("pods", "k1").GetCidr(); got != "10.244.7.0/24" {
		t.Errorf("n1 got %s", got)
	}
	if got := a.mustClaim("pods6", "k2").GetCidr(); got != "fd00:10:244:7::/112" { // no block is larger
		t.Errorf("n1 got %s", got)
	}
	_, err := a.claim("pods", "k3")
	wantCode(t, err, codes.FailedPrecondition)
	if !strings.Contains(err.Error(), "has its one block of pool \"pods\", 10.244.7.0/24") {
		t.Error(err)
	}
	_, err = b.claim("pods", "k1")
	wantCode(t, err, codes.FailedPrecondition)
	if !strings.Contains(err.Error(), `Kubernetes' Node "n2" has none within 10.244.0.0/16`) {
		t.Error(err)
	}
}

// TestUsePodCIDROfARemadeNode: another Node is given what the block of a node still is; it waits until that is free.
func TestUsePodCIDROfARemadeNode(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.Layout, s.UsePodCidr = "Rigid", true }))
	d.seeNodes(map[string]*clearwayv1.KubernetesNode{"n1": {Uid: "u1", PodCidrs: []string{"10.244.7.0/24"}}})
	a := d.agent("n1")
	block := a.mustClaim("pods", "k1")
	d.seeNodes(map[string]*clearwayv1.KubernetesNode{
		"n1": {Uid: "u9", PodCidrs: []string{"10.244.8.0/24"}}, "n2": {Uid: "u2", PodCidrs: []string{"10.244.7.0/24"}},
	})
	b := d.agent("n2")
	_, err := b.claim("pods", "k1")
	wantCode(t, err, codes.ResourceExhausted)
	if !strings.Contains(err.Error(), `10.244.7.0/24 is Owned, of node "n1"`) {
		t.Error(err)
	}
	a.must(a.register())
	if got := a.mustClaim("pods", "k2").GetCidr(); got != "10.244.8.0/24" { // beside the old one, which it gives back when it is empty
		t.Errorf("n1 got %s", got)
	}
	for _, one := range a.registered.GetBlocks() {
		if one.GetCidr() == block.GetCidr() {
			block = one
		}
	}
	a.must(a.release(block))
	if got := b.mustClaim("pods", "k2"); got.GetCidr() != "10.244.7.0/24" || !got.GetFreeTime().AsTime().After(time.Now().Add(-time.Hour*24*3650)) {
		t.Errorf("n2 got %v", got)
	}
}

// TestDrainCordoned: with the option a cordoned Node's agent is told a drain that keeps its blocks; the operator sees none, and
// goes before.
func TestDrainCordoned(t *testing.T) {
	d := start(t, newFake())
	configure := func(on bool) {
		d.apply(clearwayv1.Wrap(&clearwayv1.BGPConfiguration{
			Metadata: &clearwayv1.ObjectMeta{Name: "default"}, Spec: &clearwayv1.BGPConfigurationSpec{DrainCordoned: on},
		}))
	}
	a := d.agent("n1")
	told := func() *clearwayv1.Drain {
		t.Helper()
		stream, err := a.WatchNode(testContext(t), &clearwayv1.WatchNodeRequest{Node: "n1", SessionId: a.registered.GetSessionId()})
		a.must(err)
		first, err := stream.Recv()
		a.must(err)
		return first.GetSnapshot().GetNode().GetSpec().GetDrain()
	}
	d.seeNodes(map[string]*clearwayv1.KubernetesNode{"n1": {Uid: "u1", Cordoned: true}})
	a.must(a.register()) // it has another UID now
	if got := told(); got != nil {
		t.Errorf("told %v without the option", got)
	}
	configure(true)
	if got := told(); !got.GetKeep() {
		t.Errorf("told %v of a cordoned node", got)
	}
	if nodes, _ := d.list(&clearwayv1.ListRequest{Kind: "Node"}); nodes[0].GetNode().GetSpec().GetDrain() != nil {
		t.Errorf("an operator sees %v", nodes[0])
	}
	d.apply(clearwayv1.Wrap(&clearwayv1.Node{Metadata: &clearwayv1.ObjectMeta{Name: "n1"}, Spec: &clearwayv1.NodeSpec{Drain: &clearwayv1.Drain{Withdraw: true}}}))
	if got := told(); got.GetKeep() || !got.GetWithdraw() {
		t.Errorf("told %v over the operator's word", got)
	}
	d.apply(clearwayv1.Wrap(&clearwayv1.Node{Metadata: &clearwayv1.ObjectMeta{Name: "n1"}, Spec: &clearwayv1.NodeSpec{}}))
	d.seeNodes(map[string]*clearwayv1.KubernetesNode{"n1": {Uid: "u1"}})
	if got := told(); got != nil {
		t.Errorf("told %v of a node that is cordoned no more", got)
	}
}
