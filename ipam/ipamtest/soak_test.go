package ipamtest_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/node"
	"github.com/clearway/clearway/ipam/store"
	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

var (
	soakTime  = flag.Duration("soak.time", 3*time.Second, "how long the soak's Pods come and go")
	soakNodes = flag.Int("soak.nodes", 16, "how many nodes the soak has")
	soakSeed  = flag.Uint64("soak.seed", 0, "what the soak's choices are made of; 0: the time")
	soakRate  = flag.Float64("soak.rate", 1500, "how many calls the soak's runtimes make a second, at most")
)

// soak is three ipamd, many nodes, and who makes their life hard.
type soak struct {
	t        testing.TB
	trio     *trio
	ledger   *ledger
	machines []*machine
	records  *store.Store // a way to etcd that nobody cuts
}

// TestSoak lets Pods come and go on many nodes while ipamd are killed, cut off and deposed, connections break and
// agents begin anew with their journals. No address has two holders meanwhile; and in the end, when all is quiet, the
// Pods, the journals, ipamd's copies of them and etcd tell the same, and once the Pods are gone nothing is left.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("%d nodes for %s, -soak.seed=%d", *soakNodes, *soakTime, seed)
	s := newSoak(t, *soakNodes)
	operations, faults := s.run(seed)
	t.Logf("%d operations, %d addresses given, %d faults", operations, s.ledger.given(), faults)
	s.settle()
}

func newSoak(t testing.TB, nodes int) *soak {
	s := &soak{t: t, trio: newTrio(t, bug{}), ledger: newLedger()}
	s.records = s.trio.open(s.trio.etcd, "observer")
	t.Cleanup(func() { _ = s.records.Close() })
	s.trio.heal()
	s.applyPools(nodes)
	dir := t.TempDir()
	for i := range nodes {
		name := fmt.Sprint("n", i)
		m := newMachine(t, s.trio, s.ledger, name, filepath.Join(dir, name))
		s.machines = append(s.machines, m)
		t.Cleanup(m.stop)
	}
	return s
}

// applyPools makes a pool that is too small for all Pods, so that blocks are called back, and one that is not.
func (s *soak) applyPools(nodes int) {
	length := min(27, 32-bits.Len(uint(8*nodes-1)))
	resources := []*clearwayv1.Resource{
		clearwayv1.Wrap(&clearwayv1.IPPool{
			Metadata: &clearwayv1.ObjectMeta{Name: "four"},
			Spec:     &clearwayv1.IPPoolSpec{Cidr: fmt.Sprintf("10.0.0.0/%d", length), BlockSize: 28, MinBlockSize: 32},
		}),
		clearwayv1.Wrap(&clearwayv1.IPPool{
			Metadata: &clearwayv1.ObjectMeta{Name: "six"}, Spec: &clearwayv1.IPPoolSpec{Cidr: "fd00::/64"},
		}),
		clearwayv1.Wrap(&clearwayv1.IPAMConfiguration{
			Metadata: &clearwayv1.ObjectMeta{Name: "default"},
			Spec:     &clearwayv1.IPAMConfigurationSpec{Cooldown: "2s", BlockIdleTime: "3s"},
		}),
	}
	eventually(s.t, "the pools are made", func() error {
		return s.ask(func(ctx context.Context, client clearwayv1.ResourceServiceClient) error {
			_, err := client.Apply(ctx, &clearwayv1.ApplyRequest{Resources: resources})
			return err
		})
	})
}

// ask asks the leader.
func (s *soak) ask(call func(context.Context, clearwayv1.ResourceServiceClient) error) error {
	leader := s.trio.leader()
	if leader == nil {
		return errors.New("nobody leads")
	}
	conn, err := leader.dial(func(net.Conn) error { return nil })
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return call(ctx, clearwayv1.NewResourceServiceClient(conn))
}

