package contract

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// wire passes bytes on between ipamd and an etcd. Cut, nothing gets through, and nobody is told: a partition.
type wire struct {
	address string // where it listens
	behind  string

	mu    sync.Mutex    // guards all following fields
	open  chan struct{} // closed: bytes pass
	conns []net.Conn
}

// startWire stands before a server until the test ends.
func startWire(t *testing.T, behind string) *wire {
	t.Helper()
	w := &wire{address: freeAddress(), behind: behind, open: make(chan struct{})}
	close(w.open)
	listener, err := net.Listen("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	t.Cleanup(func() { listener.Close(); w.set(true); group.Wait() })
	group.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", w.behind)
			if err != nil {
				near.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, near, far)
			w.mu.Unlock()
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				group.Go(func() { w.pass(way[0], way[1]) })
			}
		}
	})
	return w
}

// pass copies one way, until either side ends.
func (w *wire) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			<-w.passes()
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (w *wire) passes() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open
}

func (w *wire) set(whole bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.open:
		if !whole {
			w.open = make(chan struct{})
		}
	default:
		if whole {
			close(w.open)
		}
	}
}

// drop ends all connections; what was on its way is lost.
func (w *wire) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range w.conns {
		conn.Close()
	}
	w.conns = nil
}

// smallBlocks is a pool of which nodes need many blocks.
const smallBlocks = `
apiVersion: clearway.io/v1
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.244.0.0/20, blockSize: 29, minBlockSize: 29}
---
apiVersion: clearway.io/v1
kind: IPAMConfiguration
metadata: {name: default}
spec: {cooldown: 1s, lowWater: 2}
---
apiVersion: clearway.io/v1
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeMesh: None}
`

// twoNodes are agents that claim blocks all the time.
func twoNodes(t *testing.T, servers string) *pods {
	t.Helper()
	p := &pods{t: t, agents: map[string]*agent{}, holder: map[string]string{}, held: map[string][2]string{}}
	for i, node := range []string{"n1", "n2"} {
		p.agents[node] = startAgent(t, node, servers, "--insecure", "--route-table", fmt.Sprint(100+i), "--machine-id-file", machineOf(t, node))
		ready(t, p.agents[node].process, p.agents[node].metrics)
		eventually(t, "the first Pod on "+node, func() error { return p.add(node) })
	}
	return p
}

// grow adds Pods to both nodes, so that they must claim blocks.
func (p *pods) grow(t *testing.T, count int) {
	t.Helper()
	for range count {
		for node := range p.agents {
			eventually(t, "a Pod on "+node, func() error { return p.add(node) })
		}
	}
}

