package ipamtest_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/clearway/clearway/ipam/server"
	"github.com/clearway/clearway/ipam/store"
	"github.com/clearway/clearway/ipam/store/record"
)

// trio is three ipamd, each with a road of its own to one real etcd.
type trio struct {
	t        testing.TB
	etcd     string // host and port
	replicas []*replica
	meddle   grpc.UnaryServerInterceptor // before each one's services; nil: nothing
}

// replica is one ipamd that can be killed, restarted and cut off.
type replica struct {
	trio *trio
	name string
	gate *gate // its road to etcd
	wrap func(server.Store) server.Store

	turn sync.Mutex // one start or stop at a time
	stop func(politely bool)

	mu       sync.Mutex // guards all below
	listener *bufconn.Listener
	server   *server.Server
	conns    map[net.Conn]bool
	term     record.Term // the last that it had
}

// official notes the terms that an ipamd has.
type official struct {
	server.Store
	of *replica
}

func (s *official) Campaign(ctx context.Context, address string) (record.Term, error) {
	term, err := s.Store.Campaign(ctx, address)
	if err == nil {
		s.of.mu.Lock()
		defer s.of.mu.Unlock()
		s.of.term = term
	}
	return term, err
}

// depose takes its office away behind its back, by a way to etcd that is not its own.
func (r *replica) depose(by *store.Store) {
	r.mu.Lock()
	term := r.term
	r.mu.Unlock()
	if err := by.Resign(context.Background(), term); err != nil {
		r.trio.t.Error(err)
	}
}

// newTrio starts etcd and three ipamd on it, broken where a test wants it.
func newTrio(t testing.TB, broken bug) *trio {
	t.Helper()
	c := &trio{t: t, etcd: startEtcd(t), meddle: broken.meddle}
	for i := range 3 {
		r := &replica{trio: c, name: fmt.Sprint("ipamd-", i), gate: newGate(t, c.etcd), wrap: broken.store, conns: map[net.Conn]bool{}}
		c.replicas = append(c.replicas, r)
		r.start()
		t.Cleanup(func() { r.kill(true) })
	}
	return c
}

// startEtcd runs a member that listens on loopback, without fsync: nobody pulls a plug here.
func startEtcd(t testing.TB) string {
	t.Helper()
	anywhere, name := url.URL{Scheme: "http", Host: "127.0.0.1:0"}, url.URL{Scheme: "http", Host: "localhost:2380"}
	config := embed.NewConfig()
	config.Name, config.Dir, config.LogLevel, config.UnsafeNoFsync = "proof", filepath.Join(t.TempDir(), "etcd"), "fatal", true
	config.ListenPeerUrls, config.AdvertisePeerUrls = nil, []url.URL{name}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{anywhere}, []url.URL{name}
	config.InitialCluster = config.Name + "=" + name.String()
	config.TickMs, config.ElectionMs = 50, 500
	running, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(running.Close)
	select {
	case <-running.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		t.Fatal("etcd does not serve")
	}
	return running.Clients[0].Addr().String()
}

// open is a store by some way to etcd.
func (c *trio) open(address, instance string) *store.Store {
	opened, err := store.Open(context.Background(), store.Options{
		Endpoints: []string{"http://" + address}, Instance: instance, Logger: slog.New(slog.DiscardHandler),
		OfficeTTL: 2 * time.Second, CallTimeout: 2 * time.Second,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return opened
}

func (r *replica) start() {
	r.turn.Lock()
	defer r.turn.Unlock()
	if r.stop != nil {
		return
	}
	records := r.trio.open(r.gate.address(), r.name)
	var seen server.Store = &official{records, r}
	if r.wrap != nil {
		seen = r.wrap(seen)
	}
	s, err := server.New(server.Options{Store: seen, Address: r.name, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.trio.t.Fatal(err)
	}
	options := s.ServerOptions()
	if r.trio.meddle != nil {
		options = append(options, grpc.ChainUnaryInterceptor(r.trio.meddle))
	}
	listener, doors := bufconn.Listen(1<<18), grpc.NewServer(options...)
	s.Register(doors)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	running.Go(func() { _ = doors.Serve(listener) })
	r.stop = func(politely bool) {
		if !politely { // it can no longer give back its office
			r.gate.shut()
		}
		r.cut()
		cancel()
		doors.Stop()
		running.Wait()
		_ = records.Close()
		r.gate.open()
	}
	r.mu.Lock()
	r.listener, r.server = listener, s
	r.mu.Unlock()
}

// kill ends it: as SIGTERM does, or as kill -9.
func (r *replica) kill(politely bool) {
	r.turn.Lock()
	defer r.turn.Unlock()
	if r.stop == nil {
		return
	}
	r.mu.Lock()
	r.listener, r.server = nil, nil
	r.mu.Unlock()
	r.stop(politely)
	r.stop = nil
}

// cut breaks all connections of its callers.
func (r *replica) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.conns {
		_ = conn.Close()
		delete(r.conns, conn)
	}
}

func (r *replica) leads() bool {
	r.mu.Lock()
	s := r.server
	r.mu.Unlock()
	return s != nil && s.Leading()
}

// dial connects to it, as often as the connection breaks. note is told of each connection.
func (r *replica) dial(note func(net.Conn) error) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+r.name, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			r.mu.Lock()
			listener := r.listener
			r.mu.Unlock()
			if listener == nil {
				return nil, net.ErrClosed
			}
			conn, err := listener.DialContext(ctx)
			if err != nil {
				return nil, err
			}
			r.mu.Lock()
			r.conns[conn] = true
			r.mu.Unlock()
			if err := note(conn); err != nil {
				return nil, err
			}
			return conn, nil
		}))
}

func (c *trio) named(name string) *replica {
	for _, r := range c.replicas {
		if r.name == name {
			return r
		}
	}
	return c.replicas[0]
}

// leader is who is in office; nil: nobody knows.
func (c *trio) leader() *replica {
	for _, r := range c.replicas {
		if r.leads() {
			return r
		}
	}
	return nil
}

// heal undoes all that was done to it, and waits for a leader.
func (c *trio) heal() {
	c.t.Helper()
	for _, r := range c.replicas {
		r.gate.open()
		r.start()
	}
	eventually(c.t, "there is a leader", func() error {
		if c.leader() == nil {
			return status.Error(codes.Unavailable, "nobody leads")
		}
		return nil
	})
}

// eventually repeats until there is no error.
func eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
