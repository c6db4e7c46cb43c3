package server_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func TestClaimAnswersABlockAndItsRepetitionTheSame(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"))
	a := d.agent("n1")
	first := a.mustClaim("pods", "k1")
	if first.GetCidr() != "10.244.0.0/26" || first.GetGeneration() == 0 || first.GetNode() != "n1" ||
		first.GetNodeUid() != a.registered.GetNodeUid() || first.GetState() != clearwayv1.BlockState_BLOCK_STATE_OWNED {
		t.Errorf("got %v", first)
	}
	if again := a.mustClaim("pods", "k1"); again.GetCidr() != first.GetCidr() || again.GetGeneration() != first.GetGeneration() {
		t.Errorf("repeated: got %v, want %v", again, first)
	}
	if second := a.mustClaim("pods", "k2"); second.GetCidr() != "10.244.0.64/26" {
		t.Errorf("second: got %v", second)
	}
}

func TestClaimRefusals(t *testing.T) {
	d := start(t, newFake())
	d.apply(
		ipPool("pods", "10.244.0.0/16"), ipPool("floating", "10.1.0.0/24", func(s *clearwayv1.IPPoolSpec) { s.Kind = "Floating" }),
		ipPool("off", "10.2.0.0/24", func(s *clearwayv1.IPPoolSpec) { s.Disabled = true }),
		ipPool("rack2", "10.3.0.0/24", func(s *clearwayv1.IPPoolSpec) {
			s.NodeSelector = &clearwayv1.LabelSelector{MatchLabels: map[string]string{"rack": "r2"}}
		}),
		ipPool("tiny", "10.4.0.0/26"),
	)
	a := d.agent("n1", func(r *clearwayv1.RegisterRequest) { r.Labels = map[string]string{"rack": "r1"} })
	a.mustClaim("tiny", "t1")
	for _, test := range []struct {
		pool, key, words string
		code             codes.Code
	}{
		{"nosuch", "k", "no pool", codes.NotFound},
		{"floating", "k", "kind Floating", codes.FailedPrecondition},
		{"off", "k", "disabled", codes.FailedPrecondition},
		{"rack2", "k", "nodeSelector", codes.FailedPrecondition},
		{"tiny", "k", "1 blocks owned", codes.ResourceExhausted},
		{"pods", "", "request_key", codes.InvalidArgument},
		{"pods", "t1", "was used before", codes.InvalidArgument},
	} {
		_, err := a.claim(test.pool, test.key)
		wantCode(t, err, test.code)
		if !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %q does not tell %q", test.pool, err, test.words)
		}
	}
}

// The operator's labels go before the agent's, wherever a Node carries them; those of spec go first.
func TestClaimWithLabelsOfNode(t *testing.T) {
	r1, r2 := map[string]string{"rack": "r1"}, map[string]string{"rack": "r2"}
	d := start(t, newFake())
	d.apply(ipPool("rack2", "10.3.0.0/24", func(s *clearwayv1.IPPoolSpec) {
		s.NodeSelector = &clearwayv1.LabelSelector{MatchLabels: r2}
	}))
	for i, test := range []struct {
		metadata, spec map[string]string
		claims         bool
	}{
		{nil, nil, false}, {nil, r2, true}, {r2, nil, true}, {r2, r1, false}, {r1, r2, true},
		{r2, map[string]string{"rack": ""}, false},
	} {
		name := fmt.Sprintf("n%d", i)
		a := d.agent(name, func(r *clearwayv1.RegisterRequest) { r.Labels = r1 })
		d.apply(clearwayv1.Wrap(&clearwayv1.Node{
			Metadata: &clearwayv1.ObjectMeta{Name: name, Labels: test.metadata}, Spec: &clearwayv1.NodeSpec{Labels: test.spec},
		}))
		if _, err := a.claim("rack2", "k"); (err == nil) != test.claims {
			t.Errorf("metadata %v, spec %v: claim: %v", test.metadata, test.spec, err)
		}
	}
}

