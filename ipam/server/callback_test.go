package server_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/ipam/store/storetest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func answersCallBack(r *clearwayv1.RegisterRequest) { r.AnswersCallBack = true }

// small is a pool of 16 addresses in blocks of 8, down to 2.
func small(s *clearwayv1.IPPoolSpec) { s.BlockSize, s.MinBlockSize = 29, 31 }

// need is a claim that a Pod waits for.
func (a *agent) need(pool, key string) (*clearwayv1.ClaimBlockResponse, error) {
	return a.NodeServiceClient.ClaimBlock(testContext(a.t), &clearwayv1.ClaimBlockRequest{
		Node: a.request.GetNode(), SessionId: a.registered.GetSessionId(), RequestKey: key, Pool: pool, Needed: true,
	})
}

// hold makes the mirror say that a node's Pods have these addresses, and no others.
func (a *agent) hold(addresses ...string) {
	a.t.Helper()
	a.must(a.tryHold(addresses...))
}

func (a *agent) tryHold(addresses ...string) error {
	request := &clearwayv1.MirrorAssignmentsRequest{
		Node: a.request.GetNode(), SessionId: a.registered.GetSessionId(), JournalId: a.request.GetJournalId(), Replace: true,
		ThroughNumber: time.Now().UnixNano(),
	}
	for _, address := range addresses {
		request.Assigned = append(request.Assigned, &clearwayv1.AssignmentSpec{
			Address: address, Pool: "pods", Node: a.request.GetNode(), JournalNumber: 1,
			Attachment: &clearwayv1.Attachment{ContainerId: "c" + address, Ifname: "eth0"},
		})
	}
	_, err := a.NodeServiceClient.MirrorAssignments(testContext(a.t), request)
	return err
}

// called waits until something of a block is called back.
func (a *agent) called(block *clearwayv1.BlockSpec) *clearwayv1.BlockSpec {
	a.t.Helper()
	var found *clearwayv1.BlockSpec
	a.eventually("something of "+block.GetCidr()+" is called back", func() bool {
		for _, one := range a.blocks() {
			if one.GetCidr() == block.GetCidr() && one.GetCallBack() != nil {
				found = one
				return true
			}
		}
		return false
	})
	return found
}

// blocks are all there are, checked for overlaps.
func (d *ipamd) blocks() []*clearwayv1.BlockSpec {
	d.t.Helper()
	listed, _ := d.list(&clearwayv1.ListRequest{Kind: "Block"})
	var all []*clearwayv1.BlockSpec
	for _, one := range listed {
		spec := one.GetBlock().GetSpec()
		for _, other := range all {
			if netip.MustParsePrefix(other.GetCidr()).Overlaps(netip.MustParsePrefix(spec.GetCidr())) {
				d.t.Fatalf("NoOverlap: %v and %v", other, spec)
			}
		}
		all = append(all, spec)
	}
	return all
}

func (d *ipamd) written() string {
	var words []string
	for _, one := range d.blocks() {
		state := strings.TrimPrefix(one.GetState().String(), "BLOCK_STATE_")
		words = append(words, fmt.Sprintf("%s %s %s", one.GetCidr(), one.GetNode(), state))
	}
	return strings.Join(words, ", ")
}

func (a *agent) answer(block *clearwayv1.BlockSpec, refusal string) (*clearwayv1.AnswerCallBackResponse, error) {
	return a.NodeServiceClient.AnswerCallBack(testContext(a.t), &clearwayv1.AnswerCallBackRequest{
		Node: a.request.GetNode(), SessionId: a.registered.GetSessionId(), Id: block.GetCallBack().GetId(),
		Cidr: block.GetCidr(), Generation: block.GetGeneration(), Refusal: refusal,
	})
}

func callingBack(err error) bool {
	for _, detail := range status.Convert(err).Details() {
		if _, is := detail.(*clearwayv1.CallingBack); is {
			return true
		}
	}
	return false
}

func wantExhausted(t testing.TB, err error, calling bool, words ...string) {
	t.Helper()
	wantCode(t, err, codes.ResourceExhausted)
	if callingBack(err) != calling {
		t.Fatalf("calling back is %v: %v", !calling, err)
	}
	for _, one := range words {
		if !strings.Contains(err.Error(), one) {
			t.Fatalf("%q does not tell %q", err, one)
		}
	}
}

