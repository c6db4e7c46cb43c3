package server_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func violations(err error) []*clearwayv1.FieldViolation {
	var found []*clearwayv1.FieldViolation
	for _, detail := range status.Convert(err).Details() {
		if one, ok := detail.(*clearwayv1.FieldViolation); ok {
			found = append(found, one)
		}
	}
	return found
}

func TestNamedErrorsOfApply(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"))
	d.agent("n1").mustClaim("pods", "k1")
	for _, test := range []struct {
		name, field, words string
		resource           *clearwayv1.Resource
	}{
		{"host bits", "spec.cidr", "10.1.0.0/24", ipPool("a", "10.1.0.5/24")},
		{"overlap", "spec.cidr", "IPPool/pods", ipPool("a", "10.244.8.0/24")},
		{"block size", "spec.blockSize", "16 to 32", ipPool("a", "10.1.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.BlockSize = 33 })},
		{"pool smaller than a block", "spec.blockSize", "smaller than one block", ipPool("a", "10.1.0.0/28")},
		{"kind", "spec.kind", "must be Block", ipPool("a", "10.1.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.Kind = "Blob" })},
		{"name", "metadata.name", "lowercase", ipPool("A_b", "10.1.0.0/16")},
		{"no name", "metadata.name", "is required", ipPool("", "10.1.0.0/16")},
		{"cidr without its blocks", "spec.cidr", "leaves out 1 blocks on 1 nodes with 0 addresses assigned; drain what is to go first (spec.drainCIDRs: [10.244.0.0/17])",
			ipPool("pods", "10.244.128.0/17")},
		{"drained outside", "spec.drainCIDRs[0]", "outside of the pool", ipPool("pods", "10.244.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.DrainCidrs = []string{"10.0.0.0/24"} })},
		{"changed kind", "spec.kind", "cannot be changed", ipPool("pods", "10.244.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.Kind = "Floating" })},
		{"gateway in use", "spec.gateway", "10.244.0.0/26 of node n1, where a Pod may have it", ipPool("pods", "10.244.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.Gateway = "10.244.0.9" })},
		{"read only", "kind", "read only", clearwayv1.Wrap(&clearwayv1.Block{Metadata: &clearwayv1.ObjectMeta{Name: "b"}})},
		{"peer", "spec.peerAddress", "", clearwayv1.Wrap(&clearwayv1.BGPPeer{
			Metadata: &clearwayv1.ObjectMeta{Name: "p"}, Spec: &clearwayv1.BGPPeerSpec{PeerAddress: "x", PeerAsn: 1},
		})},
		{"nothing", "kind", "no resource", &clearwayv1.Resource{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			good := ipPool("good", "10.200.0.0/16")
			_, err := d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{good, test.resource}})
			wantCode(t, err, codes.InvalidArgument)
			found := violations(err)
			if len(found) != 1 || found[0].GetField() != test.field || found[0].GetIndex() != 1 ||
				!strings.Contains(found[0].GetMessage(), test.words) {
				t.Errorf("got %v", found)
			}
			if pools, _ := d.list(&clearwayv1.ListRequest{Kind: "IPPool"}); len(pools) != 1 {
				t.Error("something was applied")
			}
		})
	}
}

func TestApplyTellsAllFaultsAtOnce(t *testing.T) {
	d := start(t, newFake())
	_, err := d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{
		ipPool("a", "10.1.0.5/24"), ipPool("b", "10.2.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.Kind, s.BlockSize = "x", 99 }), ipPool("b", "10.3.0.0/16"),
	}})
	var got []string
	for _, one := range violations(err) {
		got = append(got, one.GetResource()+" "+one.GetField())
	}
	want := "IPPool/a spec.cidr,IPPool/b spec.kind,IPPool/b spec.blockSize,IPPool/b metadata.name"
	if strings.Join(got, ",") != want {
		t.Errorf("got %q, want %s", got, want)
	}
	_, err = d.Apply(testContext(t), &clearwayv1.ApplyRequest{})
	wantCode(t, err, codes.InvalidArgument)
}

func TestPoolsOfOneCallMustNotOverlapEither(t *testing.T) {
	d := start(t, newFake())
	_, err := d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{
		ipPool("a", "10.1.0.0/16"), ipPool("b", "10.1.128.0/17"),
	}})
	wantCode(t, err, codes.InvalidArgument)
}

func TestApplyKnowsWhatIsUnchanged(t *testing.T) {
	d := start(t, newFake())
	made := d.apply(ipPool("pods", "10.244.0.0/16")).GetResults()[0]
	metadata := made.GetResource().GetIpPool().GetMetadata()
	if made.GetAction() != clearwayv1.ApplyResult_ACTION_CREATED || metadata.GetUid() == "" || metadata.GetGeneration() != 1 ||
		metadata.GetResourceVersion() == "" || metadata.GetCreationTimestamp() == nil {
		t.Fatalf("created: %v", made)
	}
	// As it comes from a listing, with status and all.
	listed, _ := d.list(&clearwayv1.ListRequest{Kind: "ippools", Name: "pods"})
	if same := d.apply(listed[0]).GetResults()[0]; same.GetAction() != clearwayv1.ApplyResult_ACTION_UNCHANGED {
		t.Errorf("unchanged: %v", same)
	}
	changed := proto.CloneOf(listed[0])
	changed.GetIpPool().GetSpec().Disabled = true
	dry, err := d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{changed}, DryRun: true})
	if err != nil || dry.GetResults()[0].GetAction() != clearwayv1.ApplyResult_ACTION_CONFIGURED {
		t.Errorf("dry run: %v %v", dry, err)
	}
	next := d.apply(changed).GetResults()[0]
	after := next.GetResource().GetIpPool().GetMetadata()
	if next.GetAction() != clearwayv1.ApplyResult_ACTION_CONFIGURED || after.GetGeneration() != 2 || after.GetUid() != metadata.GetUid() ||
		after.GetResourceVersion() == metadata.GetResourceVersion() {
		t.Errorf("configured: %v", next)
	}
	_, err = d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{changed}})
	wantCode(t, err, codes.Aborted) // its resourceVersion is the first one's
}

func TestIdempotentApplyAndDelete(t *testing.T) {
	d := start(t, newFake())
	request := &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{ipPool("pods", "10.244.0.0/16")}, RequestKey: "a1"}
	first, err := d.Apply(testContext(t), request)
	if err != nil {
		t.Fatal(err)
	}
	again, err := d.Apply(testContext(t), request)
	if err != nil || !proto.Equal(first, again) {
		t.Errorf("got %v, %v; want %v", again, err, first)
	}
	remove := &clearwayv1.DeleteRequest{Kind: "IPPool", Name: "pods", RequestKey: "d1"}
	for range 2 {
		if _, err := d.Delete(testContext(t), remove); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	remove.RequestKey = "d2"
	_, err = d.Delete(testContext(t), remove)
	wantCode(t, err, codes.NotFound)
}

func TestDeleteOfWhatIsInUse(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"), clearwayv1.Wrap(&clearwayv1.BGPFilter{
		Metadata: &clearwayv1.ObjectMeta{Name: "f"}, Spec: &clearwayv1.BGPFilterSpec{Rules: []*clearwayv1.BGPFilterRule{{Action: "Accept"}}},
	}), clearwayv1.Wrap(&clearwayv1.BGPPeer{
		Metadata: &clearwayv1.ObjectMeta{Name: "p"},
		Spec:     &clearwayv1.BGPPeerSpec{PeerAddress: "192.0.2.1", PeerAsn: 65101, ImportFilters: []string{"f"}},
	}))
	a := d.agent("n1")
	block := a.mustClaim("pods", "k1")
	_, err := d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "BGPFilter", Name: "f"})
	wantCode(t, err, codes.FailedPrecondition)
	a.must(a.release(block))
	if _, err := d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "IPPool", Name: "pods"}); err != nil {
		t.Fatalf("only resting blocks are left: %v", err)
	}
	// NoOverlap, of deleted pools' blocks too: the resting block is in the way of other pools until it is free.
	_, err = d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{ipPool("other", "10.244.0.0/24")}})
	wantCode(t, err, codes.InvalidArgument)
	d.apply(ipPool("pods", "10.244.0.0/20")) // a pool of its name takes it in
	if next := a.mustClaim("pods", "k2"); next.GetCidr() != "10.244.0.64/26" {
		t.Errorf("claimed %s", next.GetCidr())
	}
}
