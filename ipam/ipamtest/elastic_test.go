package ipamtest_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"pgregory.net/rapid"

	"github.com/clearway/clearway/ipam/node"
	"github.com/clearway/clearway/ipam/server"
	"github.com/clearway/clearway/ipam/store/storetest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// cluster is an ipamd on a store in memory, agents with journals on disk, and what their Pods hold. It lives in a
// bubble of synctest, so that minutes of its life take no time.
type cluster struct {
	t       rapid.TB
	dir     string
	dirs    int
	records *storetest.Fake

	stop   func()
	agents map[string]*agent
	boots  map[string]int // by node; how often it was started anew

	mu         sync.Mutex // guards all below
	listener   *bufconn.Listener
	pods       map[string]pod
	advertised map[string][]netip.Prefix // by node; of a killed agent too: the kernel and the peers go on
	faults     []string
}

type pod struct {
	node  string
	addr  netip.Addr
	since time.Time
}

// agent is one process of a node's agent. A killed one is cut off and says nothing more.
type agent struct {
	*node.Node
	name, dir string
	api       clearwayv1.AddressServiceServer
	end       func() error

	mu    sync.Mutex
	dead  bool
	conns []net.Conn
}

func newCluster(t rapid.TB, dir string) *cluster {
	c := &cluster{
		t: t, dir: dir, records: storetest.New(), agents: map[string]*agent{}, boots: map[string]int{}, pods: map[string]pod{},
		advertised: map[string][]netip.Prefix{},
	}
	c.startServer()
	return c
}

func (c *cluster) startServer() {
	s, err := server.New(server.Options{Store: c.records, Address: "leader", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		c.t.Fatal(err)
	}
	listener, doors := bufconn.Listen(1<<20), grpc.NewServer(s.ServerOptions()...)
	c.mu.Lock()
	c.listener = listener
	c.mu.Unlock()
	s.Register(doors)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	running.Go(func() { _ = doors.Serve(listener) })
	c.stop = func() {
		cancel()
		doors.Stop()
		running.Wait()
	}
}

func (c *cluster) dial(a *agent) (node.Conn, error) {
	c.mu.Lock()
	listener := c.listener
	c.mu.Unlock()
	return grpc.NewClient("passthrough:///ipamd", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.dead {
				return nil, net.ErrClosed
			}
			conn, err := listener.DialContext(ctx)
			if err == nil {
				a.conns = append(a.conns, conn)
			}
			return conn, err
		}))
}

func (c *cluster) startAgent(name, dir string) {
	a := &agent{name: name, dir: dir}
	n, err := node.Open(node.Options{
		Node: name, MachineID: "machine-" + name, BootID: fmt.Sprint("boot", c.boots[name]), DataDir: dir, Servers: []string{"ipamd"},
		Logger:  slog.New(slog.NewTextHandler(logTo, nil)),
		Dial:    func(context.Context, string) (node.Conn, error) { return c.dial(a) },
		OnState: func(s node.State) { c.tell(a, s) },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	a.Node, a.api = n, n.AddressServer()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	a.end = func() error {
		cancel()
		err := <-ended
		if closeErr := n.Close(); err == nil {
			err = closeErr
		}
		return err
	}
	c.mu.Lock()
	c.agents[name] = a
	c.mu.Unlock()
}

var logTo io.Writer = io.Discard

// tell takes what a node advertises from now on, and checks it against the Pods and the other nodes.
func (c *cluster) tell(a *agent, s node.State) {
	a.mu.Lock()
	dead := a.dead
	a.mu.Unlock()
	if dead {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advertised[a.name] = s.Blocks
	for name, p := range c.pods {
		if p.node == a.name && p.since.Before(time.Now()) { // an address given in this instant may be of a newer state
			c.checkRoute(name, p)
		}
	}
	for other, blocks := range c.advertised {
		for _, theirs := range blocks {
			for _, ours := range s.Blocks {
				if other != a.name && ours.Overlaps(theirs) {
					c.fault("NoOverlap: %s advertises %s and %s %s", a.name, ours, other, theirs)
				}
			}
		}
	}
}

// fault is called with mu held.
func (c *cluster) fault(text string, args ...any) {
	c.faults = append(c.faults, fmt.Sprintf(text, args...))
}

// kill ends an agent as kill -9 does, and starts the next one on what was on disk at that moment.
func (c *cluster) kill(name string) { c.startAgent(name, c.end(name)) }

// end ends an agent as kill -9 does, and returns a folder with what was on disk at that moment.
func (c *cluster) end(name string) string {
	a := c.agents[name]
	a.mu.Lock()
	a.dead = true
	for _, conn := range a.conns {
		_ = conn.Close()
	}
	a.mu.Unlock()
	dir := c.newDir()
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue // half written, and about to be renamed
		}
		data, err := os.ReadFile(filepath.Join(a.dir, entry.Name()))
		if err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, entry.Name()), data, 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := a.end(); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	delete(c.agents, name)
	c.mu.Unlock()
	return dir
}

func (c *cluster) newDir() string {
	c.dirs++
	dir := filepath.Join(c.dir, fmt.Sprint(c.dirs))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	return dir
}

func (c *cluster) add(name, pod string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := time.Now()
	answer, err := c.agents[name].api.Add(ctx, &clearwayv1.AddRequest{
		Attachment: &clearwayv1.Attachment{Network: "pods", ContainerId: pod, Ifname: "eth0"},
	})
	if took := time.Since(began); took > patience {
		c.mu.Lock()
		c.fault("an ADD took %s of %s", took, patience)
		c.mu.Unlock()
	}
	if err != nil {
		return err
	}
	c.hold(name, pod, netip.MustParsePrefix(answer.GetAddresses()[0].GetAddress()).Addr())
	return nil
}

func (c *cluster) hold(name, podName string, addr netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for other, p := range c.pods {
		if p.addr == addr && other != podName {
			c.fault("OneHolder: %s is given to %s on %s, and %s on %s has it", addr, podName, name, other, p.node)
		}
	}
	given := pod{name, addr, time.Now()}
	c.pods[podName] = given
	time.AfterFunc(1, func() { // the clock of a bubble goes on when all that there is to do at once is done
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.pods[podName] == given {
			c.checkRoute(podName, given)
		}
	})
}

// checkRoute is called with mu held.
func (c *cluster) checkRoute(podName string, p pod) {
	blocks := c.advertised[p.node]
	if !slices.ContainsFunc(blocks, func(b netip.Prefix) bool { return b.Contains(p.addr) }) {
		c.fault("no route to %s of %s on %s: it advertises %v", p.addr, podName, p.node, blocks)
	}
}

func (c *cluster) del(podName string) error {
	c.mu.Lock()
	p := c.pods[podName]
	delete(c.pods, podName) // from here on nobody counts on it
	c.mu.Unlock()
	_, err := c.agents[p.node].api.Del(context.Background(), &clearwayv1.DelRequest{
		Attachment: &clearwayv1.Attachment{Network: "pods", ContainerId: podName, Ifname: "eth0"},
	})
	return err
}

func (c *cluster) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for name := range c.pods {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (c *cluster) close() {
	for _, a := range c.agents {
		if err := a.end(); err != nil {
			c.t.Error(err)
		}
	}
	c.stop()
}

func (c *cluster) check(t rapid.TB) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.faults) > 0 {
		t.Fatal(c.faults)
	}
}

