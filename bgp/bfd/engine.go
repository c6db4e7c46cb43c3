package bfd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/bfd/protocol"
	"github.com/clearway/clearway/bgp/route"
)

var limits = struct {
	sessions  int
	burst     int
	retry     time.Duration
	farewells int
}{
	sessions:  1024,        // what is wanted beyond is refused: at 100 ms these are 20,000 packets a second
	burst:     256,         // packets taken from a socket before timers are looked at
	retry:     time.Second, // after a socket could not be opened: its address or port may come free
	farewells: 3,           // AdminDown is said so often, since nobody confirms it
}

// Engine runs the wanted sessions. Its methods may be called from any goroutine.
type Engine struct {
	log     *slog.Logger
	changed chan struct{}

	mu      sync.Mutex // guards all below, up to the loop's own
	wanted  []route.Watch
	dirty   bool
	view    []route.Liveness
	kept    map[netip.Addr]protocol.Kept // by the end of Run
	wakeful bool                         // wake is open
	wake    int                          // an eventfd

	// Of Run's goroutine alone:
	poll            int
	listeners       map[kind]*listener
	sessions        map[netip.Addr]*session
	byDiscriminator map[uint32]*session
	retryAt         time.Time
	resumed         map[netip.Addr]protocol.Kept // sessions that a former process had up, and nobody has taken up yet
	touched         bool                         // something is to be published
}

// session is one session with its socket; the protocol's half is there once the socket is.
type session struct {
	watch   route.Watch
	state   *protocol.Session
	status  protocol.Status
	fd      int // -1: none
	to      unix.Sockaddr
	problem string
}

// New makes an Engine without sessions; Run makes it work.
func New(log *slog.Logger) *Engine {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Engine{
		log: log, changed: make(chan struct{}, 1), listeners: map[kind]*listener{},
		sessions: map[netip.Addr]*session{}, byDiscriminator: map[uint32]*session{},
	}
}

// Set says which sessions there are to be. It returns at once; the latest wins. Absence is removal, with a farewell that
// peers take for an administrator's word. The argument is not changed afterwards.
func (e *Engine) Set(wanted []route.Watch) {
	e.mu.Lock()
	e.wanted, e.dirty = wanted, true
	e.nudge()
	e.mu.Unlock()
}

