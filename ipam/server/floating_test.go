package server_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func floatingPool(name, cidr string, change ...func(*clearwayv1.IPPoolSpec)) *clearwayv1.Resource {
	return ipPool(name, cidr, append(change, func(s *clearwayv1.IPPoolSpec) { s.Kind = "Floating" })...)
}

// float claims an address for an owner.
func (a *agent) float(owner string, change ...func(*clearwayv1.ClaimFloatingRequest)) (*clearwayv1.BlockSpec, error) {
	request := &clearwayv1.ClaimFloatingRequest{
		Node: a.request.GetNode(), SessionId: a.registered.GetSessionId(), RequestKey: "key-" + owner, Pools: []string{"float"},
		Holder: &clearwayv1.FloatingHolder{Owner: owner, Network: "net", Ifname: "eth0"},
	}
	for _, one := range change {
		one(request)
	}
	answer, err := a.NodeServiceClient.ClaimFloating(testContext(a.t), request)
	return answer.GetBlock(), err
}

func (a *agent) mustFloat(owner string, change ...func(*clearwayv1.ClaimFloatingRequest)) *clearwayv1.BlockSpec {
	a.t.Helper()
	block, err := a.float(owner, change...)
	a.must(err)
	return block
}

func wantRefusal(t *testing.T, err error, code codes.Code, words ...string) {
	t.Helper()
	wantCode(t, err, code)
	for _, one := range words {
		if !strings.Contains(err.Error(), one) {
			t.Errorf("%q does not tell %q", err, one)
		}
	}
}

func handsOver(err error) bool {
	for _, detail := range status.Convert(err).Details() {
		if _, is := detail.(*clearwayv1.HandOver); is {
			return true
		}
	}
	return false
}

func asking(address string) func(*clearwayv1.ClaimFloatingRequest) {
	return func(r *clearwayv1.ClaimFloatingRequest) { r.Address = address }
}

func TestIdempotentFloatingClaim(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(floatingPool("float", "10.9.0.0/28"), floatingPool("float6", "fd00:9::/64"))
	a := d.agent("n1")
	first := a.mustFloat("db/a")
	if first.GetCidr() != "10.9.0.14/32" || first.GetNode() != "n1" || first.GetGeneration() == 0 || first.GetFloating().GetOwner() != "db/a" {
		t.Errorf("got %v", first)
	}
	if again := a.mustFloat("db/a", func(r *clearwayv1.ClaimFloatingRequest) { r.RequestKey = "another" }); !proto.Equal(again, first) {
		t.Errorf("the same owner: %v, then %v", first, again)
	}
	if other := a.mustFloat("db/a", func(r *clearwayv1.ClaimFloatingRequest) { r.Holder.Ifname = "eth1" }); other.GetCidr() != "10.9.0.2/32" {
		t.Errorf("another interface got %v", other)
	}
	if six := a.mustFloat("db/a", func(r *clearwayv1.ClaimFloatingRequest) { r.Pools = []string{"float6"} }); six.GetCidr() != "fd00:9::2/128" {
		t.Errorf("the other family: %v", six)
	}
	d.stop()
	d = start(t, records) // a new leader knows it
	a = d.agent("n1", func(r *clearwayv1.RegisterRequest) { r.HeldBlocks = []*clearwayv1.BlockSpec{first} })
	if again := a.mustFloat("db/a"); !proto.Equal(again, first) {
		t.Errorf("after a restart: %v, then %v", first, again)
	}
}

// The owner gets its address on another node as soon as the one before has given it up, and nobody else gets it while it
// is kept for him.
func TestFloatingHandOverAndStickyOwner(t *testing.T) {
	d := start(t, newFake())
	d.apply(floatingPool("float", "10.9.0.0/29", func(s *clearwayv1.IPPoolSpec) { s.StickyTime = "2h" }))
	n1, n2 := d.agent("n1"), d.agent("n2")
	first := n1.mustFloat("db/a")
	_, err := n2.float("db/a")
	wantRefusal(t, err, codes.ResourceExhausted, strings.TrimSuffix(first.GetCidr(), "/32"), `node "n1" has it still`)
	if !handsOver(err) {
		t.Error("it does not say that it will come")
	}
	n1.must(n1.release(first))
	moved := n2.mustFloat("db/a")
	if moved.GetCidr() != first.GetCidr() || moved.GetNode() != "n2" || moved.GetGeneration() <= first.GetGeneration() || moved.GetFreeTime() != nil {
		t.Errorf("%v became %v", first, moved)
	}
	n1.must(n1.release(first)) // a late one: compare and delete
	if again := n2.mustFloat("db/a"); !proto.Equal(again, moved) {
		t.Errorf("a late release changed %v to %v", moved, again)
	}
	n2.must(n2.release(moved))
	for i := range 4 { // all the others
		n1.mustFloat(fmt.Sprint("db/other", i))
	}
	_, err = n1.float("db/b")
	wantRefusal(t, err, codes.ResourceExhausted, "no free address", "4 are held", "1 are kept for owners", "stickyTime 2h")
	d.clock.Advance(time.Hour)
	if back := n1.mustFloat("db/a"); back.GetCidr() != first.GetCidr() {
		t.Errorf("the owner got %v after an hour", back)
	}
	n1.must(n1.release(n1.mustFloat("db/a")))
	d.clock.Advance(2*time.Hour + time.Second)
	d.eventually("it is given to another", func() bool { _, err := n1.float("db/b"); return err == nil })
	_, err = n2.float("db/a")
	wantRefusal(t, err, codes.ResourceExhausted, "no free address")
}

