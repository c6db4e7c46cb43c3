package server_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"

	"github.com/clearway/clearway/ipam/store/record"
	"github.com/clearway/clearway/ipam/store/storetest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// held is an assignment that began at a time.
func held(node, address string, number int64, at time.Time) *clearwayv1.AssignmentSpec {
	spec := assignment(node, address, number)
	spec.AssignedTime = timestamp(at)
	return spec
}

func released(spec *clearwayv1.AssignmentSpec, at time.Time) *clearwayv1.ReleasedAddress {
	return &clearwayv1.ReleasedAddress{Address: spec.GetAddress(), JournalNumber: spec.GetJournalNumber(), ReleasedTime: timestamp(at)}
}

func (d *ipamd) history(request *clearwayv1.HistoryRequest) *clearwayv1.HistoryResponse {
	d.t.Helper()
	answer, err := d.History(testContext(d.t), request)
	if err != nil {
		d.t.Fatal(err)
	}
	return answer
}

func at(address string, moment time.Time) *clearwayv1.HistoryRequest {
	return &clearwayv1.HistoryRequest{Address: address, Since: timestamp(moment), Until: timestamp(moment)}
}

// recorded waits until a history is kept.
func (d *ipamd) recorded() {
	d.t.Helper()
	d.eventually("a history is kept", func() bool {
		return d.history(&clearwayv1.HistoryRequest{Address: "10.244.0.5"}).GetReachesBackTo() != nil
	})
}

func holders(answer *clearwayv1.HistoryResponse) string {
	var all []string
	for _, one := range answer.GetTenures() {
		all = append(all, one.GetAssignment().GetPod().GetName())
	}
	return strings.Join(all, " ")
}

func TestHistoryTellsWhoHeldAnAddress(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"))
	a := d.agent("n1")
	a.mustClaim("pods", "k1")
	d.recorded()
	begin := d.clock.Now()
	hour := func(n int) time.Time { return begin.Add(time.Duration(n) * time.Hour) }
	d.clock.Advance(10 * time.Hour)
	first, second, third := held("n1", "10.244.0.5", 1, hour(1)), held("n1", "10.244.0.5", 5, hour(4)), held("n1", "10.244.0.5", 8, hour(7))
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 1, Assigned: []*clearwayv1.AssignmentSpec{first}})
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{AfterNumber: 1, ThroughNumber: 3, Released: []*clearwayv1.ReleasedAddress{released(first, hour(3))}})
	last := &clearwayv1.MirrorAssignmentsRequest{ // the second came and went in this piece
		AfterNumber: 3, ThroughNumber: 8, Assigned: []*clearwayv1.AssignmentSpec{third},
		Ended: []*clearwayv1.Tenure{{Assignment: second, ReleasedTime: timestamp(hour(6))}},
	}
	a.mirror(last)
	a.mirror(last) // repeated, as after a lost answer

	for _, test := range []struct {
		at   time.Time
		want string
	}{
		{hour(1), "pod1"}, {hour(3).Add(-1), "pod1"}, {hour(3), ""}, {hour(5), "pod5"}, {hour(6), ""}, {hour(9), "pod8"},
	} {
		if got := d.history(at("10.244.0.5", test.at)); holders(got) != test.want {
			t.Errorf("at %s: %q, want %q: %s", test.at, holders(got), test.want, got.GetSummary())
		}
	}
	all := d.history(&clearwayv1.HistoryRequest{Address: "10.244.0.5"})
	if holders(all) != "pod1 pod5 pod8" || all.GetTenures()[2].GetReleasedTime() != nil || all.GetAsOf() == nil {
		t.Errorf("all: %v", all)
	}
	if got := d.history(&clearwayv1.HistoryRequest{Namespace: "default", Pod: "pod5"}); holders(got) != "pod5" ||
		!got.GetTenures()[0].GetReleasedTime().AsTime().Equal(hour(6)) || got.GetTenures()[0].GetReleasedBefore() {
		t.Errorf("of a Pod: %v", got)
	}
	if got := d.history(at("10.244.0.5", begin.Add(-time.Hour))); len(got.GetNotes()) != 1 || !strings.Contains(got.GetNotes()[0], "reaches back to") {
		t.Errorf("before the record: %v", got)
	}
	if got := d.history(at("10.244.0.5", hour(20))); len(got.GetNotes()) != 1 || !strings.Contains(got.GetNotes()[0], "is not known of node n1") {
		t.Errorf("after the mirror: %v", got)
	}
	for _, bad := range []*clearwayv1.HistoryRequest{
		{}, {Address: "10.1"}, {Pod: "a"}, {Namespace: "a"}, {Address: "10.244.0.5", Namespace: "a", Pod: "b"},
		{Address: "10.244.0.5", Since: timestamp(hour(2)), Until: timestamp(hour(1))},
	} {
		_, err := d.History(testContext(t), bad)
		wantCode(t, err, codes.InvalidArgument)
	}
}

