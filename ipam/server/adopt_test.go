package server_test

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func adoptRequest(node string, change ...func(*clearwayv1.AdoptRequest)) *clearwayv1.AdoptRequest {
	request := &clearwayv1.AdoptRequest{
		Node: node, BootId: "boot-1", MachineId: "machine-" + node,
		Blocks: []*clearwayv1.BlockSpec{{Cidr: "10.244.3.0/24", Pool: "pods"}, {Cidr: "10.244.9.64/26", Pool: "pods"}},
		Assignments: []*clearwayv1.AssignmentSpec{{
			Address: "10.244.3.7", Attachment: &clearwayv1.Attachment{Network: "clearway", ContainerId: "c1", Ifname: "eth0"},
			Pod: &clearwayv1.Pod{Namespace: "default", Name: "p", Uid: "u"},
		}},
	}
	for _, one := range change {
		one(request)
	}
	return request
}

func (d *ipamd) adopt(request *clearwayv1.AdoptRequest) (*clearwayv1.AdoptResponse, error) {
	return clearwayv1.NewIPAMServiceClient(d.dial()).Adopt(testContext(d.t), request)
}

// TestAdopt: a node that is taken in has its blocks from then on, and its agent finds them sealed, with the addresses' holders.
func TestAdopt(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/16"))
	if _, err := d.adopt(adoptRequest("n1", func(r *clearwayv1.AdoptRequest) { r.DryRun = true })); err != nil {
		t.Fatal(err)
	}
	if blocks, _ := d.list(&clearwayv1.ListRequest{Kind: "Block"}); len(blocks) != 0 {
		t.Fatalf("a dry run wrote %v", blocks)
	}
	for range 2 { // repeating is harmless
		if _, err := d.adopt(adoptRequest("n1")); err != nil {
			t.Fatal(err)
		}
	}
	other := d.agent("n2")
	for _, key := range []string{"a", "b", "c"} {
		if block := other.mustClaim("pods", key); strings.HasPrefix(block.GetCidr(), "10.244.3.") || block.GetCidr() == "10.244.9.64/26" {
			t.Fatalf("n2 got %s, which is n1's", block.GetCidr())
		}
	}

	a := d.agent("n1")
	var have []string
	for _, block := range a.registered.GetBlocks() {
		have = append(have, block.GetCidr())
	}
	if !slices.Equal(have, []string{"10.244.3.0/24", "10.244.9.64/26"}) || !slices.Equal(a.registered.GetSealedBlocks(), have) {
		t.Errorf("blocks %v, sealed %v", have, a.registered.GetSealedBlocks())
	}
	known := a.registered.GetKnownAssignments()
	if len(known) != 1 || known[0].GetAddress() != "10.244.3.7" || known[0].GetNode() != "n1" ||
		known[0].GetPool() != "pods" || known[0].GetPod().GetUid() != "u" {
		t.Errorf("known assignments: %v", known)
	}
	_, err := d.adopt(adoptRequest("n1"))
	wantCode(t, err, codes.FailedPrecondition) // its agent says what it has
}

// TestAdoptAfterReboot: on another boot no Pod of before lives; the blocks stay, and are open.
func TestAdoptAfterReboot(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"))
	if _, err := d.adopt(adoptRequest("n1")); err != nil {
		t.Fatal(err)
	}
	a := d.agent("n1", func(r *clearwayv1.RegisterRequest) { r.BootId = "boot-2" })
	if got := a.registered; len(got.GetBlocks()) != 2 || len(got.GetSealedBlocks()) != 0 || len(got.GetKnownAssignments()) != 0 {
		t.Errorf("blocks %v, sealed %v, known %v", got.GetBlocks(), got.GetSealedBlocks(), got.GetKnownAssignments())
	}
}

