package server_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/server"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// fakeSource is a source in memory that counts generations as the API server does.
type fakeSource struct {
	mu      sync.Mutex
	objects map[string]clearwayv1.Object
	made    int
	refuse  string // of a name: nothing of it is written
}

func newSource() *fakeSource { return &fakeSource{objects: map[string]clearwayv1.Object{}} }

func (f *fakeSource) Write(_ context.Context, object clearwayv1.Object, dry bool) (clearwayv1.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := clearwayv1.KeyOf(object)
	before := f.objects[key]
	if expected := object.GetMetadata().GetSource(); expected != nil &&
		(before == nil || before.GetMetadata().GetSource().GetGeneration() != expected.GetGeneration()) {
		return nil, status.Error(codes.Aborted, "was changed")
	}
	if !dry && object.GetMetadata().GetName() == f.refuse {
		return nil, status.Error(codes.Unavailable, "is away")
	}
	made := proto.Clone(object).(clearwayv1.Object)
	f.made++
	made.GetMetadata().Source = &clearwayv1.Source{Uid: fmt.Sprint("u", f.made), Generation: 1}
	if before != nil {
		made.GetMetadata().Source = proto.CloneOf(before.GetMetadata().GetSource())
		made.GetMetadata().Source.Generation++
	}
	if !dry {
		f.objects[key] = made
	}
	return proto.Clone(made).(clearwayv1.Object), nil
}

func (f *fakeSource) Delete(_ context.Context, kind, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.objects, kind+"/"+name)
	return nil
}

func (f *fakeSource) has(key string) clearwayv1.Object {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.objects[key]
}

func startWithSource(t testing.TB) (*ipamd, *fakeSource) {
	t.Helper()
	source := newSource()
	d := startSourced(t, newFake(), "leader:7470", server.Limits{}, newClock().now, source)
	d.eventually("the server leads", d.server.Leading)
	return d, source
}

// TestApplyGoesThroughTheSource: what is applied is in the source first, and the copy tells what it is of.
func TestApplyGoesThroughTheSource(t *testing.T) {
	d, source := startWithSource(t)
	forged := ipPool("pods", "10.244.0.0/16")
	forged.Object().GetMetadata().Source = &clearwayv1.Source{Uid: "forged"}
	answer, err := d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{forged}})
	if err != nil {
		t.Fatal(err)
	}
	there := source.has("IPPool/pods")
	got := answer.GetResults()[0].GetResource().Object().GetMetadata()
	if there == nil || got.GetSource().GetUid() != there.GetMetadata().GetSource().GetUid() || got.GetResourceVersion() == "" {
		t.Fatalf("source has %v, the copy is of %v", there, got)
	}
	// A version that was read holds only while the source has what was read.
	source.mu.Lock()
	there.GetMetadata().Source.Generation++
	source.mu.Unlock()
	change := ipPool("pods", "10.244.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.Disabled = true })
	change.Object().GetMetadata().ResourceVersion = got.GetResourceVersion()
	_, err = d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{change}})
	wantCode(t, err, codes.Aborted)
	change.Object().GetMetadata().ResourceVersion = ""
	if _, err = d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{change}}); err != nil {
		t.Fatal(err)
	}
}

// TestNothingIsWrittenThatIpamdRefuses: all is judged before anything is written, and a source that fails on the way says
// how far it came.
func TestNothingIsWrittenThatIpamdRefuses(t *testing.T) {
	d, source := startWithSource(t)
	_, err := d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{
		ipPool("a", "10.1.0.0/16"), ipPool("b", "10.1.2.0/24"),
	}})
	wantCode(t, err, codes.InvalidArgument)
	if source.has("IPPool/a") != nil {
		t.Error("the first of two that overlap was written")
	}
	source.refuse = "b"
	_, err = d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{
		ipPool("a", "10.1.0.0/16"), ipPool("b", "10.2.0.0/16"),
	}})
	wantCode(t, err, codes.Unavailable)
	if !strings.Contains(err.Error(), "IPPool/b: is away; the 1 before it are applied") {
		t.Error(err)
	}
}

// TestDeleteGoesThroughTheSource: what something names is deleted nowhere.
func TestDeleteGoesThroughTheSource(t *testing.T) {
	d, source := startWithSource(t)
	filter := clearwayv1.Wrap(&clearwayv1.BGPFilter{Metadata: &clearwayv1.ObjectMeta{Name: "f"}})
	peer := clearwayv1.Wrap(&clearwayv1.BGPPeer{
		Metadata: &clearwayv1.ObjectMeta{Name: "p"}, Spec: &clearwayv1.BGPPeerSpec{PeerAddress: "192.0.2.1", PeerAsn: 65101, ImportFilters: []string{"f"}},
	})
	if _, err := d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{filter, peer}}); err != nil {
		t.Fatal(err)
	}
	_, err := d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "BGPFilter", Name: "f"})
	wantCode(t, err, codes.FailedPrecondition)
	if source.has("BGPFilter/f") == nil {
		t.Fatal("it was deleted in the source")
	}
	for _, one := range []struct{ kind, name string }{{"BGPPeer", "p"}, {"BGPFilter", "f"}} {
		if _, err := d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: one.kind, Name: one.name}); err != nil {
			t.Fatal(err)
		}
		if source.has(one.kind+"/"+one.name) != nil {
			t.Errorf("%s/%s is in the source still", one.kind, one.name)
		}
	}
}

