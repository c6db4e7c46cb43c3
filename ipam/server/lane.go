package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/ipam/store/record"
)

// Limits of a lane.
const (
	maxQueued = 8192 // wishes that wait; a caller beyond them waits for its turn until its deadline
	// maxTxnBytes keeps a transaction below etcd's default request size of 1.5 MiB.
	maxTxnBytes = 1 << 20
)

// idleTime is how often a lane looks for what is to be done by itself. Tests shorten it before they start a server.
var idleTime = time.Second

// wish is what one caller wants of the store.
type wish struct {
	ctx context.Context
	// plan decides against the state and adds what is to be written. It is called by the lane's goroutine alone, with
	// the server's lock held, and changes nothing but the spaces, which undo puts back. An error is the answer.
	plan func(*plan) error
	// done takes the answer; nil is success. Buffered: the lane never waits.
	done chan error
	// own: the wish reads what other wishes of a batch may change, so it is planned by itself.
	own bool
	// retried: a guard did not hold once already.
	retried bool
}

// plan gathers the writes of one wish.
type plan struct {
	*state
	now    time.Time
	guards []record.Guard
	ops    []record.Op
	// sequences are the pools claimed from: the lane raises each one's counter once a transaction.
	sequences []string
	// marks keep wishes apart that must not be planned together, beside those that write the same key.
	marks    []record.Key
	onDone   []func(revision int64) // with the server's lock held, after the state has changed
	onFailed []func()               // with the server's lock held, when nothing was written
}

func (p *plan) write(ops ...record.Op)         { p.ops = append(p.ops, ops...) }
func (p *plan) guard(guards ...record.Guard)   { p.guards = append(p.guards, guards...) }
func (p *plan) done(then func(revision int64)) { p.onDone = append(p.onDone, then) }
func (p *plan) failed(then func())             { p.onFailed = append(p.onFailed, then) }
func (p *plan) size() (n int) {
	for _, op := range p.ops {
		n += len(op.Key) + len(op.Value)
	}
	return n
}

// lane writes wishes to the store, many in one transaction, one transaction at a time.
type lane struct {
	s     *Server
	name  string
	queue chan *wish
	// left is a wish that no longer fitted the last batch; only the lane's goroutine uses it.
	left *wish
	// idle is asked once a second for what is to be done by itself; nil: nothing.
	idle func() *wish
}

func newLane(s *Server, name string) *lane {
	return &lane{s: s, name: name, queue: make(chan *wish, maxQueued)}
}