func TestClaimFallsBackToSmallerBlocks(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/25", func(s *clearwayv1.IPPoolSpec) { s.BlockSize, s.MinBlockSize = 26, 28 }))
	a := d.agent("n1")
	ask := func(key string, bits int32) (*clearwayv1.ClaimBlockResponse, error) {
		return a.NodeServiceClient.ClaimBlock(testContext(t), &clearwayv1.ClaimBlockRequest{
			Node: "n1", SessionId: a.registered.GetSessionId(), RequestKey: key, Pool: "pods", PrefixLength: bits,
		})
	}
	for i, want := range []struct {
		bits int32
		cidr string
	}{{28, "10.244.0.0/28"}, {26, "10.244.0.64/26"}, {26, "10.244.0.32/27"}, {0, "10.244.0.16/28"}} {
		got, err := ask(string(rune('a'+i)), want.bits)
		if err != nil || got.GetBlock().GetCidr() != want.cidr {
			t.Fatalf("%d: got %v, %v; want %s", i, got.GetBlock(), err, want.cidr)
		}
	}
	_, err := ask("z", 0)
	wantCode(t, err, codes.ResourceExhausted)
	for _, bits := range []int32{25, 29} {
		_, err = ask("y", bits)
		wantCode(t, err, codes.InvalidArgument)
	}
}

func TestCompareAndDeleteRelease(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/26"))
	a, b := d.agent("n1"), d.agent("n2")
	block := a.mustClaim("pods", "k1")

	wrong := &clearwayv1.BlockSpec{Cidr: block.GetCidr(), Generation: block.GetGeneration() - 1}
	a.must(a.release(wrong)) // an older ownership: success, and nothing happens
	b.must(b.release(block)) // another node's
	if got := d.block(t, block.GetCidr()); got.GetSpec().GetState() != clearwayv1.BlockState_BLOCK_STATE_OWNED {
		t.Fatalf("released by what did not own it: %v", got)
	}
	a.must(a.release(block))
	a.must(a.release(block))
	got := d.block(t, block.GetCidr())
	if got.GetSpec().GetState() != clearwayv1.BlockState_BLOCK_STATE_COOLING ||
		!got.GetSpec().GetFreeTime().AsTime().Equal(d.clock.Now().Add(130*time.Second)) {
		t.Fatalf("after the release: %v", got)
	}
	_, err := b.claim("pods", "k1")
	wantCode(t, err, codes.ResourceExhausted) // Cooled

	d.clock.Advance(131 * time.Second)
	d.eventually("the block is free", func() bool {
		blocks, _ := d.list(&clearwayv1.ListRequest{Kind: "Block"})
		return len(blocks) == 0
	})
	next := b.mustClaim("pods", "k2")
	a.must(a.release(block)) // the late release of the old owner
	if got := d.block(t, next.GetCidr()); got.GetSpec().GetState() != clearwayv1.BlockState_BLOCK_STATE_OWNED || got.GetSpec().GetNode() != "n2" {
		t.Fatalf("a late release took the new owner's block: %v", got)
	}
	if next.GetGeneration() <= block.GetGeneration() {
		t.Errorf("generations do not rise: %d after %d", next.GetGeneration(), block.GetGeneration())
	}
}

func TestReleaseRestsAsLongAsItsAddresses(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/26"))
	a := d.agent("n1")
	block := a.mustClaim("pods", "k1")
	until := d.clock.Now().Add(10 * time.Minute)
	_, err := a.NodeServiceClient.ReleaseBlock(testContext(t), &clearwayv1.ReleaseBlockRequest{
		Node: "n1", SessionId: a.registered.GetSessionId(), RequestKey: "r", Cidr: block.GetCidr(), Generation: block.GetGeneration(),
		RestUntil: timestamp(until),
	})
	a.must(err)
	if got := d.block(t, block.GetCidr()).GetSpec().GetFreeTime().AsTime(); !got.Equal(until) {
		t.Errorf("free at %s, want %s", got, until)
	}
}

func (d *ipamd) block(t *testing.T, cidr string) *clearwayv1.Block {
	t.Helper()
	found, _ := d.list(&clearwayv1.ListRequest{Kind: "Block", Address: netip.MustParsePrefix(cidr).String()})
	if len(found) != 1 {
		t.Fatalf("%d blocks are %s", len(found), cidr)
	}
	return found[0].GetBlock()
}