// Of a machine that was said to be off the owner gets its address after the cooldown: until then peers may go by its routes.
func TestFencedFloatingAddress(t *testing.T) {
	d := start(t, newFake())
	d.apply(floatingPool("float", "10.9.0.0/28"))
	n1, n2 := d.agent("n1"), d.agent("n2")
	first := n1.mustFloat("db/a")
	d.clock.Advance(24 * time.Hour)
	_, err := n2.float("db/a")
	wantRefusal(t, err, codes.ResourceExhausted, `node "n1" has it still`)
	_, err = d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "Node", Name: "n1"})
	n2.must(err)
	_, err = n2.float("db/a")
	wantRefusal(t, err, codes.ResourceExhausted, `"n1"`, "gone without a word", "--powered-off")
	_, err = d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "Node", Name: "n1", PoweredOff: true})
	n2.must(err)
	_, err = n2.float("db/a")
	wantRefusal(t, err, codes.ResourceExhausted, "was said to be off", "2026-01-02T00:02:10Z")
	d.clock.Advance(130 * time.Second)
	if moved := n2.mustFloat("db/a"); moved.GetCidr() != first.GetCidr() {
		t.Errorf("%v became %v", first, moved)
	}
}

func TestFloatingRefusals(t *testing.T) {
	d := start(t, newFake())
	d.apply(floatingPool("float", "10.9.0.0/28"), floatingPool("float6", "fd00:9::/64"), ipPool("pods", "10.244.0.0/16"),
		floatingPool("off", "10.8.0.0/28", func(s *clearwayv1.IPPoolSpec) { s.Disabled = true }),
		floatingPool("rack2", "10.7.0.0/28", func(s *clearwayv1.IPPoolSpec) {
			s.NodeSelector = &clearwayv1.LabelSelector{MatchLabels: map[string]string{"rack": "r2"}}
		}),
		clearwayv1.Wrap(&clearwayv1.IPReservation{
			Metadata: &clearwayv1.ObjectMeta{Name: "printer"}, Spec: &clearwayv1.IPReservationSpec{Cidrs: []string{"10.9.0.9"}, Reason: "the printer's"},
		}))
	a, b := d.agent("n1"), d.agent("n2")
	pools := func(names ...string) func(*clearwayv1.ClaimFloatingRequest) {
		return func(r *clearwayv1.ClaimFloatingRequest) { r.Pools = names }
	}
	if got := a.mustFloat("db/a", asking("10.9.0.7")); got.GetCidr() != "10.9.0.7/32" {
		t.Fatalf("asked for 10.9.0.7, got %v", got)
	}
	kept := a.mustFloat("db/k", asking("10.9.0.8"))
	a.must(a.release(kept))
	for name, test := range map[string]struct {
		change func(*clearwayv1.ClaimFloatingRequest)
		code   codes.Code
		words  []string
	}{
		"held":            {asking("10.9.0.7"), codes.FailedPrecondition, []string{"10.9.0.7", `"db/a"`, `node "n1"`}},
		"kept":            {asking("10.9.0.8"), codes.FailedPrecondition, []string{"10.9.0.8", "kept for", `"db/k"`, "2026-01-01T01:00:00Z"}},
		"reserved":        {asking("10.9.0.9"), codes.InvalidArgument, []string{"10.9.0.9", "the printer's"}},
		"gateway":         {asking("10.9.0.1"), codes.InvalidArgument, []string{"the gateway"}},
		"outside":         {asking("10.9.1.1"), codes.InvalidArgument, []string{"none of the pools"}},
		"no address":      {asking("x"), codes.InvalidArgument, []string{"address"}},
		"no pools":        {pools(), codes.InvalidArgument, []string{"1 to 16"}},
		"two families":    {pools("float", "float6"), codes.InvalidArgument, []string{"another family"}},
		"no such pool":    {pools("none"), codes.NotFound, []string{`"none"`}},
		"a Block pool":    {pools("pods"), codes.FailedPrecondition, []string{"kind Block"}},
		"disabled":        {pools("off"), codes.FailedPrecondition, []string{"disabled"}},
		"for other nodes": {pools("rack2"), codes.FailedPrecondition, []string{"nodeSelector"}},
		"nobody's":        {func(r *clearwayv1.ClaimFloatingRequest) { r.Holder = nil }, codes.InvalidArgument, []string{"holder.owner"}},
		"a long owner":    {func(r *clearwayv1.ClaimFloatingRequest) { r.Holder.Owner = strings.Repeat("x", 400) }, codes.InvalidArgument, []string{"longer than"}},
		"no key":          {func(r *clearwayv1.ClaimFloatingRequest) { r.RequestKey = "" }, codes.InvalidArgument, []string{"request_key"}},
		"no session":      {func(r *clearwayv1.ClaimFloatingRequest) { r.SessionId = "x" }, codes.Unauthenticated, []string{"register again"}},
		"of another pool": {func(r *clearwayv1.ClaimFloatingRequest) { r.Pools, r.Address = []string{"float6"}, "10.9.0.7" }, codes.InvalidArgument, []string{"none of the pools"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.float("db/b", test.change)
			wantRefusal(t, err, test.code, test.words...)
		})
	}
	_, err := a.claim("float", "k")
	wantRefusal(t, err, codes.FailedPrecondition, "kind Floating")
	if blocks, _ := d.list(&clearwayv1.ListRequest{Kind: "Block"}); len(blocks) != 2 {
		t.Errorf("refused claims left %v", blocks)
	}
}