// nudge wakes Run. The mutex is held; writing to an eventfd does not wait.
func (e *Engine) nudge() {
	if e.wakeful {
		_, _ = unix.Write(e.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// Changed gets a value when Sessions has something new.
func (e *Engine) Changed() <-chan struct{} { return e.changed }

// Sessions lists the wanted sessions by the peers' addresses.
func (e *Engine) Sessions() []route.Liveness {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.view
}

// Run runs the sessions until the context ends. Peers are told nothing then: the end of a process is a restart, and the
// next one goes on with what Leave writes. (FRR 8.4 and BIRD 2.0 end BGP at an AdminDown as at a failure.)
func (e *Engine) Run(ctx context.Context) error {
	runtime.LockOSThread() // it sleeps in the kernel, with a thread of its own
	defer runtime.UnlockOSThread()
	if err := e.open(); err != nil {
		return err
	}
	defer e.close()
	stop := context.AfterFunc(ctx, func() {
		e.mu.Lock()
		e.nudge()
		e.mu.Unlock()
	})
	defer stop()
	events := make([]unix.EpollEvent, 8)
	for {
		e.configure(time.Now())
		e.publish()
		n, err := unix.EpollWait(e.poll, events, e.timeout(time.Now()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for BFD packets: %w", err)
		}
		if ctx.Err() != nil {
			return nil
		}
		for _, event := range events[:max(n, 0)] {
			e.take(int(event.Fd))
		}
		e.advance(time.Now())
	}
}

func (e *Engine) open() error {
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open BFD: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(poll)
		return fmt.Errorf("open BFD: %w", err)
	}
	e.poll = poll
	e.mu.Lock()
	e.wake, e.wakeful = wake, true
	e.mu.Unlock()
	return e.watchFor(wake)
}

func (e *Engine) watchFor(fd int) error {
	if err := unix.EpollCtl(e.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("wait for BFD packets: %w", err)
	}
	return nil
}

func (e *Engine) close() {
	kept := map[netip.Addr]protocol.Kept{}
	for peer, s := range e.sessions {
		if s.state != nil {
			if k, up := s.state.Keep(); up {
				kept[peer] = k
			}
		}
		if s.fd >= 0 {
			unix.Close(s.fd)
		}
	}
	e.mu.Lock()
	e.kept = kept
	e.mu.Unlock()
	for _, l := range e.listeners {
		unix.Close(l.fd)
	}
	e.mu.Lock()
	e.wakeful = false
	unix.Close(e.wake)
	e.mu.Unlock()
	unix.Close(e.poll)
}

// configure brings the sessions to what is wanted, and tries again what could not be opened.
func (e *Engine) configure(now time.Time) {
	e.mu.Lock()
	wanted, dirty := e.wanted, e.dirty
	e.dirty = false
	e.mu.Unlock()
	if dirty {
		e.reconcile(wanted, now)
	} else if e.retryAt.IsZero() || now.Before(e.retryAt) {
		return
	}
	e.retryAt, e.touched = time.Time{}, true
	for _, s := range e.sessions {
		if err := e.ensure(s, now); err != nil {
			s.problem = err.Error()
			e.retryAt = now.Add(limits.retry)
		}
	}
}

func (e *Engine) reconcile(wanted []route.Watch, now time.Time) {
	if len(wanted) > limits.sessions {
		e.log.Error("too many BFD sessions are wanted: the rest has none", "wanted", len(wanted), "most", limits.sessions)
		wanted = wanted[:limits.sessions]
	}
	keep := map[netip.Addr]route.Watch{}
	for _, watch := range wanted {
		keep[watch.Peer] = watch
	}
	var leaving []*session
	for peer, s := range e.sessions {
		if watch, ok := keep[peer]; !ok || !sameEnds(watch, s.watch) {
			leaving = append(leaving, s)
			e.forget(peer, s)
		}
	}
	e.leave(leaving)
	for peer, watch := range keep {
		s := e.sessions[peer]
		if s == nil {
			e.sessions[peer] = &session{watch: watch, fd: -1}
			continue
		}
		s.watch = watch
		if s.state != nil {
			e.send(s, s.state.Configure(config(watch), now))
		}
	}
}

func sameEnds(a, b route.Watch) bool { return a.Local == b.Local && a.Multihop == b.Multihop }

func config(w route.Watch) protocol.Config {
	return protocol.Config{DesiredMinTx: w.MinTx, RequiredMinRx: w.MinRx, Multiplier: w.Multiplier}
}

func (e *Engine) forget(peer netip.Addr, s *session) {
	delete(e.sessions, peer)
	if s.state != nil {
		delete(e.byDiscriminator, s.status.Local)
	}
}

// leave tells peers that sessions end by an administrator's word, and closes their sockets.
func (e *Engine) leave(leaving []*session) {
	for i := range limits.farewells {
		said := false
		for _, s := range leaving {
			if s.state == nil {
				continue
			}
			said = true
			if i == 0 {
				e.send(s, s.state.SetAdminDown(true, time.Now()))
			} else {
				e.send(s, []protocol.Packet{s.state.Packet()})
			}
		}
		if !said {
			break
		}
	}
	for _, s := range leaving {
		if s.fd >= 0 {
			unix.Close(s.fd)
			s.fd = -1
		}
	}
}

// ensure opens what a session needs and does not have yet.
func (e *Engine) ensure(s *session, now time.Time) error {
	at := kindOf(s.watch)
	if e.listeners[at] == nil {
		l, err := listen(at)
		if err != nil {
			return err
		}
		if err := e.watchFor(l.fd); err != nil {
			unix.Close(l.fd)
			return err
		}
		e.listeners[at] = l
	}
	if s.fd >= 0 {
		return nil
	}
	fd, to, err := dial(s.watch)
	if err != nil {
		return err
	}
	s.fd, s.to, s.problem = fd, to, ""
	if s.state == nil {
		s.state = e.begin(s, now)
		s.status = s.state.Status()
	}
	return nil
}

// begin makes a session, or goes on with the one that a former process had.
func (e *Engine) begin(s *session, now time.Time) *protocol.Session {
	if kept, ok := e.resumed[s.watch.Peer]; ok && e.byDiscriminator[kept.Local] == nil {
		delete(e.resumed, s.watch.Peer)
		e.byDiscriminator[kept.Local] = s
		return protocol.Resume(config(s.watch), kept, now, rand.Int64N)
	}
	return protocol.New(config(s.watch), e.discriminator(s), now, rand.Int64N)
}

// discriminator is a random one that is not in use: a session that is begun anew is not taken for the former one.
func (e *Engine) discriminator(s *session) uint32 {
	for {
		if number := rand.Uint32(); number != 0 && e.byDiscriminator[number] == nil {
			e.byDiscriminator[number] = s
			return number
		}
	}
}

// timeout is in milliseconds, rounded up: a packet goes less than 1 ms late, never early.
func (e *Engine) timeout(now time.Time) int {
	next := e.retryAt
	for _, s := range e.sessions {
		if s.state == nil {
			continue
		}
		if at := s.state.Deadline(); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if next.IsZero() {
		return -1
	}
	return int(max(0, (next.Sub(now)+time.Millisecond-1)/time.Millisecond))
}

func (e *Engine) advance(now time.Time) {
	for _, s := range e.sessions {
		if s.state == nil {
			continue
		}
		if at := s.state.Deadline(); !at.IsZero() && !now.Before(at) {
			e.send(s, s.state.Advance(now))
		}
	}
}

// take reads what has arrived at a socket.
func (e *Engine) take(fd int) {
	if fd == e.wake {
		var number [8]byte
		_, _ = unix.Read(fd, number[:])
		return
	}
	for at, l := range e.listeners {
		if l.fd != fd {
			continue
		}
		for range limits.burst {
			arrived, ok := l.receive()
			if !ok {
				return
			}
			e.receive(at, arrived)
		}
	}
}

// receive finds the session of a packet by RFC 5880 section 6.8.6, and lets it have it. What is wrong is dropped
// without a word: whoever sent it could send more.
func (e *Engine) receive(at kind, arrived datagram) {
	const gtsm = 255 // RFC 5881 section 5: who is on the link, and nobody else, can make it arrive so
	if !at.multihop && arrived.ttl != gtsm {
		return
	}
	p, err := protocol.Parse(arrived.data)
	if err != nil {
		return
	}
	s := e.sessions[arrived.from]
	if p.Yours != 0 {
		s = e.byDiscriminator[p.Yours]
	}
	if s == nil || s.state == nil || s.watch.Peer != arrived.from || kindOf(s.watch) != at {
		return
	}
	if at.multihop && arrived.ttl < int(s.watch.MinTTL) {
		return
	}
	e.send(s, s.state.Receive(p, time.Now()))
}

// send sends packets of a session, and notes where it stands now. A fault is kept to be seen, and does not end the
// session: the detection time does.
func (e *Engine) send(s *session, packets []protocol.Packet) {
	for _, p := range packets {
		problem := ""
		if err := unix.Sendto(s.fd, p.Append(make([]byte, 0, protocol.PacketLength)), unix.MSG_DONTWAIT, s.to); err != nil {
			problem = fmt.Sprintf("BFD packets cannot be sent to %s: %v", s.watch.Peer, err)
		}
		e.touched = e.touched || problem != s.problem
		s.problem = problem
	}
	e.note(s)
}

// publish makes what changed to be seen.
func (e *Engine) publish() {
	if !e.touched {
		return
	}
	e.touched = false
	view := make([]route.Liveness, 0, len(e.sessions))
	for _, s := range e.sessions {
		view = append(view, s.view())
	}
	slices.SortFunc(view, func(a, b route.Liveness) int { return a.Peer.Compare(b.Peer) })
	e.mu.Lock()
	e.view = view
	e.mu.Unlock()
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

func (e *Engine) note(s *session) {
	before := s.status
	s.status = s.state.Status()
	e.touched = e.touched || before != s.status
	if before.State != s.status.State {
		e.log.Info("BFD session", "peer", s.watch.Peer.String(), "state", s.status.State.String(), "before", before.State.String(),
			"diagnostic", s.status.Diagnostic.String())
	}
}

func (s *session) view() route.Liveness {
	if s.state == nil {
		return route.Liveness{Peer: s.watch.Peer, State: route.BFDDown, RemoteState: route.BFDDown, Problem: s.problem}
	}
	status := s.status
	return route.Liveness{
		Peer: s.watch.Peer, State: status.State.String(), RemoteState: status.RemoteState.String(),
		Diagnostic: status.Diagnostic.String(), RemoteDiagnostic: status.RemoteDiagnostic.String(),
		Instance: status.Local, Failures: status.Failures, Independent: status.RemoteIndependent, Since: status.Since,
		TxInterval: status.TxInterval, DetectionTime: status.DetectionTime, Problem: s.problem,
	}
}
