package server_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/clearway/clearway/ipam/store/storetest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// journal is what an agent under test remembers of its store, as the real one does on disk.
type journal struct {
	incarnation string
	term        uint64
	revision    int64
	blocks      map[string]*clearwayv1.BlockSpec
}

func newJournal() *journal { return &journal{blocks: map[string]*clearwayv1.BlockSpec{}} }

// register brings what is held to a server, and takes its answer over.
func (j *journal) register(d *ipamd, name string, change ...func(*clearwayv1.RegisterRequest)) (*agent, error) {
	a := d.unregistered(name, func(r *clearwayv1.RegisterRequest) {
		r.HeldIncarnation, r.HeldTerm, r.HeldRevision = j.incarnation, j.term, j.revision
		for _, block := range j.blocks {
			r.HeldBlocks = append(r.HeldBlocks, block)
		}
		for _, one := range change {
			one(r)
		}
	})
	if err := a.register(); err != nil {
		return nil, err
	}
	for _, lost := range a.registered.GetLostBlocks() {
		delete(j.blocks, lost)
	}
	for _, block := range a.registered.GetBlocks() {
		j.blocks[block.GetCidr()] = block
	}
	j.incarnation, j.term, j.revision = a.registered.GetIncarnation(), a.registered.GetTerm(), a.registered.GetRevision()
	return a, nil
}