// TestAdoptOutlastsTheLeader, and the end of a node that never came.
func TestAdoptOutlastsTheLeader(t *testing.T) {
	records := newFake()
	first := start(t, records)
	first.apply(ipPool("pods", "10.244.0.0/16"))
	if _, err := first.adopt(adoptRequest("n1")); err != nil {
		t.Fatal(err)
	}
	first.stop()
	d := start(t, records)
	if nodes, _ := d.list(&clearwayv1.ListRequest{Kind: "Node"}); len(nodes) != 1 || nodes[0].GetNode().GetStatus().GetPhase() != "Lost" {
		t.Errorf("nodes: %v", nodes)
	}
	if _, err := clearwayv1.NewResourceServiceClient(d.dial()).Delete(testContext(t), &clearwayv1.DeleteRequest{
		Kind: "Node", Name: "n1", PoweredOff: true,
	}); err != nil {
		t.Fatal(err)
	}
	blocks, _ := d.list(&clearwayv1.ListRequest{Kind: "Block"})
	for _, one := range blocks {
		if state := one.GetBlock().GetSpec().GetState(); state != clearwayv1.BlockState_BLOCK_STATE_COOLING {
			t.Errorf("%s is %v", one.GetBlock().GetSpec().GetCidr(), state)
		}
	}
	if held, _ := d.list(&clearwayv1.ListRequest{Kind: "Assignment"}); len(held) != 0 {
		t.Errorf("assignments: %v", held)
	}
}

// TestAdoptRefusals: each says what is wrong, and nothing is written.
func TestAdoptRefusals(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"), ipPool("v6", "fd00::/48"))
	taken := d.agent("n2").mustClaim("pods", "k").GetCidr()
	type change = func(*clearwayv1.AdoptRequest)
	block := func(cidr, pool string) change {
		return func(r *clearwayv1.AdoptRequest) {
			r.Blocks, r.Assignments = []*clearwayv1.BlockSpec{{Cidr: cidr, Pool: pool}}, nil
		}
	}
	for name, c := range map[string]struct {
		change change
		code   codes.Code
		says   string
	}{
		"no boot":            {func(r *clearwayv1.AdoptRequest) { r.BootId = "" }, codes.InvalidArgument, "boot_id"},
		"no node's name":     {func(r *clearwayv1.AdoptRequest) { r.Node = "A B" }, codes.InvalidArgument, "node"},
		"no blocks":          {func(r *clearwayv1.AdoptRequest) { r.Blocks = nil }, codes.InvalidArgument, "blocks"},
		"host bits":          {block("10.244.3.1/24", "pods"), codes.InvalidArgument, "host bits"},
		"huge":               {block("fd00::/64", "v6"), codes.InvalidArgument, "at most 65536"},
		"no pool":            {block("10.244.3.0/24", "other"), codes.FailedPrecondition, "apply it first"},
		"another pool's":     {block("10.244.3.0/24", "v6"), codes.FailedPrecondition, "has no such block"},
		"another node's":     {block(taken, "pods"), codes.FailedPrecondition, `of node "n2"`},
		"around another's":   {block("10.244.0.0/20", "pods"), codes.FailedPrecondition, `of node "n2"`},
		"a node with agent":  {func(r *clearwayv1.AdoptRequest) { r.Node = "n2" }, codes.FailedPrecondition, "agent of its own"},
		"address outside":    {func(r *clearwayv1.AdoptRequest) { r.Assignments[0].Address = "10.244.4.1" }, codes.InvalidArgument, "none of the blocks"},
		"address twice":      {func(r *clearwayv1.AdoptRequest) { r.Assignments = append(r.Assignments, r.Assignments[0]) }, codes.InvalidArgument, "twice"},
		"without attachment": {func(r *clearwayv1.AdoptRequest) { r.Assignments[0].Attachment = nil }, codes.InvalidArgument, "attachment"},
		"overlapping": {func(r *clearwayv1.AdoptRequest) {
			r.Blocks = append(r.Blocks, &clearwayv1.BlockSpec{Cidr: "10.244.3.0/25", Pool: "pods"})
		}, codes.InvalidArgument, "overlaps"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.adopt(adoptRequest("n1", c.change))
			wantCode(t, err, c.code)
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v does not say %q", err, c.says)
			}
		})
	}
	if blocks, _ := d.list(&clearwayv1.ListRequest{Kind: "Block"}); len(blocks) != 1 {
		t.Errorf("blocks: %v", blocks)
	}
}
