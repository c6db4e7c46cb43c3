package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// answers has an agent answer every question with what it is told to have, until the test ends.
func (a *agent) answers(lists map[string][]clearwayv1.Object) {
	stream, err := a.NodeServiceClient.WatchNode(context.Background(), &clearwayv1.WatchNodeRequest{
		Node: a.request.GetNode(), SessionId: a.registered.GetSessionId(),
	})
	a.must(err)
	_, err = stream.Recv() // the first snapshot: from now on questions reach it
	a.must(err)
	go func() {
		for {
			message, err := stream.Recv()
			if err != nil {
				return
			}
			query := message.GetQuery()
			if query == nil {
				continue
			}
			answer, err := a.NodeServiceClient.AnswerQuery(context.Background())
			if err != nil {
				return
			}
			var resources []*clearwayv1.Resource
			for _, object := range lists[query.GetList().GetKind()] {
				resources = append(resources, clearwayv1.Wrap(object))
			}
			_ = answer.Send(&clearwayv1.AnswerQueryRequest{
				Node: a.request.GetNode(), SessionId: a.registered.GetSessionId(), QueryId: query.GetId(),
				Answer: &clearwayv1.ListResponse{Resources: resources},
			})
			_, _ = answer.CloseAndRecv()
		}
	}()
}

func (d *ipamd) check(request *clearwayv1.CheckBooksRequest) (reasons []string, warnings []string, found []*clearwayv1.Difference) {
	d.t.Helper()
	stream, err := d.CheckBooks(testContext(d.t), request)
	for err == nil {
		var answer *clearwayv1.CheckBooksResponse
		if answer, err = stream.Recv(); err == nil {
			found, warnings = append(found, answer.GetDifferences()...), append(warnings, answer.GetWarnings()...)
		}
	}
	if !errors.Is(err, io.EOF) {
		d.t.Fatal(err)
	}
	for _, one := range found {
		reasons = append(reasons, fmt.Sprintf("%s %s %s %v", one.GetReason(), one.GetNode(), one.GetSubject(), one.GetRepaired()))
	}
	return reasons, warnings, found
}

// TestCheckNamesEachDifference: one reason each; a dry run mends nothing, a repair what is safe; a node that is away is a
// warning, and nothing of its own is touched.
func TestCheckNamesEachDifference(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/16"))
	a := d.agent("n1")
	first, second := a.mustClaim("pods", "k1"), a.mustClaim("pods", "k2")
	held := []*clearwayv1.AssignmentSpec{assignment("n1", "10.244.0.5", 1), assignment("n1", "10.244.0.6", 2), assignment("n1", "10.244.0.7", 3)}
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 3, Assigned: held})
	away := d.agent("n2")
	away.mustClaim("pods", "k1")

	as := func(spec *clearwayv1.AssignmentSpec) clearwayv1.Object { return &clearwayv1.Assignment{Spec: spec} }
	route := func(prefix, direction, state string) clearwayv1.Object {
		return &clearwayv1.Route{
			Spec:   &clearwayv1.RouteSpec{Node: "n1", Prefix: prefix, Direction: direction},
			Status: &clearwayv1.RouteStatus{State: state, Reason: "another's"},
		}
	}
	other := assignment("n1", "10.244.0.6", 9)
	foreign := &clearwayv1.BlockSpec{Cidr: "10.244.9.0/26", Pool: "pods", Node: "n1", State: clearwayv1.BlockState_BLOCK_STATE_OWNED}
	a.answers(map[string][]clearwayv1.Object{
		"Block":      {&clearwayv1.Block{Spec: first}, &clearwayv1.Block{Spec: foreign}},
		"Assignment": {as(held[0]), as(other), as(assignment("n1", "10.244.0.8", 10))},
		"Route":      {route("10.244.9.0/26", "Advertised", "Advertised"), route("10.1.0.0/26", "Learned", "Conflict"), route("10.2.0.0/26", "Learned", "Installed")},
	})
	want := func(repaired bool) []string {
		return []string{
			fmt.Sprintf("BlockNotInJournal n1 %s %v", second.GetCidr(), repaired),
			fmt.Sprintf("BlockNotInStore n1 10.244.9.0/26 %v", repaired),
			fmt.Sprintf("MirrorDiffers n1 10.244.0.6 %v", repaired),
			"NotAdvertised n1 " + first.GetCidr() + " false",
			"NotInKernel n1 10.1.0.0/26 false",
			fmt.Sprintf("NotMirrored n1 10.244.0.8 %v", repaired),
			fmt.Sprintf("OnlyInMirror n1 10.244.0.7 %v", repaired),
		}
	}
	for _, dry := range []bool{true, false} {
		got, warnings, _ := d.check(&clearwayv1.CheckBooksRequest{Repair: true, DryRun: dry})
		if !slices.Equal(got, want(!dry)) {
			t.Errorf("dry %v: got %q, want %q", dry, got, want(!dry))
		}
		if len(warnings) != 1 {
			t.Errorf("warnings: %q", warnings)
		}
	}
	_, err := a.claim("pods", "k9")
	wantCode(t, err, codes.Unauthenticated) // it is to register again, and then mirrors the whole
	b := a.comeBack(func(r *clearwayv1.RegisterRequest) { r.JournalNumber = 10 })
	if b.registered.GetMirroredNumber() != 0 {
		t.Errorf("the mirror goes on from %d", b.registered.GetMirroredNumber())
	}
	if got, _, _ := d.check(&clearwayv1.CheckBooksRequest{Node: "n2"}); len(got) != 0 {
		t.Errorf("of a node that is away: %q", got)
	}
	_, err = d.list2(t, &clearwayv1.CheckBooksRequest{Node: "nosuch"})
	wantCode(t, err, codes.NotFound)
}

func (d *ipamd) list2(t testing.TB, request *clearwayv1.CheckBooksRequest) (*clearwayv1.CheckBooksResponse, error) {
	stream, err := d.CheckBooks(testContext(t), request)
	if err != nil {
		return nil, err
	}
	return stream.Recv()
}

// TestCheckFindsWhatIsWrongInTheStore: records of nobody, and memory that differs from etcd.
func TestCheckFindsWhatIsWrongInTheStore(t *testing.T) {
	records := newFake()
	records.Put(record.AssignmentKey("ghost", netip.MustParseAddr("10.244.0.9")), []byte{})
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/16"))
	d.agent("n1").mustClaim("pods", "k1")
	records.Put(record.BlockKey(netip.MustParsePrefix("10.244.5.0/26")), marshal(t, &clearwayv1.BlockSpec{
		Cidr: "10.244.5.0/26", Pool: "pods", Node: "n1", State: clearwayv1.BlockState_BLOCK_STATE_OWNED,
	}))
	got, _, _ := d.check(&clearwayv1.CheckBooksRequest{Repair: true})
	if want := []string{"MemoryDiffers n1 10.244.5.0/26 true", "RecordWithoutNode ghost assignments true"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	d.eventually("memory is as the store", func() bool {
		blocks, _ := d.list(&clearwayv1.ListRequest{Kind: "Block"})
		return len(blocks) == 2 && d.server.Leading()
	})
}

func marshal(t testing.TB, message proto.Message) []byte {
	t.Helper()
	bytes, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}
