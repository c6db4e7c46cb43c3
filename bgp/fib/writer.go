package fib

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/route"
)

// sentinelPrefix marks that we ran in this kernel and network namespace: RFC 7600's dummy address, which is never
// sent anything to, and for which the kernel gets a blackhole.
var sentinelPrefix = netip.MustParsePrefix("192.0.0.8/32")

// errRunning is the answer to a second Run at once.
var errRunning = errors.New("route writer is running already")

// Writer owns our routes in the kernel. Apply, Settled, Status, Count and Changed may be used by any goroutine at any
// time and never wait for the kernel; all the work is done by Run.
type Writer struct {
	opts    Options
	who     who
	log     *slog.Logger
	metrics *metrics

	inbox    *inbox
	changed  chan struct{}
	sentinel bool // it was there at Open
	held     atomic.Int64
	gateways atomic.Pointer[[]netip.Addr]
	running  sync.Mutex // held by Run, and by Flush when there is no Run
	flushes  chan flushRequest

	mu      sync.RWMutex // guards all following fields, and state and reason of the entries; only Run writes
	entries map[netip.Prefix]*entry
	counts  map[route.InstallState]int

	core core // belongs to Run
}

// core is what Run alone uses.
type core struct {
	requests *socket
	dumps    *socket // belongs to the goroutine that dumps, while there is one
	monitor  *monitor

	reach    *reach
	objects  objects
	groups   *interner
	hops     map[netip.Addr]resolution
	settled  bool
	flushing bool

	adds, removals queue
	retries        retries
	ops            []op
	outcomes       []outcome
	round          uint32

	deaf     bool           // notifications were lost, and all has not been compared since
	blind    bool           // deaf, or some notifications are still to be read: a route of ours may be another's by now
	heldBack []*entry       // until we see
	waiting  []*entry       // until the batch is answered that asks for their nexthop objects
	doubtful []netip.Prefix // whose merged hops may hide some of ours from before the start: until settled

	reachDirty bool
	flushed    []*entry  // by the kernel, with an interface: in line once next hops have been worked out anew
	reachAt    time.Time // of the last evaluation
	kickedAt   time.Time // when refused routes were last tried because the kernel had changed

	resync resync
	event  kernelRoute // reused from notification to notification
}

// Open opens the sockets in the calling thread's network namespace, adopts the routes of ours that the kernel has,
// and makes the sentinel. Goroutines that use the Writer need not be in that namespace.
func Open(opts Options) (*Writer, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	w := &Writer{
		opts: opts, log: opts.Logger, inbox: newInbox(), changed: make(chan struct{}, 1),
		who:     who{protocol: uint8(opts.Protocol), metric: uint32(opts.Metric), table: uint32(opts.Table)},
		flushes: make(chan flushRequest), entries: make(map[netip.Prefix]*entry), counts: make(map[route.InstallState]int),
		core: core{reach: newReach(), groups: newInterner(), objects: newObjects(), hops: make(map[netip.Addr]resolution)},
	}
	w.core.resync.every, w.core.resync.gap, w.core.resync.done = resyncEvery, resyncGap, make(chan dumped, 1)
	w.metrics = newMetrics(w)
	if err := w.open(); err != nil {
		_ = w.closeSockets()
		return nil, err
	}
	if err := w.metrics.register(opts.Registerer); err != nil {
		_ = w.closeSockets()
		return nil, fmt.Errorf("register route writer metrics: %w", err)
	}
	return w, nil
}

func (w *Writer) open() (err error) {
	c := &w.core
	if c.requests, err = openSocket(); err != nil {
		return err
	}
	if c.dumps, err = openSocket(); err != nil {
		return err
	}
	// Before the dump, so that no change falls between the two.
	if c.monitor, err = openMonitor(c.requests.port); err != nil {
		return err
	}
	c.objects.off = !c.monitor.objects || !routesToldWhole()
	if err := w.adopt(); err != nil {
		return fmt.Errorf("read the kernel's routes: %w", err)
	}
	return w.makeSentinel()
}

