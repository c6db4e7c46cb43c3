package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
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
	Logger   *slog.Logger
	// Metrics is where clearway_ipamd_* are registered; nil: nowhere.
	Metrics prometheus.Registerer
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Server is ipamd's half of Clearway. Make it with New, hang it on a gRPC server made with ServerOptions by Register,
// and Run it.
type Server struct {
	options Options
	store   Store
	log     *slog.Logger
	now     func() time.Time
	metrics *metrics
	health  *health.Server

	// mu guards all following fields, and what state points to.
	mu     sync.RWMutex
	state  *state // nil until the store has been read
	term   record.Term
	leader bool // state is of this term, and the lanes run
	where  string
	// trouble is why there is neither office nor following at present; nil: there is, or nothing has failed yet.
	trouble error

	claims   *lane // decides: everything but the copies of journals
	copies   *lane // copies the nodes' journals
	owners   *ownershipLog
	sessions *sessions
	queries  *queries
	events   chan *clearwayv1.EventSpec

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
		metrics: newMetrics(), health: health.NewServer(),
		owners: newOwnershipLog(), sessions: newSessions(options.Now), queries: newQueries(),
		events: make(chan *clearwayv1.EventSpec, maxQueuedEvents), down: make(chan struct{}),
	}
	s.claims = newLane(s, "claims")
	s.claims.idle = s.freeRested
	s.copies = newLane(s, "copies")
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
