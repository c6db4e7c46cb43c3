package ipamtest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// claimed is one ownership of a block, as its claimer knows it.
type claimed struct {
	node, cidr string
	generation int64
}

// step is a claim that was answered with a block, or a release of one.
type step struct {
	release bool
	of      claimed
}

// ownership is what a block may do: it is nobody's, then somebody's by a claim, and nobody's by a release that names
// that very ownership; any other release changes nothing (rules NoOverlap, CompareAndDelete). The blocks of the test are of one
// size, so that each is an object of its own, and the whole is linearizable when each one is.
var ownership = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byBlock := map[string][]porcupine.Operation{}
		for _, one := range history {
			cidr := one.Input.(step).of.cidr
			byBlock[cidr] = append(byBlock[cidr], one)
		}
		var all [][]porcupine.Operation
		for _, one := range byBlock {
			all = append(all, one)
		}
		return all
	},
	Init: func() any { return claimed{} },
	Step: func(state, input, _ any) (bool, any) {
		owner, made := state.(claimed), input.(step)
		switch {
		case !made.release:
			return owner == claimed{}, made.of
		case owner == made.of:
			return true, claimed{}
		}
		return true, owner
	},
	DescribeOperation: func(input, _ any) string { return fmt.Sprintf("%+v", input) },
}

// claimers are nodes that claim and release blocks of one small pool, and their history.
type claimers struct {
	*soak
	began time.Time

	mu      sync.Mutex // guards all below
	history []porcupine.Operation
}

// claimer is one node, on connections of its own to every ipamd.
type claimer struct {
	*claimers
	number  int
	name    string
	random  *rand.Rand
	clients map[string]clearwayv1.NodeServiceClient
	session string
	keys    int
	only    *replica // the one that it asks; nil: whoever leads
}

func newClaimers(t testing.TB, broken bug) *claimers {
	s := &soak{t: t, trio: newTrio(t, broken), ledger: newLedger()}
	s.records = s.trio.open(s.trio.etcd, "observer")
	t.Cleanup(func() { _ = s.records.Close() })
	s.trio.heal()
	eventually(t, "the pool is made", func() error {
		return s.ask(func(ctx context.Context, client clearwayv1.ResourceServiceClient) error {
			_, err := client.Apply(ctx, &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{
				clearwayv1.Wrap(&clearwayv1.IPPool{
					Metadata: &clearwayv1.ObjectMeta{Name: "pods"},
					Spec:     &clearwayv1.IPPoolSpec{Cidr: "10.0.0.0/26", BlockSize: 29, MinBlockSize: 29},
				}),
				clearwayv1.Wrap(&clearwayv1.IPAMConfiguration{
					Metadata: &clearwayv1.ObjectMeta{Name: "default"}, Spec: &clearwayv1.IPAMConfigurationSpec{Cooldown: "0s"},
				}),
			}})
			return err
		})
	})
	return &claimers{soak: s, began: time.Now()}
}

func (c *claimers) now() int64 { return int64(time.Since(c.began)) }

// note adds a step to the history. A linearization point lies between call and return.
func (c *claimers) note(who int, made step, call int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history = append(c.history, porcupine.Operation{ClientId: who, Input: made, Call: call, Return: c.now()})
}

