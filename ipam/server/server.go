package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Options are what a Server needs. Store and Logger must be set.
type Options struct {
	Store Store
	// Address is where agents and other ipamds reach this one: host and port.
	Address string
	// Validate tells the faults of resources of the kinds that package pool does not know; nil: none.
	Validate func(clearwayv1.Object) []*clearwayv1.FieldViolation
	// Source has the configuration, where it is not ours; nil: it is ours.
	Source Source
	// WhileLeading runs while this server leads: its context ends with the term, and the term waits for its end. It is
	// called anew in each term; nil: nothing does.
	WhileLeading func(context.Context)
	Logger       *slog.Logger
	// Limits bound each caller's calls; the zero value does not.
	Limits Limits
	// Tokens judges the tokens of callers who have no certificate; nil: there must be a certificate.
	Tokens Tokens
	// Metrics is where clearway_ipamd_* are registered; nil: nowhere.
	Metrics prometheus.Registerer
	// ReturnWait is how long claims wait at most, after the start, for the nodes that the store knows: one of them may know
	// that the store is a copy of before. 0: they do not, where nobody copies a store by its files.
	ReturnWait time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Server is ipamd's half of Clearway. Make it with New, hang it on a gRPC server made with ServerOptions by Register,
// and Run it.
type Server struct {
	options  Options
	store    Store
	log      *slog.Logger
	now      func() time.Time
	metrics  *metrics
	limits   *limits
	refusals *refusals
	tokens   *tokens // nil: none are taken
	health   *health.Server

	// lookedAt is when all orphaned blocks were last looked at, orphansWait why that told nothing, and orphanSets those that
	// there were. They are the claims lane's own.
	lookedAt    time.Time
	orphansWait string
	orphanSets  orphanSets

	// mu guards all following fields, and what state points to.
	mu     sync.RWMutex
	state  *state // nil until the store has been read
	term   record.Term
	leader bool // state is of this term, and the lanes run
	where  string
	// trouble is why there is neither office nor following at present; nil: there is, or nothing has failed yet.
	trouble error
	// opens is when claims may open again at the soonest, when the store recovers: nodes that it does not know have had
	// time to come.
	opens time.Time
	// returnBy is until when claims wait for nodes to come back after the start; zero: they do not, or no longer.
	returnBy time.Time
	started  bool // the first term has begun
	// enteredAt is when this term began.
	enteredAt time.Time
	// refused are the nodes whose registration a recovering store refused, and when and why. They are waited for.
	refused map[string]refusal
	pods    Missing // nil: nobody knows of Kubernetes' Pods
	// tightQuotas are those of which a node got too little for a Pod that waits, and when that was last.
	tightQuotas map[string]time.Time

	claims   *lane         // decides: everything but the copies of journals
	copies   *lane         // copies the nodes' journals
	records  *lane         // keeps the history, beside what comes with the copies
	full     chan struct{} // the store has refused a write for want of room
	owners   *ownershipLog
	sessions *sessions
	wants    *wants
	queries  *queries
	events   chan *clearwayv1.EventSpec
	// tight: the store is nearly full.
	tight atomic.Bool
	// reload has a token when the store is to be read anew, by a new term.
	reload chan struct{}

	// down is closed when the server stops: streams end.
	down chan struct{}
}

// New makes a server; Run starts it.
func New(options Options) (*Server, error) {
	if options.Store == nil || options.Logger == nil {
		return nil, errors.New("new server: no store, or no logger")
	}
	if options.Validate == nil {
		options.Validate = func(clearwayv1.Object) []*clearwayv1.FieldViolation { return nil }
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	s := &Server{
		options: options, store: options.Store, log: options.Logger, now: options.Now,
		metrics: newMetrics(), limits: newLimits(options.Limits, options.Now), refusals: newRefusals(options.Logger),
		tokens:  newTokens(options.Tokens, options.Now),
		health:  health.NewServer(),
		refused: map[string]refusal{}, tightQuotas: map[string]time.Time{}, owners: newOwnershipLog(), sessions: newSessions(options.Now), wants: newWants(), queries: newQueries(),
		full: make(chan struct{}, 1), events: make(chan *clearwayv1.EventSpec, maxQueuedEvents), reload: make(chan struct{}, 1), down: make(chan struct{}),
	}
	s.claims = newLane(s, "claims")
	s.claims.idle = s.chores
	s.copies, s.records = newLane(s, "copies"), newLane(s, "records")
	s.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	if options.Metrics != nil {
		if err := s.metrics.register(options.Metrics, s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Register hangs all services on a gRPC server.
func (s *Server) Register(to *grpc.Server) {
	clearwayv1.RegisterResourceServiceServer(to, &resourceService{s: s})
	clearwayv1.RegisterIPAMServiceServer(to, &ipamService{s: s})
	clearwayv1.RegisterNodeServiceServer(to, &nodeService{s: s})
	healthv1.RegisterHealthServer(to, s.health)
	reflection.Register(to)
}

// Run works until ctx ends; then it gives up the office, ends all streams and returns nil. It is called once.
func (s *Server) Run(ctx context.Context) error {
	defer close(s.down)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.serveTerms(ctx) })
	group.Go(func() error { return s.owners.run(ctx) })
	group.Go(func() error { return s.writeEvents(ctx) })
	return group.Wait()
}

// Ready is nil when a leader is known and the store has been read; else it tells why not.
func (s *Server) Ready() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.trouble != nil:
		if errors.Is(s.trouble, record.ErrNotLeader) {
			return errors.New("this ipamd has lost its office, and no other leads yet")
		}
		return fmt.Errorf("the store does not answer: %w", s.trouble)
	case s.state == nil:
		return errors.New("the store has not been read yet")
	case !s.leader && s.where == "":
		return errors.New("there is no leader")
	}
	return nil
}

// Leading tells whether this server is in office and serves.
func (s *Server) Leading() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.leader
}

// view calls read with the state, which it must neither change nor keep.
func (s *Server) view(read func(*state)) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.state == nil {
		return notLeader(s.where)
	}
	read(s.state)
	return nil
}

// mustLead is nil for the leader, and else the answer to who asked.
func (s *Server) mustLead() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.leader {
		return nil
	}
	return notLeader(s.where)
}
