package ipamtest_test

import (
	"net"
	"sync"
	"testing"
)

// gate is a TCP proxy that can be shut, when all that is under way is lost, and stalled, when nothing arrives until it
// is opened.
type gate struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu    sync.Mutex // guards all below
	moved *sync.Cond
	state gateState
	conns map[net.Conn]bool
}

type gateState int

const (
	gateOpen gateState = iota
	gateShut
	gateStalled
	gateGone
)

func newGate(t testing.TB, target string) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{listener: listener, target: target, conns: map[net.Conn]bool{}}
	g.moved = sync.NewCond(&g.mu)
	g.running.Go(g.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		g.turn(gateGone)
		g.running.Wait()
	})
	return g
}

func (g *gate) address() string { return g.listener.Addr().String() }

func (g *gate) open()  { g.turn(gateOpen) }
func (g *gate) shut()  { g.turn(gateShut) }
func (g *gate) stall() { g.turn(gateStalled) }

func (g *gate) turn(to gateState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state = to
	if to == gateShut || to == gateGone {
		for conn := range g.conns {
			_ = conn.Close()
			delete(g.conns, conn)
		}
	}
	g.moved.Broadcast()
}

func (g *gate) accept() {
	for {
		near, err := g.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", g.target)
		if err != nil || !g.keep(near, far) {
			_ = near.Close()
			if far != nil {
				_ = far.Close()
			}
			continue
		}
		g.running.Go(func() { g.carry(near, far) })
		g.running.Go(func() { g.carry(far, near) })
	}
}

func (g *gate) keep(conns ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == gateShut || g.state == gateGone {
		return false
	}
	for _, conn := range conns {
		g.conns[conn] = true
	}
	return true
}

// carry copies one way until either end is closed.
func (g *gate) carry(from, to net.Conn) {
	defer g.drop(from, to)
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil || !g.pass() {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// pass waits while the gate is stalled.
func (g *gate) pass() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.state == gateStalled {
		g.moved.Wait()
	}
	return g.state == gateOpen
}

func (g *gate) drop(conns ...net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close()
		delete(g.conns, conn)
	}
}
