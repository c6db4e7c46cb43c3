package server_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/clearway/clearway/ipam/store/record"
	"github.com/clearway/clearway/ipam/store/storetest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// twin is the slow, obvious allocator: a list of blocks, each compared with each.
type twin struct {
	pool    netip.Prefix
	bits    int
	minBits int
	blocks  map[netip.Prefix]*twinBlock
}

type twinBlock struct {
	node, key  string
	generation int64
	freeAt     time.Time // zero: owned
	called     bool      // split off: it is withdrawn next, and rests no longer than its addresses must
}

func (w *twin) rest(now time.Time) {
	for prefix, block := range w.blocks {
		if !block.freeAt.IsZero() && !block.freeAt.After(now) {
			delete(w.blocks, prefix)
		}
	}
}

func (w *twin) overlap(prefix netip.Prefix) (netip.Prefix, bool) {
	for other := range w.blocks {
		if other.Overlaps(prefix) {
			return other, true
		}
	}
	return netip.Prefix{}, false
}

// useless tells whether a block has no address for a Pod: the pool's first is the network's own, the next its gateway,
// and its last is broadcast. Nobody gets such a block.
func (w *twin) useless(block netip.Prefix) bool {
	for addr := block.Addr(); block.Contains(addr); addr = addr.Next() {
		if addr != w.pool.Addr() && addr != w.pool.Addr().Next() && w.pool.Contains(addr.Next()) {
			return false
		}
	}
	return true
}

// room tells whether any block of an allowed size fits, and would be of use.
func (w *twin) room() bool {
	smallest := netip.PrefixFrom(w.pool.Addr(), w.minBits)
	for at := smallest; w.pool.Contains(at.Addr()); {
		if _, met := w.overlap(at); !met && !w.useless(at) {
			return true
		}
		next := at.Addr()
		for range 1 << (32 - w.minBits) {
			next = next.Next()
		}
		at = netip.PrefixFrom(next, w.minBits)
	}
	return false
}

// world is a server that is restarted and faulted, agents, and the twin.
type world struct {
	t       *testing.T
	records *storetest.Fake
	d       *ipamd
	clock   *clock
	agents  map[string]*agent
	twin    *twin
	keys    int
	needed  bool // there was a claim that a Pod waits for
	fault   atomic.Int32
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, records: newFake(), clock: newClock(), agents: map[string]*agent{}, twin: &twin{
		pool: netip.MustParsePrefix("10.244.0.0/27"), bits: 29, minBits: 31, blocks: map[netip.Prefix]*twinBlock{},
	}}
	w.records.Inject(func(txn record.Txn) storetest.Fault {
		for _, op := range txn.Ops { // only what changes a block: the rest has its own tests
			if op.Key.Room() == "blocks" {
				return storetest.Fault(w.fault.Swap(int32(storetest.None)))
			}
		}
		return storetest.None
	})
	w.boot()
	w.d.apply(ipPool("pods", "10.244.0.0/27", func(s *clearwayv1.IPPoolSpec) { s.BlockSize, s.MinBlockSize = 29, 31 }))
	return w
}

func (w *world) boot() {
	w.d = startAt(w.t, w.records, w.clock.Now())
	w.agents = map[string]*agent{}
}

func (w *world) advance(by time.Duration) {
	w.clock.Advance(by)
	w.d.clock.Advance(by)
	w.twin.rest(w.clock.Now())
}

func (w *world) agent(name string) *agent {
	if a := w.agents[name]; a != nil {
		return a
	}
	w.agents[name] = w.d.unregistered(name, answersCallBack)
	w.d.eventually("the agent registers", func() bool { return w.agents[name].register() == nil })
	return w.agents[name]
}

// insist repeats a call, registering again where it is asked to, until it is answered.
func (w *world) insist(name string, call func(*agent) error) error {
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		a := w.agent(name)
		err := call(a)
		switch status.Code(err) {
		case codes.Unavailable:
			time.Sleep(time.Millisecond)
		case codes.Unauthenticated:
			_ = a.register()
		default:
			return err
		}
	}
	return fmt.Errorf("no answer to %s", name)
}

