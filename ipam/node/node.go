package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/clearway/clearway/ipam/node/journal"
	"github.com/clearway/clearway/ipam/proof"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Conn is a connection to one ipamd.
type Conn interface {
	grpc.ClientConnInterface
	io.Closer
}

// Namespaces sees the machine's network namespaces; package netns does.
type Namespaces interface {
	// Identify looks where a runtime says that a namespace is. It is called for each ADD.
	Identify(path string) proof.Namespace
	// Sight looks where a namespace was.
	Sight(proof.Namespace) proof.Sighting
	// Look looks at all of the machine. A view that lacks something says so.
	Look(context.Context) proof.View
}

// Options are all that a Node needs to know. Node, DataDir, BootID, Servers, Dial and Logger must be set.
type Options struct {
	// Node is the node's name, a DNS subdomain; NodeUID its UID in Kubernetes, else empty.
	Node, NodeUID string
	// MachineID and BootID are the machine's and the kernel's. A new BootID means that no Pod of before lives.
	MachineID, BootID string
	// Version is the agent's, for the operator.
	Version string
	// DataDir holds the journal and the persisted snapshots, SpoolDir the DELs that the plugin left while no agent
	// answered. SpoolDir may be empty: there are none.
	DataDir, SpoolDir string
	// Addresses are the node's own, with prefix length, as reported to ipamd.
	Addresses []netip.Prefix
	// Labels are those the node reports. Once a snapshot came, the labels in it hold.
	Labels map[string]string
	// Servers are ipamd's addresses, tried in this order. Dial connects to one of them, or to the leader that one of
	// them named; it may connect lazily.
	Servers []string
	Dial    func(ctx context.Context, server string) (Conn, error)
	Logger  *slog.Logger
	// Namespaces sees network namespaces; nil: nobody does.
	Namespaces Namespaces
	// Metrics is where clearway_ipam_* are registered; nil: nowhere.
	Metrics prometheus.Registerer

	// OnState is told the newest state: first when it is known what to go by, then after each change. Never called
	// twice at once; states that were overtaken are left out. What it gets is not to be changed.
	OnState func(State)
	// OnOwnership is told every piece of the ownership log in order: from disk at start (where there is one), then as
	// ipamd sends them, and only whole groups, up to a piece with complete. Never called twice at once.
	OnOwnership func(*clearwayv1.WatchOwnershipResponse)
	// Query answers an operator's question for the kinds this package does not know. It is called concurrently.
	Query func(context.Context, *clearwayv1.ListRequest) ([]*clearwayv1.Resource, error)
	// Verify compares the node's routes for an operator. It is called concurrently; nil: it is not known how.
	Verify func(context.Context, *clearwayv1.VerifyQuery) (*clearwayv1.VerifyAnswer, error)
	// Status is asked for each report to ipamd; node, session and block use are filled in here. Events it returns are
	// reported once. StatusChanged, where not nil, asks for a report soon.
	Status        func() *clearwayv1.ReportStatusRequest
	StatusChanged <-chan struct{}
	// Heard tells which prefixes the node's peers tell of that are, or lie in, one of those given; nil: nobody listens, and
	// nothing is told of orphaned blocks.
	Heard func([]netip.Prefix) ([]netip.Prefix, error)

	silence time.Duration // silentAfterBoot, but for tests
}

// State is what the node's other half goes by.
type State struct {
	// Snapshot is the newest configuration; nil means that none is known yet.
	Snapshot *clearwayv1.NodeSnapshot
	// Blocks are the node's own, to be advertised and blackholed now, in ascending order. A block that is being given
	// back is no longer among them; sealed ones are.
	Blocks []netip.Prefix
	// Subnets are those of Blocks that belong to a Rigid pool: a bridge's own subnet, advertised and not blackholed.
	Subnets []netip.Prefix
	// Online: ipamd answers.
	Online bool
	// FromDisk: Snapshot is of before this start, ipamd has not sent a newer one.
	FromDisk bool
}

