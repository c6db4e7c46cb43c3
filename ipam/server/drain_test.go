package server_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// pool reads one; nil: there is none.
func (d *ipamd) pool(name string) *clearwayv1.IPPool {
	d.t.Helper()
	found, _ := d.list(&clearwayv1.ListRequest{Kind: "IPPool", Name: name})
	if len(found) == 0 {
		return nil
	}
	return found[0].GetIpPool()
}

func (d *ipamd) deletePool(name string) *clearwayv1.IPPool {
	d.t.Helper()
	answer, err := d.Delete(testContext(d.t), &clearwayv1.DeleteRequest{Kind: "IPPool", Name: name})
	if err != nil {
		d.t.Fatal(err)
	}
	return answer.GetRemaining().GetIpPool()
}

func conditions(made *clearwayv1.IPPool) string {
	var texts []string
	for _, one := range made.GetStatus().GetConditions() {
		texts = append(texts, one.GetType()+"="+one.GetStatus()+" "+one.GetReason()+": "+one.GetMessage())
	}
	return strings.Join(texts, "\n")
}

// TestPoolLifeCycle: a pool that is deleted drains, keeps its place in the overlap check, and is gone with its last
// block, through a change of leaders as well.
func TestPoolLifeCycle(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/16"))
	n1, n2 := d.agent("n1"), d.agent("n2")
	one, two := n1.mustClaim("pods", "k1"), n2.mustClaim("pods", "k1")
	kept := assignment("n1", "10.244.0.5", 1)
	kept.Block = one.GetCidr()
	n1.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 1, Assigned: []*clearwayv1.AssignmentSpec{kept}})

	left := d.deletePool("pods")
	if left.GetStatus().GetPhase() != "Draining" || left.GetMetadata().GetDeletionTimestamp() == nil ||
		!strings.Contains(conditions(left), "Drained=False BlocksRemain: 2 blocks on 2 nodes with 1 addresses assigned") {
		t.Fatalf("deleted: %v", left)
	}
	if again := d.deletePool("pods"); !proto.Equal(again.GetMetadata(), left.GetMetadata()) {
		t.Errorf("deleted twice: %v, then %v", left.GetMetadata(), again.GetMetadata())
	}
	_, err := n1.claim("pods", "k2")
	wantCode(t, err, codes.FailedPrecondition)
	_, err = d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{ipPool("other", "10.244.0.0/17")}})
	if found := violations(err); len(found) != 1 || !strings.Contains(found[0].GetMessage(), "IPPool/pods, 10.244.0.0/16, which is being deleted") {
		t.Errorf("a pool over it: %v", err)
	}

	n1.must(n1.release(one))
	if _, err := d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "Node", Name: "n2"}); err != nil {
		t.Fatal(err)
	}
	if got := conditions(d.pool("pods")); !strings.Contains(got, "1 blocks on 1 nodes with 0 addresses assigned; 1 of the blocks are of gone nodes") {
		t.Errorf("with an orphan: %s", got)
	}
	d.stop()
	d = start(t, records) // the next leader goes on with it
	if d.pool("pods") == nil {
		t.Fatal("gone with an orphaned block")
	}
	if _, err := d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "Node", Name: "n2", PoweredOff: true}); err != nil {
		t.Fatal(err)
	}
	d.eventually("the pool is gone", func() bool { return d.pool("pods") == nil })
	// What rests of it stays in the overlap check, until it is free.
	_, err = d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{ipPool("other", "10.244.0.0/17")}})
	if found := violations(err); len(found) != 1 || !strings.Contains(found[0].GetMessage(), two.GetCidr()) && !strings.Contains(found[0].GetMessage(), one.GetCidr()) {
		t.Errorf("a pool over what rests: %v", err)
	}
	d.clock.Advance(time.Hour)
	d.eventually("the blocks are free", func() bool {
		blocks, _ := d.list(&clearwayv1.ListRequest{Kind: "Block"})
		return len(blocks) == 0
	})
	d.apply(ipPool("other", "10.244.0.0/17"))
}

