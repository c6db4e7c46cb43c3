package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// firstPause is how long a server waits after a term that was over before it stands for office again. Tests shorten it.
var firstPause = 50 * time.Millisecond

// serveTerms is a follower until it is in office, leads while the term lasts, and so on until ctx ends.
func (s *Server) serveTerms(ctx context.Context) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = firstPause, 2*time.Second
	for ctx.Err() == nil {
		err := s.serveTerm(ctx)
		what := "the store does not answer"
		if s.Leading() {
			pause.Reset() // it did
			what = "the term is over"
		}
		s.leave(err)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the context's end is how this loop ends
		}
		wait := pause.NextBackOff()
		s.log.Warn(what, "reason", err, "next", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return nil
}

func (s *Server) serveTerm(ctx context.Context) error {
	term, err := s.follow(ctx)
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	// The office is given back whatever happens: after an unknown outcome it must be, and at the end it helps others.
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := s.store.Resign(closing, term); err != nil {
			s.log.Warn("the office is left to expire", "error", err)
		}
	}()
	if err := s.lead(ctx, term); err != nil {
		return fmt.Errorf("lead: %w", err)
	}
	return nil
}

// lead reads the store and runs the lanes until the term is over.
func (s *Server) lead(ctx context.Context, term record.Term) error {
	loaded, err := s.load(ctx)
	if err != nil {
		return err
	}
	wentBack, err := s.settleLife(ctx, term, loaded)
	if err != nil {
		return err
	}
	reason, awaited := loaded.life.GetRecovery().GetReason(), loaded.awaited()
	s.enter(loaded, term)
	if wentBack { // not told before: who does not lead writes no events
		s.noteRecovery(reason, awaited)
	}
	s.log.Info("leading", "revision", loaded.revision, "blocks", len(loaded.blocks), "nodes", len(loaded.nodes))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.claims.run(ctx, term) })
	group.Go(func() error { return s.copies.run(ctx, term) })
	group.Go(func() error { return s.records.run(ctx, term) })
	group.Go(func() error { return s.keepHistory(ctx) })
	group.Go(func() error { return s.callBack(ctx) })
	group.Go(func() error { return s.keepLife(ctx) })
	group.Go(func() error { return s.watchSpace(ctx) })
	if s.options.WhileLeading != nil {
		group.Go(func() error {
			s.options.WhileLeading(ctx)
			return nil
		})
	}
	group.Go(func() error {
		select {
		case <-term.Lost:
			return record.ErrNotLeader
		case <-s.reload:
			return errReload
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return group.Wait()
}

// errReload ends a term so that the next one reads the store anew.
var errReload = errors.New("an operator's check found that memory differs from the store")

// load reads everything into a state of its own.
func (s *Server) load(ctx context.Context) (*state, error) {
	loaded := newState()
	revision, err := s.store.Load(ctx, func(one record.Record) error {
		return loaded.apply(one, newChange())
	})
	if err != nil {
		return nil, err
	}
	loaded.revision = revision
	return loaded, nil
}

// settleLife finds out which life of the store this is: a new one, the one of before, or one that was restored.
func (s *Server) settleLife(ctx context.Context, term record.Term, loaded *state) (isRestored bool, err error) {
	identity, err := s.store.Identity(ctx)
	if err != nil {
		return false, err
	}
	was, life := loaded.incarnation, loaded.life
	incarnation := was
	why := wentBack(life, identity)
	if why == "" {
		why = s.remembers(loaded)
	}
	switch {
	case was == "":
		incarnation = uuid.NewString()
		life = &clearwayv1.StoreLife{MintedTime: timestamppb.New(s.now())}
	case why != "":
		incarnation = uuid.NewString()
		life = restored(life, was, "the store was restored: "+why, loaded.revision+1, epochOf(life), s.now())
	case life == nil:
		life = &clearwayv1.StoreLife{}
	default:
		life = proto.CloneOf(life)
	}
	life.Cluster, life.LogIndex = identity.Cluster, identity.LogIndex
	beginTerm(life, term)
	txn := record.Txn{Ops: []record.Op{lifeOp(life)}}
	if incarnation != was {
		txn.Ops = append(txn.Ops, record.Op{Key: record.Incarnation, Value: []byte(incarnation)})
	}
	revision, err := s.store.Commit(ctx, term, txn)
	if err != nil {
		return false, fmt.Errorf("name the store's incarnation: %w", err)
	}
	for _, op := range txn.Ops {
		if err := loaded.applyOp(op, revision, newChange()); err != nil {
			return false, err
		}
	}
	loaded.revision = revision
	return why != "", nil
}

// remembers tells why the store went back in time, by what this process has seen of it before; "" when it did not.
func (s *Server) remembers(loaded *state) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.state == nil || s.state.incarnation != loaded.incarnation || s.state.revision <= loaded.revision {
		return ""
	}
	return fmt.Sprintf("it was at revision %d, and is at %d", s.state.revision, loaded.revision)
}

// enter puts a state in use, as the leader's.
func (s *Server) enter(loaded *state, term record.Term) {
	s.sessions.endAll()
	s.mu.Lock()
	s.state, s.term, s.leader, s.where, s.trouble = loaded, term, true, s.options.Address, nil
	s.opens = s.now().Add(loaded.ipamConfiguration().RecoveryWait)
	if !s.started && s.options.ReturnWait > 0 {
		s.returnBy = s.now().Add(s.options.ReturnWait)
	}
	s.started, s.enteredAt = true, s.now()
	s.resetOwnersLocked(false)
	s.mu.Unlock()
	s.health.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
}

// leave ends the term in memory: what was read stays for readers.
func (s *Server) leave(why error) {
	s.mu.Lock()
	s.leader, s.where, s.trouble = false, "", why
	s.owners.begin(0)
	s.mu.Unlock()
	s.sessions.endAll()
	s.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
}

// followAfter is how long one waits for the office before reading the store as a follower: alone, it comes at once.
const followAfter = 300 * time.Millisecond

// follow keeps the state by watching the store, until this server comes to office.
func (s *Server) follow(ctx context.Context) (record.Term, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		term record.Term
		err  error
	}
	won := make(chan result, 1)
	go func() {
		term, err := s.store.Campaign(ctx, s.options.Address)
		won <- result{term, err}
	}()
	select {
	case got := <-won:
		return got.term, got.err
	case <-time.After(followAfter):
	}
	watching, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() { watched <- s.watchStore(watching) }()
	var got result
	var failed error
	select {
	case got = <-won:
		stop()
		<-watched //nolint:errcheck // it was stopped
	case failed = <-watched:
		stop()
		cancel()
		got = <-won // a campaign that was won just now is given up below
	}
	if failed != nil {
		s.giveUp(got.term)
		return record.Term{}, failed
	}
	return got.term, got.err
}