// do hands a wish to the lane and waits for its answer. When ctx ends before, decide may be running still, or run later: what
// it writes is not to be read then.
func (l *lane) do(ctx context.Context, own bool, decide func(*plan) error) error {
	if err := l.s.mustLead(); err != nil {
		return err
	}
	w := &wish{ctx: ctx, plan: decide, done: make(chan error, 1), own: own}
	select {
	case l.queue <- w:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// due asks whether there is something to be done, beside others' wishes: what is done by itself, one transaction after the
// other, is mostly not, and thousands of nodes may register at once. look changes nothing.
func (s *Server) due(ctx context.Context, look func(*plan) bool) (bool, error) {
	found := false
	if err := s.claims.do(ctx, false, func(p *plan) error {
		found = look(p)
		return nil
	}); err != nil {
		return false, err // found may be written still
	}
	return found, nil
}

// run serves the queue until the term is over; its error tells why.
func (l *lane) run(ctx context.Context, term record.Term) error {
	defer l.drain()
	second := time.NewTicker(idleTime)
	defer second.Stop()
	for {
		var first *wish
		if first, l.left = l.left, nil; first == nil {
			select {
			case first = <-l.queue:
			case <-second.C:
				if l.idle != nil {
					first = l.idle()
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if first == nil {
			continue
		}
		if err := l.serve(ctx, term, l.batch(first)); err != nil {
			return err
		}
	}
}

// drain answers those who wait: nothing of theirs was written.
func (l *lane) drain() {
	if l.left != nil {
		l.left.done <- l.s.overNow()
		l.left = nil
	}
	for {
		select {
		case w := <-l.queue:
			w.done <- l.s.overNow()
		default:
			return
		}
	}
}

func (s *Server) overNow() error { return notLeader("") }

// batch takes what else waits, as much as may be planned with the first.
func (l *lane) batch(first *wish) []*wish {
	batch := []*wish{first}
	for !first.own && !first.retried && len(batch) < record.MaxOps {
		select {
		case w := <-l.queue:
			if w.own || w.retried {
				l.left = w
				return batch
			}
			batch = append(batch, w)
		default:
			return batch
		}
	}
	return batch
}

// planned is a wish whose writes are part of a transaction.
type planned struct {
	*wish
	*plan
}

// serve plans, writes and answers a batch. Only an error that ends the term is returned.
func (l *lane) serve(ctx context.Context, term record.Term, batch []*wish) error {
	for len(batch) > 0 {
		var txn record.Txn
		var part []planned
		part, txn, batch = l.plan(batch)
		if len(part) == 0 {
			continue
		}
		start := time.Now()
		// A write under way is finished even when the term ends: its answer is wanted.
		revision, err := l.s.store.Commit(context.WithoutCancel(ctx), term, txn)
		l.s.metrics.committed(l.name, len(part), time.Since(start), err)
		if err == nil {
			err = l.settle(revision, txn, part)
		}
		if err == nil {
			continue
		}
		if over := l.fail(err, part); over != nil {
			for _, w := range batch {
				w.done <- l.s.overNow()
			}
			return over
		}
	}
	return nil
}

// draft is a transaction that is being put together.
type draft struct {
	record.Txn
	size      int
	touched   map[record.Key]bool
	sequences map[string]sequence
}

// add takes a plan's writes in, unless they do not fit: too many, too large, or of a key that is written already.
func (d *draft) add(p *plan) bool {
	for _, op := range p.ops {
		if d.touched[op.Key] {
			return false
		}
	}
	for _, mark := range p.marks {
		if d.touched[mark] {
			return false
		}
	}
	counters := len(d.sequences) + len(p.sequences) // at most
	size := d.size + p.size()
	if len(d.Ops)+len(p.ops)+counters > record.MaxOps || len(d.Guards)+len(p.guards)+counters > record.MaxOps ||
		(size > maxTxnBytes && d.size > 0) {
		return false
	}
	d.Ops, d.Guards, d.size = append(d.Ops, p.ops...), append(d.Guards, p.guards...), size
	for _, op := range p.ops {
		d.touched[op.Key] = true
	}
	for _, mark := range p.marks {
		d.touched[mark] = true
	}
	for _, name := range p.sequences {
		d.sequences[name] = p.state.sequences[name]
	}
	return true
}

// txn closes the draft: each pool's counter must be where we left it, and goes on by one.
func (d *draft) txn() record.Txn {
	for name, was := range d.sequences {
		key := record.SequenceKey(name)
		d.Guards = append(d.Guards, record.Guard{Key: key, ModRevision: was.revision})
		d.Ops = append(d.Ops, record.Op{Key: key, Value: strconv.AppendInt(nil, was.number+1, 10)})
	}
	return d.Txn
}

// plan plans wishes until one does not fit, and returns what is left of them. Those that need nothing written, or are
// refused, are answered here.
func (l *lane) plan(batch []*wish) (part []planned, txn record.Txn, left []*wish) {
	d := draft{touched: map[record.Key]bool{}, sequences: map[string]sequence{}}
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range batch {
		if w.ctx.Err() != nil {
			w.done <- status.FromContextError(w.ctx.Err()).Err()
			continue
		}
		p := &plan{state: s.state, now: s.now()}
		if err := w.plan(p); err != nil {
			undo(p)
			w.done <- err
			continue
		}
		if len(p.ops) == 0 {
			finish(p, s.state.revision)
			w.done <- nil
			continue
		}
		if !d.add(p) {
			undo(p)
			if len(part) == 0 {
				w.done <- status.Error(codes.Internal, "more is to be written than one transaction takes")
				continue
			}
			return part, d.txn(), batch[i:]
		}
		part = append(part, planned{w, p})
	}
	return part, d.txn(), nil
}

func undo(p *plan) {
	for _, then := range p.onFailed {
		then()
	}
}

func finish(p *plan, revision int64) {
	for _, then := range p.onDone {
		then(revision)
	}
}

// settle brings what was written into the state, tells the watchers, and answers.
func (l *lane) settle(revision int64, txn record.Txn, part []planned) error {
	touched := newChange()
	s := l.s
	s.mu.Lock()
	for _, op := range txn.Ops {
		if err := s.state.applyOp(op, revision, touched); err != nil {
			s.mu.Unlock()
			return fmt.Errorf("%w: what was written cannot be read back: %w", record.ErrUnknown, err)
		}
	}
	if l == s.claims { // the copies' revisions say nothing about owners and configuration
		s.state.revision = max(s.state.revision, revision)
	}
	for _, one := range part {
		finish(one.plan, revision)
	}
	s.publishLocked(touched)
	s.mu.Unlock()
	for _, one := range part {
		one.wish.done <- nil
	}
	return nil
}

// applyOp brings one write of our own into the state.
func (s *state) applyOp(op record.Op, revision int64, touched *change) error {
	if op.Under {
		if op.Key.Room() == record.Assignments {
			node, _, _ := (op.Key + "0").Assignment() // only the node is wanted
			for _, spec := range s.assignments[node] {
				s.tallyOf(spec.GetPool()).assigned--
				s.past.drop(spec)
			}
			delete(s.assignments, node)
		}
		if op.Key.Room() == record.Allowances {
			delete(s.allowances, strings.TrimSuffix(op.Key.Rest(), "/"))
		}
		return nil
	}
	return s.apply(record.Record{Key: op.Key, Value: op.Value, ModRevision: revision}, touched)
}

// fail answers a batch that was not written. The error it returns, if any, ends the term.
func (l *lane) fail(err error, part []planned) error {
	over := errors.Is(err, record.ErrNotLeader) || errors.Is(err, record.ErrUnknown)
	if errors.Is(err, record.ErrNoSpace) {
		l.s.sayFull()
	}
	l.s.mu.Lock()
	for _, one := range part {
		undo(one.plan) // after an unknown outcome the whole state is read anew
	}
	l.s.mu.Unlock()
	for _, one := range part {
		switch {
		case over:
			one.wish.done <- l.s.overNow()
		case errors.Is(err, record.ErrConflict) && !one.retried:
			l.again(one.wish)
		case errors.Is(err, record.ErrConflict):
			if len(one.sequences) > 0 {
				over = true // another claimed from our pool: what we remember is wrong
				err = fmt.Errorf("a pool's counter is not where it was left: %w", err)
			}
			one.wish.done <- status.Error(codes.Aborted, "what this is about was changed meanwhile; try again")
		default:
			one.wish.done <- status.Errorf(codes.Unavailable, "the store refused the write: %v", err)
		}
	}
	if over {
		return err
	}
	if !errors.Is(err, record.ErrConflict) {
		l.s.log.Error("the store refused a write", "lane", l.name, "wishes", len(part), "error", err)
	}
	return nil
}

// again queues a wish once more, to be planned by itself.
func (l *lane) again(w *wish) {
	w.retried = true
	select {
	case l.queue <- w:
	default:
		w.done <- status.Error(codes.Aborted, "what this is about was changed meanwhile; try again")
	}
}
