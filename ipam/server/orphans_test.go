package server_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/server"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// orphaned is a cluster of nodes b and c in which the block of a deleted node a is orphaned.
type orphaned struct {
	*ipamd
	store  server.Store
	block  *clearwayv1.BlockSpec
	agents map[string]*agent
	gone   *agent
}

const (
	orphanGrace = 10 * time.Minute
	orphanEvery = orphanGrace / 60
)

func newOrphaned(t *testing.T, grace string) *orphaned {
	t.Helper()
	store := newFake()
	o := &orphaned{ipamd: start(t, store), store: store, agents: map[string]*agent{}}
	o.apply(ipPool("pods", "10.0.0.0/24", func(s *clearwayv1.IPPoolSpec) { s.BlockSize = 26 }),
		clearwayv1.Wrap(&clearwayv1.IPAMConfiguration{
			Metadata: &clearwayv1.ObjectMeta{Name: "default"}, Spec: &clearwayv1.IPAMConfigurationSpec{OrphanGrace: grace},
		}))
	o.gone = o.agent("a")
	o.block = o.gone.mustClaim("pods", "first")
	o.meet()
	if _, err := o.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "Node", Name: "a"}); err != nil {
		t.Fatal(err)
	}
	_ = o.gone.conn.Close() // it is gone
	return o
}

// meet registers b and c.
func (o *orphaned) meet() {
	for _, name := range []string{"b", "c"} {
		o.agents[name] = o.agent(name)
	}
}

// lead puts another server in office on the same store, at the same time; its agents register.
func (o *orphaned) lead(later time.Duration) {
	at := o.clock.Now().Add(later)
	o.stop()
	o.ipamd = start(o.t, o.store)
	o.clock.Advance(at.Sub(o.clock.Now()))
	o.meet()
}

// report has an agent report, with what a test changes of it.
func (o *orphaned) report(name string, change func(*clearwayv1.ReportStatusRequest)) {
	o.t.Helper()
	request := &clearwayv1.ReportStatusRequest{
		Node: name, SessionId: o.agents[name].registered.GetSessionId(), Ready: true, LastRestart: "Hitless",
		OrphansDigest: clearwayv1.OrphansDigest([]clearwayv1.Orphan{{CIDR: o.block.GetCidr(), Generation: o.block.GetGeneration()}}),
		Sessions: []*clearwayv1.BGPSession{{
			Metadata: &clearwayv1.ObjectMeta{Name: name + ".tor"}, Spec: &clearwayv1.BGPSessionSpec{},
			Status: &clearwayv1.BGPSessionStatus{State: "Established", Since: timestamp(o.clock.Now().Add(-time.Hour))},
		}},
	}
	if change != nil {
		change(request)
	}
	if _, err := o.agents[name].NodeServiceClient.ReportStatus(testContext(o.t), request); err != nil {
		o.t.Fatal(err)
	}
}

// now is the block as the store has it; nil: it is free.
func (o *orphaned) now() *clearwayv1.BlockSpec {
	o.t.Helper()
	all, _ := o.list(&clearwayv1.ListRequest{Kind: "Block", Address: o.block.GetCidr()})
	if len(all) == 0 {
		return nil
	}
	return all[0].GetBlock().GetSpec()
}

// wait lets time pass in steps of one look, in each of which both agents report.
func (o *orphaned) wait(passes time.Duration, change func(*clearwayv1.ReportStatusRequest)) {
	o.t.Helper()
	for end := o.clock.Now().Add(passes); o.clock.Now().Before(end); {
		looks := o.server.OrphanLooks()
		o.clock.Advance(orphanEvery) // the look may come before the reports: then it goes by those of before
		for name := range o.agents {
			o.report(name, change)
		}
		o.eventually("a look", func() bool { return o.server.OrphanLooks() > looks || o.now().GetState() != orphan })
	}
}

// given tells whether the block rests, or is free by now.
func (o *orphaned) given() bool { state := o.now().GetState(); return state == cooling || state == 0 }