// silentAfterBoot is how long ipamd may be silent after a new boot before the node goes by what it has on disk.
const silentAfterBoot = 10 * time.Second

// spoolEvery is how often the spool is looked at.
const spoolEvery = time.Second

// Node is the agent's half of address management.
type Node struct {
	options Options
	log     *slog.Logger
	now     func() time.Time
	process string // a fresh id of this process

	book    *book
	journal *journal.Journal
	disk    disk
	claims  *claims
	metrics *metrics

	current atomic.Pointer[session]
	// settled is closed when it is known what to go by: at once when it was in this boot before, else when ipamd has
	// spoken, or was silent for long.
	settled    chan struct{}
	settleOnce sync.Once

	stateDue, mirrorDue, reportDue, lookDue waker
	callDue, returnDue, quotaDue            waker
	groups                                  chan []*clearwayv1.WatchOwnershipResponse

	mu     sync.Mutex // guards all below
	state  State      // but for Blocks, which come from the book
	events []*clearwayv1.EventSpec
	owners ownership
	calls  *clearwayv1.NodeSnapshot // the newest of a session: the blocks in it may be called back; nil: none yet
	// reached is the newest that ipamd has told.
	reached position
}

// Open reads the journal and the persisted snapshots, and makes them where there are none. An ADD waits for Run. An
// error names the file that could not be used.
func Open(options Options) (*Node, error) {
	if err := options.validate(); err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	if options.silence == 0 {
		options.silence = silentAfterBoot
	}
	if err := os.MkdirAll(options.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	n := &Node{
		options: options, log: options.Logger, now: time.Now, process: uuid.NewString(),
		book: newBook(options.Logger, time.Now), disk: disk{options.DataDir},
		settled: make(chan struct{}), stateDue: newWaker(), mirrorDue: newWaker(), reportDue: newWaker(), lookDue: newWaker(),
		callDue: newWaker(), returnDue: newWaker(), quotaDue: newWaker(),
		groups: make(chan []*clearwayv1.WatchOwnershipResponse, ownershipQueue),
	}
	n.claims = &claims{Node: n, due: newWaker()}
	n.metrics = newMetrics(n)
	n.loadDisk()
	if err := n.openJournal(); err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	n.disk.clean() // the folder is ours alone by now
	if options.Metrics != nil {
		if err := n.metrics.register(options.Metrics); err != nil {
			return nil, errors.Join(fmt.Errorf("open node: %w", err), n.journal.Close())
		}
	}
	return n, nil
}

func (o Options) validate() error {
	for field, text := range map[string]string{"Node": o.Node, "DataDir": o.DataDir, "BootID": o.BootID} {
		if text == "" {
			return fmt.Errorf("options: %s is empty", field)
		}
	}
	if len(o.Servers) == 0 || o.Dial == nil || o.Logger == nil {
		return errors.New("options: Servers, Dial and Logger are needed")
	}
	return nil
}

// loadDisk takes what was applied before this start. What cannot be read is told, and comes anew from ipamd.
func (n *Node) loadDisk() {
	snapshot := &clearwayv1.NodeSnapshot{}
	found, err := n.disk.load(snapshotFile, snapshot)
	if err != nil {
		n.log.Error("snapshot of before cannot be used", "error", err)
	}
	if found {
		n.configure(snapshot, true)
		n.reach(positionOf(snapshot))
	}
	whole := &clearwayv1.WatchOwnershipResponse{}
	if found, err = n.disk.load(ownershipFile, whole); err != nil {
		n.log.Error("ownership log of before cannot be used", "error", err)
	}
	if found {
		n.owners = newOwnership(whole)
		n.reach(end([]*clearwayv1.WatchOwnershipResponse{whole}))
	}
}

// configure takes a snapshot as the newest.
func (n *Node) configure(snapshot *clearwayv1.NodeSnapshot, fromDisk bool) {
	made, faults := newSettings(snapshot, n.options.Labels)
	for _, text := range faults {
		n.log.Error("part of the configuration cannot be used here", "fault", text)
	}
	n.book.configure(made)
	n.mu.Lock()
	n.state.Snapshot, n.state.FromDisk = snapshot, fromDisk
	n.mu.Unlock()
	n.notify()
	n.claims.wake()
}

func (n *Node) snapshot() *clearwayv1.NodeSnapshot {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state.Snapshot
}

// openJournal reads the journal into the book and starts it.
func (n *Node) openJournal() error {
	options := journal.Options{
		Observe:        n.metrics.observeWrite,
		OnCompactError: func(err error) { n.log.Error("journal could not be replaced by a shorter one", "error", err) },
	}
	opened, contents, err := journal.Open(n.options.DataDir, options)
	var salvaged *book
	if corrupt := new(journal.CorruptError); errors.As(err, &corrupt) {
		if opened, salvaged, err = n.salvage(contents, err, options); err == nil {
			contents = journal.Contents{}
		}
	}
	if err != nil {
		return err
	}
	n.journal = opened
	if err := n.book.load(contents); err != nil {
		return errors.Join(err, opened.Close())
	}
	if contents.Torn > 0 {
		n.log.Warn("journal had a torn tail, which was never acknowledged", "bytes", contents.Torn)
	}
	if err := opened.Start(n.book); err != nil {
		return errors.Join(err, opened.Close())
	}
	if err := n.begin(salvaged); err != nil {
		return errors.Join(err, opened.Close())
	}
	return nil
}

// salvage puts a damaged journal aside and opens a new one. What could be read of the old one is kept as if ipamd had
// told it: its blocks are sealed.
func (n *Node) salvage(read journal.Contents, damage error, options journal.Options) (*journal.Journal, *book, error) {
	old := newBook(n.log, n.now)
	if err := old.load(read); err != nil {
		n.log.Error("damaged journal can be read in part only", "error", err)
	}
	aside, err := journal.Quarantine(n.options.DataDir, n.now())
	if err != nil {
		return nil, nil, errors.Join(damage, err)
	}
	opened, _, err := journal.Open(n.options.DataDir, options)
	if err != nil {
		return nil, nil, err
	}
	n.log.Error("journal is damaged and was put aside; its blocks give no new address until the next boot",
		"error", damage, "kept", aside, "blocks", len(old.blocks))
	n.event(eventWarning, "JournalDamaged", "Node/"+n.options.Node, damage.Error()+"; its blocks are sealed")
	return opened, old, nil
}

// begin journals the boot, when it is a new one, and what was salvaged of it.
func (n *Node) begin(salvaged *book) error {
	ctx := context.Background()
	if salvaged != nil && salvaged.bootID == n.options.BootID {
		for _, r := range salvaged.sealedRecords(n.options.BootID) {
			if _, err := n.write(ctx, r); err != nil {
				return err
			}
		}
		return nil
	}
	if n.book.bootID == n.options.BootID {
		return nil
	}
	if before := n.book.bootID; before != "" {
		n.log.Info("new boot: assignments of before are dropped, blocks stay", "was", before, "is", n.options.BootID)
	}
	_, err := n.write(ctx, bootRecord{BootID: n.options.BootID, Time: n.now(), Unsettled: true})
	return err
}

// Run serves until ctx ends, and then returns nil. Any other return is an error after which the process has to be
// started anew: the journal can no longer be written.
func (n *Node) Run(ctx context.Context) error {
	work, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{
		n.watchJournal, n.deliverState, n.deliverOwnership, n.keepOwnership, n.decide,
		(&link{Node: n}).run, n.claims.run, n.giveBack, n.answerCalls, n.keepQuotas, n.endReservations, n.pollSpool, (&reconciler{Node: n}).run,
	} {
		work.Go(func() error { return part(ctx) })
	}
	return work.Wait()
}

// watchJournal ends everything when the journal is poisoned.
func (n *Node) watchJournal(ctx context.Context) error {
	select {
	case <-n.journal.Failed():
		return fmt.Errorf("journal can no longer be written, the agent has to be started anew: %w", n.journal.Cause())
	case <-ctx.Done():
		return nil
	}
}

// decide settles what to go by: what is on disk, at once, if it was settled in this boot before; after a new boot
// ipamd's word, and what is on disk only when ipamd stays silent.
func (n *Node) decide(ctx context.Context) error {
	if n.book.isUnsettled() {
		select {
		case <-n.settled:
			return nil
		case <-time.After(n.options.silence):
		case <-ctx.Done():
			return nil
		}
		n.log.Warn("ipamd is silent after a new boot: going by what is on disk", "waited", n.options.silence,
			"blocks", n.book.advertised(), "snapshot", n.snapshot() != nil)
	}
	n.settleOnce.Do(func() {
		if n.tellOldOwnership(ctx) == nil {
			n.noteSettled()
		}
	})
	n.notify()
	return nil
}

// settle notes that ipamd has spoken.
func (n *Node) settle() {
	n.settleOnce.Do(n.noteSettled)
	n.notify()
}

// noteSettled lets go by the blocks there are, from now on and after a restart. What cannot be journalled is not so:
// the process is at its end then.
func (n *Node) noteSettled() {
	if n.book.isUnsettled() {
		if _, err := n.write(context.Background(), settledRecord{}); err != nil {
			n.log.Error("which blocks are this node's could not be journalled", "error", err)
			return
		}
	}
	close(n.settled)
}

func (n *Node) setOnline(online bool) {
	n.book.setOnline(online)
	n.mu.Lock()
	n.state.Online = online
	n.mu.Unlock()
	n.notify()
	n.claims.wake()
	n.callDue.wake()
	n.returnDue.wake()
}

// notify asks for the state to be told, and reported.
func (n *Node) notify() {
	n.stateDue.wake()
	n.reportDue.wake()
}

// deliverState calls OnState, once it is settled what to go by.
func (n *Node) deliverState(ctx context.Context) error {
	select {
	case <-n.settled:
	case <-ctx.Done():
		return nil
	}
	var last State
	for first := true; ; first = false {
		n.mu.Lock()
		state := n.state
		n.mu.Unlock()
		state.Blocks = n.book.advertised()
		state.Subnets = n.book.subnets() // of one more or less than Blocks for a moment, and told again then
		if n.options.OnState != nil && (first || !state.same(last)) {
			n.options.OnState(state)
		}
		last = state
		select {
		case <-n.stateDue:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s State) same(other State) bool {
	return s.Snapshot == other.Snapshot && s.Online == other.Online && s.FromDisk == other.FromDisk &&
		slices.Equal(s.Blocks, other.Blocks) && slices.Equal(s.Subnets, other.Subnets)
}

// pollSpool replays the DELs that came while no agent answered.
func (n *Node) pollSpool(ctx context.Context) error {
	tick := time.NewTicker(spoolEvery)
	defer tick.Stop()
	last := ""
	for {
		err := n.replaySpool(ctx)
		if err != nil && err.Error() != last && ctx.Err() == nil {
			n.log.Error("spool could not be replayed", "error", err)
		}
		if last = ""; err != nil {
			last = err.Error()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Ready tells whether the node has a snapshot and may answer an ADD.
func (n *Node) Ready() bool {
	return isClosed(n.settled) && n.snapshot() != nil && n.journal.Cause() == nil
}

// Close ends the journal. Run must have returned, and the server that the plugin calls be stopped: nothing is answered
// after it.
func (n *Node) Close() error {
	if n.options.Metrics != nil {
		n.metrics.unregister(n.options.Metrics)
	}
	return n.journal.Close()
}
