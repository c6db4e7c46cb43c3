package server_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func quota(name string, change ...func(*clearwayv1.IPQuotaSpec)) *clearwayv1.Resource {
	made := &clearwayv1.IPQuota{Metadata: &clearwayv1.ObjectMeta{Name: name}, Spec: &clearwayv1.IPQuotaSpec{}}
	for _, one := range change {
		one(made.GetSpec())
	}
	return clearwayv1.Wrap(made)
}

func ofAddresses(limit int32) func(*clearwayv1.IPQuotaSpec) {
	return func(s *clearwayv1.IPQuotaSpec) { s.Addresses = &limit }
}

func (d *ipamd) quotaOf(name string) *clearwayv1.IPQuota {
	d.t.Helper()
	all, _ := d.list(&clearwayv1.ListRequest{Kind: "IPQuota", Name: name})
	if len(all) != 1 {
		d.t.Fatalf("there are %d quotas %q", len(all), name)
	}
	return all[0].GetIpQuota()
}

// allow sets what a node may give, from the allowance that it has.
func (a *agent) allow(uid string, generation, amount, used int64, needed ...int64) (*clearwayv1.SetAllowanceResponse, error) {
	request := &clearwayv1.SetAllowanceRequest{
		Node: a.request.GetNode(), SessionId: a.registered.GetSessionId(), Quota: "team", QuotaUid: uid,
		Generation: generation, Amount: amount, Used: used,
	}
	if len(needed) > 0 {
		request.Needed = needed[0]
	}
	return a.NodeServiceClient.SetAllowance(testContext(a.t), request)
}

func (a *agent) mustAllow(uid string, generation, amount, used int64, needed ...int64) *clearwayv1.SetAllowanceResponse {
	a.t.Helper()
	answer, err := a.allow(uid, generation, amount, used, needed...)
	a.must(err)
	return answer
}

func TestAllowancesAreNeverMoreThanTheQuota(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(quota("team", ofAddresses(10)))
	uid := d.quotaOf("team").GetMetadata().GetUid()
	n1, n2 := d.agent("n1"), d.agent("n2")
	first := n1.mustAllow(uid, 0, 8, 3)
	if first.GetAllowance().GetAmount() != 8 || first.GetLimit() != 10 || first.GetDelegated() != 8 || first.GetAllowance().GetGeneration() == 0 {
		t.Errorf("got %v", first)
	}
	if again := n1.mustAllow(uid, 0, 9, 3); again.GetAllowance().GetAmount() != 8 { // its first answer was lost
		t.Errorf("repeated: %v", again)
	}
	second := n2.mustAllow(uid, 0, 8, 0)
	if second.GetAllowance().GetAmount() != 2 || second.GetDelegated() != 10 || second.GetUnusedElsewhere() != 5 {
		t.Errorf("the rest is %v", second)
	}
	less := n1.mustAllow(uid, first.GetAllowance().GetGeneration(), 3, 3)
	if less.GetAllowance().GetAmount() != 3 || less.GetDelegated() != 5 {
		t.Errorf("given back: %v", less)
	}
	late := n1.mustAllow(uid, first.GetAllowance().GetGeneration(), 10, 3) // a late call changes nothing
	if late.GetAllowance().GetAmount() != 3 {
		t.Errorf("late: %v", late)
	}
	d.apply(quota("team", ofAddresses(4)))
	if got := n2.mustAllow(uid, second.GetAllowance().GetGeneration(), 4, 2); got.GetAllowance().GetAmount() != 2 {
		t.Errorf("of a quota that was lowered: %v", got)
	}
	d.stop()
	d = start(t, records)
	if status := d.quotaOf("team").GetStatus(); status.GetDelegated() != 5 || status.GetUsed() != 5 || len(status.GetAllowances()) != 2 {
		t.Errorf("after a restart: %v", status)
	}
	n1 = d.agent("n1")
	if told := n1.registered.GetAllowances(); len(told) != 1 || told[0].GetAmount() != 3 {
		t.Errorf("registration tells %v", told)
	}
}

func TestAllowancesOfNodesThatAreGone(t *testing.T) {
	d := start(t, newFake())
	d.apply(quota("team", ofAddresses(10)), ipPool("pods", "10.244.0.0/16"))
	uid := d.quotaOf("team").GetMetadata().GetUid()
	n1 := d.agent("n1")
	n1.mustAllow(uid, 0, 10, 10)
	n1.mustClaim("pods", "k1")
	n1.must(n1.conn.Close())
	other := d.unregistered("n1", func(r *clearwayv1.RegisterRequest) { r.MachineId, r.JournalId = "another", "another" })
	d.eventually("another machine has the name", func() bool { d.clock.Advance(time.Minute); return other.register() == nil })
	if got := other.mustAllow(uid, 0, 5, 0); got.GetAllowance().GetAmount() != 0 || got.GetDelegated() != 10 {
		t.Errorf("the former machine's Pods may run, and the new one got %v", got)
	}
	_, err := d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "Node", Name: "n1"})
	other.must(err)
	n2 := d.agent("n2")
	if got := n2.mustAllow(uid, 0, 5, 0); got.GetAllowance().GetAmount() != 0 {
		t.Errorf("a node that is gone without a word: %v", got)
	}
	_, err = d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "Node", Name: "n1", PoweredOff: true})
	other.must(err)
	if got := n2.mustAllow(uid, 0, 5, 0); got.GetAllowance().GetAmount() != 5 || got.GetDelegated() != 5 {
		t.Errorf("after the machine was said to be off: %v", got)
	}
}