func (c *cluster) applyPool(t *rapid.T) {
	conn, err := c.dial(&agent{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = clearwayv1.NewResourceServiceClient(conn).Apply(context.Background(), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{
		clearwayv1.Wrap(&clearwayv1.IPPool{
			Metadata: &clearwayv1.ObjectMeta{Name: "pods"},
			Spec:     &clearwayv1.IPPoolSpec{Cidr: "10.0.0.0/28", BlockSize: 28, MinBlockSize: 32},
		}),
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// bubbled is a test in a bubble for rapid: there is no deadline to be asked for.
type bubbled struct{ testing.TB }

// TestOneHolderThroughSplits lets Pods come and go on three nodes whose pool is too small for all, while agents and
// ipamd are killed at any moment. No address is held twice, no two nodes advertise what overlaps, and every Pod's
// address is advertised by its node all the while; and when all is quiet, an ADD finds what is free.
func TestOneHolderThroughSplits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		rapid.Check(bubbled{t}, func(rt *rapid.T) {
			runs++
			c := newCluster(rt, filepath.Join(t.TempDir(), fmt.Sprint(runs)))
			defer c.close()
			time.Sleep(time.Second)
			c.applyPool(rt)
			nodes := []string{"n1", "n2", "n3"}
			for _, name := range nodes {
				c.startAgent(name, c.newDir())
				time.Sleep(100 * time.Millisecond)
			}
			pods := 0
			for range rapid.IntRange(3, 25).Draw(rt, "steps") {
				name := rapid.SampledFrom(nodes).Draw(rt, "node")
				switch action := rapid.SampledFrom([]string{"add", "add", "add", "del", "kill", "ipamd", "wait"}).Draw(rt, "action"); action {
				case "add":
					pods++
					_ = c.add(name, fmt.Sprint("p", pods), time.Duration(rapid.IntRange(1, 30).Draw(rt, "patience"))*time.Second)
				case "del":
					if all := c.names(); len(all) > 0 {
						if err := c.del(rapid.SampledFrom(all).Draw(rt, "pod")); err != nil {
							rt.Fatal(err)
						}
					}
				case "kill":
					c.kill(name)
				case "ipamd":
					c.stop()
					time.Sleep(time.Duration(rapid.IntRange(0, 20).Draw(rt, "down")) * time.Second)
					c.startServer()
				case "wait":
					time.Sleep(time.Duration(rapid.IntRange(0, 8000).Draw(rt, "milliseconds")) * time.Millisecond)
				}
				c.check(rt)
			}
			for i := 0; len(c.names()) > 9; i++ {
				if err := c.del(c.names()[0]); err != nil {
					rt.Fatal(err)
				}
			}
			time.Sleep(5 * time.Minute)
			for _, name := range nodes {
				pods++
				if err := c.add(name, fmt.Sprint("p", pods), 30*time.Second); err != nil {
					rt.Errorf("there is room for a Pod on %s: %v", name, err)
				}
			}
			c.check(rt)
		})
	})
}