func TestHistorySurvivesFailover(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/16"))
	a := d.agent("n1")
	a.mustClaim("pods", "k1")
	d.recorded()
	begin := d.clock.Now()
	first := held("n1", "10.244.0.5", 1, begin)
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 1, Assigned: []*clearwayv1.AssignmentSpec{first}})
	d.clock.Advance(time.Minute)
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{AfterNumber: 1, ThroughNumber: 2, Released: []*clearwayv1.ReleasedAddress{released(first, begin.Add(time.Second))}})
	d.stop()
	next := start(t, records)
	next.clock.Advance(time.Minute)
	got := next.history(at("10.244.0.5", begin))
	if holders(got) != "pod1" || !got.GetReachesBackTo().AsTime().Equal(begin) {
		t.Errorf("after a failover: %v", got)
	}
}

// TestHistoryOfACopyThatIsDropped: a node that is deleted ends what it held.
func TestHistoryOfACopyThatIsDropped(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"))
	a := d.agent("n1")
	a.mustClaim("pods", "k1")
	d.recorded()
	begin := d.clock.Now()
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 1, Assigned: []*clearwayv1.AssignmentSpec{held("n1", "10.244.0.5", 1, begin)}})
	_ = a.conn.Close()
	d.clock.Advance(time.Hour)
	d.eventually("the node is deleted", func() bool {
		_, err := d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "Node", Name: "n1", PoweredOff: true})
		return err == nil
	})
	d.eventually("its assignment is in the history", func() bool {
		got := d.history(&clearwayv1.HistoryRequest{Address: "10.244.0.5"}).GetTenures()
		return len(got) == 1 && got[0].GetReleasedBefore() && got[0].GetReleasedTime().AsTime().Equal(d.clock.Now())
	})
}

func configuration(spec *clearwayv1.IPAMConfigurationSpec) *clearwayv1.Resource {
	return clearwayv1.Wrap(&clearwayv1.IPAMConfiguration{Metadata: &clearwayv1.ObjectMeta{Name: "default"}, Spec: spec})
}