// adopt takes what the kernel has at the beginning.
func (w *Writer) adopt() error {
	snap, err := takeSnapshot(w.core.dumps, w.who)
	if err != nil {
		return err
	}
	w.applySnapshot(snap, unhurried)
	w.noteGateways()
	w.doubt()
	r := &w.core.resync
	r.begin()
	for !w.drainMonitor() {
	}
	if snap.partial || snap.linksPartial || r.unsteady() || r.spoilt {
		w.wantResync("interrupted", resyncSoon)
	}
	r.end()
	return nil
}

// makeSentinel notes whether the sentinel is there, and sees to it that it is.
func (w *Writer) makeSentinel() error {
	e := w.entryOf(sentinelPrefix)
	blackhole := w.core.groups.intern(unix.RTN_BLACKHOLE, nil)
	w.sentinel = e.have == blackhole
	e.sentinel, e.target = true, blackhole
	if e.have != nil {
		w.held.Add(-1)
	}
	w.enqueue(e)
	w.writeAll(context.Background())
	if status := w.statusOf(e); status.State != route.Installed {
		if status.State == route.Failed {
			return fmt.Errorf("make sentinel route %s: %s", sentinelPrefix, status.Reason)
		}
		w.log.Warn("the sentinel route could not be made: a restart of this process will not be known as one",
			"prefix", sentinelPrefix, "state", status.State, "reason", status.Reason)
	}
	return nil
}

// Close closes the sockets; Run must have ended. The routes stay, as a restart is to lose nothing.
func (w *Writer) Close() error {
	if !w.running.TryLock() {
		return errors.New("close route writer: Run has not ended")
	}
	defer w.running.Unlock()
	w.metrics.unregister(w.opts.Registerer)
	return w.closeSockets()
}

func (w *Writer) closeSockets() error {
	c := &w.core
	var errs []error
	for _, s := range []*socket{c.requests, c.dumps} {
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	if c.monitor != nil {
		errs = append(errs, c.monitor.close())
	}
	c.requests, c.dumps, c.monitor = nil, nil, nil
	return errors.Join(errs...)
}

// Apply merges changes into the desired set; of two for one prefix the later counts. The routes must not be changed
// afterwards. A nil route withdraws: also a route adopted from before a restart, and before Settled, because the
// source has spoken about that prefix.
func (w *Writer) Apply(changes []route.Change) {
	good := changes
	for i, c := range changes {
		if why := w.refuses(c); why != "" {
			if &good[0] == &changes[0] {
				good = append([]route.Change(nil), changes[:i]...)
			}
			w.log.Error("route refused", "prefix", c.Prefix, "reason", why)
			continue
		}
		if len(good) != len(changes) || &good[0] != &changes[0] {
			good = append(good, c)
		}
	}
	w.inbox.put(good)
}

// Settled says that every source has spoken: what the kernel has of ours and nobody desires goes now, and from now on.
func (w *Writer) Settled() { w.inbox.settle() }

// Status tells what became of a desired route. A prefix nobody desires is Pending, unless the kernel has a route of
// ours for it.
func (w *Writer) Status(prefix netip.Prefix) route.InstallStatus {
	if w.inbox.has(prefix) {
		return route.InstallStatus{State: route.Pending}
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	e, ok := w.entries[prefix]
	if !ok {
		return route.InstallStatus{State: route.Pending}
	}
	return route.InstallStatus{State: route.InstallState(e.state), Reason: e.reason}
}

// Count is how many routes of ours the kernel has, adopted ones among them, the sentinel not.
func (w *Writer) Count() int { return int(w.held.Load()) }

// Changed receives a token when the status of some prefix has changed; tokens coalesce. It is for one reader.
func (w *Writer) Changed() <-chan struct{} { return w.changed }

// Sentinel tells whether our sentinel route was there at Open: then this kernel and network namespace have kept our
// routes since we ran last.
func (w *Writer) Sentinel() bool { return w.sentinel }

func (w *Writer) statusOf(e *entry) route.InstallStatus {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return route.InstallStatus{State: route.InstallState(e.state), Reason: e.reason}
}

func (w *Writer) stateCount(state route.InstallState) int {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.counts[state]
}