// run lets Pods come and go and faults fire for the time that was asked for.
func (s *soak) run(seed uint64) (operations, faults int64) {
	ctx, cancel := context.WithTimeout(context.Background(), *soakTime)
	defer cancel()
	pace := rate.NewLimiter(rate.Limit(*soakRate), 64)
	var done atomic.Int64
	var working sync.WaitGroup
	for i, m := range s.machines {
		for worker := range 2 {
			random := rand.New(rand.NewPCG(seed, uint64(2*i+worker+1)))
			working.Go(func() { m.churn(ctx, random, worker, pace, &done) })
		}
	}
	var harms atomic.Int64
	working.Go(func() { s.harmServers(ctx, rand.New(rand.NewPCG(seed, 0)), &harms) })
	working.Go(func() { s.harmAgents(ctx, rand.New(rand.NewPCG(0, seed)), &harms) })
	working.Wait()
	return done.Load(), harms.Load()
}

func pause(ctx context.Context, random *rand.Rand, longest time.Duration) {
	select {
	case <-time.After(time.Duration(random.Int64N(int64(longest)))):
	case <-ctx.Done():
	}
}

// harmServers does one harm after the other to the ipamd, mostly to the one that leads, until ctx ends.
func (s *soak) harmServers(ctx context.Context, random *rand.Rand, done *atomic.Int64) {
	for {
		pause(ctx, random, 400*time.Millisecond)
		if ctx.Err() != nil {
			return
		}
		done.Add(1)
		victim := s.trio.replicas[random.IntN(3)]
		if leader := s.trio.leader(); leader != nil && random.IntN(2) == 0 {
			victim = leader
		}
		switch random.IntN(5) {
		case 0: // kill -9, and back later
			victim.kill(false)
			pause(ctx, random, 3*time.Second)
			victim.start()
		case 1: // it resigns, and stands for office again
			victim.kill(true)
			victim.start()
		case 2: // its road to etcd is cut
			victim.gate.shut()
			pause(ctx, random, 4*time.Second)
			victim.gate.open()
		case 3: // its road to etcd is silent
			victim.gate.stall()
			pause(ctx, random, 4*time.Second)
			victim.gate.open()
		default:
			victim.cut()
		}
	}
}

// harmAgents ends agents, two of three as kill -9 does, until ctx ends.
func (s *soak) harmAgents(ctx context.Context, random *rand.Rand, done *atomic.Int64) {
	for {
		pause(ctx, random, 300*time.Millisecond)
		if ctx.Err() != nil {
			return
		}
		done.Add(1)
		s.machines[random.IntN(len(s.machines))].restart(random.IntN(3) > 0)
	}
}

// settle compares all books when all is quiet, with the Pods and without.
func (s *soak) settle() {
	s.t.Helper()
	s.trio.heal()
	s.compare("the Pods, the journals, the mirror and etcd are equal")
	if faults := s.ledger.told(); len(faults) > 0 {
		s.t.Fatal(strings.Join(faults, "\n"))
	}
	for _, m := range s.machines {
		s.ledger.mu.Lock()
		var pods []string
		for pod := range s.ledger.pods {
			if strings.HasPrefix(pod, m.name+"-") {
				pods = append(pods, pod)
			}
		}
		s.ledger.mu.Unlock()
		for _, pod := range pods {
			m.del(pod)
		}
	}
	s.compare("nothing is left of the Pods")
	s.reopen()
}

// compare waits until the books tell the same.
func (s *soak) compare(what string) {
	s.t.Helper()
	eventually(s.t, what, func() error {
		want := books{assignments: s.ledger.lines()}
		journals := s.journals()
		etcd, err := s.etcd()
		if err != nil {
			return err
		}
		mirror, err := s.mirror()
		if err != nil {
			return err
		}
		if diff := cmp.Diff(want.assignments, journals.assignments); diff != "" {
			return fmt.Errorf("the Pods (-) and the journals (+) differ: %s", diff)
		}
		return errors.Join(journals.same("the journals", "etcd", etcd), etcd.same("etcd", "ipamd", mirror), etcd.overlap())
	})
}