// Many claims at once share transactions, and no two owners get one address.
func TestOneHolderOfFloatingClaimsAtOnce(t *testing.T) {
	d := start(t, newFake())
	d.apply(floatingPool("float", "10.9.0.0/24"))
	agents := []*agent{d.agent("n1"), d.agent("n2")}
	type got struct {
		owner string
		block *clearwayv1.BlockSpec
		err   error
	}
	answers := make(chan got)
	const owners, tries = 40, 4
	for i := range owners * tries {
		go func() {
			owner := fmt.Sprint("db/", i%owners)
			block, err := agents[i/owners%2].float(owner)
			answers <- got{owner, block, err}
		}()
	}
	byOwner, byAddress := map[string]string{}, map[string]string{}
	for range owners * tries {
		one := <-answers
		if one.err != nil {
			if !handsOver(one.err) {
				t.Error(one.err)
			}
			continue
		}
		cidr := one.block.GetCidr() + one.block.GetNode()
		if had, known := byOwner[one.owner]; known && had != cidr {
			t.Errorf("%s got %s and %s", one.owner, had, cidr)
		}
		if had, known := byAddress[one.block.GetCidr()]; known && had != one.owner {
			t.Errorf("%s went to %s and %s", one.block.GetCidr(), had, one.owner)
		}
		byOwner[one.owner], byAddress[one.block.GetCidr()] = cidr, one.owner
	}
	if len(byOwner) != owners {
		t.Errorf("%d of %d owners got an address", len(byOwner), owners)
	}
}

// A pool with a held address is drained before it goes, and no other pool may lie over it.
func TestFloatingPoolLife(t *testing.T) {
	d := start(t, newFake())
	d.apply(floatingPool("float", "10.9.0.0/24"))
	a := d.agent("n1")
	held := a.mustFloat("db/a", asking("10.9.0.200"))
	_, err := d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{floatingPool("float", "10.9.0.0/25")}})
	wantRefusal(t, err, codes.InvalidArgument, "spec.cidr", "leaves out 1 blocks on 1 nodes")
	d.apply(floatingPool("float", "10.9.0.0/23")) // it grows
	if again := a.mustFloat("db/a"); !proto.Equal(again, held) {
		t.Errorf("%v became %v", held, again)
	}
	answer, err := d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "IPPool", Name: "float"})
	a.must(err)
	if answer.GetRemaining() == nil {
		t.Fatal("it went with an address that is held")
	}
	_, err = a.float("db/b")
	wantRefusal(t, err, codes.FailedPrecondition, "being drained")
	a.must(a.release(held))
	d.eventually("the pool is gone", func() bool {
		pools, _ := d.list(&clearwayv1.ListRequest{Kind: "IPPool"})
		return len(pools) == 0
	})
}

// A store that was lost and made anew has the floating addresses again by the nodes' reports, with their owners.
func TestFloatingAddressesAreRecovered(t *testing.T) {
	d := start(t, newFake())
	d.apply(floatingPool("float", "10.9.0.0/28"))
	a := d.agent("n1")
	held := a.mustFloat("db/a")
	d = start(t, newFake())
	d.apply(floatingPool("float", "10.9.0.0/28"))
	_, err := d.Recover(testContext(t), &clearwayv1.RecoverRequest{Reason: "lost"})
	if err != nil {
		t.Fatal(err)
	}
	b := d.agent("n1", func(r *clearwayv1.RegisterRequest) {
		r.HeldBlocks, r.HeldIncarnation = []*clearwayv1.BlockSpec{held}, a.registered.GetIncarnation()
	})
	if len(b.registered.GetLostBlocks()) > 0 {
		t.Fatalf("lost: %v", b.registered.GetLostBlocks())
	}
	c := d.agent("n2")
	_, err = c.float("db/b")
	wantRefusal(t, err, codes.Unavailable, "recovering")
	d.clock.Advance(time.Minute)
	d.eventually("claims are open", func() bool { _, err := c.float("db/b"); return err == nil })
	if other := c.mustFloat("db/b"); other.GetCidr() == held.GetCidr() {
		t.Errorf("%s was given twice", held.GetCidr())
	}
	if again := b.mustFloat("db/a"); again.GetCidr() != held.GetCidr() || again.GetFloating().GetOwner() != "db/a" {
		t.Errorf("%v became %v", held, again)
	}
}
