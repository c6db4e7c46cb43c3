package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/clearway/clearway/proto/clearway/v1"
)

const (
	fleetResources = `
apiVersion: clearway.io/v1
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.0.0.0/8, blockSize: 28, minBlockSize: 28}
---
apiVersion: clearway.io/v1
kind: IPPool
metadata: {name: pods6}
spec: {cidr: "fd00:10::/64", blockSize: 122, minBlockSize: 122}
---
apiVersion: clearway.io/v1
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 64512, nodeMesh: None}
`
	// fleetLimit bounds one call.
	fleetLimit = time.Minute
)

// fleet is ipamd over its embedded etcd, without limits on callers, which here are one machine.
type fleet struct {
	within *namespace
	ipamd  *process
}

func startFleet(ctx context.Context, env *environment, dir string) (started fleet, err error) {
	if started.within, err = newNamespace(); err != nil {
		return started, err
	}
	ipamd, err := env.binary("clearway-ipamd")
	if err != nil {
		return started, err
	}
	started.ipamd, err = start(started.within, dir, ipamd, "--data-dir", dir+"/ipamd", "--listen", ipamdAddress, "--insecure",
		"--limit-node-claims", "0", "--limit-node-calls", "0", "--limit-client-calls", "0", "--limit-host-connections", "0")
	if err != nil {
		return started, err
	}
	if err := awaitReady(ctx, started.within, started.ipamd, ipamdReadyURL); err != nil {
		return started, err
	}
	return started, apply(ctx, env, started.within, fleetResources)
}

func (f fleet) close() {
	if f.ipamd != nil {
		f.ipamd.stop()
	}
	if f.within != nil {
		f.within.close()
	}
}

// connect opens connections to ipamd.
func (f fleet) connect(n int) (connections []*grpc.ClientConn, err error) {
	for range n {
		connection, err := grpc.NewClient(ipamdAddress, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, address string) (conn net.Conn, err error) {
				err = f.within.do(func() error {
					conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
					return err
				})
				return conn, err
			}))
		if err != nil {
			return connections, fmt.Errorf("ipamd: %w", err)
		}
		connections = append(connections, connection)
	}
	return connections, nil
}

func disconnect(connections []*grpc.ClientConn) {
	for _, each := range connections {
		_ = each.Close() // nothing is lost by it
	}
}

// member is one node as ipamd sees it.
type member struct {
	name, session string
	client        clearwayv1.NodeServiceClient
	claims        int
}

func newMembers(prefix string, n int, connections []*grpc.ClientConn) []*member {
	members := make([]*member, n)
	for i := range members {
		members[i] = &member{
			name: fmt.Sprintf("%s-%d", prefix, i), client: clearwayv1.NewNodeServiceClient(connections[i%len(connections)]),
		}
	}
	return members
}

func (m *member) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fleetLimit)
	defer cancel()
	answer, err := m.client.Register(ctx, &clearwayv1.RegisterRequest{
		Node: m.name, MachineId: m.name, BootId: m.name, JournalId: m.name, ProcessId: m.name,
	})
	if err != nil {
		return fmt.Errorf("register %s: %w", m.name, err)
	}
	m.session = answer.GetSessionId()
	return nil
}

func (m *member) claim(ctx context.Context, pool string) error {
	ctx, cancel := context.WithTimeout(ctx, fleetLimit)
	defer cancel()
	m.claims++
	_, err := m.client.ClaimBlock(ctx, &clearwayv1.ClaimBlockRequest{
		Node: m.name, SessionId: m.session, RequestKey: fmt.Sprintf("%s-%d", m.name, m.claims), Pool: pool,
	})
	if err != nil {
		return fmt.Errorf("claim of %s: %w", m.name, err)
	}
	return nil
}

