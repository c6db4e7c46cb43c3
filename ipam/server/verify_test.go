package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// verifies has an agent answer each verify query by what a function makes of it, until the test ends.
func (a *agent) verifies(answer func(*clearwayv1.VerifyQuery) *clearwayv1.VerifyAnswer) {
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
			if message.GetQuery() == nil {
				continue
			}
			to, err := a.NodeServiceClient.AnswerQuery(context.Background())
			if err != nil {
				return
			}
			_ = to.Send(&clearwayv1.AnswerQueryRequest{
				Node: a.request.GetNode(), SessionId: a.registered.GetSessionId(), QueryId: message.GetQuery().GetId(),
				Verify: answer(message.GetQuery().GetVerify()),
			})
			_, _ = to.CloseAndRecv()
		}
	}()
}

func (d *ipamd) verify(request *clearwayv1.VerifyRoutesRequest) (mismatches, warnings []string, last *clearwayv1.VerifyRoutesResponse) {
	d.t.Helper()
	stream, err := d.VerifyRoutes(testContext(d.t), request)
	for err == nil {
		var answer *clearwayv1.VerifyRoutesResponse
		if answer, err = stream.Recv(); err != nil {
			break
		}
		last = answer
		warnings = append(warnings, answer.GetWarnings()...)
		for _, one := range answer.GetMismatches() {
			mismatches = append(mismatches, fmt.Sprintf("%s %s %s", one.GetReason(), one.GetNode(), one.GetPrefix()))
		}
	}
	if !errors.Is(err, io.EOF) {
		d.t.Fatal(err)
	}
	return mismatches, warnings, last
}

// TestVerifyRoutes: what a node says in both looks is told, with its name; what is there once is not. A node with another
// ownership log is one, a node that is away or too old a warning.
func TestVerifyRoutes(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"))
	n1, n2, _, old := d.agent("n1"), d.agent("n2"), d.agent("away"), d.agent("old")
	block := n1.mustClaim("pods", "k1")
	digest := clearwayv1.OwnersDigest(0)
	digest.Add(block.GetCidr(), "n1", clearwayv1.BlockState_BLOCK_STATE_OWNED)
	looks := 0
	n1.verifies(func(*clearwayv1.VerifyQuery) *clearwayv1.VerifyAnswer {
		looks++
		answer := &clearwayv1.VerifyAnswer{Routes: 3, Blocks: 2, OwnersDigest: uint64(digest), Mismatches: []*clearwayv1.RouteMismatch{
			{Reason: "NotInKernel", Prefix: "10.244.9.0/26"},
		}}
		if looks == 1 { // on its way
			answer.Mismatches = append(answer.Mismatches, &clearwayv1.RouteMismatch{Reason: "NotHeard", Prefix: "10.244.8.0/26"})
		}
		return answer
	})
	n2.verifies(func(*clearwayv1.VerifyQuery) *clearwayv1.VerifyAnswer {
		return &clearwayv1.VerifyAnswer{Routes: 1, OwnersDigest: 7}
	})
	old.verifies(func(*clearwayv1.VerifyQuery) *clearwayv1.VerifyAnswer { return nil })

	mismatches, warnings, last := d.verify(&clearwayv1.VerifyRoutesRequest{})
	if want := []string{"LogDiffers n2 ", "NotInKernel n1 10.244.9.0/26"}; !slices.Equal(mismatches, want) {
		t.Errorf("mismatches %q, want %q", mismatches, want)
	}
	if len(warnings) != 2 || !strings.HasPrefix(warnings[0], "node away is not compared: ") || !strings.Contains(warnings[1], "older than this ipamd") {
		t.Errorf("warnings %q", warnings)
	}
	if last.GetNodes() != 2 || last.GetRoutes() != 4 || last.GetBlocks() != 2 {
		t.Errorf("compared: %v", last)
	}
	if stream, err := d.VerifyRoutes(testContext(t), &clearwayv1.VerifyRoutesRequest{Node: "nobody"}); err == nil {
		if _, err = stream.Recv(); status.Code(err) != codes.NotFound {
			t.Errorf("a node that there is not: %v", err)
		}
	}
}

// TestVerifyProbes: a node is given the lowest address that is held of each block.
func TestVerifyProbes(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"))
	a := d.agent("n1")
	block := a.mustClaim("pods", "k1")
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 2, Assigned: []*clearwayv1.AssignmentSpec{
		assignment("n1", "10.244.0.9", 1), assignment("n1", "10.244.0.5", 2),
	}})
	var asked []string
	a.verifies(func(query *clearwayv1.VerifyQuery) *clearwayv1.VerifyAnswer {
		asked = nil
		for _, target := range query.GetProbes() {
			asked = append(asked, target.GetAddress()+" of "+target.GetBlock())
		}
		return &clearwayv1.VerifyAnswer{Probed: 4, Reached: 3}
	})
	_, _, last := d.verify(&clearwayv1.VerifyRoutesRequest{Node: "n1", Probe: true})
	if want := "10.244.0.5 of " + block.GetCidr(); len(asked) != 1 || asked[0] != want {
		t.Errorf("asked to reach %q, want %q", asked, want)
	}
	if last.GetProbed() != 4 || last.GetReached() != 3 {
		t.Errorf("%v", last)
	}
}