// crowded is a full pool: n1 has a block of 16 addresses with Pods in some of them, and a Pod waits on n2.
func crowded(t *testing.T, records *storetest.Fake, held ...string) (n1, n2 *agent, block *clearwayv1.BlockSpec) {
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/28", func(s *clearwayv1.IPPoolSpec) { s.BlockSize, s.MinBlockSize = 28, 30 }))
	n1, n2 = d.agent("n1", answersCallBack), d.agent("n2", answersCallBack)
	block = n1.mustClaim("pods", "k1")
	n1.hold(held...)
	return n1, n2, block
}

// Where no half is free, the largest part is that is, and what is left beside it stays the owner's.
func TestCallBackOfASmallerPart(t *testing.T) {
	n1, n2, block := crowded(t, newFake(), "10.244.0.2", "10.244.0.9")
	_, err := n2.need("pods", "k2")
	wantExhausted(t, err, true)
	_, err = n1.answer(n1.called(block), "")
	n1.must(err)
	want := "10.244.0.0/29 n1 OWNED, 10.244.0.8/30 n1 OWNED, 10.244.0.12/30 n1 WITHDRAWING"
	if got := n1.written(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	_, err = n2.need("pods", "k2")
	wantExhausted(t, err, true)
	if got := n1.written(); got != want {
		t.Errorf("asked twice, %s", got)
	}
}

func TestCallBackOfTheFreeHalf(t *testing.T) {
	for _, test := range []struct{ held, kept, called string }{
		{"10.244.0.2", "10.244.0.0/29", "10.244.0.8/29"},
		{"10.244.0.9", "10.244.0.8/29", "10.244.0.0/29"},
	} {
		t.Run(test.called, func(t *testing.T) {
			n1, n2, block := crowded(t, newFake(), test.held)
			_, err := n2.need("pods", "k2")
			wantExhausted(t, err, true, "1 blocks owned (16 addresses, 1 of them assigned)")
			asked := n1.called(block)
			if call := asked.GetCallBack(); call.GetCidr() != test.called || call.GetWantedBy() != "n2" {
				t.Fatalf("asked for %v", call)
			}
			_, err = n2.need("pods", "k2")
			wantExhausted(t, err, true, "one is being called back for this node")

			answer, err := n1.answer(asked, "")
			n1.must(err)
			again, err := n1.answer(asked, "")
			n1.must(err)
			if fmt.Sprint(answer.GetBlocks()) != fmt.Sprint(again.GetBlocks()) || len(answer.GetBlocks()) != 2 {
				t.Fatalf("%v, and repeated %v", answer, again)
			}
			if repeated := n1.mustClaim("pods", "k1"); repeated.GetCidr() != test.kept {
				t.Errorf("the old claim, repeated, is answered with %v", repeated)
			}
			_, err = n2.need("pods", "k2")
			wantExhausted(t, err, true) // it is not withdrawn yet
			for _, part := range answer.GetBlocks() {
				if part.GetCidr() == test.called {
					n1.must(n1.release(part))
				}
			}
			n1.must(n1.server.CallBackNow(testContext(t)))
			if kept := n1.block(t, test.kept).GetSpec(); kept.GetCallBack() != nil {
				t.Fatalf("it has come, and is not taken yet; yet more is asked for: %v", kept)
			}
			got, err := n2.need("pods", "k2") // and the clock has not moved
			n2.must(err)
			if got.GetBlock().GetCidr() != test.called || got.GetBlock().GetFreeTime() != nil {
				t.Fatalf("got %v", got.GetBlock())
			}
		})
	}
}

// The halves that Pods released a moment ago are given on with what their addresses still have to rest.
func TestCooledIsPassedOnUnderShortage(t *testing.T) {
	n1, n2, block := crowded(t, newFake(), "10.244.0.2")
	_, err := n2.need("pods", "k2")
	wantExhausted(t, err, true)
	answer, err := n1.answer(n1.called(block), "")
	n1.must(err)
	until := n1.clock.Now().Add(time.Minute)
	_, err = n1.NodeServiceClient.ReleaseBlock(testContext(t), &clearwayv1.ReleaseBlockRequest{
		Node: "n1", SessionId: n1.registered.GetSessionId(), RequestKey: "r", Cidr: answer.GetBlocks()[1].GetCidr(),
		Generation: answer.GetBlocks()[1].GetGeneration(), RestUntil: timestamp(until),
	})
	n1.must(err)
	_, err = n1.claim("pods", "ahead")
	wantExhausted(t, err, false, "a Pod waits for it on node \"n2\"")
	got, err := n2.need("pods", "k2")
	n2.must(err)
	if got.GetBlock().GetCidr() != "10.244.0.8/29" || !got.GetBlock().GetFreeTime().AsTime().Equal(until) {
		t.Fatalf("got %v", got.GetBlock())
	}
}

// A machine that was said to be off may still have routes about: its blocks rest to the end.
func TestCooledOfAMachineThatIsOff(t *testing.T) {
	n1, n2, _ := crowded(t, newFake(), "10.244.0.2")
	_ = n1.conn.Close()
	n1.eventually("n1 may be deleted", func() bool {
		_, err := n1.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "Node", Name: "n1", PoweredOff: true})
		return err == nil
	})
	_, err := n2.need("pods", "k2")
	wantExhausted(t, err, true, "1 cooling (16)")
}