// records counts what a store has of the history.
func historyOf(t testing.TB, records *storetest.Fake) (count, bytes int) {
	t.Helper()
	if err := records.List(context.Background(), record.History+"/", func(one record.Record) error {
		count, bytes = count+1, bytes+len(one.Key)+len(one.Value)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return count, bytes
}

// churn assigns and releases one address after the other, a tenure each, from a number on.
func (a *agent) churn(from, tenures int64) {
	a.t.Helper()
	now := a.clock.Now()
	spec := func(n int64) *clearwayv1.AssignmentSpec {
		return held("n1", fmt.Sprintf("10.244.0.%d", n%60+1), n, now)
	}
	for n := from; n < from+tenures; n++ {
		if got := a.mirror(&clearwayv1.MirrorAssignmentsRequest{
			AfterNumber: n - 1, ThroughNumber: n, Ended: []*clearwayv1.Tenure{{Assignment: spec(n), ReleasedTime: timestamp(now)}},
		}); got != n {
			a.t.Fatalf("the mirror is at %d, not %d", got, n)
		}
	}
}

func TestHistoryIsPruned(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/16"), configuration(&clearwayv1.IPAMConfigurationSpec{HistoryRetention: "3h"}))
	a := d.agent("n1")
	d.recorded()
	begin := d.clock.Now()
	a.churn(1, 250)
	d.clock.Advance(2 * time.Hour)
	a.churn(251, 10)
	if count, _ := historyOf(t, records); count != 260 {
		t.Fatalf("%d records", count)
	}
	d.clock.Advance(2 * time.Hour)
	d.eventually("the first hour is gone", func() bool { count, _ := historyOf(t, records); return count == 10 })
	if got := d.history(&clearwayv1.HistoryRequest{Address: "10.244.0.5"}); !got.GetReachesBackTo().AsTime().Equal(begin.Add(time.Hour)) {
		t.Errorf("it reaches back to %s", got.GetReachesBackTo().AsTime())
	}

	d.apply(configuration(&clearwayv1.IPAMConfigurationSpec{HistoryRetention: "0s"}))
	d.eventually("all is gone", func() bool { count, _ := historyOf(t, records); return count == 0 })
	a.churn(261, 3)
	got := d.history(&clearwayv1.HistoryRequest{Address: "10.244.0.5"})
	if count, _ := historyOf(t, records); count != 0 || got.GetReachesBackTo() != nil || len(got.GetNotes()) == 0 {
		t.Errorf("switched off: %d records, %v", count, got)
	}
}

func TestHistoryStaysBelowItsQuota(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/16"), configuration(&clearwayv1.IPAMConfigurationSpec{HistoryQuota: "1Mi"}))
	a := d.agent("n1")
	d.recorded()
	long := strings.Repeat("x", 30000)
	for n := int64(1); n <= 80; n++ { // 2.4 MiB in 80 hours
		d.clock.Advance(time.Hour)
		spec := held("n1", "10.244.0.5", n, d.clock.Now())
		spec.Pod.Uid = long
		a.mirror(&clearwayv1.MirrorAssignmentsRequest{
			AfterNumber: n - 1, ThroughNumber: n, Ended: []*clearwayv1.Tenure{{Assignment: spec, ReleasedTime: timestamp(d.clock.Now())}},
		})
	}
	d.eventually("the oldest are gone", func() bool { _, bytes := historyOf(t, records); return bytes <= 1<<20 })
	got := d.history(&clearwayv1.HistoryRequest{Address: "10.244.0.5"})
	if n := len(got.GetTenures()); n < 30 || got.GetTenures()[n-1].GetAssignment().GetJournalNumber() != 80 {
		t.Errorf("%d tenures are left", n)
	}
	since := got.GetReachesBackTo().AsTime()
	if first := got.GetTenures()[0].GetReleasedTime().AsTime(); first.Before(since) || first.Sub(since) > time.Hour {
		t.Errorf("it reaches back to %s, and begins at %s", since, first)
	}
}

// fillable is a store that takes so many bytes and no more, as etcd does at its quota.
type fillable struct {
	*storetest.Fake
	mu    sync.Mutex
	quota int64
}

func (s *fillable) bytes() (used int64) {
	_ = s.List(context.Background(), "", func(one record.Record) error {
		used += int64(len(one.Key) + len(one.Value))
		return nil
	})
	return used
}

func (s *fillable) Health(context.Context) (record.Health, error) {
	return record.Health{InUse: s.bytes(), Quota: s.quota, Answering: 1, Members: 1}, nil
}

func (s *fillable) Commit(ctx context.Context, term record.Term, txn record.Txn) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	grows := slices.ContainsFunc(txn.Ops, func(op record.Op) bool { return op.Value != nil })
	if grows && s.bytes() > s.quota {
		return 0, fmt.Errorf("commit: %w", record.ErrNoSpace)
	}
	return s.Fake.Commit(ctx, term, txn)
}

func TestFullStoreLosesHistoryBeforeClaims(t *testing.T) {
	records := &fillable{Fake: newFake(), quota: 200 << 10}
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/16", func(spec *clearwayv1.IPPoolSpec) { spec.BlockSize = 28 }))
	a := d.agent("n1")
	d.recorded()
	begin := d.clock.Now()
	for n := int64(0); n < 40; n++ { // 300 KiB of history
		d.clock.Advance(time.Second)
		a.churn(n*50+1, 50)
		a.mustClaim("pods", fmt.Sprint("k", n)) // never refused
	}
	d.eventually("a history is kept again, from a later time on", func() bool {
		since := d.history(&clearwayv1.HistoryRequest{Address: "10.244.0.5"}).GetReachesBackTo()
		return since != nil && since.AsTime().After(begin)
	})
}

// lateList is a store whose answer about the history comes late: it tells what there was when it was asked.
type lateList struct {
	*storetest.Fake
	asked, answer chan struct{}
	health        chan struct{} // what the historian asks next
}

func (s *lateList) List(ctx context.Context, room record.Key, each func(record.Record) error) error {
	if room != record.History+"/" {
		return s.Fake.List(ctx, room, each)
	}
	var all []record.Record
	if err := s.Fake.List(ctx, room, func(one record.Record) error { all = append(all, one); return nil }); err != nil {
		return err
	}
	close(s.asked)
	<-s.answer
	for _, one := range all {
		if err := each(one); err != nil {
			return err
		}
	}
	return nil
}

func (s *lateList) Health(ctx context.Context) (record.Health, error) {
	select {
	case s.health <- struct{}{}:
	default:
	}
	return s.Fake.Health(ctx)
}

// TestHistoryIsCountedWhileItGrows: what is written while a new leader counts is found afterwards.
func TestHistoryIsCountedWhileItGrows(t *testing.T) {
	records := newFake()
	first := start(t, records)
	first.recorded()
	first.stop()
	late := &lateList{Fake: records, asked: make(chan struct{}), answer: make(chan struct{}), health: make(chan struct{})}
	d := start(t, late)
	a := d.agent("n1")
	<-late.asked
	d.clock.Advance(90 * time.Minute)
	spec := held("n1", "10.244.0.5", 1, d.clock.Now().Add(-time.Minute))
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{
		ThroughNumber: 1, Ended: []*clearwayv1.Tenure{{Assignment: spec, ReleasedTime: timestamp(d.clock.Now())}},
	})
	close(late.answer)
	<-late.health
	if got := d.history(&clearwayv1.HistoryRequest{Address: "10.244.0.5"}); len(got.GetTenures()) != 1 {
		t.Errorf("got %v", got)
	}
}

