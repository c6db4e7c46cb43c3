package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// maxQueries is how many questions may wait for one node.
const maxQueries = 64

// connection is one agent's TCP connection.
type connection struct{ closed atomic.Bool }

type connectionKey struct{}

// connections is a stats.Handler that tells each call its connection, and marks those that end.
type connections struct{ stats.Handler }

// TagConn implements stats.Handler.
func (connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connection{})
}

// HandleConn implements stats.Handler.
func (connections) HandleConn(ctx context.Context, event stats.ConnStats) {
	if _, ended := event.(*stats.ConnEnd); ended {
		if c, ok := ctx.Value(connectionKey{}).(*connection); ok {
			c.closed.Store(true)
		}
	}
}

// TagRPC implements stats.Handler.
func (connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (connections) HandleRPC(context.Context, stats.RPCStats) {}

// session is one agent's registration. It is live while the connection of its last call is open.
type session struct {
	id, node, process, machine, boot, journal string
	// answersCallBack: its agent knows of call_back.
	answersCallBack bool
	// ended is closed when another took its place, or the office was lost.
	ended chan struct{}

	// mu guards all following fields.
	mu      sync.Mutex
	over    bool
	conn    *connection // nil: of a caller without one; then it counts as open
	seen    time.Time
	watcher *watcher                        // nil: no WatchNode stream is open
	report  *clearwayv1.ReportStatusRequest // nil: none yet
	heard   time.Time                       // when the report came
}

// watcher is a WatchNode stream; a node's newer one takes the place of the older.
type watcher struct {
	// dirty has a token when the node's snapshot may have changed.
	dirty chan struct{}
	asked chan *clearwayv1.Query
	// replaced is closed when a newer stream came.
	replaced chan struct{}
}

// watch makes a stream the node's.
func (n *session) watch() *watcher {
	made := &watcher{
		dirty: make(chan struct{}, 1), asked: make(chan *clearwayv1.Query, maxQueries), replaced: make(chan struct{}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watcher != nil {
		close(n.watcher.replaced)
	}
	n.watcher = made
	return made
}

func (n *session) unwatch(one *watcher) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watcher == one {
		n.watcher = nil
	}
}

func (n *session) live() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.over && (n.conn == nil || !n.conn.closed.Load())
}

// touch notes a call of the agent.
func (n *session) touch(ctx context.Context, now time.Time) {
	conn, _ := ctx.Value(connectionKey{}).(*connection)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conn, n.seen = conn, now
}

func (n *session) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.over {
		n.over = true
		close(n.ended)
	}
}

// status is what is known of an agent by its session: phase, when it was last heard, and its last report (nil: none).
func (n *session) status() (phase string, seen time.Time, report *clearwayv1.ReportStatusRequest) {
	live := n.live()
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case !live:
		phase = phaseLost
	case n.report.GetReady():
		phase = phaseReady
	default:
		phase = phaseNotReady
	}
	return phase, n.seen, n.report
}

// reportTime is when the last report came.
func (n *session) reportTime() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.heard
}

// A node's phases.
const (
	phaseReady    = "Ready"
	phaseNotReady = "NotReady"
	phaseLost     = "Lost"
	phaseAwaited  = "Awaited"
)

// sessions are all agents' sessions, one a node: the last. They are the leader's memory only.
type sessions struct {
	now func() time.Time
	// mu guards all following fields. It is taken before a session's own.
	mu     sync.Mutex
	byNode map[string]*session
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, byNode: map[string]*session{}}
}

// admit refuses an agent that another live one is in the way of: of the same name elsewhere, or with the same journal
// (a clone). An agent that was restarted, on the same boot of the same machine, takes over from itself at once.
func (t *sessions) admit(request *clearwayv1.RegisterRequest) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.admitLocked(request)
}

func (t *sessions) admitLocked(request *clearwayv1.RegisterRequest) error {
	for name, other := range t.byNode {
		sameNode := name == request.GetNode()
		if (!sameNode && other.journal != request.GetJournalId()) || !other.live() {
			continue
		}
		if !sameNode {
			return status.Errorf(codes.AlreadyExists, "node %q has the journal %s of the live node %q: it is a clone of "+
				"it; give it an empty data folder", request.GetNode(), other.journal, name)
		}
		restarted := other.machine == request.GetMachineId() && other.boot == request.GetBootId()
		if other.process != request.GetProcessId() && !restarted {
			return status.Errorf(codes.AlreadyExists, "node %q is live on another machine or boot (machine %s, boot %s); "+
				"stop that agent, or give this node another name", name, other.machine, other.boot)
		}
	}
	return nil
}

// open makes a node's session, in the place of the one before. It admits once more: two may have come at once.
func (t *sessions) open(ctx context.Context, request *clearwayv1.RegisterRequest) (*session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.admitLocked(request); err != nil {
		return nil, err
	}
	made := &session{
		id: uuid.NewString(), node: request.GetNode(), process: request.GetProcessId(),
		machine: request.GetMachineId(), boot: request.GetBootId(), journal: request.GetJournalId(),
		answersCallBack: request.GetAnswersCallBack(), ended: make(chan struct{}),
	}
	made.touch(ctx, t.now())
	if before := t.byNode[made.node]; before != nil {
		before.end()
	}
	t.byNode[made.node] = made
	return made, nil
}

// find returns the session that a call names. UNAUTHENTICATED: the agent is to register again.
func (t *sessions) find(ctx context.Context, node, id string) (*session, error) {
	t.mu.Lock()
	found := t.byNode[node]
	t.mu.Unlock()
	if found == nil || found.id != id {
		return nil, status.Errorf(codes.Unauthenticated, "session %q of node %q is not known here: register again", id, node)
	}
	found.touch(ctx, t.now())
	return found, nil
}

// of returns a node's session, or nil.
func (t *sessions) of(node string) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byNode[node]
}

func (t *sessions) all() []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*session, 0, len(t.byNode))
	for _, one := range t.byNode {
		all = append(all, one)
	}
	return all
}

// end ends a node's session: its agent has to register again.
func (t *sessions) end(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.byNode[node]; one != nil {
		one.end()
		delete(t.byNode, node)
	}
}

func (t *sessions) endAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for node, one := range t.byNode {
		one.end()
		delete(t.byNode, node)
	}
}

func (t *sessions) wake(node string) {
	if one := t.of(node); one != nil {
		one.wake()
	}
}

func (t *sessions) wakeAll() {
	for _, one := range t.all() {
		one.wake()
	}
}

func (n *session) wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watcher == nil {
		return // the next stream begins with the newest
	}
	select {
	case n.watcher.dirty <- struct{}{}:
	default:
	}
}

// ask hands a question to the node's stream.
func (n *session) ask(query *clearwayv1.Query) error {
	live := n.live()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watcher == nil || !live {
		return errors.New("its agent is not connected")
	}
	select {
	case n.watcher.asked <- query:
		return nil
	default:
		return fmt.Errorf("%d questions wait for it already", maxQueries)
	}
}