func TestCallBackOrder(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/27", small))
	n1, n2, n3 := d.agent("n1", answersCallBack), d.agent("n2", answersCallBack), d.agent("n3", answersCallBack)
	old := d.agent("old")
	spare, used, half, last := n1.mustClaim("pods", "a"), n1.mustClaim("pods", "b"), n2.mustClaim("pods", "c"), old.mustClaim("pods", "d")
	n1.hold("10.244.0.9")
	n2.hold("10.244.0.17")

	_, err := n3.need("pods", "k1")
	wantExhausted(t, err, true)
	if call := n1.called(spare).GetCallBack(); call.GetCidr() != spare.GetCidr() {
		t.Fatalf("a whole free block goes first; asked for %v", call)
	}
	n1.must(n1.release(spare))
	got, err := n3.need("pods", "k1")
	n3.must(err)
	if got.GetBlock().GetCidr() != spare.GetCidr() {
		t.Fatalf("got %v", got)
	}
	n3.hold("10.244.0.2", "10.244.0.4")
	_, err = n3.need("pods", "k2")
	wantExhausted(t, err, true)
	var asked *clearwayv1.BlockSpec
	d.eventually("a half is asked for", func() bool {
		for _, one := range d.blocks() {
			if one.GetCallBack() != nil {
				asked = one
			}
		}
		return asked != nil
	})
	if cidr := asked.GetCallBack().GetCidr(); cidr != "10.244.0.12/30" {
		t.Fatalf("asked for %v", asked)
	}
	_, err = n1.answer(asked, "an address of the half is assigned")
	n1.must(err)
	if call := n2.called(half).GetCallBack(); call.GetCidr() != "10.244.0.20/30" { // another one, at once
		t.Fatalf("asked for %v", call)
	}
	for _, one := range d.blocks() { // not from an agent that knows nothing of it, though all of its block is free
		if one.GetCidr() == last.GetCidr() && one.GetCallBack() != nil {
			t.Fatalf("asked for %v", one)
		}
	}
	_ = used
}

// What is being called back of a node already is not what it can go by when more is asked of it.
func TestCallBackLeavesAnOwnerOneBlock(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/27", small))
	n1, n2, n3 := d.agent("n1", answersCallBack), d.agent("n2", answersCallBack), d.agent("n3", answersCallBack)
	first, second := n1.mustClaim("pods", "a"), n1.mustClaim("pods", "b")
	n2.mustClaim("pods", "c")
	n3.mustClaim("pods", "d")
	n2.hold("10.244.0.17", "10.244.0.19", "10.244.0.21", "10.244.0.23")
	n3.hold("10.244.0.25", "10.244.0.27", "10.244.0.29", "10.244.0.30")
	_, err := n2.need("pods", "k2")
	wantExhausted(t, err, true)
	if call := n1.called(first).GetCallBack(); call.GetCidr() != first.GetCidr() {
		t.Fatalf("asked for %v", call)
	}
	_, err = n3.need("pods", "k3")
	wantExhausted(t, err, true)
	if call := n1.called(second).GetCallBack(); call.GetCidr() == second.GetCidr() {
		t.Errorf("asked for all that n1 has: %v", call)
	}
}