func (j *journal) mustRegister(t testing.TB, d *ipamd, name string) *agent {
	t.Helper()
	a, err := j.register(d, name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// release gives a block back.
func (j *journal) release(a *agent, cidr string) error {
	answer, err := a.NodeServiceClient.ReleaseBlock(testContext(a.t), &clearwayv1.ReleaseBlockRequest{
		Node: a.request.GetNode(), SessionId: a.registered.GetSessionId(), RequestKey: "release",
		Cidr: cidr, Generation: j.blocks[cidr].GetGeneration(),
	})
	if err == nil {
		delete(j.blocks, cidr)
		j.revision = answer.GetRevision()
	}
	return err
}

func (j *journal) claim(a *agent, key string) error {
	answer, err := a.claim("pods", key)
	if err == nil {
		j.blocks[answer.GetBlock().GetCidr()] = answer.GetBlock()
		j.revision = answer.GetRevision()
	}
	return err
}

func (j *journal) mustClaim(t testing.TB, a *agent, key string) string {
	t.Helper()
	answer, err := a.claim("pods", key)
	if err != nil {
		t.Fatal(err)
	}
	j.blocks[answer.GetBlock().GetCidr()] = answer.GetBlock()
	j.revision = answer.GetRevision()
	return answer.GetBlock().GetCidr()
}

func (d *ipamd) store(t testing.TB) *clearwayv1.ShowStoreResponse {
	t.Helper()
	answer, err := d.ShowStore(testContext(t), &clearwayv1.ShowStoreRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// wantRecovering fails the test unless a claim is refused because the store recovers.
func wantRecovering(t testing.TB, err error) {
	t.Helper()
	for _, detail := range status.Convert(err).Details() {
		if _, ok := detail.(*clearwayv1.Recovering); ok && status.Code(err) == codes.Unavailable {
			return
		}
	}
	t.Fatalf("got %v, want a refusal because the store recovers", err)
}

// recovered waits until claims are open, where the minimum wait is over.
func (d *ipamd) recovered(t testing.TB) {
	t.Helper()
	d.clock.Advance(31 * time.Second)
	d.eventually("the store has recovered", func() bool { return d.store(t).GetRecovery() == nil })
}

// TestOneHolderOverARestore: a backup is put back that knows neither the newer block of one node nor that the other gave
// one back, in a new cluster (recognised by ipamd) or the same (recognised by the first agent).
func TestOneHolderOverARestore(t *testing.T) {
	for _, sameCluster := range []bool{false, true} {
		t.Run(fmt.Sprint("same cluster ", sameCluster), func(t *testing.T) {
			records := newFake()
			d := start(t, records)
			d.apply(ipPool("pods", "10.244.0.0/16"))
			one, two := newJournal(), newJournal()
			a, b := one.mustRegister(t, d, "n1"), two.mustRegister(t, d, "n2")
			old := two.mustClaim(t, b, "k1")
			backup := records.Backup()
			// Since then: n2 gave its block back, and n1 has it and another one.
			if err := two.release(b, old); err != nil {
				t.Fatal(err)
			}
			d.clock.Advance(131 * time.Second)
			for one.blocks[old] == nil { // once it is free it is the smallest hole
				if err := one.claim(a, fmt.Sprint("k", len(one.blocks))); err != nil {
					t.Fatal(err)
				}
			}
			kept := len(one.blocks)
			was := d.store(t).GetIncarnation()
			d.stop()
			records.Restore(backup, sameCluster)
			d = start(t, records)

			c := newJournal()
			if !sameCluster { // recognised before anybody came
				fresh := c.mustRegister(t, d, "n3")
				wantRecovering(t, c.claim(fresh, "k"))
				if got := d.store(t).GetRecovery().GetAwaited(); !slices.Equal(got, []string{"n1", "n2"}) {
					t.Errorf("awaited are %q", got)
				}
			}
			held := len(two.blocks)
			b = two.mustRegister(t, d, "n2")
			now := d.store(t)
			if now.GetRecovery() == nil || now.GetIncarnation() == was {
				t.Fatalf("the restore is not recognised: %v", now)
			}
			if len(two.blocks) != held || len(b.registered.GetLostBlocks()) != 0 {
				t.Errorf("n2 is given what it gave back: %v", b.registered)
			}
			wantRecovering(t, two.claim(b, "k2"))
			if got := now.GetRecovery().GetAwaited(); !slices.Equal(got, []string{"n1"}) {
				t.Errorf("awaited are %q", got)
			}
			nodes, _ := d.list(&clearwayv1.ListRequest{Kind: "Node", Name: "n1"})
			if got := nodes[0].GetNode().GetStatus().GetPhase(); got != "Awaited" {
				t.Errorf("n1 is %s", got)
			}
			wantCode(t, d.deleteNode("n1", false), codes.FailedPrecondition)
			d.clock.Advance(time.Hour) // silence alone opens nothing
			wantRecovering(t, two.claim(b, "k2"))

			a = one.mustRegister(t, d, "n1")
			if len(a.registered.GetBlocks()) != kept || len(a.registered.GetLostBlocks()) != 0 {
				t.Fatalf("n1 lost blocks: %v", a.registered)
			}
			d.recovered(t)
			two.mustClaim(t, b, "k3")
			if got := d.block(t, old).GetSpec().GetNode(); got != "n1" {
				t.Errorf("%s is %s's", old, got)
			}
			if next := two.blocks[slices.Collect(blockNames(two.blocks))[0]].GetGeneration(); next <= one.blocks[old].GetGeneration() {
				t.Errorf("generations went back: %d after %d", next, one.blocks[old].GetGeneration())
			}
			wantEvent(t, d, "Recovering")
			wantEvent(t, d, "Recovered")
		})
	}
}

func blockNames(blocks map[string]*clearwayv1.BlockSpec) func(func(string) bool) {
	return func(yield func(string) bool) {
		for key := range blocks {
			if !yield(key) {
				return
			}
		}
	}
}

func wantEvent(t testing.TB, d *ipamd, reason string) {
	t.Helper()
	d.eventually("an event "+reason, func() bool {
		events, _ := d.list(&clearwayv1.ListRequest{Kind: "Event"})
		return slices.ContainsFunc(events, func(one *clearwayv1.Resource) bool { return one.GetEvent().GetSpec().GetReason() == reason })
	})
}

// A node that is named dead is not awaited any more.
func TestRecoveryGoesOnWithoutANodeThatIsOff(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/24"))
	one, two := newJournal(), newJournal()
	one.mustClaim(t, one.mustRegister(t, d, "n1"), "k1")
	two.mustRegister(t, d, "n2")
	d.stop()
	records.Restore(records.Backup(), false)
	d = start(t, records)
	b := two.mustRegister(t, d, "n2")
	d.clock.Advance(time.Hour)
	wantRecovering(t, two.claim(b, "k1"))
	if err := d.deleteNode("n1", true); err != nil {
		t.Fatal(err)
	}
	d.eventually("claims are open", func() bool { return two.claim(b, "k2") == nil })
}

// TestOneHolderBetweenTwoNodesThatClaimTheSame: the restore is recognised only when a node comes back whose block another
// one was given meanwhile: the later owner in the store's true history keeps it, and the other is told.
func TestOneHolderBetweenTwoNodesThatClaimTheSame(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/26"), ipPool("other", "10.9.0.0/24"))
	one, two := newJournal(), newJournal()
	two.mustRegister(t, d, "n2")
	backup := records.Backup()
	a := one.mustRegister(t, d, "n1")
	d.agent("n4").mustClaim("other", "k") // so that n1's is later than what n2 gets below
	d.agent("n5").mustClaim("other", "k")
	block := one.mustClaim(t, a, "k1")
	d.stop()
	records.Restore(backup, true)
	d = start(t, records)
	b := two.mustRegister(t, d, "n2")
	if got := two.mustClaim(t, b, "k1"); got != block {
		t.Fatalf("n2 got %s", got)
	}
	one.mustRegister(t, d, "n1")
	if one.blocks[block] == nil || d.store(t).GetRecovery() == nil {
		t.Fatalf("the later owner lost it: %v", one.blocks)
	}
	two.mustRegister(t, d, "n2")
	if two.blocks[block] != nil {
		t.Error("two nodes have the block")
	}
}

// TestOneHolderOverAStoreMadeAnew: nodes bring their blocks to an empty store, where one without any has claimed before.
func TestOneHolderOverAStoreMadeAnew(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/24"))
	one := newJournal()
	block := one.mustClaim(t, one.mustRegister(t, d, "n1"), "k1")
	d.stop()

	d = start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/24"))
	fresh := newJournal()
	c := fresh.mustRegister(t, d, "n3")
	for i := range 3 { // of greater revisions than n1's, all of them
		fresh.mustClaim(t, c, fmt.Sprint("k", i))
	}
	one.mustRegister(t, d, "n1")
	if one.blocks[block] == nil {
		t.Fatalf("n1 lost its block: %v", one.blocks)
	}
	wantRecovering(t, fresh.claim(c, "k9"))
	c = fresh.mustRegister(t, d, "n3")
	if fresh.blocks[block] != nil || len(fresh.blocks) != 2 {
		t.Errorf("n3 has %v", fresh.blocks)
	}
	d.recovered(t)
	if next := fresh.mustClaim(t, c, "k10"); fresh.blocks[next].GetGeneration() <= one.blocks[block].GetGeneration() {
		t.Errorf("generations went back: %v after %v", fresh.blocks[next], one.blocks[block])
	}
}

// An agent of another cluster takes nothing from nodes of a store that is in use.
func TestAStrangerTakesNothing(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/24"))
	one := newJournal()
	block := one.mustClaim(t, one.mustRegister(t, d, "n1"), "k1")
	d.clock.Advance(2 * time.Hour)
	stranger := newJournal()
	stranger.incarnation = "another"
	stranger.blocks[block] = &clearwayv1.BlockSpec{Cidr: block, Pool: "pods", Generation: 1 << 30}
	a := stranger.mustRegister(t, d, "n2")
	if len(a.registered.GetLostBlocks()) != 1 || d.store(t).GetRecovery() != nil || d.block(t, block).GetSpec().GetNode() != "n1" {
		t.Errorf("got %v, %v", a.registered, d.store(t))
	}
}

// A recovering store that lacks a pool refuses the node that has blocks of it, says so, and waits for it.
func TestRecoveryWaitsForPoolsThatAreMissing(t *testing.T) {
	records := newFake()
	d := start(t, records)
	backup := records.Backup()
	d.apply(ipPool("pods", "10.244.0.0/24"))
	one := newJournal()
	one.mustClaim(t, one.mustRegister(t, d, "n1"), "k1")
	d.stop()
	records.Restore(backup, false)
	d = start(t, records)
	_, err := one.register(d, "n1")
	wantCode(t, err, codes.FailedPrecondition)
	d.clock.Advance(31 * time.Second)
	if got := d.store(t).GetRecovery().GetRefused(); len(got) != 1 || !strings.Contains(got[0], `n1: node "n1" went by another store`) {
		t.Errorf("refused are %q", got)
	}
	d.apply(ipPool("pods", "10.244.0.0/24"))
	if a := one.mustRegister(t, d, "n1"); len(a.registered.GetBlocks()) != 1 || len(a.registered.GetLostBlocks()) != 0 {
		t.Errorf("got %v", a.registered)
	}
	d.recovered(t)
}

// Halves of a block that was split since the backup: what nobody reports rests.
func TestRecoveryOfASplitBlock(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/24", func(s *clearwayv1.IPPoolSpec) { s.MinBlockSize = 28 }))
	one, two := newJournal(), newJournal()
	block := one.mustClaim(t, one.mustRegister(t, d, "n1"), "k1")
	b := two.mustRegister(t, d, "n2")
	d.stop()
	records.Restore(records.Backup(), false)
	d = start(t, records)
	later := one.blocks[block].GetGeneration() + 10
	one.blocks = map[string]*clearwayv1.BlockSpec{"10.244.0.0/28": {Cidr: "10.244.0.0/28", Pool: "pods", Generation: later}}
	two.blocks = map[string]*clearwayv1.BlockSpec{"10.244.0.32/27": {Cidr: "10.244.0.32/27", Pool: "pods", Generation: later + 1}}
	for range 2 { // whoever comes first, and again
		b = two.mustRegister(t, d, "n2")
		one.mustRegister(t, d, "n1")
	}
	if len(one.blocks) != 1 || len(two.blocks) != 1 || len(b.registered.GetLostBlocks()) != 0 {
		t.Fatalf("n1 has %v, n2 %v", one.blocks, two.blocks)
	}
	if got := d.block(t, "10.244.0.16/28").GetSpec(); got.GetState() != clearwayv1.BlockState_BLOCK_STATE_COOLING {
		t.Errorf("the rest is %v", got)
	}
}

// Recover is the operator's word.
func TestRecoverByAnOperator(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/24"))
	one := newJournal()
	a := one.mustRegister(t, d, "n1")
	answer, err := d.Recover(testContext(t), &clearwayv1.RecoverRequest{Reason: "disk of 10:00"})
	if err != nil || answer.GetIncarnation() == one.incarnation {
		t.Fatalf("got %v, %v", answer, err)
	}
	_, err = d.Recover(testContext(t), &clearwayv1.RecoverRequest{})
	wantCode(t, err, codes.FailedPrecondition)
	wantCode(t, one.claim(a, "k1"), codes.Unauthenticated) // its session is over
	a = one.mustRegister(t, d, "n1")
	wantRecovering(t, one.claim(a, "k1"))
	if text := d.server.Recovering(); !strings.Contains(text, "disk of 10:00") {
		t.Error(text)
	}
	d.stop() // the recovery outlives a leader
	// A new leader gives those that it does not know their time again.
}

// TestNoEarlyPruneWhileRecovering: the ownership log of a recovering store empties nobody's copy, on the leader and on a
// follower; when it has recovered, the whole comes.
func TestNoEarlyPruneWhileRecovering(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/24"))
	one, two := newJournal(), newJournal()
	b := two.mustRegister(t, d, "n2")
	backup := records.Backup()
	block := two.mustClaim(t, b, "k1")
	one.mustRegister(t, d, "n1")
	mine := &copyOf{}
	mine.read(t, d.watchOwnership(testContext(t), mine), one.revision)
	d.stop()
	records.Restore(backup, false)
	d = start(t, records)
	follower := startFollower(t, records, "second:7470", d.clock.Now())
	follower.eventually("it follows", func() bool { return follower.server.Ready() == nil })
	has := func(c *copyOf) bool { return c.entries["block "+block] == "n2 OWNED" && c.entries["node n1"] != "" }
	for _, server := range []*ipamd{d, follower} {
		other := &copyOf{incarnation: mine.incarnation, revision: mine.revision, entries: maps.Clone(mine.entries), resets: mine.resets}
		stream := server.watchOwnership(testContext(t), other)
		message, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if other.take(message); !has(other) || other.resets != mine.resets || other.incarnation == mine.incarnation {
			t.Errorf("while it recovers:\n%s", other)
		}
	}
	stream := d.watchOwnership(testContext(t), mine)
	two.mustRegister(t, d, "n2")
	one.mustRegister(t, d, "n1")
	d.recovered(t)
	resets := mine.resets
	for mine.resets == resets {
		message, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if mine.take(message); !has(mine) && message.GetComplete() {
			t.Fatalf("it was pruned:\n%s", mine)
		}
	}
}

// TestOneHolderOverRestores drives claims, returns, backups, restores and nodes that are away, and checks that no
// address is in blocks of two nodes that both were told they have it, that a recovery gives nobody's block away, and
// that generations rise.
func TestOneHolderOverRestores(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := &restoreWorld{t: t, records: newFake(), nodes: map[string]*journal{}}
		w.d = start(t, w.records)
		defer func() { w.d.stop() }()
		w.d.apply(ipPool("pods", "10.244.0.0/27", func(s *clearwayv1.IPPoolSpec) { s.BlockSize, s.MinBlockSize = 29, 31 }))
		w.backup = w.records.Backup()
		for _, name := range restoreNodes {
			w.nodes[name] = newJournal()
		}
		name := rapid.SampledFrom(restoreNodes)
		rt.Repeat(map[string]func(*rapid.T){
			"claim":   func(rt *rapid.T) { w.claim(rt, name.Draw(rt, "node")) },
			"release": func(rt *rapid.T) { w.release(rt, name.Draw(rt, "node")) },
			"wait": func(rt *rapid.T) {
				w.strangersCome(rt)
				w.d.clock.Advance(time.Duration(rapid.IntRange(1, 200).Draw(rt, "seconds")) * time.Second)
			},
			"backup":  func(*rapid.T) { w.backup = w.records.Backup() },
			"restore": func(rt *rapid.T) { w.restore(rapid.Bool().Draw(rt, "same cluster")) },
			"return":  func(rt *rapid.T) { w.come(rt, name.Draw(rt, "node")) },
			"":        w.check,
		})
	})
}

var restoreNodes = []string{"n1", "n2", "n3"}

// restoreWorld is a store that goes back in time under nodes which do not.
type restoreWorld struct {
	t       *testing.T
	records *storetest.Fake
	backup  storetest.Backup
	d       *ipamd
	nodes   map[string]*journal
	agents  map[string]*agent
	newest  string // the node that was told something last
	keys    int
}

// restore puts the backup back, and has the node that knows most come first where nothing else tells of it: a node that
// knows less cannot tell, and nobody else can.
func (w *restoreWorld) restore(sameCluster bool) {
	now := w.d.clock.Now()
	w.d.stop()
	w.records.Restore(w.backup, sameCluster)
	w.d = startAt(w.t, w.records, now)
	w.agents = nil
	if first := w.newest; sameCluster && first != "" {
		w.come(w.t, first)
	}
}

// strangersCome has the nodes that the store does not know come: agents try a lost ipamd again within the minimum wait.
func (w *restoreWorld) strangersCome(t fataler) {
	if w.d.store(w.t).GetRecovery() == nil {
		return
	}
	known, _ := w.d.list(&clearwayv1.ListRequest{Kind: "Node"})
	for _, name := range restoreNodes {
		isName := func(one *clearwayv1.Resource) bool { return one.GetNode().GetMetadata().GetName() == name }
		if w.nodes[name].incarnation != "" && !slices.ContainsFunc(known, isName) {
			w.come(t, name)
		}
	}
}

type fataler interface{ Fatal(...any) }

func (w *restoreWorld) come(t fataler, name string) *agent {
	a, err := w.nodes[name].register(w.d, name)
	if err != nil {
		t.Fatal(err)
	}
	if lost := a.registered.GetLostBlocks(); len(lost) > 0 {
		t.Fatal(name, " lost ", lost)
	}
	if w.agents == nil {
		w.agents = map[string]*agent{}
	}
	w.agents[name], w.newest = a, name
	return a
}

// insist calls with a session, made anew where it is over.
func (w *restoreWorld) insist(t fataler, name string, call func(*agent) error) error {
	for range 3 {
		a := w.agents[name]
		if a == nil {
			a = w.come(t, name)
		}
		err := call(a)
		if status.Code(err) != codes.Unauthenticated {
			if err == nil {
				w.newest = name
			}
			return err
		}
		delete(w.agents, name)
	}
	return fmt.Errorf("no session for %s", name)
}

func (w *restoreWorld) claim(rt *rapid.T, name string) {
	w.keys++
	key := fmt.Sprint("k", w.keys)
	err := w.insist(rt, name, func(a *agent) error { return w.nodes[name].claim(a, key) })
	switch status.Code(err) {
	case codes.OK, codes.ResourceExhausted:
	case codes.Unavailable:
		wantRecovering(w.t, err)
		if w.d.store(w.t).GetRecovery() == nil {
			return // it ended just now
		}
		for _, node := range w.d.store(w.t).GetRecovery().GetAwaited() {
			w.come(rt, node)
		}
	default:
		rt.Fatal(err)
	}
}

func (w *restoreWorld) release(rt *rapid.T, name string) {
	have := slices.Sorted(blockNames(w.nodes[name].blocks))
	if len(have) == 0 {
		return
	}
	cidr := rapid.SampledFrom(have).Draw(rt, "block")
	if err := w.insist(rt, name, func(a *agent) error { return w.nodes[name].release(a, cidr) }); err != nil {
		rt.Fatal(err)
	}
}

// check: no two nodes have an address, and none of the journals is missing in a store that has recovered.
func (w *restoreWorld) check(rt *rapid.T) {
	owner := map[netip.Prefix]string{}
	for name, one := range w.nodes {
		for cidr := range one.blocks {
			prefix := netip.MustParsePrefix(cidr)
			for other, of := range owner {
				if other.Overlaps(prefix) && of != name {
					rt.Fatalf("OneHolder: %s has %s and %s has %s", of, other, name, prefix)
				}
			}
			owner[prefix] = name
		}
	}
	if w.d.store(w.t).GetRecovery() != nil {
		return
	}
	listed, _ := w.d.list(&clearwayv1.ListRequest{Kind: "Block"})
	for _, one := range listed {
		spec := one.GetBlock().GetSpec()
		for prefix, name := range owner {
			if prefix.Overlaps(netip.MustParsePrefix(spec.GetCidr())) && spec.GetNode() != name &&
				spec.GetState() == clearwayv1.BlockState_BLOCK_STATE_OWNED {
				rt.Fatalf("%s is %s's, and the store says %v", prefix, name, spec)
			}
		}
	}
}
