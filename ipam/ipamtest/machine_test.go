package ipamtest_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/clearway/clearway/ipam/node"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// machine is a simulated node: agents after one another, on a journal that is on the disk.
type machine struct {
	t      testing.TB
	trio   *trio
	ledger *ledger
	name   string
	dir    string // with one folder for each life that began on what a killed one left

	mu      sync.Mutex // held while an agent takes another's place
	lives   int
	current *process
}

// process is one agent. What it says after it was killed is not heard by anybody.
type process struct {
	*node.Node
	api   clearwayv1.AddressServiceServer
	dir   string
	ctx   context.Context // of the calls
	end   func() error
	calls sync.WaitGroup

	mu    sync.Mutex // guards all below
	dead  bool
	conns []net.Conn
}

func newMachine(t testing.TB, c *trio, l *ledger, name, dir string) *machine {
	m := &machine{t: t, trio: c, ledger: l, name: name, dir: dir}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.startLocked(m.folderLocked())
	return m
}

func (m *machine) folderLocked() string {
	m.lives++
	dir := filepath.Join(m.dir, fmt.Sprint(m.lives))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		m.t.Fatal(err)
	}
	return dir
}

func (m *machine) options(dir string, p *process) node.Options {
	servers := []string{"ipamd-0", "ipamd-1", "ipamd-2"}
	return node.Options{
		Node: m.name, MachineID: "machine-" + m.name, BootID: "boot", DataDir: dir, Servers: servers,
		Logger: slog.New(slog.NewTextHandler(logTo, nil)),
		Dial: func(_ context.Context, server string) (node.Conn, error) {
			return m.trio.named(server).dial(p.note)
		},
	}
}

func (m *machine) startLocked(dir string) {
	p := &process{dir: dir}
	n, err := node.Open(m.options(dir, p))
	if err != nil {
		m.t.Errorf("%s: %v", m.name, err)
		return
	}
	p.Node, p.api = n, n.AddressServer()
	var cancel, hangUp context.CancelFunc
	var ctx context.Context
	ctx, cancel = context.WithCancel(context.Background())
	p.ctx, hangUp = context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	p.end = func() error {
		hangUp()
		p.calls.Wait()
		cancel()
		return errors.Join(<-ended, n.Close())
	}
	m.current = p
}

// note keeps a connection, to be cut when the process is killed.
func (p *process) note(conn net.Conn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		_ = conn.Close()
		return net.ErrClosed
	}
	p.conns = append(slices.DeleteFunc(p.conns, func(net.Conn) bool { return len(p.conns) > 8 }), conn)
	return nil
}

func (p *process) die() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
	for _, conn := range p.conns {
		_ = conn.Close()
	}
}

// call asks the agent something. It is false when the agent was killed meanwhile: nobody has heard the answer.
func (p *process) call(patience time.Duration, ask func(context.Context) error) (heard bool, err error) {
	p.mu.Lock()
	if p.dead {
		p.mu.Unlock()
		return false, nil
	}
	p.calls.Add(1)
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	err = ask(ctx)
	cancel()
	p.calls.Done()
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.dead, err
}

func (m *machine) process() *process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current
}

// restart puts the next agent in the place of this one: after kill -9 it begins with what was on the disk at that
// moment, else with what the other left.
func (m *machine) restart(kill bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.current
	p.die()
	dir := p.dir
	if kill {
		dir = m.folderLocked()
		copyFolder(m.t, p.dir, dir)
	}
	if err := p.end(); err != nil {
		m.t.Errorf("%s: %v", m.name, err)
	}
	m.startLocked(dir)
}

func (m *machine) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current == nil {
		return
	}
	m.current.die()
	if err := m.current.end(); err != nil {
		m.t.Errorf("%s: %v", m.name, err)
	}
	m.current = nil
}

// copyFolder copies files as they are; what is half written, and about to be renamed, is left out.
func copyFolder(t testing.TB, from, to string) {
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Error(err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(from, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, entry.Name()), data, 0o600)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

func (m *machine) add(pod string, patience time.Duration) (held bool) {
	p := m.process()
	var answer *clearwayv1.AddResponse
	heard, err := p.call(patience, func(ctx context.Context) (err error) {
		answer, err = p.api.Add(ctx, &clearwayv1.AddRequest{
			Attachment: attachmentOf(pod), Pod: &clearwayv1.Pod{Namespace: "soak", Name: pod, Uid: pod},
		})
		return err
	})
	if !heard || err != nil {
		return false
	}
	var addresses []string
	for _, one := range answer.GetAddresses() {
		addresses = append(addresses, netip.MustParsePrefix(one.GetAddress()).Addr().String())
	}
	m.ledger.hold(pod, addresses)
	return true
}

// del repeats a DEL until an agent has answered it, as the runtime and the plugin's spool do.
func (m *machine) del(pod string) {
	m.ledger.drop(pod)
	for {
		p := m.process()
		heard, err := p.call(10*time.Second, func(ctx context.Context) error {
			_, err := p.api.Del(ctx, &clearwayv1.DelRequest{Attachment: attachmentOf(pod)})
			return err
		})
		if heard && err != nil {
			m.ledger.fault("LocalFirst: DEL of %s: %v", pod, err)
		}
		if heard {
			return
		}
	}
}

func (m *machine) check(pod string) {
	p, addresses := m.process(), m.ledger.of(pod)
	heard, err := p.call(10*time.Second, func(ctx context.Context) error {
		_, err := p.api.Check(ctx, &clearwayv1.CheckRequest{Attachment: attachmentOf(pod), Addresses: addresses})
		return err
	})
	if heard && err != nil {
		m.ledger.fault("CHECK of %s: %v", pod, err)
	}
}

func attachmentOf(pod string) *clearwayv1.Attachment {
	return &clearwayv1.Attachment{Network: "pods", ContainerId: pod, Ifname: "eth0"}
}

// churn lets Pods come and go until ctx ends; it counts what it did.
func (m *machine) churn(ctx context.Context, random *rand.Rand, worker int, pace *rate.Limiter, done *atomic.Int64) {
	var pods []string
	for n := 0; pace.Wait(ctx) == nil; n++ {
		done.Add(1)
		switch dice := random.IntN(20); {
		case dice < 10 && len(pods) < 8:
			pod := fmt.Sprintf("%s-%d-%d", m.name, worker, n)
			patience := time.Duration(50+random.IntN(3000)) * time.Millisecond
			if m.add(pod, patience) || dice == 0 && m.add(pod, patience) { // some runtimes try again
				pods = append(pods, pod)
			} else {
				m.del(pod)
			}
		case len(pods) == 0:
		case dice < 17:
			i := random.IntN(len(pods))
			m.del(pods[i])
			pods = slices.Delete(pods, i, i+1)
		case dice < 18:
			m.add(pods[random.IntN(len(pods))], 10*time.Second) // the same again: the same answer
		case dice < 19:
			m.del(fmt.Sprintf("%s-%d-%d", m.name, worker, random.IntN(n+1)) + "-never") // a late DEL of somebody unknown
		default:
			m.check(pods[random.IntN(len(pods))])
		}
	}
}