func (o *orphaned) is(want clearwayv1.BlockState) {
	o.t.Helper()
	if got := o.now().GetState(); got != want {
		o.t.Fatalf("the block is %s, want %s", got, want)
	}
}

const (
	orphan  = clearwayv1.BlockState_BLOCK_STATE_ORPHANED
	cooling = clearwayv1.BlockState_BLOCK_STATE_COOLING
)

// TestOrphanIsGivenOn: when nobody has held its prefix for the grace time it rests, is free, and what was kept of its
// node is gone.
func TestOrphanIsGivenOn(t *testing.T) {
	o := newOrphaned(t, "10m")
	o.wait(orphanGrace-2*orphanEvery, nil)
	o.is(orphan)
	o.wait(5*orphanEvery, nil)
	o.is(cooling)
	o.clock.Advance(3 * time.Minute)
	o.eventually("the block to be free", func() bool { return o.now() == nil })
	if again := o.agents["b"].mustClaim("pods", "again"); again.GetCidr() != o.block.GetCidr() {
		t.Errorf("got %s", again.GetCidr())
	}
	if err := o.gone.reconnect(); err != nil {
		t.Fatal(err)
	}
	if lost := o.gone.registered.GetLostBlocks(); len(lost) != 1 || len(o.gone.registered.GetBlocks()) != 0 {
		t.Errorf("the node that comes back has %v, lost %v", o.gone.registered.GetBlocks(), lost)
	}
}

// reconnect registers once more, with the block it had.
func (a *agent) reconnect() error {
	again := a.unregistered(a.request.GetNode(), func(r *clearwayv1.RegisterRequest) {
		r.HeldBlocks = []*clearwayv1.BlockSpec{{Cidr: "10.0.0.0/26", Pool: "pods", Generation: 1}}
	})
	err := again.register()
	a.registered = again.registered
	return err
}

// TestOrphanStays: whatever is not known, and whoever holds the prefix or a part of it, begins the time anew.
func TestOrphanStays(t *testing.T) {
	held := func(prefix string) func(*orphaned, *clearwayv1.ReportStatusRequest) {
		return func(_ *orphaned, r *clearwayv1.ReportStatusRequest) { r.HeldOrphans = []string{prefix} }
	}
	for name, c := range map[string]struct {
		change func(*orphaned, *clearwayv1.ReportStatusRequest)
		again  bool // one look of it is enough to begin anew
	}{
		"held":           {held("10.0.0.0/26"), true},
		"a part of it":   {held("10.0.0.5/32"), true},
		"not looked for": {func(_ *orphaned, r *clearwayv1.ReportStatusRequest) { r.OrphansDigest = 0 }, false},
		"other blocks": {func(_ *orphaned, r *clearwayv1.ReportStatusRequest) {
			r.OrphansDigest = clearwayv1.OrphansDigest([]clearwayv1.Orphan{{CIDR: "10.0.0.0/26", Generation: 1}})
		}, false},
		"not ready":         {func(_ *orphaned, r *clearwayv1.ReportStatusRequest) { r.Ready = false }, false},
		"has just started":  {func(_ *orphaned, r *clearwayv1.ReportStatusRequest) { r.LastRestart = "" }, false},
		"a session is down": {func(_ *orphaned, r *clearwayv1.ReportStatusRequest) { r.Sessions[0].Status.State = "Active" }, false},
		"a session is young": {func(o *orphaned, r *clearwayv1.ReportStatusRequest) {
			r.Sessions[0].Status.Since = timestamp(o.clock.Now())
		}, false},
		"no sessions at all": {func(_ *orphaned, r *clearwayv1.ReportStatusRequest) { r.Sessions = nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrphaned(t, "10m")
			change := func(r *clearwayv1.ReportStatusRequest) {
				if r.GetNode() == "c" || name == "no sessions at all" {
					c.change(o, r)
				}
			}
			o.wait(orphanGrace/2, nil)
			if c.again {
				o.wait(2*orphanEvery, change)
			} else {
				o.wait(8*orphanEvery, change)
			}
			o.wait(orphanGrace*3/4, nil)
			o.is(orphan)
			o.wait(orphanGrace/2, nil)
			if !o.given() {
				t.Error("it is never given on")
			}
		})
	}
	t.Run("switched off", func(t *testing.T) {
		t.Parallel()
		o := newOrphaned(t, "0s")
		for range 20 {
			o.clock.Advance(orphanGrace)
			o.report("b", nil)
			o.report("c", nil)
		}
		o.is(orphan)
	})
	t.Run("another node is away", func(t *testing.T) {
		t.Parallel()
		o := newOrphaned(t, "10m")
		_ = o.agents["c"].conn.Close()
		delete(o.agents, "c")
		o.wait(2*orphanGrace, nil)
		o.is(orphan)
		if o.now().GetUnheldSince() != nil {
			t.Error("the time runs")
		}
	})
}

