package server_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/ipam/store/record"
	"github.com/clearway/clearway/ipam/store/storetest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func leaderOf(err error) (string, bool) {
	for _, detail := range status.Convert(err).Details() {
		if one, ok := detail.(*clearwayv1.NotLeader); ok {
			return one.GetLeader(), true
		}
	}
	return "", false
}

func TestFollowerNamesTheLeaderAndTakesOver(t *testing.T) {
	records := newFake()
	first := start(t, records)
	first.apply(ipPool("pods", "10.244.0.0/16"))
	second := startFollower(t, records, "second:7470", newClock().now)
	second.eventually("the follower knows the leader", func() bool { return second.server.Ready() == nil })
	a := first.agent("n1")
	block := a.mustClaim("pods", "k1")

	_, err := second.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{ipPool("x", "10.1.0.0/16")}})
	wantCode(t, err, codes.Unavailable)
	if leader, ok := leaderOf(err); !ok || leader != "leader:7470" {
		t.Errorf("the follower names %q: %v", leader, err)
	}
	// It serves the log and what is stored.
	mine := &copyOf{}
	mine.read(t, second.watchOwnership(testContext(t), mine), block.GetGeneration())
	if mine.entries["block 10.244.0.0/26"] != "n1 OWNED" {
		t.Errorf("the follower's log:\n%s", mine)
	}
	first.stop()
	second.eventually("the follower leads", second.server.Leading)
	second.apply(ipPool("x", "10.1.0.0/16"))
	b := second.agent("n1", func(r *clearwayv1.RegisterRequest) { r.JournalNumber = 1 })
	if again := b.mustClaim("pods", "k1"); again.GetCidr() != block.GetCidr() {
		t.Errorf("the request is forgotten: %v", again)
	}
	mine.read(t, second.watchOwnership(testContext(t), mine), block.GetGeneration())
	if mine.resets != 1 {
		t.Errorf("the log did not go on from the follower's: %d resets", mine.resets)
	}
}

func TestFencedDeposedLeaderWritesNothing(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/16"))
	a := d.agent("n1")
	a.mustClaim("pods", "k1")
	// While the leader's transaction is on its way, another comes to office.
	elected := make(chan record.Term, 1)
	var once atomic.Bool
	records.Inject(func(record.Txn) storetest.Fault {
		if once.CompareAndSwap(false, true) {
			go func() {
				records.Depose()
				other, _ := records.Campaign(context.Background(), "other:1")
				elected <- other
			}()
			return storetest.LostRequest
		}
		return storetest.None
	})
	_, err := a.claim("pods", "k2")
	wantCode(t, err, codes.Unavailable)
	var term record.Term
	select {
	case term = <-elected: // the leader gave up its office, and the other was first
	case <-testContext(t).Done():
		t.Fatal("nobody else came to office")
	}
	d.eventually("the leader left office", func() bool { return !d.server.Leading() })
	_, err = a.claim("pods", "k3")
	wantCode(t, err, codes.Unavailable)
	blocks := 0
	_ = records.List(context.Background(), record.Blocks+"/", func(record.Record) error { blocks++; return nil })
	if blocks != 1 {
		t.Errorf("%d blocks in the store", blocks)
	}
	if err := records.Resign(context.Background(), term); err != nil {
		t.Fatal(err)
	}
	d.eventually("it leads again", d.server.Leading)
}

func TestIdempotentClaimWhoseReplyWasLost(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/16"))
	a := d.agent("n1")
	for _, fault := range []storetest.Fault{storetest.LostReply, storetest.LostRequest} {
		var once atomic.Bool
		records.Inject(func(record.Txn) storetest.Fault {
			if once.CompareAndSwap(false, true) {
				return fault
			}
			return storetest.None
		})
		key := map[storetest.Fault]string{storetest.LostReply: "reply", storetest.LostRequest: "request"}[fault]
		_, err := a.claim("pods", key)
		wantCode(t, err, codes.Unavailable)
		var block *clearwayv1.BlockSpec
		d.eventually("the claim is answered", func() bool {
			if a.register() != nil {
				return false
			}
			answer, err := a.claim("pods", key)
			block = answer.GetBlock()
			return err == nil
		})
		if again := a.mustClaim("pods", key); again.GetCidr() != block.GetCidr() {
			t.Errorf("%s: %s, then %s", key, block.GetCidr(), again.GetCidr())
		}
	}
	if blocks, _ := d.list(&clearwayv1.ListRequest{Kind: "Block"}); len(blocks) != 2 {
		t.Errorf("%d blocks for two requests", len(blocks))
	}
}

func TestStreamsEndWithTheServer(t *testing.T) {
	d := start(t, newFake())
	a := d.agent("n1")
	node := a.watchNode("", 0)
	if _, err := node.Recv(); err != nil {
		t.Fatal(err)
	}
	go d.stop()
	start := time.Now()
	for {
		if _, err := node.Recv(); err != nil {
			break
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}
