package speaker

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// Options are what a Speaker is made with.
type Options struct {
	// Restarting: the kernel has the routes of an earlier process of this boot and forwards by them, so peers are told
	// that we restarted with forwarding kept (RFC 4724 section 4.1). Never to be set otherwise: they would keep
	// sending traffic into a void.
	Restarting bool
	// ListenAddresses to accept connections on; none: all.
	ListenAddresses []netip.Addr
	Logger          *slog.Logger
}

var limits = struct {
	retry     time.Duration
	restart   time.Duration
	stop      time.Duration
	operation time.Duration
	surplus   int
	ownAS     time.Duration
}{
	retry:     5 * time.Second,  // after something could not be applied (a password file that is not there yet)
	restart:   60 * time.Second, // neighbours that come up within this of the start learn of the restart
	stop:      5 * time.Second,  // for sessions to close when the process ends
	operation: 10 * time.Second, // one call of GoBGP's
	surplus:   256,              // callers that are turned away at once; more are, when they call again
	ownAS:     time.Minute,      // between tries of a peer that is of our own AS, and must not be
}

// Speaker is the node's BGP speaker. All methods may be called from any goroutine.
type Speaker struct {
	options Options
	log     *slog.Logger
	table   *Table
	wake    chan struct{}

	mu       sync.Mutex // guards all below, up to what is of Run alone
	desired  *config.Desired
	sessions map[netip.Addr]*session
	told     []route.Advertisement // what GoBGP was given to advertise
	reflects map[reflection]int64  // and, counted, what of others
	failed   []netip.Addr          // established sessions that are to be ended
	ranges   []config.Range        // from which neighbours may call
	surplus  []netip.Addr          // callers that are to be turned away
	frozen   bool                  // events are ignored: GoBGP is being stopped, and what it withdraws stays

	// Of Run's goroutine alone:
	started time.Time
	engine  *engine
	applied applied
}

// New makes a Speaker that is nothing yet.
func New(options Options) *Speaker {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	return &Speaker{
		options: options, log: options.Logger, table: NewTable(), wake: make(chan struct{}, 1),
		sessions: map[netip.Addr]*session{},
	}
}

// Set says what the speaker is to be. It returns at once; the latest wins. The argument is not changed afterwards.
func (s *Speaker) Set(desired config.Desired) {
	s.mu.Lock()
	s.desired = &desired
	s.mu.Unlock()
	s.poke()
}

// poke makes Run look at what is to be done.
func (s *Speaker) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Fail says that a peer cannot be reached, as another way of looking found out (RFC 5882): all that it told is forgotten at
// once, and an Established session is ended. With keepStale, what a graceful restart keeps of a session that is down
// already is left to its timers: what was found out may be that restart (RFC 5882 section 4.3).
func (s *Speaker) Fail(peer netip.Addr, reason string, keepStale bool) {
	s.mu.Lock()
	session := s.sessions[peer]
	if session == nil || session.state != route.Established && keepStale {
		s.mu.Unlock()
		return
	}
	if session.state == route.Established {
		session.failure = reason
		s.failed = append(s.failed, peer)
	}
	s.mu.Unlock()
	s.table.Flush(peer)
	s.poke()
}

// Changed gets a value when there is something to Take or a session changed.
func (s *Speaker) Changed() <-chan struct{} { return s.table.Changed() }

// Take returns up to max prefixes that changed, each with all its present paths.
func (s *Speaker) Take(max int) []route.Learned { return s.table.Take(max) }

// Sessions lists the wanted sessions by the peers' addresses.
func (s *Speaker) Sessions() []route.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]route.Session, 0, len(s.sessions))
	for address, session := range s.sessions {
		list = append(list, session.view(s.table.Received(address), s.advertised(session)))
	}
	slices.SortFunc(list, func(a, b route.Session) int { return a.Peer.Compare(b.Peer) })
	return list
}

// advertised counts what a session's peer is told.
func (s *Speaker) advertised(session *session) int64 {
	count := s.reflected(session)
	for _, a := range s.told {
		_, withheld := slices.BinarySearchFunc(session.neighbor.Withhold, a.Prefix, netip.Prefix.Compare)
		if !withheld && slices.Contains(session.families, route.FamilyOf(a.Prefix)) {
			count++
		}
	}
	return count
}

// Run applies what Set says until the context ends. Then the sessions are closed without a NOTIFICATION, so that peers
// keep our routes for their restart time: the end of a process is a restart. What was learned stays as it is.
func (s *Speaker) Run(ctx context.Context) error {
	s.started = time.Now()
	retry := time.NewTimer(0)
	defer retry.Stop()
	expire := time.NewTicker(time.Second)
	defer expire.Stop()
	defer s.shutdown()
	doctors, discharge := context.WithCancel(ctx)
	var visiting sync.WaitGroup
	visiting.Go(func() { newDoctor(s).run(doctors) })
	defer visiting.Wait()
	defer discharge()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-retry.C:
		case now := <-expire.C:
			s.table.Expire(now)
			s.forgetCallers(now)
			if !s.due(now) {
				continue
			}
		}
		if !s.reconcile(ctx) {
			retry.Reset(limits.retry)
		}
	}
}

func (s *Speaker) shutdown() {
	s.mu.Lock()
	s.frozen = true
	s.mu.Unlock()
	if s.engine != nil {
		s.engine.stop()
		s.engine = nil
	}
}

// latest is what Set said last.
func (s *Speaker) latest() (config.Desired, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.desired == nil {
		return config.Desired{}, false
	}
	return *s.desired, true
}

// restarting tells whether neighbours that are added now are to hear that we restarted.
func (s *Speaker) restarting() bool {
	return s.options.Restarting && time.Since(s.started) < limits.restart
}