// TestOrphanTimeOutlivesLeaders: the time is the store's. A leader that follows soon goes on with it, and one that comes
// after nobody had looked for long begins anew.
func TestOrphanTimeOutlivesLeaders(t *testing.T) {
	for name, c := range map[string]struct {
		away time.Duration
		goes bool
	}{"soon": {2 * orphanEvery, true}, "late": {10 * orphanEvery, false}, "a clock that was set back": {-10 * orphanEvery, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrphaned(t, "10m")
			o.wait(orphanGrace/2, nil)
			since := o.now().GetUnheldSince()
			o.lead(c.away)
			o.wait(2*orphanEvery, nil)
			if goes := proto.Equal(o.now().GetUnheldSince(), since); goes != c.goes {
				t.Errorf("since %s, and was %s", o.now().GetUnheldSince().AsTime(), since.AsTime())
			}
			o.wait(orphanGrace/2, nil)
			if given := o.given(); given != c.goes {
				t.Errorf("given on: %v", given)
			}
		})
	}
}

// TestManyOrphans: more than one transaction takes are all seen to in one look.
func TestManyOrphans(t *testing.T) {
	o := &orphaned{ipamd: start(t, newFake()), agents: map[string]*agent{}}
	o.apply(ipPool("pods", "10.0.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.BlockSize = 26 }),
		clearwayv1.Wrap(&clearwayv1.IPAMConfiguration{
			Metadata: &clearwayv1.ObjectMeta{Name: "default"}, Spec: &clearwayv1.IPAMConfigurationSpec{OrphanGrace: "10m"},
		}))
	for n := range 30 {
		gone := o.agent(fmt.Sprintf("gone%d", n))
		for i := range 10 {
			gone.mustClaim("pods", fmt.Sprint(i))
		}
	}
	o.meet()
	for n := range 30 {
		if _, err := o.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "Node", Name: fmt.Sprintf("gone%d", n)}); err != nil {
			t.Fatal(err)
		}
	}
	orphans := func() (left []clearwayv1.Orphan) {
		blocks, _ := o.list(&clearwayv1.ListRequest{Kind: "Block"})
		for _, one := range blocks {
			if spec := one.GetBlock().GetSpec(); spec.GetState() == orphan {
				left = append(left, clearwayv1.Orphan{CIDR: spec.GetCidr(), Generation: spec.GetGeneration()})
			}
		}
		return left
	}
	begun := o.clock.Now()
	for left := orphans(); len(left) > 0; left = orphans() {
		looks := o.server.OrphanLooks()
		o.clock.Advance(orphanEvery)
		for name := range o.agents {
			o.report(name, func(r *clearwayv1.ReportStatusRequest) { r.OrphansDigest = clearwayv1.OrphansDigest(left) })
		}
		o.eventually("a look", func() bool { return o.server.OrphanLooks() > looks || len(orphans()) < len(left) })
	}
	if took := o.clock.Now().Sub(begun); took > orphanGrace*5/4 {
		t.Errorf("it took %s", took)
	}
}