// What is free and not to be had, drained or with no address to give out, keeps nobody from being helped.
func TestCallBackBesideWhatIsDrained(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/27", func(s *clearwayv1.IPPoolSpec) {
		s.BlockSize, s.MinBlockSize, s.DrainCidrs = 28, 30, []string{"10.244.0.16/28"}
	}))
	n1, n2 := d.agent("n1", answersCallBack), d.agent("n2", answersCallBack)
	block := n1.mustClaim("pods", "k1")
	n1.hold("10.244.0.2")
	_, err := n2.need("pods", "k2")
	wantExhausted(t, err, true)
	if call := n1.called(block).GetCallBack(); call.GetCidr() != "10.244.0.8/29" {
		t.Errorf("asked for %v", call)
	}
}

// A part of which all addresses are reserved helps nobody: another one is called back.
func TestCallBackLeavesWhatIsReserved(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/28", func(s *clearwayv1.IPPoolSpec) { s.BlockSize, s.MinBlockSize = 28, 30 }))
	n1, n2 := d.agent("n1", answersCallBack), d.agent("n2", answersCallBack)
	block := n1.mustClaim("pods", "k1")
	d.apply(clearwayv1.Wrap(&clearwayv1.IPReservation{
		Metadata: &clearwayv1.ObjectMeta{Name: "kept"}, Spec: &clearwayv1.IPReservationSpec{Cidrs: []string{"10.244.0.8/29"}},
	}))
	n1.hold("10.244.0.2")
	_, err := n2.need("pods", "k2")
	wantExhausted(t, err, true)
	if call := n1.called(block).GetCallBack(); call.GetCidr() != "10.244.0.4/30" {
		t.Errorf("asked for %v", call)
	}
}

func TestCallBackAnswerWithBadFields(t *testing.T) {
	n1, n2, block := crowded(t, newFake(), "10.244.0.2")
	_, err := n1.answer(block, "") // nothing was asked: it has no id
	wantCode(t, err, codes.InvalidArgument)
	_, err = n2.need("pods", "k2")
	wantExhausted(t, err, true)
	_, err = n1.answer(n1.called(block), strings.Repeat("no ", 1000))
	wantCode(t, err, codes.InvalidArgument)
}

// Where no half is free, the claim is told so and no longer given hope.
func TestCallBackOfNothing(t *testing.T) {
	_, n2, _ := crowded(t, newFake(), "10.244.0.2", "10.244.0.5", "10.244.0.9", "10.244.0.13")
	_, err := n2.need("pods", "k2")
	wantExhausted(t, err, true)
	n2.eventually("there is no hope", func() bool {
		_, err = n2.need("pods", "k2")
		return !callingBack(err)
	})
	wantExhausted(t, err, false, "no node can do without one")
}

// Nobody waits any more: what was asked for is let go.
func TestCallBackIsTakenBack(t *testing.T) {
	n1, n2, block := crowded(t, newFake(), "10.244.0.2")
	_, err := n2.need("pods", "k2")
	wantExhausted(t, err, true)
	asked := n1.called(block)
	n1.clock.Advance(time.Minute)
	n1.eventually("it is taken back", func() bool { return n1.block(t, block.GetCidr()).GetSpec().GetCallBack() == nil })
	_, err = n1.answer(asked, "")
	wantCode(t, err, codes.FailedPrecondition)
}