// TestHistoryAgainstATwin drives one node's assignments and releases of few addresses, in pieces as an agent sends them,
// through failovers and repeats, and asks who held what around every change.
func TestHistoryAgainstATwin(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		records := newFake()
		d := start(t, records)
		defer func() { d.stop() }()
		d.apply(ipPool("pods", "10.244.0.0/16"))
		a := d.agent("n1")
		a.mustClaim("pods", "k1")
		d.recorded()
		begin := d.clock.Now()
		type tenure struct {
			spec     *clearwayv1.AssignmentSpec
			from, to int // minutes; to 0: still
		}
		var twin []*tenure
		open := map[string]*tenure{}
		minute, number, mirrored := 0, int64(0), int64(0)
		when := func(m int) time.Time { return begin.Add(time.Duration(m) * time.Minute) }
		for range rapid.IntRange(1, 5).Draw(r, "pieces") {
			before := map[string]*tenure{}
			touched := map[string]bool{}
			piece := &clearwayv1.MirrorAssignmentsRequest{AfterNumber: mirrored}
			for range rapid.IntRange(1, 6).Draw(r, "changes") {
				minute += rapid.IntRange(1, 50).Draw(r, "minutes")
				number++
				address := rapid.SampledFrom([]string{"10.244.0.5", "10.244.0.6", "10.244.0.7"}).Draw(r, "address")
				if !touched[address] {
					before[address], touched[address] = open[address], true
				}
				if held := open[address]; held != nil {
					held.to = minute
					delete(open, address)
					continue
				}
				made := &tenure{spec: held("n1", address, number, when(minute)), from: minute}
				twin, open[address] = append(twin, made), made
			}
			for _, one := range twin { // as node.mirrorPiece does
				address := one.spec.GetAddress()
				old := one.spec.GetJournalNumber() <= mirrored
				switch {
				case one == open[address] && !old:
					piece.Assigned = append(piece.Assigned, one.spec)
				case one.to == 0 || old && before[address] != one:
				case old && open[address] == nil:
					piece.Released = append(piece.Released, released(one.spec, when(one.to)))
				default:
					piece.Ended = append(piece.Ended, &clearwayv1.Tenure{Assignment: one.spec, ReleasedTime: timestamp(when(one.to))})
				}
			}
			d.clock.Advance(when(minute).Sub(d.clock.Now()))
			piece.ThroughNumber, mirrored = number, number
			a.mirror(piece)
			switch rapid.SampledFrom([]string{"go on", "go on", "repeat", "failover"}).Draw(r, "then") {
			case "repeat":
				a.mirror(piece)
			case "failover":
				d.stop()
				next := start(t, records)
				next.clock.Advance(d.clock.Now().Sub(next.clock.Now()))
				d, a = next, next.agent("n1", func(register *clearwayv1.RegisterRequest) { register.JournalNumber = number })
			}
		}
		moments := map[int]bool{0: true, minute: true}
		for _, one := range twin {
			moments[one.from-1], moments[one.from] = true, true
			if one.to > 0 {
				moments[one.to-1], moments[one.to] = true, true
			}
		}
		for _, address := range []string{"10.244.0.5", "10.244.0.6", "10.244.0.7"} {
			for m := range moments {
				want := ""
				for _, one := range twin {
					if one.spec.GetAddress() == address && one.from <= m && (one.to == 0 || m < one.to) {
						want = one.spec.GetPod().GetName()
					}
				}
				if got := d.history(at(address, when(m))); holders(got) != want {
					r.Fatalf("%s at minute %d: %q, want %q: %v", address, m, holders(got), want, got)
				}
			}
		}
	})
}

func TestTenureIsCompact(t *testing.T) {
	records := newFake()
	d := start(t, records)
	a := d.agent("worker-17")
	d.recorded()
	spec := held("worker-17", "10.244.123.45", 123456, d.clock.Now())
	spec.Attachment = &clearwayv1.Attachment{Network: "pod-network", ContainerId: strings.Repeat("0a", 32), Ifname: "eth0"}
	spec.Pod = &clearwayv1.Pod{Namespace: "production", Name: "checkout-7c9f8d5b6-x2x4z", Uid: "3f1c2d7e-8a4b-4c6d-9e0f-1a2b3c4d5e6f"}
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{
		ThroughNumber: 1, Ended: []*clearwayv1.Tenure{{Assignment: spec, ReleasedTime: timestamp(d.clock.Now())}},
	})
	if count, bytes := historyOf(t, records); count != 1 || bytes > 280 {
		t.Errorf("%d records of %d bytes", count, bytes)
	} else {
		t.Logf("%d bytes", bytes)
	}
}