func TestAllowancesOfAQuotaThatWasMadeAnew(t *testing.T) {
	d := start(t, newFake())
	d.apply(quota("team", ofAddresses(10)))
	uid := d.quotaOf("team").GetMetadata().GetUid()
	a := d.agent("n1")
	a.mustAllow(uid, 0, 10, 10)
	_, err := d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "IPQuota", Name: "team"})
	a.must(err)
	_, err = a.allow(uid, 0, 1, 0)
	wantCode(t, err, codes.NotFound)
	d.apply(quota("team", ofAddresses(10)))
	anew := d.quotaOf("team").GetMetadata().GetUid()
	if got := a.mustAllow(anew, 0, 4, 4); got.GetAllowance().GetAmount() != 4 || got.GetDelegated() != 4 {
		t.Errorf("of the new one: %v", got)
	}
}

// A store that recovers takes over what the nodes may give by their reports.
func TestAllowancesAreRecovered(t *testing.T) {
	d := start(t, newFake())
	d.apply(quota("team", ofAddresses(10)))
	a := d.agent("n1")
	uid := d.quotaOf("team").GetMetadata().GetUid()
	had := a.mustAllow(uid, 0, 6, 6).GetAllowance()
	d = start(t, newFake())
	d.apply(quota("team", ofAddresses(10)))
	_, err := d.Recover(testContext(t), &clearwayv1.RecoverRequest{})
	a.must(err)
	d.agent("n1", func(r *clearwayv1.RegisterRequest) {
		r.HeldIncarnation, r.Allowances = a.registered.GetIncarnation(), []*clearwayv1.QuotaAllowance{had}
	})
	n2 := d.agent("n2")
	d.clock.Advance(time.Minute)
	uid = d.quotaOf("team").GetMetadata().GetUid()
	d.eventually("allowances are set again", func() bool { _, err := n2.allow(uid, 0, 1, 0); return err == nil })
	if got := n2.mustAllow(uid, 0, 1, 0); got.GetDelegated() != 7 {
		t.Errorf("got %v", got)
	}
}

func TestQuotaOfBlocks(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"), ipPool("other", "10.245.0.0/16"), quota("rack1", func(s *clearwayv1.IPQuotaSpec) {
		s.Blocks, s.Pools = proto.Int32(2), []string{"pods"}
		s.NodeSelector = &clearwayv1.LabelSelector{MatchLabels: map[string]string{"rack": "r1"}}
	}))
	rack := func(name string) func(*clearwayv1.RegisterRequest) {
		return func(r *clearwayv1.RegisterRequest) { r.Labels = map[string]string{"rack": name} }
	}
	n1, n2, n3 := d.agent("n1", rack("r1")), d.agent("n2", rack("r1")), d.agent("n3", rack("r2"))
	first := n1.mustClaim("pods", "a")
	n2.mustClaim("pods", "b")
	_, err := n1.claim("pods", "c")
	wantRefusal(t, err, codes.ResourceExhausted, `IPQuota "rack1" allows 2 blocks`, "have 2", `node "n1" has 1 of pool "pods"`)
	n1.mustClaim("other", "d")
	n3.mustClaim("pods", "e")
	if again := n1.mustClaim("pods", "a"); again.GetCidr() != first.GetCidr() {
		t.Errorf("a repeated claim got %v", again)
	}
	if status := d.quotaOf("rack1").GetStatus(); status.GetBlocks() != 2 {
		t.Errorf("status: %v", status)
	}
	n1.must(n1.release(first))
	n2.mustClaim("pods", "f")
}

func TestNamedErrorsOfQuotas(t *testing.T) {
	d := start(t, newFake())
	for field, change := range map[string]func(*clearwayv1.IPQuotaSpec){
		"spec.addresses":               func(*clearwayv1.IPQuotaSpec) {},
		"must be from 0 to 2147483647": ofAddresses(-1),
		"spec.blocks": func(s *clearwayv1.IPQuotaSpec) {
			s.Addresses, s.NodeSelector = proto.Int32(1), &clearwayv1.LabelSelector{MatchLabels: map[string]string{"rack": "r1"}}
		},
		"blocks are nodes', not Pods'": func(s *clearwayv1.IPQuotaSpec) {
			s.Blocks, s.PodSelector = proto.Int32(1), &clearwayv1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
		},
		"spec.pools[0]": func(s *clearwayv1.IPQuotaSpec) { s.Addresses, s.Pools = proto.Int32(1), []string{""} },
	} {
		_, err := d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{quota("team", change)}})
		wantRefusal(t, err, codes.InvalidArgument, field)
	}
	a := d.agent("n1")
	_, err := a.allow("x", 0, -1, 0)
	wantRefusal(t, err, codes.InvalidArgument, "amount")
	_, err = a.allow("x", 0, 1, 0)
	wantRefusal(t, err, codes.NotFound, `IPQuota "team"`)
}
