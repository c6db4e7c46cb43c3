package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/ipam/server"
	"github.com/clearway/clearway/ipam/store/storetest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// clock is a clock that tests set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

// ipamd is a server under test, with clients of it.
type ipamd struct {
	t      testing.TB
	clock  *clock
	server *server.Server
	doors  *grpc.Server
	listen *bufconn.Listener
	conn   *grpc.ClientConn
	stop   func()
	clearwayv1.ResourceServiceClient
	clearwayv1.NodeServiceClient
	clearwayv1.IPAMServiceClient
}

// start runs a server on a store; stop ends it as SIGTERM does.
func start(t testing.TB, records server.Store) *ipamd {
	t.Helper()
	return startAt(t, records, newClock().now)
}

// startAt is start at a time.
func startAt(t testing.TB, records server.Store, now time.Time) *ipamd {
	t.Helper()
	d := startFollower(t, records, "leader:7470", now)
	d.eventually("the server leads", d.server.Leading)
	return d
}

// startLimited runs a server that bounds its callers.
func startLimited(t testing.TB, limits server.Limits) *ipamd {
	t.Helper()
	d := startServer(t, newFake(), "leader:7470", limits, newClock().now)
	d.eventually("the server leads", d.server.Leading)
	return d
}

func startFollower(t testing.TB, records server.Store, address string, now time.Time) *ipamd {
	t.Helper()
	return startServer(t, records, address, server.Limits{}, now)
}

func startServer(t testing.TB, records server.Store, address string, limits server.Limits, now time.Time) *ipamd {
	t.Helper()
	return startSourced(t, records, address, limits, now, nil)
}

// startSourced is startServer with the configuration in a source.
func startSourced(
	t testing.TB, records server.Store, address string, limits server.Limits, now time.Time, source server.Source,
) *ipamd {
	t.Helper()
	d := &ipamd{t: t, clock: &clock{now: now}, listen: bufconn.Listen(1 << 20)}
	var err error
	d.server, err = server.New(server.Options{
		Store: records, Address: address, Validate: config.Validate, Logger: slog.New(slog.DiscardHandler), Now: d.clock.Now,
		Limits: limits, Source: source,
	})
	if err != nil {
		t.Fatal(err)
	}
	d.doors = grpc.NewServer(d.server.ServerOptions()...)
	d.server.Register(d.doors)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { _ = d.server.Run(ctx); done <- struct{}{} }()
	go func() { _ = d.doors.Serve(d.listen); done <- struct{}{} }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		d.doors.Stop()
		<-done
		<-done
	})
	t.Cleanup(d.stop)
	d.conn = d.dial()
	d.ResourceServiceClient = clearwayv1.NewResourceServiceClient(d.conn)
	d.NodeServiceClient = clearwayv1.NewNodeServiceClient(d.conn)
	d.IPAMServiceClient = clearwayv1.NewIPAMServiceClient(d.conn)
	return d
}

// dial opens a connection of its own, as each agent has.
func (d *ipamd) dial() *grpc.ClientConn {
	conn, err := grpc.NewClient("passthrough:///ipamd", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return d.listen.DialContext(ctx) }))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (d *ipamd) eventually(what string, holds func() bool) {
	d.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			d.t.Fatalf("never came: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func ipPool(name, cidr string, change ...func(*clearwayv1.IPPoolSpec)) *clearwayv1.Resource {
	made := &clearwayv1.IPPool{
		Metadata: &clearwayv1.ObjectMeta{Name: name}, Spec: &clearwayv1.IPPoolSpec{Cidr: cidr},
	}
	for _, one := range change {
		one(made.GetSpec())
	}
	return clearwayv1.Wrap(made)
}

func (d *ipamd) apply(resources ...*clearwayv1.Resource) *clearwayv1.ApplyResponse {
	d.t.Helper()
	answer, err := d.Apply(testContext(d.t), &clearwayv1.ApplyRequest{Resources: resources})
	if err != nil {
		d.t.Fatal(err)
	}
	return answer
}

func (d *ipamd) list(request *clearwayv1.ListRequest) (resources []*clearwayv1.Resource, warnings []string) {
	d.t.Helper()
	stream, err := d.List(testContext(d.t), request)
	if err != nil {
		d.t.Fatal(err)
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return resources, warnings
		}
		if err != nil {
			d.t.Fatal(err)
		}
		resources, warnings = append(resources, answer.GetResources()...), append(warnings, answer.GetWarnings()...)
	}
}

// agent is a registered node, on a connection of its own.
type agent struct {
	*ipamd
	clearwayv1.NodeServiceClient
	conn       *grpc.ClientConn
	request    *clearwayv1.RegisterRequest
	registered *clearwayv1.RegisterResponse
}

func (d *ipamd) agent(name string, change ...func(*clearwayv1.RegisterRequest)) *agent {
	d.t.Helper()
	a := d.unregistered(name, change...)
	a.must(a.register())
	return a
}

func (d *ipamd) unregistered(name string, change ...func(*clearwayv1.RegisterRequest)) *agent {
	a := &agent{ipamd: d, conn: d.dial(), request: &clearwayv1.RegisterRequest{
		Node: name, MachineId: "machine-" + name, BootId: "boot-1", JournalId: "journal-" + name,
		ProcessId: fmt.Sprintf("process-%s-%d", name, time.Now().UnixNano()), Addresses: []string{"192.0.2.1/24"},
	}}
	for _, one := range change {
		one(a.request)
	}
	a.NodeServiceClient = clearwayv1.NewNodeServiceClient(a.conn)
	return a
}

func (a *agent) register() error {
	answer, err := a.NodeServiceClient.Register(testContext(a.t), a.request)
	if err == nil {
		a.registered = answer
	}
	return err
}

func (a *agent) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) claim(pool, key string) (*clearwayv1.ClaimBlockResponse, error) {
	return a.NodeServiceClient.ClaimBlock(testContext(a.t), &clearwayv1.ClaimBlockRequest{
		Node: a.request.GetNode(), SessionId: a.registered.GetSessionId(), RequestKey: key, Pool: pool,
	})
}

func (a *agent) mustClaim(pool, key string) *clearwayv1.BlockSpec {
	a.t.Helper()
	answer, err := a.claim(pool, key)
	a.must(err)
	return answer.GetBlock()
}

func (a *agent) release(block *clearwayv1.BlockSpec) error {
	_, err := a.NodeServiceClient.ReleaseBlock(testContext(a.t), &clearwayv1.ReleaseBlockRequest{
		Node: a.request.GetNode(), SessionId: a.registered.GetSessionId(), RequestKey: "release",
		Cidr: block.GetCidr(), Generation: block.GetGeneration(),
	})
	return err
}

func wantCode(t testing.TB, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Fatalf("got %v, want %s", err, want)
	}
}

func newFake() *storetest.Fake { return storetest.New() }

func timestamp(at time.Time) *timestamppb.Timestamp { return timestamppb.New(at) }

func sorted(all []netip.Prefix) []netip.Prefix {
	slices.SortFunc(all, netip.Prefix.Compare)
	return all
}