func (w *world) claim(t *rapid.T, name, key string, needed bool) {
	var got *clearwayv1.BlockSpec
	w.needed = w.needed || needed
	err := w.insist(name, func(a *agent) error {
		claim := a.claim
		if needed {
			claim = a.need
		}
		answer, err := claim("pods", key)
		got = answer.GetBlock()
		return err
	})
	for prefix, block := range w.twin.blocks {
		if block.node == name && block.key == key {
			if err != nil || got.GetCidr() != prefix.String() || got.GetGeneration() != block.generation {
				t.Fatalf("request %s of %s had %s and now %v, %v", key, name, prefix, got, err)
			}
			return
		}
	}
	if status.Code(err) == codes.ResourceExhausted {
		w.settle()
		if w.twin.room() && !strings.Contains(err.Error(), "can do without") && w.stillRefused(name, key) {
			t.Fatalf("refused although there is room: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	prefix := netip.MustParsePrefix(got.GetCidr())
	if resting := w.twin.blocks[prefix]; needed && resting != nil && !resting.freeAt.IsZero() {
		if !got.GetFreeTime().AsTime().Equal(resting.freeAt) {
			t.Fatalf("%v forgets that its addresses rest until %s", got, resting.freeAt)
		}
		delete(w.twin.blocks, prefix)
	}
	if met, found := w.twin.overlap(prefix); found {
		t.Fatalf("%s overlaps %s of %s", prefix, met, w.twin.blocks[met].node)
	}
	if w.twin.useless(prefix) {
		t.Fatalf("%s has no address to give", prefix)
	}
	w.twin.blocks[prefix] = &twinBlock{node: name, key: key, generation: got.GetGeneration()}
}

// settle waits until what has rested is freed: the server does it once a second.
func (w *world) settle() {
	w.d.eventually("rested blocks are free", func() bool {
		blocks, _ := w.d.list(&clearwayv1.ListRequest{Kind: "Block"})
		return len(blocks) == len(w.twin.blocks)
	})
}

// shortage has a node claim until there is nothing left, and until something is called back for it or nothing can be.
func (w *world) shortage(t *rapid.T, name string) {
	for {
		w.keys++
		before := len(w.twin.blocks)
		w.claim(t, name, fmt.Sprint("k", w.keys), true)
		if len(w.twin.blocks) == before {
			break
		}
	}
	w.keys++
	key := fmt.Sprint("k", w.keys)
	w.d.eventually("something is called back, or nothing can be", func() bool {
		var got *clearwayv1.BlockSpec
		err := w.insist(name, func(a *agent) error {
			answer, err := a.need("pods", key)
			got = answer.GetBlock()
			return err
		})
		if err == nil {
			prefix := netip.MustParsePrefix(got.GetCidr())
			if was := w.twin.blocks[prefix]; was != nil && !was.freeAt.IsZero() {
				delete(w.twin.blocks, prefix)
			}
			if met, found := w.twin.overlap(prefix); found {
				t.Fatalf("%s overlaps %s", prefix, met)
			}
			w.twin.blocks[prefix] = &twinBlock{node: name, key: key, generation: got.GetGeneration()}
			return true
		}
		for _, one := range w.d.blocks() {
			if one.GetCallBack() != nil { // for another node, it may be: then that is waited for first
				return true
			}
		}
		w.advance(time.Second) // what was declined is asked for again in a while
		return !callingBack(err)
	})
}

// answer has the owner of a block say yes or no to what is called back, and changes the twin alike.
func (w *world) answer(t *rapid.T, yes bool) {
	var asked *clearwayv1.BlockSpec
	for _, one := range w.d.blocks() {
		if one.GetCallBack() != nil && one.GetState() == clearwayv1.BlockState_BLOCK_STATE_OWNED {
			asked = one
		}
	}
	if asked == nil {
		return
	}
	whole := asked.GetCallBack().GetCidr() == asked.GetCidr()
	if yes && whole {
		return // "release" gives it back
	}
	refusal := "no"
	if yes {
		refusal = ""
	}
	var answer *clearwayv1.AnswerCallBackResponse
	err := w.insist(asked.GetNode(), func(a *agent) (err error) {
		answer, err = a.answer(asked, refusal)
		return err
	})
	if status.Code(err) == codes.FailedPrecondition { // it was taken back meanwhile
		return
	}
	if err != nil || len(answer.GetBlocks()) > 0 != yes {
		t.Fatalf("%v, %v", answer, err)
	}
	if !yes {
		return
	}
	prefix := netip.MustParsePrefix(asked.GetCidr())
	was := w.twin.blocks[prefix]
	delete(w.twin.blocks, prefix)
	key := was.key // of the lowest part that is kept
	for _, part := range answer.GetBlocks() {
		next := &twinBlock{node: was.node, generation: part.GetGeneration()}
		if next.called = part.GetCidr() == asked.GetCallBack().GetCidr(); !next.called {
			next.key, key = key, ""
		}
		w.twin.blocks[netip.MustParsePrefix(part.GetCidr())] = next
	}
}

// hold has a node's mirror say that Pods have some addresses of its blocks.
func (w *world) hold(t *rapid.T, name string) {
	var addresses []string
	for prefix, block := range w.twin.blocks {
		if block.node == name && block.freeAt.IsZero() && !block.called && rapid.Bool().Draw(t, "used") {
			addresses = append(addresses, prefix.Addr().String())
		}
	}
	if err := w.insist(name, func(a *agent) error { return a.tryHold(addresses...) }); err != nil {
		t.Fatal(err)
	}
}

// stillRefused takes the block that a refused claim gets on the second try into the twin.
func (w *world) stillRefused(name, key string) bool {
	var got *clearwayv1.BlockSpec
	err := w.insist(name, func(a *agent) error {
		answer, err := a.claim("pods", key)
		got = answer.GetBlock()
		return err
	})
	if err != nil {
		return true
	}
	prefix := netip.MustParsePrefix(got.GetCidr())
	if _, met := w.twin.overlap(prefix); met {
		return true
	}
	w.twin.blocks[prefix] = &twinBlock{node: name, key: key, generation: got.GetGeneration()}
	return false
}

func (w *world) check(t *rapid.T) {
	listed, _ := w.d.list(&clearwayv1.ListRequest{Kind: "Block"})
	var seen []netip.Prefix
	for _, one := range listed {
		spec := one.GetBlock().GetSpec()
		prefix := netip.MustParsePrefix(spec.GetCidr())
		for _, other := range seen {
			if other.Overlaps(prefix) {
				t.Fatalf("NoOverlap: %s and %s", other, prefix)
			}
		}
		seen = append(seen, prefix)
		block := w.twin.blocks[prefix]
		resting := spec.GetState() == clearwayv1.BlockState_BLOCK_STATE_COOLING
		if block != nil && block.called && spec.GetCallBack() == nil {
			t.Fatalf("%v does not tell why it is withdrawn", spec)
		}
		if block == nil && !resting { // one that has rested may be listed for another second
			t.Fatalf("%v is nobody's", spec)
		}
		if block != nil && (block.node != spec.GetNode() || block.freeAt.IsZero() == resting || block.generation != spec.GetGeneration()) {
			t.Fatalf("%v, the twin says %+v", spec, block)
		}
	}
	for prefix := range w.twin.blocks {
		if _, listed := netipIndex(seen, prefix); !listed {
			t.Fatalf("%s is lost", prefix)
		}
	}
}

func netipIndex(all []netip.Prefix, one netip.Prefix) (int, bool) {
	for i, other := range all {
		if other == one {
			return i, true
		}
	}
	return 0, false
}

// TestNoOverlapWithTwin drives claims, repetitions, releases, restarts, lost requests and replies, and time, and
// compares with the twin after each step.
func TestNoOverlapWithTwin(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		defer func() { w.d.stop() }()
		node := rapid.SampledFrom([]string{"n1", "n2", "n3"})
		rt.Repeat(map[string]func(*rapid.T){
			"claim": func(rt *rapid.T) {
				w.keys++
				w.claim(rt, node.Draw(rt, "node"), fmt.Sprint("k", w.keys), rapid.Bool().Draw(rt, "needed"))
			},
			"shortage": func(rt *rapid.T) { w.shortage(rt, node.Draw(rt, "node")) },
			"answer":   func(rt *rapid.T) { w.answer(rt, rapid.IntRange(0, 3).Draw(rt, "no") > 0) },
			"hold":     func(rt *rapid.T) { w.hold(rt, node.Draw(rt, "node")) },
			"repeat": func(rt *rapid.T) {
				name := node.Draw(rt, "node")
				for _, block := range w.twin.blocks {
					if block.node == name && block.key != "" {
						w.claim(rt, name, block.key, false)
						return
					}
				}
			},
			"release": func(rt *rapid.T) {
				if len(w.twin.blocks) == 0 {
					return
				}
				var all []netip.Prefix
				for prefix := range w.twin.blocks {
					all = append(all, prefix)
				}
				prefix := rapid.SampledFrom(sorted(all)).Draw(rt, "block")
				block := w.twin.blocks[prefix]
				name, generation := block.node, block.generation
				if rapid.IntRange(0, 3).Draw(rt, "right") == 0 { // not its own, or not this time
					name, generation = node.Draw(rt, "node"), generation-int64(rapid.IntRange(0, 1).Draw(rt, "older"))
				}
				err := w.insist(name, func(a *agent) error {
					return a.release(&clearwayv1.BlockSpec{Cidr: prefix.String(), Generation: generation})
				})
				if err != nil {
					rt.Fatal(err)
				}
				if name != block.node || generation != block.generation || !block.freeAt.IsZero() {
					return
				}
				block.freeAt = w.clock.Now().Add(130 * time.Second)
				rests := false
				for _, one := range w.d.blocks() {
					rests = rests || one.GetCidr() == prefix.String() && one.GetFreeTime().AsTime().After(w.clock.Now())
				}
				if called := block.called || w.needed; rests && block.called || !rests && !called {
					rt.Fatalf("%s rests: %v; it was split off: %v", prefix, rests, block.called)
				}
				if !rests { // it was called back, and its addresses were not in use
					delete(w.twin.blocks, prefix)
				}
			},
			"wait":    func(rt *rapid.T) { w.advance(time.Duration(rapid.IntRange(1, 200).Draw(rt, "seconds")) * time.Second) },
			"restart": func(*rapid.T) { w.d.stop(); w.boot() },
			"fault":   func(rt *rapid.T) { w.fault.Store(int32(rapid.IntRange(1, 2).Draw(rt, "fault"))) },
			"":        w.check,
		})
	})
}

// TestNoOverlapConcurrent has many claimers at once, each with its own connection.
func TestNoOverlapConcurrent(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"), ipPool("six", "fd00::/64"))
	const claimers, each = 64, 20
	agents := make([]*agent, claimers)
	for i := range agents {
		agents[i] = d.agent(fmt.Sprint("n", i))
	}
	var mu sync.Mutex
	taken := map[string]string{}
	var group sync.WaitGroup
	for _, a := range agents {
		group.Go(func() {
			for i := range each {
				from := []string{"pods", "six"}[i%2]
				block, err := a.claim(from, fmt.Sprint("k", i))
				again, err2 := a.claim(from, fmt.Sprint("k", i))
				if err != nil || err2 != nil || again.GetBlock().GetCidr() != block.GetBlock().GetCidr() {
					t.Errorf("%v %v %v %v", block, err, again, err2)
					return
				}
				mu.Lock()
				if other, twice := taken[block.GetBlock().GetCidr()]; twice {
					t.Errorf("%s is %s's and %s's", block.GetBlock().GetCidr(), other, a.request.GetNode())
				}
				taken[block.GetBlock().GetCidr()] = a.request.GetNode()
				mu.Unlock()
			}
		})
	}
	group.Wait()
	blocks, _ := d.list(&clearwayv1.ListRequest{Kind: "Block"})
	if len(taken) != claimers*each || len(blocks) != claimers*each {
		t.Errorf("%d blocks are taken, %d listed", len(taken), len(blocks))
	}
}
