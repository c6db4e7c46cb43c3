package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Place is where traffic starts or ends: a Node or a Pod.
type Place interface {
	// Do runs fn on a thread in the place's network.
	Do(fn func() error) error
	String() string
}

// Echo is a UDP and TCP service on one address: it answers each datagram with itself, and each connection with the
// address it came from.
type Echo struct {
	Addr netip.AddrPort
	udp  *net.UDPConn
	tcp  *net.TCPListener
	done sync.WaitGroup
}

// ServeEcho starts an echo service at a place.
func ServeEcho(at Place, addr netip.Addr) (*Echo, error) {
	e := &Echo{}
	err := at.Do(func() error {
		var err error
		if e.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0))); err != nil {
			return err
		}
		e.Addr = e.udp.LocalAddr().(*net.UDPAddr).AddrPort()
		if e.tcp, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(e.Addr)); err != nil {
			_ = e.udp.Close()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: echo on %s: %w", at, addr, err)
	}
	e.done.Go(e.serveUDP)
	e.done.Go(e.serveTCP)
	return e, nil
}

// Close ends the service.
func (e *Echo) Close() {
	_ = e.udp.Close()
	e.tcp.Close()
	e.done.Wait()
}

func (e *Echo) serveUDP() {
	buffer := make([]byte, 2048)
	for {
		size, from, err := e.udp.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil { // else an ICMP error of an earlier answer
			_, _ = e.udp.WriteToUDPAddrPort(buffer[:size], from)
		}
	}
}

func (e *Echo) serveTCP() {
	for {
		conn, err := e.tcp.Accept()
		if err != nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = fmt.Fprint(conn, conn.RemoteAddr())
		conn.Close()
	}
}

// AskSource connects to an echo service over TCP and returns the source address that the far side saw.
func AskSource(ctx context.Context, from Place, to netip.AddrPort) (netip.Addr, error) {
	var seen netip.AddrPort
	err := from.Do(func() error {
		conn, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "tcp", to.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
		text := make([]byte, 100)
		size, err := conn.Read(text)
		if err != nil {
			return err
		}
		seen, err = netip.ParseAddrPort(string(text[:size]))
		return err
	})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s to %s: %w", from, to, err)
	}
	return seen.Addr(), nil
}

// Probe sends numbered datagrams to an echo service at a steady pace and counts the answers. A lost one was lost on
// either way.
type Probe struct {
	name  string
	conn  *net.UDPConn
	every time.Duration
	stop  chan struct{}
	// sending ends when the last datagram has left, receiving when the socket is closed.
	sending, receiving sync.WaitGroup

	mu   sync.Mutex
	sent []time.Time // by number; guarded by mu
	seen []int       // answers by number; guarded by mu
	errs int         // sends the kernel refused; guarded by mu
	why  error       // the first refusal; guarded by mu
}

// ProbeResult is what a probe counted.
type ProbeResult struct {
	Name string
	Sent int
	// Lost were sent, or refused by the kernel for want of a route, and not answered.
	Lost int
	// Refused is the part of Lost that never left, and Why what the kernel said to the first of them.
	Refused int
	Why     error
	// Duplicates were answered more than once.
	Duplicates int
	// Outage is the longest time from one answered datagram's sending to the next one's.
	Outage time.Duration
	// FirstLost is when the first lost one was sent.
	FirstLost time.Time
}

// String is one line for a log.
func (r ProbeResult) String() string {
	text := fmt.Sprintf("%s: %d sent, %d lost, longest gap %s", r.Name, r.Sent, r.Lost, r.Outage.Round(time.Millisecond))
	if r.Lost > 0 {
		text += fmt.Sprintf(" (first at %s)", r.FirstLost.Format("15:04:05.000"))
	}
	if r.Refused > 0 {
		text += fmt.Sprintf(", %d refused by the kernel (first: %v)", r.Refused, r.Why)
	}
	if r.Duplicates > 0 {
		text += fmt.Sprintf(", %d answered twice", r.Duplicates)
	}
	return text
}

// StartProbe probes an echo service from a place.
func StartProbe(from Place, source netip.Addr, to netip.AddrPort, every time.Duration) (*Probe, error) {
	p := &Probe{
		name: fmt.Sprintf("%s %s to %s", from, source, to), every: every, stop: make(chan struct{}),
	}
	err := from.Do(func() error {
		var err error
		// Not connected, so that an ICMP error is not mistaken for a failed send.
		p.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", p.name, err)
	}
	p.sending.Go(func() { p.send(to) })
	p.receiving.Go(p.receive)
	return p, nil
}

func (p *Probe) send(to netip.AddrPort) {
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for number := 0; ; number++ {
		p.mu.Lock()
		p.sent = append(p.sent, time.Now())
		p.seen = append(p.seen, 0)
		p.mu.Unlock()
		packet := binary.BigEndian.AppendUint64([]byte(probeMark), uint64(number))
		if _, err := p.conn.WriteToUDPAddrPort(packet, to); err != nil {
			p.mu.Lock()
			p.errs++
			if p.why == nil {
				p.why = err
			}
			p.mu.Unlock()
		}
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
	}
}

// probeMark starts every probe's payload, so that it is found in a capture, also inside something else.
const probeMark = "clearway-lab-probe-"

func (p *Probe) receive() {
	buffer := make([]byte, 2048)
	for {
		size, _, err := p.conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || size != len(probeMark)+8 {
			continue
		}
		number := binary.BigEndian.Uint64(buffer[len(probeMark):size])
		p.mu.Lock()
		if number < uint64(len(p.seen)) {
			p.seen[number]++
		}
		p.mu.Unlock()
	}
}

// Answered counts the answers so far.
func (p *Probe) Answered() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	count := 0
	for _, answers := range p.seen {
		count += min(answers, 1)
	}
	return count
}

// stragglers is how long Stop waits for the last answers.
const stragglers = time.Second

// Stop ends the probe, waits a moment for the answers under way, and counts.
func (p *Probe) Stop() ProbeResult {
	close(p.stop)
	p.sending.Wait()
	deadline := time.Now().Add(stragglers)
	for time.Now().Before(deadline) && p.result().Lost > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	_ = p.conn.Close()
	p.receiving.Wait()
	return p.result()
}

func (p *Probe) result() ProbeResult {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := ProbeResult{Name: p.name, Sent: len(p.sent), Refused: p.errs, Why: p.why}
	if len(p.sent) == 0 {
		return r
	}
	last := p.sent[0]
	for number, answers := range p.seen {
		switch {
		case answers == 0:
			if r.Lost == 0 {
				r.FirstLost = p.sent[number]
			}
			r.Lost++
			continue
		case answers > 1:
			r.Duplicates++
		}
		r.Outage = max(r.Outage, p.sent[number].Sub(last))
		last = p.sent[number]
	}
	if r.Lost > 0 {
		r.Outage = max(r.Outage, p.sent[len(p.sent)-1].Sub(last))
	}
	return r
}
