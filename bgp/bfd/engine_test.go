package bfd

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/bfd/protocol"
	"github.com/clearway/clearway/bgp/route"
)

// end is a goroutine whose thread is in a network namespace of its own; it ends with the test.
type end struct {
	t     *testing.T
	works chan func()
	task  string // the namespace's path
}

func newEnd(t *testing.T) *end {
	t.Helper()
	e := &end{t: t, works: make(chan func())}
	fault := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the runtime ends the thread with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		e.task = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		fault <- err
		for work := range e.works {
			work()
		}
	}()
	t.Cleanup(func() { close(e.works) })
	if err := <-fault; err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no right to make a network namespace: %v", err)
		}
		t.Skipf("SKIPPED, NOT TESTED: no right to make a network namespace (%v); run as root", err)
	}
	return e
}

func (e *end) do(work func()) {
	done := make(chan struct{})
	e.works <- func() { defer close(done); work() }
	<-done
}

// ip runs ip(8) in the namespace.
func (e *end) ip(args string) {
	e.t.Helper()
	var out []byte
	var err error
	e.do(func() { out, err = exec.Command("ip", strings.Fields(args)...).CombinedOutput() })
	if err != nil {
		e.t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// run runs an engine in the namespace until the test ends or stop is called.
func (e *end) run(engine *Engine) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	e.works <- func() { ended <- engine.Run(ctx) }
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			e.t.Error(err)
		}
	}
	e.t.Cleanup(stop)
	return stop
}

// pair are two ends of a link with 192.0.2.1, 2001:db8::1 and .2, ::2.
func pair(t *testing.T) (a, b *end) {
	t.Helper()
	a, b = newEnd(t), newEnd(t)
	a.ip("link add name x type veth peer name x netns " + b.task)
	for i, e := range []*end{a, b} {
		e.ip("link set lo up")
		e.ip(fmt.Sprintf("addr add 192.0.2.%d/24 dev x", i+1))
		e.ip(fmt.Sprintf("addr add 2001:db8::%d/64 dev x nodad", i+1))
		e.ip("link set x up")
	}
	return a, b
}

func watches(peer, local int, multihop bool) []route.Watch {
	var list []route.Watch
	for _, format := range []string{"192.0.2.%d", "2001:db8::%d"} {
		list = append(list, route.Watch{
			Peer: netip.MustParseAddr(fmt.Sprintf(format, peer)), Local: netip.MustParseAddr(fmt.Sprintf(format, local)),
			Multihop: multihop, MinTTL: 255, MinTx: 50 * time.Millisecond, MinRx: 50 * time.Millisecond, Multiplier: 3,
		})
	}
	return list
}

// waitFor waits until a condition holds, at most twenty seconds.
func waitFor(t *testing.T, what string, engine *Engine, holds func([]route.Liveness) bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(engine.Sessions()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s: %+v", what, engine.Sessions())
		}
	}
}

func all(state string) func([]route.Liveness) bool {
	return func(list []route.Liveness) bool {
		for _, s := range list {
			if s.State != state {
				return false
			}
		}
		return len(list) == 2
	}
}

// TestEngines: two of them come up in both families, agree on the interval, see a cut that takes no carrier away, and
// come up again; a farewell is no failure.
func TestEngines(t *testing.T) {
	for name, multihop := range map[string]bool{"single hop": false, "multihop": true} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			one, two := New(nil), New(nil)
			one.Set(watches(2, 1, multihop))
			two.Set(watches(1, 2, multihop))
			stopOne, stopTwo := a.run(one), b.run(two)
			waitFor(t, "up", one, all(route.BFDUp))
			waitFor(t, "up", two, all(route.BFDUp))
			waitFor(t, "50 ms", one, func(list []route.Liveness) bool {
				return list[0].TxInterval == 50*time.Millisecond && list[1].DetectionTime == 150*time.Millisecond
			})
			file := filepath.Join(t.TempDir(), "bfd.json")
			stopTwo() // and the next process goes on with what it leaves
			if err := two.Leave(file, time.Now()); err != nil {
				t.Fatal(err)
			}
			before := one.Sessions()
			three := New(nil)
			if err := three.Load(file, time.Now()); err != nil {
				t.Fatal(err)
			}
			stopThree := b.run(three)
			waitFor(t, "up as before", three, all(route.BFDUp))
			if after := one.Sessions(); !reflect.DeepEqual(after, before) {
				t.Errorf("it was noticed that another process took over: %+v, before %+v", after, before)
			}
			three.Set(nil)
			waitFor(t, "down by farewell", one, all(route.BFDDown))
			for _, s := range one.Sessions() {
				if s.Failures != 0 || s.RemoteState != "AdminDown" || s.Diagnostic != protocol.NeighborDown.String() {
					t.Errorf("after a farewell: %+v", s)
				}
			}
			stopThree()
			stopOne()
		})
	}
}