// copied is a resource as the mirror hands it over.
func copied(resource *clearwayv1.Resource, uid string, generation int64) clearwayv1.Object {
	object := resource.Object()
	object.GetMetadata().Source = &clearwayv1.Source{Uid: uid, Generation: generation}
	return object
}

// TestCopyAndDrop: a copy that is refused leaves the one before in force, and says why in a sentence; a drop is of one UID.
func TestCopyAndDrop(t *testing.T) {
	d, _ := startWithSource(t)
	ctx := testContext(t)
	take := func(object clearwayv1.Object, want string) {
		t.Helper()
		refusal, err := d.server.Copy(ctx, object)
		if err != nil || (want == "") != (refusal == "") || !strings.Contains(refusal, want) {
			t.Fatalf("%q, %v; want %q", refusal, err, want)
		}
	}
	take(copied(ipPool("pods", "10.244.0.0/16"), "u1", 1), "")
	take(copied(ipPool("pods", "10.244.0.1/16"), "u1", 2), "spec.cidr \"10.244.0.1/16\": host bits are set")
	take(copied(ipPool("other", "10.244.8.0/24"), "u2", 1), "overlaps IPPool/pods")
	copies, err := d.server.Copies()
	if err != nil || len(copies) != 1 || copies[0].GetMetadata().GetSource().GetGeneration() != 1 {
		t.Fatalf("in force: %v, %v", copies, err)
	}
	if status := copies[0].(*clearwayv1.IPPool).GetStatus(); status.GetAvailable() != 65536-2-1 && status.GetAvailable() == 0 {
		t.Errorf("status %v", status)
	}
	if refusal, err := d.server.Drop(ctx, "IPPool", "pods", "another"); refusal != "" || err != nil {
		t.Errorf("%q, %v", refusal, err)
	}
	if copies, _ = d.server.Copies(); len(copies) != 1 {
		t.Error("a copy of one object was dropped for another")
	}
	if refusal, err := d.server.Drop(ctx, "IPPool", "pods", "u1"); refusal != "" || err != nil {
		t.Errorf("%q, %v", refusal, err)
	}
	if copies, _ = d.server.Copies(); len(copies) != 0 {
		t.Errorf("left: %v", copies)
	}
}

// TestDroppedNodeKeepsItsBlocks: a Node of clearway.io is what an operator says of a node. Without it the node is there as before.
func TestDroppedNodeKeepsItsBlocks(t *testing.T) {
	d, _ := startWithSource(t)
	d.apply(ipPool("pods", "10.244.0.0/16"))
	d.agent("n1").mustClaim("pods", "k1")
	node := clearwayv1.Wrap(&clearwayv1.Node{Metadata: &clearwayv1.ObjectMeta{Name: "n1"}, Spec: &clearwayv1.NodeSpec{AsNumber: 65001}})
	if refusal, err := d.server.Copy(testContext(t), copied(node, "u1", 1)); refusal != "" || err != nil {
		t.Fatal(refusal, err)
	}
	if refusal, err := d.server.Drop(testContext(t), "Node", "n1", "u1"); refusal != "" || err != nil {
		t.Fatal(refusal, err)
	}
	blocks, _ := d.list(&clearwayv1.ListRequest{Kind: "Block"})
	if len(blocks) != 1 || blocks[0].GetBlock().GetSpec().GetNode() != "n1" || blocks[0].GetBlock().GetSpec().GetState() != clearwayv1.BlockState_BLOCK_STATE_OWNED {
		t.Errorf("blocks: %v", blocks)
	}
}

// TestBoundsOfSizes: what the API server takes no more of, ipamd does not take either.
func TestBoundsOfSizes(t *testing.T) {
	d := start(t, newFake())
	labels := map[string]string{}
	for i := range 101 {
		labels[fmt.Sprint("l", i)] = ""
	}
	_, err := d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{
		ipPool("a", "10.1.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.NodeSelector = &clearwayv1.LabelSelector{MatchLabels: labels} }),
	}})
	wantCode(t, err, codes.InvalidArgument)
	if found := violations(err); len(found) != 1 || found[0].GetField() != "spec.nodeSelector.matchLabels" || found[0].GetMessage() != "must have at most 100 entries" {
		t.Errorf("got %v", found)
	}
}