// giveUp resigns a term that was won while following failed.
func (s *Server) giveUp(term record.Term) {
	if term.Revision == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := s.store.Resign(ctx, term); err != nil {
		s.log.Warn("the office is left to expire", "error", err)
	}
}

// watchStore keeps the state of a follower until ctx ends.
func (s *Server) watchStore(ctx context.Context) error {
	loaded, err := s.load(ctx)
	if err != nil {
		return err
	}
	if err := s.findLeader(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	s.state, s.trouble = loaded, nil
	s.resetOwnersLocked(false)
	s.mu.Unlock()
	s.health.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
	s.log.Info("following", "revision", loaded.revision)
	for batch := range s.store.Watch(ctx, loaded.revision) {
		if batch.Err != nil {
			return batch.Err
		}
		if err := s.applyBatch(ctx, batch); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the context's end is how this ends
	}
	return errors.New("the watch of the store broke off")
}

func (s *Server) applyBatch(ctx context.Context, batch record.Batch) error {
	touched := newChange()
	elected := false
	s.mu.Lock()
	for _, one := range batch.Records {
		elected = elected || one.Key == record.Leader
		if err := s.state.apply(one, touched); err != nil {
			s.mu.Unlock()
			return err
		}
	}
	s.state.revision = max(s.state.revision, batch.Revision)
	s.publishLocked(touched)
	s.mu.Unlock()
	if elected {
		return s.findLeader(ctx)
	}
	return nil
}

func (s *Server) findLeader(ctx context.Context) error {
	where, err := s.store.Leader(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leader {
		s.where = where
	}
	return nil
}