// At each step ipamd is killed and the agent registers anew, as after a kill -9 of both.
func TestCallBackSurvivesRestarts(t *testing.T) {
	records := newFake()
	n1, n2, block := crowded(t, records, "10.244.0.2")
	held := []*clearwayv1.BlockSpec{block}
	again := func() {
		n1.stop()
		d := start(t, records)
		request := n1.request
		n1, n2 = d.agent("n1", answersCallBack, func(r *clearwayv1.RegisterRequest) {
			r.HeldBlocks, r.JournalNumber, r.HeldIncarnation = held, time.Now().UnixNano(), n1.registered.GetIncarnation()
		}), d.agent("n2", answersCallBack)
		if lost := n1.registered.GetLostBlocks(); len(lost) > 0 || len(n1.registered.GetSealedBlocks()) > 0 {
			t.Fatalf("%v: lost %v of %v", request, n1.registered, held)
		}
	}
	_, err := n2.need("pods", "k2")
	wantExhausted(t, err, true)
	n1.called(block)
	again()
	asked := n1.registered.GetBlocks()[0]
	if asked.GetCallBack().GetCidr() != "10.244.0.8/29" {
		t.Fatalf("registration tells %v", asked)
	}
	_, err = n2.need("pods", "k2")
	wantExhausted(t, err, true, "one is being called back for this node")
	_, err = n1.answer(asked, "")
	n1.must(err)
	again() // the agent never saw the answer: it still holds the whole
	if got := fmt.Sprint(n1.written()); got != "10.244.0.0/29 n1 OWNED, 10.244.0.8/29 n1 WITHDRAWING" {
		t.Fatal(got)
	}
	answer, err := n1.answer(asked, "")
	n1.must(err)
	held = answer.GetBlocks()
	again()
	n1.must(n1.release(held[1]))
	held = held[:1]
	again()
	got, err := n2.need("pods", "k2")
	n2.must(err)
	if got.GetBlock().GetCidr() != "10.244.0.8/29" {
		t.Fatal(got)
	}
}

// Blocks that have nothing to give but the pool's ends and its gateway are nobody's.
func TestClaimOfUselessBlocks(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/29", func(s *clearwayv1.IPPoolSpec) { s.BlockSize, s.MinBlockSize = 32, 32 }))
	a := d.agent("n1")
	for i := range 5 {
		a.mustClaim("pods", fmt.Sprint("k", i))
	}
	if got := d.written(); strings.Contains(got, "10.244.0.0/32") || strings.Contains(got, "10.244.0.1/32") || strings.Contains(got, "10.244.0.7/32") {
		t.Error(got)
	}
	_, err := a.claim("pods", "k9")
	wantExhausted(t, err, false)
}

func TestRigidPoolsGiveANodeOneBlock(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/24", func(s *clearwayv1.IPPoolSpec) { s.Layout = "Rigid" }))
	a, b := d.agent("n1", answersCallBack), d.agent("n2", answersCallBack)
	first := a.mustClaim("pods", "k1")
	if again := a.mustClaim("pods", "k1"); again.GetCidr() != first.GetCidr() {
		t.Errorf("repeated: %v", again)
	}
	_, err := a.need("pods", "k2")
	wantCode(t, err, codes.FailedPrecondition)
	if !strings.Contains(err.Error(), first.GetCidr()) {
		t.Error(err)
	}
	b.mustClaim("pods", "k1")
}

// A pool's status, its blocks' and a refusal tell the same numbers.
func TestPoolStatusTellsWhatIsWhere(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/26", func(s *clearwayv1.IPPoolSpec) { s.BlockSize, s.MinBlockSize = 28, 30 }))
	n1, n2 := d.agent("n1", answersCallBack), d.agent("n2")
	kept, rests := n1.mustClaim("pods", "a"), n1.mustClaim("pods", "b")
	n2.mustClaim("pods", "c")
	n1.hold("10.244.0.2")
	n1.must(n1.release(rests))
	_, err := n2.NodeServiceClient.ClaimBlock(testContext(t), &clearwayv1.ClaimBlockRequest{
		Node: "n2", SessionId: n2.registered.GetSessionId(), RequestKey: "d", Pool: "pods", PrefixLength: 30,
	})
	n2.must(err)
	d.apply(ipPool("pods", "10.244.0.0/26", func(s *clearwayv1.IPPoolSpec) { s.BlockSize, s.MinBlockSize = 28, 29 }))
	pools, _ := d.list(&clearwayv1.ListRequest{Kind: "IPPool"})
	status := pools[0].GetIpPool().GetStatus()
	got := fmt.Sprintf("free %d, stranded %d, cooling %d, orphaned %d, callable %d", status.GetFreeAddresses(),
		status.GetStrandedAddresses(), status.GetCoolingAddresses(), status.GetOrphanedAddresses(), status.GetCallableAddresses())
	if want := "free 8, stranded 4, cooling 16, orphaned 0, callable 8"; got != want { // n2's agent would not answer
		t.Errorf("%s, want %s", got, want)
	}
	if got := d.block(t, kept.GetCidr()).GetStatus().GetCallable(); got != "10.244.0.8/29" {
		t.Errorf("of %s %q can be called back", kept.GetCidr(), got)
	}
}