// endWell ends all processes as systemd does, and looks at their exit codes.
func (p *pods) endWell(t *testing.T, more ...*process) {
	t.Helper()
	for _, a := range p.agents {
		more = append(more, a.process)
	}
	for _, one := range more {
		if code := one.end(t, syscall.SIGTERM); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}

// TestPartitionedLeader: the leader is cut off from etcd, with no connection reset. Another takes office; what the old one still
// had under way changes nothing; the nodes find the new one, and Pods start all the time. Healed, the old one follows.
func TestPartitionedLeader(t *testing.T) {
	cluster := startEtcd(t, 1, certificate{})
	cut := startWire(t, strings.TrimPrefix(cluster.endpoints, "http://"))
	first := startIpamd(t, "--insecure", "--etcd-endpoints", "http://"+cut.address)
	ready(t, first.process, first.metrics)
	second := startIpamd(t, "--insecure", "--etcd-endpoints", cluster.endpoints)
	ready(t, second.process, second.metrics)
	if !first.leads() || second.leads() {
		t.Fatalf("first leads: %v, second: %v", first.leads(), second.leads())
	}
	servers := first.address + "," + second.address
	apply(t, servers, smallBlocks).shows(t)
	p := twoNodes(t, servers)
	p.grow(t, 10)

	stop := p.churn("n1", "n2")
	cut.set(false)
	began := time.Now()
	eventually(t, "the other to take office", func() error {
		if !second.leads() {
			return errors.New("it has not")
		}
		return nil
	})
	t.Logf("another leads after %s", time.Since(began).Round(100*time.Millisecond))
	stop()
	p.grow(t, 15) // blocks by the new leader
	apply(t, second.address, pool("later", "10.246.0.0/16")).shows(t, "created")
	if got := ctl(t, first.address, "get", "blocks"); got.code == 0 && !strings.Contains(got.out, "warning") {
		// What it has read is shown, at most until it knows that it is cut off.
		eventually(t, "the old leader to know that it leads no more", func() error { return status(first.metrics, "/readyz", 503, "") })
	}
	cut.set(true)
	eventually(t, "the old leader to follow", func() error { return status(first.metrics, "/readyz", 200, "ok") })
	eventually(t, "it to have read what came meanwhile", func() error { return ctl(t, first.address, "get", "ippools").lacks("later") })
	p.grow(t, 5)
	eventually(t, "the books to be equal", func() error { return p.booksEqual(servers) })
	p.endWell(t, first.process, second.process)
}

// TestCompactedEtcd: etcd's history is compacted while a follower hears nothing of it: where it could go on from there is
// nothing any more. It reads all anew, and nothing is lost.
func TestCompactedEtcd(t *testing.T) {
	cluster := startEtcd(t, 1, certificate{})
	leader := startIpamd(t, "--insecure", "--etcd-endpoints", cluster.endpoints)
	ready(t, leader.process, leader.metrics)
	cut := startWire(t, strings.TrimPrefix(cluster.endpoints, "http://"))
	follower := startIpamd(t, "--insecure", "--etcd-endpoints", "http://"+cut.address)
	ready(t, follower.process, follower.metrics)
	servers := leader.address + "," + follower.address
	apply(t, servers, smallBlocks).shows(t)
	p := twoNodes(t, servers)
	for round := range 3 {
		cut.set(false)
		name := fmt.Sprint("round-", round)
		apply(t, leader.address, pool(name, fmt.Sprintf("10.%d.0.0/16", 100+round))).shows(t, "created")
		p.grow(t, 8)
		etcd, ctx := client(t, cluster.endpoints)
		now, err := etcd.Get(ctx, "x")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := etcd.Compact(ctx, now.Header.GetRevision()); err != nil {
			t.Fatal(err)
		}
		cut.drop()
		cut.set(true)
		eventually(t, "the follower to have read on", func() error { return ctl(t, follower.address, "get", "ippools").lacks(name) })
	}
	eventually(t, "the books to be equal", func() error { return p.booksEqual(follower.address) })
	p.endWell(t, leader.process, follower.process)
}

// TestSlowEtcd: etcd stands still for most of the time, as on a disk that is far too slow. Pods start from the blocks that nodes
// have; blocks come later, and nothing is given twice.
func TestSlowEtcd(t *testing.T) {
	cluster := startEtcd(t, 1, certificate{})
	i := startIpamd(t, "--insecure", "--etcd-endpoints", cluster.endpoints)
	ready(t, i.process, i.metrics)
	apply(t, i.address, smallBlocks).shows(t)
	p := twoNodes(t, i.address)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { // it stands still for 0.8 s, and runs for 0.2 s
		for ctx.Err() == nil {
			for _, one := range []struct {
				signal syscall.Signal
				lasts  time.Duration
			}{{syscall.SIGSTOP, 800 * time.Millisecond}, {syscall.SIGCONT, 200 * time.Millisecond}} {
				_ = cluster.members[0].cmd.Process.Signal(one.signal)
				select {
				case <-time.After(one.lasts):
				case <-ctx.Done():
				}
			}
		}
		_ = cluster.members[0].cmd.Process.Signal(syscall.SIGCONT)
	})
	stop := p.churn("n1", "n2")
	p.grow(t, 10)
	apply(t, i.address, pool("later", "10.246.0.0/16")).shows(t, "created")
	stop()
	cancel()
	group.Wait()
	p.grow(t, 3)
	eventually(t, "the books to be equal", func() error { return p.booksEqual(i.address) })
	p.endWell(t, i.process)
}
