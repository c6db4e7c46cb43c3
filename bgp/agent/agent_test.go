package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/clearway/clearway/bgp/bgptest"
	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Whatever the order and the goroutine the inputs come from, the kernel ends with the same routes.
func TestInputsFromManyGoroutines(t *testing.T) {
	speaker, fib := bgptest.NewSpeaker(), bgptest.NewFIB()
	registry := prometheus.NewRegistry()
	a := New(Options{Node: "n1", Speaker: speaker, FIB: fib, Registerer: registry})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	s := &script{t: t, agent: a}
	peer := netip.MustParseAddr("192.0.2.1")
	var wg sync.WaitGroup
	for _, input := range []func(){
		func() { a.SetOnline(true) },
		func() { a.SetBlocks(prefixes([]string{"10.244.1.0/26"}), nil) },
		func() { a.SetSnapshot(s.snapshot([]string{"mesh=None", "peers=tor:192.0.2.1:65101"})) },
		func() {
			s.own([]string{"n2@192.0.2.12/24", "as", "65001"})
			for i := range 50 {
				s.own([]string{"n2", fmt.Sprintf("10.244.2.%d/32", i)})
			}
		},
		func() {
			for i := range 50 {
				speaker.Tell(&route.Path{
					Prefix: netip.MustParsePrefix(fmt.Sprintf("10.244.2.%d/32", i)), Peer: peer, NextHop: peer,
					ASPath: []uint32{65101, 65001}, ASPathLen: 2, EBGP: true,
				})
			}
		},
		func() {
			for range 20 {
				a.Status()
				if _, err := registry.Gather(); err != nil {
					t.Error(err)
				}
				if _, err := a.List(ctx, &clearwayv1.ListRequest{Kind: "Route"}); err != nil {
					t.Error(err)
				}
			}
		},
	} {
		wg.Go(input)
	}
	wg.Wait()
	deadline := time.Now().Add(10 * time.Second)
	for fib.Count() != 51 {
		if time.Now().After(deadline) {
			t.Fatalf("the kernel has\n%s", fib)
		}
		time.Sleep(time.Millisecond)
	}
	asked := prefixes([]string{"10.244.2.8/29", "10.244.2.3/32", "10.244.3.0/24", "10.244.2.9/32"})
	heard, err := a.Heard(asked[:3]) // 10.244.2.0/24 is told of in 50 pieces
	if err != nil || len(heard) != 9 || !slices.Contains(heard, asked[1]) || !slices.Contains(heard, asked[3]) {
		t.Errorf("heard of %v: %v, %v", asked[:3], heard, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := a.List(context.Background(), &clearwayv1.ListRequest{Kind: "Route", Node: "other"}); err != nil {
		t.Errorf("another node's routes are none, and no error: %v", err)
	}
}

// The same input again tells the speaker nothing new: an unrelated change resets nothing.
func TestUnchangedInputTellsTheSpeakerNothing(t *testing.T) {
	speaker := bgptest.NewSpeaker()
	c := newCore(Options{Node: "n1", Speaker: speaker, FIB: bgptest.NewFIB()})
	s := &script{t: t}
	blocks := prefixes([]string{"10.244.1.0/26"})
	now := time.Unix(0, 0)
	for range 3 {
		c.receive(mailbox{snapshot: s.snapshot([]string{"peers=tor:192.0.2.1:65101"}), blocks: &ownBlocks{all: blocks}}, now)
	}
	if speaker.Sets() != 1 {
		t.Errorf("told %d times", speaker.Sets())
	}
}

// A flood of rejected paths costs counters, not lines and events.
func TestSafeImportReportsAreBounded(t *testing.T) {
	c := newCore(Options{Node: "n1", Speaker: bgptest.NewSpeaker(), FIB: bgptest.NewFIB()})
	s := &script{t: t}
	blocks := []netip.Prefix{}
	now := time.Unix(0, 0)
	c.receive(mailbox{snapshot: s.snapshot([]string{"peers=tor:192.0.2.1:65101"}), blocks: &ownBlocks{all: blocks}}, now)
	peer := netip.MustParseAddr("192.0.2.1")
	for i := range 10000 {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32)
		c.learn([]route.Learned{{Prefix: prefix, Paths: []*route.Path{{Prefix: prefix, Peer: peer, NextHop: peer}}}}, now)
	}
	if events := c.events.drain(); len(events) != 1 {
		t.Errorf("%d events", len(events))
	}
	if c.rejected[policy.OutsidePools] != 10000 {
		t.Errorf("counted %v", c.rejected)
	}
}

// A report is asked for at once when a session's state changes, and once when numbers of routes have come to rest.
func TestStatusChanged(t *testing.T) {
	speaker, fib := bgptest.NewSpeaker(), bgptest.NewFIB()
	c := newCore(Options{Node: "n1", Speaker: speaker, FIB: fib})
	s := &script{t: t}
	now, peer := time.Now(), netip.MustParseAddr("192.0.2.1")
	c.begin(now)
	snapshot := s.snapshot([]string{"mesh=None", "peers=tor:192.0.2.1:65101"})
	c.receive(mailbox{snapshot: snapshot, blocks: &ownBlocks{}}, now)
	tick := func() bool {
		now = now.Add(time.Second)
		c.tick(now)
		select {
		case <-c.news:
			return true
		default:
			return false
		}
	}
	for tick() { // what it started with
	}
	for _, step := range []struct {
		name   string
		change func()
		want   []bool // at the ticks after it
	}{
		{"a session comes up", func() { speaker.Up(peer, true) }, []bool{true, false, false}},
		{"a burst of routes", func() { speaker.Tell(pathTo("10.244.2.0/26", peer)) }, []bool{false}},
		{"the burst goes on", func() { speaker.Tell(pathTo("10.244.2.64/26", peer)) }, []bool{false, true, false}},
		{"a session is lost", func() { speaker.Down(peer, "gone") }, []bool{true, false}},
	} {
		step.change()
		for i, want := range step.want {
			if got := tick(); got != want {
				t.Errorf("%s: tick %d: news is %v, want %v", step.name, i, got, want)
			}
		}
	}
}

func pathTo(prefix string, peer netip.Addr) *route.Path {
	return &route.Path{
		Prefix: netip.MustParsePrefix(prefix), Peer: peer, NextHop: peer, ASPath: []uint32{65101, 65001}, ASPathLen: 2, EBGP: true,
	}
}
