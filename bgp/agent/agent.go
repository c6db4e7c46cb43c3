package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Speaker is the BGP speaker as the agent needs it; bgp/speaker satisfies it.
type Speaker interface {
	// Set says what the speaker is to be. It does not block; the latest wins; the argument is not changed afterwards.
	Set(config.Desired)
	// Changed gets a value when there is something to Take or a session changed.
	Changed() <-chan struct{}
	// Take returns up to max prefixes that changed, each with all its present paths.
	Take(max int) []route.Learned
	// Sessions lists the wanted sessions by the peers' addresses.
	Sessions() []route.Session
	// Fail says that a peer cannot be reached: its paths go at once, and its session. With keepStale a session that is
	// down already keeps what graceful restart keeps.
	Fail(peer netip.Addr, reason string, keepStale bool)
}

// Liveness runs the BFD sessions; bgp/bfd's Client satisfies it.
type Liveness interface {
	// Set says which sessions there are to be. It does not block; the latest wins; the argument is not changed afterwards.
	Set(wanted []route.Watch)
	// Changed gets a value when Sessions has something new.
	Changed() <-chan struct{}
	// Sessions tells how they stand; where that is not known there are none, and why.
	Sessions() (sessions []route.Liveness, fault string)
}

// Routers hears who on the machine's links sends router advertisements; bgp/discover's Finder satisfies it.
type Routers interface {
	// Set says on which interfaces to look, by name or pattern. It does not block; the latest wins.
	Set(patterns []string)
	// Links are those of them that are up, and who was heard on each, in order of names.
	Links() []config.Link
}

// FIB is the route writer as the agent needs it; bgp/fib satisfies it.
type FIB interface {
	// Apply merges changes into the desired set. It never blocks on the kernel; the latest wins for each prefix.
	Apply(changes []route.Change)
	// Settled says that every source has spoken: what is ours in the kernel and not desired goes now, and from now on.
	Settled()
	Status(netip.Prefix) route.InstallStatus
	// Count is the number of routes of ours that the kernel has.
	Count() int
	// Look asks the kernel itself. It is not called by Run's goroutine: it waits for the kernel.
	Look() (route.Look, error)
}

// Start is how this process began, as far as the kernel can tell.
type Start struct {
	// SameBoot: the boot is that of the data folder's last use.
	SameBoot bool
	// RoutesKept: the writer's sentinel route was still there, so the kernel has our routes of before.
	RoutesKept bool
}

// Options are what an Agent is made with. Speaker and FIB must be there.
type Options struct {
	Node    string
	Speaker Speaker
	FIB     FIB
	// Liveness runs the BFD sessions. nil: there are none.
	Liveness Liveness
	Start    Start
	// Routers finds who is at the other end of interfaces. nil: peers by interface are never found.
	Routers Routers
	// Gateways lists the gateways of the default routes that are not ours; it is asked every second. nil: none.
	Gateways func() []netip.Addr
	// LocalAddresses lists the machine's addresses; it is asked every second. nil: only the node's own are known.
	LocalAddresses func() ([]config.LocalAddress, error)
	// Probe tries to reach addresses from this node's own, and tells how many it tried, and which of them did not answer. It ends with the
	// context. nil: nothing is probed.
	Probe func(ctx context.Context, own, addresses []netip.Addr) (probed int, unreached []Unreached)
	// Traffic counts packets, for drains. nil: they end at an operator's word alone.
	Traffic    func() (Traffic, error)
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

var limits = struct {
	batch       int
	alone       time.Duration
	settle      time.Duration
	settleExtra time.Duration
	ask         time.Duration
	events      int
	eventEvery  time.Duration
	tick        time.Duration
	pause       time.Duration
	linger      time.Duration
}{
	batch:       4096,             // prefixes taken at once: some milliseconds, so that the loop stays responsive
	alone:       10 * time.Second, // the invariant SafeImport: pending prefixes are taken after this long without ipamd
	settle:      30 * time.Second, // the least wait for a neighbour that does not come back
	settleExtra: 10 * time.Second, // beyond the deferral time: sessions take a while to come up
	ask:         5 * time.Second,  // for Status and List to be answered
	events:      64,               // kept until they are reported; the oldest go
	eventEvery:  time.Minute,      // the same thing is told again no sooner
	tick:        time.Second,
	linger:      30 * time.Second,     // a default gateway is a peer for so long after its route has gone
	pause:       2 * time.Millisecond, // between looks at the speaker: in a burst, routes are taken by the dozen
}

// Agent joins configuration, ownership, speaker and route writer. Its methods may be called from any goroutine.
type Agent struct {
	options Options
	log     *slog.Logger
	core    *core
	asks    chan func()
	wake    chan struct{}

	mu  sync.Mutex // guards box
	box mailbox
}

// mailbox is what came in and was not looked at yet.
type mailbox struct {
	snapshot  *clearwayv1.NodeSnapshot
	blocks    *ownBlocks // nil: nothing new
	online    *bool
	ownership []*clearwayv1.WatchOwnershipResponse
}

// New makes an Agent; Run makes it work.
func New(options Options) *Agent {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Agent{
		options: options, log: options.Logger, asks: make(chan func()), wake: make(chan struct{}, 1),
	}
	a.core = newCore(options)
	return a
}

// SetSnapshot gives the node's newest snapshot.
func (a *Agent) SetSnapshot(snapshot *clearwayv1.NodeSnapshot) {
	a.put(func(box *mailbox) { box.snapshot = snapshot })
}

// SetBlocks gives the node's own blocks: those to be advertised and blackholed now. Those among subnets are a bridge's
// own and are not blackholed: the bridge's connected route, which in IPv6 has the greater metric, leads to its Pods.
func (a *Agent) SetBlocks(blocks, subnets []netip.Prefix) {
	a.put(func(box *mailbox) { box.blocks = &ownBlocks{blocks, subnets} })
}

// ownBlocks are what SetBlocks was told.
type ownBlocks struct{ all, subnets []netip.Prefix }

// SetOnline tells whether ipamd answers. An agent that was never told takes it for silent.
func (a *Agent) SetOnline(online bool) {
	a.put(func(box *mailbox) { box.online = &online })
}

// ApplyOwnership gives one piece of the ownership log. It takes effect with its tick's last piece.
func (a *Agent) ApplyOwnership(piece *clearwayv1.WatchOwnershipResponse) {
	a.put(func(box *mailbox) {
		if piece.GetReset_() {
			box.ownership = nil // all before it is void, so what waits here is never more than one log
		}
		box.ownership = append(box.ownership, piece)
	})
}

func (a *Agent) put(change func(*mailbox)) {
	a.mu.Lock()
	change(&a.box)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *Agent) empty() mailbox {
	a.mu.Lock()
	defer a.mu.Unlock()
	box := a.box
	a.box = mailbox{}
	return box
}

// Run works until the context ends. The kernel's routes are left as they are.
func (a *Agent) Run(ctx context.Context) error {
	tick := time.NewTicker(limits.tick)
	defer tick.Stop()
	a.core.begin(time.Now())
	if a.options.Registerer != nil {
		if err := a.register(); err != nil {
			return err
		}
		defer a.options.Registerer.Unregister(collector{a})
	}
	alive := a.core.livenessChanged()
	changed, resume := a.options.Speaker.Changed(), time.NewTimer(0)
	defer resume.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-resume.C:
			changed = a.options.Speaker.Changed()
		case <-a.wake:
			a.core.receive(a.empty(), time.Now())
		case <-changed:
			a.core.learn(a.options.Speaker.Take(limits.batch), time.Now())
			changed = nil
			resume.Reset(limits.pause)
		case <-alive:
			a.core.observe(time.Now())
		case ask := <-a.asks:
			ask()
		case <-tick.C:
			a.core.tick(time.Now())
		}
	}
}