// all has each do something, at most so many at once.
func all(members []*member, atOnce int, do func(i int, m *member) error) error {
	var next atomic.Int64
	errs := make([]error, atOnce)
	var group sync.WaitGroup
	for worker := range atOnce {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(members) && errs[worker] == nil; i = int(next.Add(1)) - 1 {
				errs[worker] = do(i, members[i])
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// runFleet measures what ipamd does for many nodes: claims of blocks, a cold start of all nodes, and a change that all of
// them are to hear of.
func runFleet(ctx context.Context, env *environment) (Result, error) {
	dir, err := env.folder("fleet")
	if err != nil {
		return Result{}, err
	}
	env.progress("fleet: starting ipamd")
	ipamd, err := startFleet(ctx, env, dir)
	defer ipamd.close()
	if err != nil {
		return Result{}, err
	}
	const callers = 64
	connections, err := ipamd.connect(callers)
	defer disconnect(connections)
	if err != nil {
		return Result{}, err
	}
	result := Result{Method: fleetMethod}
	for _, measure := range []func(context.Context, *environment, string, fleet, []*grpc.ClientConn, *Result) error{
		measureClaims, measureColdStart,
	} {
		if err := measure(ctx, env, dir, ipamd, connections, &result); err != nil {
			return result, fmt.Errorf("%w; ipamd: %s", errors.Join(ipamd.ipamd.check(), err), ipamd.ipamd.tail())
		}
	}
	return result, nil
}

// measureClaims has one node a connection claim block after block.
func measureClaims(ctx context.Context, env *environment, dir string, ipamd fleet, connections []*grpc.ClientConn, result *Result) error {
	members := newMembers("claimer", len(connections), connections)
	if err := all(members, len(members), func(_ int, m *member) error { return m.register(ctx) }); err != nil {
		return err
	}
	var times, rates, fsync []float64
	rounds, each := env.rounds(3, 1, 1), env.pick(400, 50, 2)
	for round := range rounds {
		env.progress("fleet: block claims, round %d of %d", round+1, rounds)
		if err := quiesce(ctx, 10*time.Second, ipamd.ipamd); err != nil {
			return err
		}
		disk, err := measureFsync(ctx, dir, env.pick(500, 200, 5))
		if err != nil {
			return err
		}
		took := make([]float64, len(members)*each)
		began := time.Now()
		err = all(members, len(members), func(i int, m *member) error {
			for n := range each {
				began := time.Now()
				if err := m.claim(ctx, "pods"); err != nil {
					return err
				}
				took[i*each+n] = milliseconds(time.Since(began))
			}
			return nil
		})
		if err != nil {
			return err
		}
		rates = append(rates, perSecond(len(took), time.Since(began)))
		times, fsync = append(times, took...), append(fsync, disk...)
	}
	rate, p99, disk := median(rates), percentile(times, 99), percentile(fsync, 50)
	result.Tables = append(result.Tables, Table{
		Title:      fmt.Sprintf("Block claims, %d callers", len(members)),
		Contenders: []string{"clearway", "one fsync"},
		Rows: []Row{
			row("claim p50", "ms", percentile(times, 50), disk),
			row("claim p99", "ms", p99, percentile(fsync, 99)),
			rateRow("claims", "blocks/s", rate, 1000/disk),
		},
	})
	result.Targets = append(result.Targets,
		atLeast("Block claims a second, 64 callers", rate, 50_000), below("Block claim, 64 callers, p99", p99, 10))
	return nil
}

// measureColdStart has all nodes come at once, each for a block of both families, and then hear of a change.
func measureColdStart(ctx context.Context, env *environment, _ string, ipamd fleet, connections []*grpc.ClientConn, result *Result) error {
	members := newMembers("node", env.pick(5000, 500, 10), connections)
	env.progress("fleet: %d nodes start", len(members))
	if err := quiesce(ctx, 10*time.Second, ipamd.ipamd); err != nil {
		return err
	}
	began := time.Now()
	err := all(members, min(len(members), 1024), func(_ int, m *member) error {
		if err := m.register(ctx); err != nil {
			return err
		}
		return errors.Join(m.claim(ctx, "pods"), m.claim(ctx, "pods6"))
	})
	if err != nil {
		return err
	}
	cold := time.Since(began).Seconds()
	env.progress("fleet: a change for %d nodes", len(members))
	heard, resident, err := measureChange(ctx, env, ipamd, members)
	if err != nil {
		return err
	}
	result.Tables = append(result.Tables, Table{
		Title:      fmt.Sprintf("%d nodes", len(members)),
		Contenders: []string{"clearway"},
		Rows: []Row{
			row("all registered, each with two blocks", "s", cold),
			row("a new block is known to all", "s", heard),
			row("ipamd's memory, etcd in it, with all watching", "MiB", float64(resident)/(1<<20)),
		},
	})
	result.Targets = append(result.Targets,
		below("5,000 nodes start with two blocks each", cold*1000, 3000),
		below("A change reaches 5,000 agents", heard*1000, 2000),
		Target{
			Name: "ipamd's memory with 5,000 agents", Want: "under 1,024 MiB",
			Got: formatNumber(float64(resident)/(1<<20)) + " MiB", Met: resident < 1<<30,
		})
	return nil
}

// position is where a copy of the ownership log stands.
type position struct {
	incarnation string
	revision    int64
}

// measureChange has every node watch as agents do that go on from what they have on disk, claims one block, and takes the
// time until each has heard whose it is.
func measureChange(ctx context.Context, env *environment, ipamd fleet, members []*member) (seconds float64, resident int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	at, err := members[0].whole(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("the ownership log: %w", err)
	}
	var ready, told, watching sync.WaitGroup
	ready.Add(len(members))
	told.Add(len(members))
	failed := make(chan error, 2*len(members))
	defer watching.Wait()
	defer cancel()
	for _, m := range members {
		watching.Go(func() { failed <- m.watchOwnership(ctx, at, members[0].name, ready.Done, told.Done) })
		watching.Go(func() { failed <- m.watchNode(ctx) })
	}
	if err := await(ctx, &ready, failed); err != nil {
		return 0, 0, fmt.Errorf("watch: %w", err)
	}
	if err := quiesce(ctx, 10*time.Second, ipamd.ipamd); err != nil {
		return 0, 0, err
	}
	resident, err = ipamd.ipamd.residentBytes()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := members[0].claim(ctx, "pods"); err != nil {
		return 0, 0, err
	}
	err = await(ctx, &told, failed)
	return time.Since(began).Seconds(), resident, err
}

// await waits for a group, and no longer than the context or the first failure.
func await(ctx context.Context, group *sync.WaitGroup, failed <-chan error) error {
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case err := <-failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// whole takes the whole ownership log once, and tells where it stands then.
func (m *member) whole(ctx context.Context) (position, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := m.client.WatchOwnership(ctx, &clearwayv1.WatchOwnershipRequest{Node: m.name, SessionId: m.session})
	if err != nil {
		return position{}, err
	}
	for {
		piece, err := stream.Recv()
		if err != nil {
			return position{}, err
		}
		if piece.GetComplete() {
			return position{piece.GetIncarnation(), piece.GetRevision()}, nil
		}
	}
}

// watchOwnership follows the log from a position. It calls ready once the server has said that this is where it stands,
// and told when a node has another block.
func (m *member) watchOwnership(ctx context.Context, at position, node string, ready, told func()) error {
	stream, err := m.client.WatchOwnership(ctx, &clearwayv1.WatchOwnershipRequest{
		Node: m.name, SessionId: m.session, Incarnation: at.incarnation, Revision: at.revision,
	})
	if err != nil {
		return err
	}
	complete, another := sync.OnceFunc(ready), sync.OnceFunc(told)
	for {
		piece, err := stream.Recv()
		if err != nil {
			return err
		}
		if piece.GetReset_() {
			return fmt.Errorf("%s was sent the whole, and not what is new", m.name)
		}
		for _, entry := range piece.GetEntries() {
			if entry.GetBlock().GetNode() == node {
				another()
			}
		}
		if piece.GetComplete() {
			complete()
		}
	}
}

// watchNode takes snapshots, and looks at none.
func (m *member) watchNode(ctx context.Context) error {
	stream, err := m.client.WatchNode(ctx, &clearwayv1.WatchNodeRequest{Node: m.name, SessionId: m.session})
	for err == nil {
		_, err = stream.Recv()
	}
	return err
}

var fleetMethod = []string{
	"One ipamd over its embedded etcd, without limits on callers. Callers are goroutines of one process with grpc-go's client, over 64 connections that are open before; they and ipamd share the machine's CPUs.",
	"Block claims: each of 64 nodes claims /28 after /28 of one /8, and each answer is durable in etcd (fdatasync of its log) before it is given. \"One fsync\" is 256 bytes appended and fdatasync, one at a time, in the same folder.",
	"A start: each node registers and claims a block of both families; at most 1,024 are at it at once. The time is until the last has its second block.",
	"A change: every node watches its own snapshot and the ownership log, as agents do that go on from what they have, and one node claims a block. The time is from the claim until the last one was told of it.",
}