// insist repeats a call, at whoever says that it leads, until it is answered. It is false when ctx ended before that.
func (c *claimer) insist(ctx context.Context, call func(context.Context, clearwayv1.NodeServiceClient) error) (error, bool) {
	for ctx.Err() == nil {
		var leaders []*replica
		for _, r := range c.trio.replicas {
			if r.leads() && (c.only == nil || c.only == r) {
				leaders = append(leaders, r)
			}
		}
		if len(leaders) == 0 {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		client := c.clients[leaders[c.random.IntN(len(leaders))].name]
		short, cancel := context.WithTimeout(ctx, time.Second)
		err := call(short, client)
		if status.Code(err) == codes.Unauthenticated {
			if answer, err := client.Register(short, &clearwayv1.RegisterRequest{
				Node: c.name, MachineId: c.name, BootId: "boot", JournalId: "journal-" + c.name, ProcessId: c.name,
			}); err == nil {
				c.session = answer.GetSessionId()
			}
		}
		cancel()
		switch status.Code(err) {
		case codes.OK, codes.ResourceExhausted:
			return err, true
		}
	}
	return ctx.Err(), false
}

func (c *claimer) claim(ctx context.Context) (got claimed, ok bool) {
	c.keys++
	call, key := c.now(), fmt.Sprint("k", c.keys)
	err, answered := c.insist(ctx, func(ctx context.Context, client clearwayv1.NodeServiceClient) error {
		answer, err := client.ClaimBlock(ctx, &clearwayv1.ClaimBlockRequest{
			Node: c.name, SessionId: c.session, RequestKey: key, Pool: "pods",
		})
		got = claimed{c.name, answer.GetBlock().GetCidr(), answer.GetBlock().GetGeneration()}
		return err
	})
	if !answered || err != nil {
		return got, false
	}
	c.note(c.number, step{of: got}, call)
	return got, true
}

// release gives a block back. One whose answer nobody waits for any more may still come to pass, at any later time.
func (c *claimer) release(ctx context.Context, of claimed) {
	call := c.now()
	_, answered := c.insist(ctx, func(ctx context.Context, client clearwayv1.NodeServiceClient) error {
		_, err := client.ReleaseBlock(ctx, &clearwayv1.ReleaseBlockRequest{
			Node: c.name, SessionId: c.session, RequestKey: "release", Cidr: of.cidr, Generation: of.generation,
		})
		return err
	})
	if answered {
		c.note(c.number, step{release: true, of: of}, call)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history = append(c.history, porcupine.Operation{ClientId: c.number, Input: step{release: true, of: of}, Call: call, Return: 1 << 62})
}

// work claims and releases until ctx ends, and repeats releases of long ago.
func (c *claimer) work(ctx context.Context) {
	var have, had []claimed
	for ; ctx.Err() == nil; pause(ctx, c.random, 20*time.Millisecond) {
		switch dice := c.random.IntN(10); {
		case dice < 5 && len(have) < 2:
			if got, ok := c.claim(ctx); ok {
				have = append(have, got)
			}
		case dice < 7 && len(have) > 0:
			c.release(ctx, have[0])
			had, have = append(had, have[0]), have[1:]
		case dice < 8 && len(had) > 0:
			c.release(ctx, had[c.random.IntN(len(had))])
		}
	}
}

// run lets six nodes work for some time while ipamd come to harm.
func (c *claimers) run(seed uint64, length time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	var working sync.WaitGroup
	for i := range 6 {
		one := c.claimer(i, seed)
		working.Go(func() { one.work(ctx) })
	}
	working.Go(func() { c.depose(ctx, rand.New(rand.NewPCG(0, seed))) })
	working.Wait()
}

// claimer is a node with connections to every ipamd.
func (c *claimers) claimer(number int, seed uint64) *claimer {
	made := &claimer{
		claimers: c, number: number, name: fmt.Sprint("n", number), random: rand.New(rand.NewPCG(seed, uint64(number))),
		clients: map[string]clearwayv1.NodeServiceClient{},
	}
	for _, r := range c.trio.replicas {
		conn, err := r.dial(func(net.Conn) error { return nil })
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { _ = conn.Close() })
		made.clients[r.name] = clearwayv1.NewNodeServiceClient(conn)
	}
	return made
}

// depose does harm to leaders only, with every kind of it in turn.
func (c *claimers) depose(ctx context.Context, random *rand.Rand) {
	for turn := 0; ctx.Err() == nil; turn++ {
		pause(ctx, random, 500*time.Millisecond)
		leader := c.trio.leader()
		if leader == nil {
			continue
		}
		switch turn % 5 {
		case 0:
			leader.depose(c.records)
			pause(ctx, random, time.Second)
		case 1: // longer than its office lasts, while it is asked further
			leader.gate.stall()
			wait(ctx, 3*time.Second)
			leader.gate.open()
		case 2:
			leader.kill(true)
			leader.start()
		case 3:
			leader.gate.shut()
			pause(ctx, random, 3*time.Second)
			leader.gate.open()
		default:
			leader.kill(false)
			leader.start()
		}
	}
}

func wait(ctx context.Context, long time.Duration) {
	select {
	case <-time.After(long):
	case <-ctx.Done():
	}
}

// judge tells whether the history can be that of one allocator.
func (c *claimers) judge() porcupine.CheckResult {
	result, _ := porcupine.CheckOperationsVerbose(ownership, c.history, 20*time.Second)
	return result
}

// TestClaimsAreLinearizable has six nodes claim and release the blocks of one small pool, through three ipamd of which
// the leader is killed, resigns, and is cut off: what they were answered is what one allocator would have answered.
func TestClaimsAreLinearizable(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	c := newClaimers(t, bug{})
	c.run(seed, *linearTime)
	t.Logf("%d steps, -soak.seed=%d", len(c.history), seed)
	if len(c.history) < 20 {
		t.Fatal("too little was done for it to prove anything")
	}
	if result := c.judge(); result != porcupine.Ok {
		t.Fatalf("the history is %s", result)
	}
}