// ask runs a function in Run's goroutine and waits for it.
func (a *Agent) ask(ctx context.Context, question func()) error {
	ctx, cancel := context.WithTimeout(ctx, limits.ask)
	defer cancel()
	done := make(chan struct{})
	wrapped := func() {
		defer close(done)
		question()
	}
	select {
	case a.asks <- wrapped:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// StatusChanged gets a value when Status has something new that is worth a report before the next one is due.
func (a *Agent) StatusChanged() <-chan struct{} { return a.core.news }

// Status is what the agent reports to ipamd. The events are those since the last call; why is the reason of restart
// ("Hitless", "Cold", "NotHitless", or empty while it is not known yet).
func (a *Agent) Status() (sessions []*clearwayv1.BGPSession, kernelRoutes int64, restart, why string, events []*clearwayv1.EventSpec) {
	err := a.ask(context.Background(), func() {
		for _, session := range a.options.Speaker.Sessions() {
			sessions = append(sessions, a.core.session(session))
		}
		sessions = append(sessions, a.core.awaited()...)
		restart, why = a.core.restart.outcome, a.core.restart.why
		events = a.core.events.drain()
	})
	if err != nil {
		a.log.Warn("the BGP agent gives no status", "error", err)
	}
	return sessions, int64(a.options.FIB.Count()), restart, why, events
}

// Heard tells which prefixes the peers tell of, accepted or not, that are one of those given or lie in one.
func (a *Agent) Heard(prefixes []netip.Prefix) ([]netip.Prefix, error) {
	var heard []netip.Prefix
	err := a.ask(context.Background(), func() {
		for _, prefix := range prefixes {
			for _, told := range a.core.table.Touching(prefix) {
				if told.Bits() >= prefix.Bits() {
					heard = append(heard, told)
				}
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("ask the BGP agent what its peers tell: %w", err)
	}
	return heard, nil
}

// List answers for BGPSessions and Routes of this node, filtered by name, node and address. Other kinds are empty.
func (a *Agent) List(ctx context.Context, request *clearwayv1.ListRequest) ([]*clearwayv1.Resource, error) {
	if request.GetNode() != "" && request.GetNode() != a.options.Node {
		return nil, nil
	}
	var look *route.Look
	if request.GetKernel() && request.GetKind() == "Route" {
		found, err := a.options.FIB.Look()
		if err != nil {
			return nil, err
		}
		look = &found
	}
	var list []*clearwayv1.Resource
	var fault error
	err := a.ask(ctx, func() { list, fault = a.core.list(request, look) })
	if err != nil {
		return nil, err
	}
	return list, fault
}