// TestDeletionIsTakenBack: a pool that is applied anew lives on; one that is applied as it was read is still deleted.
func TestDeletionIsTakenBack(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"))
	d.agent("n1").mustClaim("pods", "k1")
	read := d.deletePool("pods")
	if got := d.apply(clearwayv1.Wrap(read)).GetResults()[0].GetAction(); got != clearwayv1.ApplyResult_ACTION_UNCHANGED {
		t.Errorf("as it was read: %s", got)
	}
	read.Metadata.DeletionTimestamp = timestamppb.New(time.Unix(1, 0)) // nobody's to set
	d.apply(clearwayv1.Wrap(read))
	if got := d.pool("pods"); got.GetStatus().GetPhase() != "Draining" || got.GetMetadata().GetDeletionTimestamp().GetSeconds() == 1 {
		t.Errorf("with another time: %v", got)
	}
	if got := d.apply(ipPool("pods", "10.244.0.0/16")).GetResults()[0].GetAction(); got != clearwayv1.ApplyResult_ACTION_CONFIGURED {
		t.Errorf("anew: %s", got)
	}
	if got := d.pool("pods"); got.GetStatus().GetPhase() != "Active" || got.GetMetadata().GetDeletionTimestamp() != nil {
		t.Errorf("anew: %v", got)
	}
	born := ipPool("born", "10.9.0.0/16")
	born.GetIpPool().Metadata.DeletionTimestamp = timestamppb.New(time.Unix(1, 0))
	d.apply(born)
	if got := d.pool("born"); got.GetStatus().GetPhase() != "Active" {
		t.Errorf("born deleted: %v", got)
	}
}

func TestDrainIsASetting(t *testing.T) {
	d := start(t, newFake())
	to := func(name string) func(*clearwayv1.IPPoolSpec) {
		return func(s *clearwayv1.IPPoolSpec) { s.Drain, s.DrainTo = true, name }
	}
	d.apply(ipPool("a", "10.1.0.0/16", to("b")), ipPool("b", "10.2.0.0/16"), ipPool("six", "fd00::/48"),
		ipPool("vips", "203.0.113.0/24", func(s *clearwayv1.IPPoolSpec) { s.Kind = "LoadBalancer" }))
	if got := d.pool("a"); got.GetStatus().GetPhase() != "Draining" || !strings.Contains(conditions(got), "Drained=True Empty") {
		t.Errorf("drained: %v", got)
	}
	_, err := d.agent("n1").claim("a", "k1")
	wantCode(t, err, codes.FailedPrecondition)
	_, err = d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "IPPool", Name: "b"})
	if wantCode(t, err, codes.FailedPrecondition); !strings.Contains(err.Error(), "IPPool/a is drained to") {
		t.Error(err)
	}
	for name, test := range map[string]struct {
		field, words string
		resource     *clearwayv1.Resource
	}{
		"not there":       {"spec.drainTo", "there is no IPPool", ipPool("c", "10.3.0.0/16", to("nowhere"))},
		"itself":          {"spec.drainTo", "is this pool itself", ipPool("c", "10.3.0.0/16", to("c"))},
		"other family":    {"spec.drainTo", "of the other family", ipPool("c", "10.3.0.0/16", to("six"))},
		"other kind":      {"spec.drainTo", "of kind LoadBalancer", ipPool("c", "10.3.0.0/16", to("vips"))},
		"not drained":     {"spec.drainTo", "is not drained", ipPool("c", "10.3.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.DrainTo = "b" })},
		"in a circle":     {"spec.drainTo", "in a circle", ipPool("b", "10.2.0.0/16", to("a"))},
		"kind not carved": {"spec.drain", "has no blocks", ipPool("c", "10.3.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.Drain, s.Kind = true, "Floating" })},
	} {
		_, err := d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{test.resource}})
		if found := violations(err); len(found) != 1 || found[0].GetField() != test.field || !strings.Contains(found[0].GetMessage(), test.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d.apply(ipPool("b", "10.2.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.Drain = true }))
	_, err = d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{ipPool("c", "10.3.0.0/16", to("a"))}})
	if found := violations(err); len(found) != 1 || !strings.Contains(found[0].GetMessage(), "ends in IPPool/b") {
		t.Errorf("to a pool that is drained: %v", err)
	}
}