// TestEngineSeesACut: with the link's far end deaf, both families fail by the detection time.
func TestEngineSeesACut(t *testing.T) {
	a, b := pair(t)
	one, two := New(nil), New(nil)
	one.Set(watches(2, 1, false))
	two.Set(watches(1, 2, false))
	c := newEnd(t) // it works in b's namespace while b is busy
	c.do(func() {
		fd, err := unix.Open(b.task, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err != nil {
			t.Error(err)
		}
	})
	a.run(one)
	b.run(two)
	waitFor(t, "up", one, all(route.BFDUp))
	c.ip("link set x address 02:00:00:00:00:01") // what is sent to the former address is dropped by x
	c.ip("addr del 192.0.2.2/24 dev x")
	c.ip("addr del 2001:db8::2/64 dev x")
	waitFor(t, "down", one, all(route.BFDDown))
	for _, s := range one.Sessions() {
		if s.Failures != 1 || s.Diagnostic != protocol.DetectionExpired.String() {
			t.Errorf("after a cut: %+v", s)
		}
	}
}

// TestTTL: RFC 5881 section 5: one that came through a router is not heard. RFC 5883: below the least TTL neither.
func TestTTL(t *testing.T) {
	peer := netip.MustParseAddr("192.0.2.2")
	for _, c := range []struct {
		multihop bool
		ttl      int
		taken    bool
	}{{false, 255, true}, {false, 254, false}, {false, -1, false}, {true, 250, true}, {true, 249, false}, {true, -1, false}} {
		engine := New(nil)
		watch := route.Watch{Peer: peer, Multihop: c.multihop, MinTTL: 250, MinTx: time.Second, MinRx: time.Second, Multiplier: 3}
		s := &session{watch: watch, fd: -1, state: protocol.New(config(watch), 1, time.Now(), func(int64) int64 { return 0 })}
		engine.sessions[peer] = s
		p := protocol.Packet{State: protocol.Down, Multiplier: 3, Mine: 9, DesiredMinTx: time.Second, RequiredMinRx: time.Second}
		engine.receive(kindOf(watch), datagram{data: p.Append(nil), from: peer, ttl: c.ttl})
		if got := s.state.Status().State == protocol.Init; got != c.taken {
			t.Errorf("%+v: taken is %v", c, got)
		}
	}
}

// TestDemultiplexing: by discriminator where there is one, else by address and port; never across.
func TestDemultiplexing(t *testing.T) {
	peer, other := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	for _, c := range []struct {
		from     netip.Addr
		yours    uint32
		multihop bool
		taken    bool
	}{
		{peer, 0, false, true}, {peer, 1, false, true}, {peer, 2, false, false},
		{other, 0, false, false}, {other, 1, false, false}, {peer, 0, true, false},
	} {
		engine := New(nil)
		watch := route.Watch{Peer: peer, MinTx: time.Second, MinRx: time.Second, Multiplier: 3}
		s := &session{watch: watch, fd: -1, state: protocol.New(config(watch), 1, time.Now(), func(int64) int64 { return 0 })}
		engine.sessions[peer], engine.byDiscriminator[1] = s, s
		p := protocol.Packet{State: protocol.Down, Multiplier: 3, Mine: 9, Yours: c.yours, DesiredMinTx: time.Second, RequiredMinRx: time.Second}
		engine.receive(kind{multihop: c.multihop}, datagram{data: p.Append(nil), from: c.from, ttl: 255})
		if got := s.state.Status().State == protocol.Init; got != c.taken {
			t.Errorf("%+v: taken is %v", c, got)
		}
	}
}

// TestClientAndServer: the agent's wishes reach the engine and the file, the sessions reach the agent, and an agent that
// goes away takes nothing with it.
func TestClientAndServer(t *testing.T) {
	a, b := pair(t)
	engine, far := New(nil), New(nil)
	far.Set(watches(1, 2, false))
	a.run(engine)
	b.run(far)
	folder := t.TempDir()
	server, file := serve(t, engine, folder), filepath.Join(folder, "bfd.json")
	client := NewClient(server, engine.log)
	wanted := watches(2, 1, false)
	client.Set(wanted)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = client.Run(ctx) }()
	waitFor(t, "the client to hear that they are up", engine, func([]route.Liveness) bool {
		heard, fault := client.Sessions()
		return fault == "" && all(route.BFDUp)(heard)
	})
	cancel()
	<-ended
	if heard, fault := client.Sessions(); heard != nil || fault == "" {
		t.Errorf("a client that is not connected says %+v, %q", heard, fault)
	}
	if !all(route.BFDUp)(engine.Sessions()) {
		t.Errorf("the agent went away, and %+v", engine.Sessions())
	}
	if left, err := load(file); err != nil || !reflect.DeepEqual(left.Sessions, wanted) {
		t.Errorf("left %+v, %v", left, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
}