// reopen reads each journal once more from the disk.
func (s *soak) reopen() {
	for _, m := range s.machines {
		p := m.process()
		before := bookOf(s.t, p.Node)
		m.stop()
		n, err := node.Open(m.options(p.dir, &process{dead: true}))
		if err != nil {
			s.t.Error(err)
			continue
		}
		after := bookOf(s.t, n)
		if err := errors.Join(before.same("memory", "the disk", after), n.Close()); err != nil {
			s.t.Errorf("%s: %v", m.name, err)
		}
	}
}

// books are lines "address pod" and "block node", sorted.
type books struct{ assignments, blocks []string }

func (b *books) add(resource *clearwayv1.Resource) {
	if one := resource.GetAssignment().GetSpec(); one != nil {
		b.assign(one)
	}
	if one := resource.GetBlock().GetSpec(); one != nil {
		b.own(one)
	}
}

func (b *books) assign(one *clearwayv1.AssignmentSpec) {
	b.assignments = append(b.assignments, one.GetAddress()+" "+one.GetAttachment().GetContainerId())
}

// own leaves out what rests: nobody has it.
func (b *books) own(one *clearwayv1.BlockSpec) {
	if one.GetState() != clearwayv1.BlockState_BLOCK_STATE_COOLING {
		b.blocks = append(b.blocks, one.GetCidr()+" "+one.GetNode())
	}
}

func (b books) sorted() books {
	slices.Sort(b.assignments)
	slices.Sort(b.blocks)
	return b
}

func (b books) same(name, otherName string, other books) error {
	if diff := cmp.Diff(b, other, cmp.AllowUnexported(books{})); diff != "" {
		return fmt.Errorf("%s (-) and %s (+) differ: %s", name, otherName, diff)
	}
	return nil
}

func (b books) overlap() error {
	var all []netip.Prefix
	for _, line := range b.blocks {
		cidr, _, _ := strings.Cut(line, " ")
		all = append(all, netip.MustParsePrefix(cidr))
	}
	for i, one := range all {
		for _, other := range all[:i] {
			if one.Overlaps(other) {
				return fmt.Errorf("NoOverlap: %s and %s", one, other)
			}
		}
	}
	return nil
}

func bookOf(t testing.TB, n *node.Node) (b books) {
	for _, kind := range []string{"Block", "Assignment"} {
		resources, err := n.List(context.Background(), &clearwayv1.ListRequest{Kind: kind})
		if err != nil {
			t.Error(err)
		}
		for _, one := range resources {
			b.add(one)
		}
	}
	return b.sorted()
}

func (s *soak) journals() (all books) {
	for _, m := range s.machines {
		one := bookOf(s.t, m.process().Node)
		all.assignments, all.blocks = append(all.assignments, one.assignments...), append(all.blocks, one.blocks...)
	}
	return all.sorted()
}

func (s *soak) etcd() (b books, err error) {
	err = s.records.List(context.Background(), record.Assignments+"/", func(one record.Record) error {
		spec := &clearwayv1.AssignmentSpec{}
		defer func() { b.assign(spec) }()
		return proto.Unmarshal(one.Value, spec)
	})
	err = errors.Join(err, s.records.List(context.Background(), record.Blocks+"/", func(one record.Record) error {
		spec := &clearwayv1.BlockSpec{}
		defer func() { b.own(spec) }()
		return proto.Unmarshal(one.Value, spec)
	}))
	return b.sorted(), err
}

func (s *soak) mirror() (b books, err error) {
	for _, kind := range []string{"Block", "Assignment"} {
		err = errors.Join(err, s.ask(func(ctx context.Context, client clearwayv1.ResourceServiceClient) error {
			stream, err := client.List(ctx, &clearwayv1.ListRequest{Kind: kind})
			for err == nil {
				var answer *clearwayv1.ListResponse
				if answer, err = stream.Recv(); err == nil {
					for _, one := range answer.GetResources() {
						b.add(one)
					}
				}
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}))
	}
	return b.sorted(), err
}
