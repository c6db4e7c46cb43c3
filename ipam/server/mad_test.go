package server_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/ipam/server"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestMadNode: a node that calls as fast as it can is told to wait, and the claims of a sane one beside it succeed, all
// of them. The clock stands still, so the mad node gets its burst and not one call more.
func TestMadNode(t *testing.T) {
	limits := server.Limits{NodeClaims: 5, NodeCalls: 50, ClientCalls: 50, NodeWatches: 2}
	d := startLimited(t, limits)
	d.apply(ipPool("pods", "10.0.0.0/12"))
	mad, sane := d.agent("mad"), d.agent("sane")

	const callers, each, burst = 8, 100, 20
	var flood sync.WaitGroup
	var mu sync.Mutex
	got, refused := 0, 0
	for c := range callers {
		flood.Go(func() {
			for i := range each {
				_, err := mad.claim("pods", fmt.Sprintf("mad-%d-%d", c, i))
				mu.Lock()
				switch status.Code(err) {
				case codes.OK:
					got++
				case codes.ResourceExhausted:
					refused++
				default:
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	for i := range burst {
		sane.mustClaim("pods", fmt.Sprint("sane-", i))
	}
	flood.Wait()
	if got != burst || refused != callers*each-burst {
		t.Errorf("the mad node got %d blocks and %d refusals; want %d and %d", got, refused, burst, callers*each-burst)
	}

	_, err := mad.claim("pods", "one-more")
	if text := status.Convert(err).Message(); !strings.Contains(text, "node mad makes more than 5 calls a second; try again in 200ms") {
		t.Errorf("told %q", text)
	}
	wait := time.Duration(0)
	for _, detail := range status.Convert(err).Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			wait = retry.GetRetryDelay().AsDuration()
		}
	}
	if wait != 200*time.Millisecond {
		t.Fatalf("told to wait %s", wait)
	}
	d.clock.Advance(wait)
	mad.mustClaim("pods", "one-more")
	if _, err := mad.claim("pods", "and-one"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("two for one: %v", err)
	}
	// Its other calls are counted apart: it can still report.
	_, err = mad.NodeServiceClient.ReportStatus(testContext(t), &clearwayv1.ReportStatusRequest{
		Node: "mad", SessionId: mad.registered.GetSessionId(),
	})
	mad.must(err)
}

// A node's streams of the ownership log are bounded: the oldest makes room, and another node's stays.
func TestMadWatcher(t *testing.T) {
	d := startLimited(t, server.Limits{NodeWatches: 2})
	mad, sane := d.agent("mad"), d.agent("sane")
	watch := func(a *agent) clearwayv1.NodeService_WatchOwnershipClient {
		t.Helper()
		stream, err := a.NodeServiceClient.WatchOwnership(testContext(t), &clearwayv1.WatchOwnershipRequest{Node: a.request.GetNode()})
		a.must(err)
		_, err = stream.Recv()
		a.must(err)
		return stream
	}
	calm := watch(sane)
	streams := []clearwayv1.NodeService_WatchOwnershipClient{watch(mad), watch(mad), watch(mad), watch(mad)}
	for _, ended := range streams[:2] {
		_, err := ended.Recv()
		wantCode(t, err, codes.Aborted)
	}
	d.apply(ipPool("pods", "10.0.0.0/16"))
	sane.mustClaim("pods", "k")
	for _, open := range append(streams[2:], calm) {
		for told := false; !told; {
			message, err := open.Recv()
			if err != nil {
				t.Fatal(err)
			}
			told = len(message.GetEntries()) > 0
		}
	}
}
