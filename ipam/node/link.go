package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

const (
	dialTimeout     = 5 * time.Second
	registerTimeout = 15 * time.Second
	// steadyAfter is how long a session must have lasted for the next attempt to begin anew with the shortest wait.
	steadyAfter = 10 * time.Second
	// cloneWait is the least wait after a refusal because another live agent has our journal or name: a person has to
	// end that.
	cloneWait = 5 * time.Second
)

// Keepalive is what Dial's connections should use: a dead ipamd is seen in some 15 s, although nothing is sent.
var Keepalive = keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}

// session is one registration with ipamd. Its calls fail when it is over.
type session struct {
	client          clearwayv1.NodeServiceClient
	id, incarnation string
	revision        int64
	term            uint64
	mirrored        uint64
	// Of the goroutine that mirrors: its pace, and the book's number when it last had its turn.
	mirrorPace *rate.Limiter
	turnNumber uint64
	turnTime   time.Time
	end        context.CancelCauseFunc
}

var (
	errRenew = errors.New("ipamd asks for a new registration")
	// errOwnership: a snapshot lacks a block of ours; registration tells for certain.
	errOwnership = errors.New("ipamd no longer names a block that this node holds")
)

// judge ends the session when an answer says that it is not known any more.
func (s *session) judge(err error) {
	if status.Code(err) == codes.Unauthenticated || leaderIn(err) != nil {
		s.end(errRenew)
	}
}

// session is the present one; nil: there is none.
func (n *Node) session() *session { return n.current.Load() }

// electionWait is the longest pause while an ipamd answers that none of them leads: an election takes seconds.
const electionWait = 3 * time.Second

// link keeps one session with ipamd, as long as there is one to be had.
type link struct {
	*Node
	next   int    // the server that is tried next
	leader string // tried before it, once; empty: none was named
}

func (l *link) run(ctx context.Context) error {
	retry := &backoff.ExponentialBackOff{
		InitialInterval: 200 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 1.7, MaxInterval: 15 * time.Second,
	}
	lastErr := ""
	for ctx.Err() == nil {
		began := l.now()
		server := l.server()
		err := l.serve(ctx, server)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the context's end is how this loop ends
		}
		if l.now().Sub(began) > steadyAfter {
			retry.Reset()
			lastErr = ""
		}
		wait := retry.NextBackOff()
		switch leader := leaderIn(err); {
		case leader == nil:
		case leader.GetLeader() == "" || leader.GetLeader() == server:
			wait = min(wait, electionWait)
		default:
			l.leader, wait = leader.GetLeader(), min(wait, time.Second)
		}
		if status.Code(err) == codes.AlreadyExists {
			wait = max(wait, cloneWait)
			l.log.Error("ipamd refuses this agent: another live one has its journal or its name", "server", server, "error", err)
		} else if text := err.Error(); text != lastErr { // the same one is not told again and again
			l.log.Warn("no session with ipamd", "server", server, "error", err)
			lastErr = text
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return nil
}

// server is the one to try: a leader that was named, else the next of the list.
func (l *link) server() string {
	if leader := l.leader; leader != "" {
		l.leader = ""
		return leader
	}
	server := l.options.Servers[l.next%len(l.options.Servers)]
	l.next++
	return server
}

func leaderIn(err error) *clearwayv1.NotLeader {
	for _, detail := range status.Convert(err).Details() {
		if leader, ok := detail.(*clearwayv1.NotLeader); ok {
			return leader
		}
	}
	return nil
}

// serve registers with one server and does all that a session has, until one part of it fails.
func (l *link) serve(parent context.Context, server string) error {
	ctx, end := context.WithCancelCause(parent)
	defer end(nil)
	dial, cancel := context.WithTimeout(ctx, dialTimeout)
	conn, err := l.options.Dial(dial, server)
	cancel()
	if err != nil {
		return fmt.Errorf("connect to ipamd: %w", err)
	}
	defer conn.Close()
	s := &session{client: clearwayv1.NewNodeServiceClient(conn), end: end}
	if err := l.register(ctx, s); err != nil {
		return err
	}
	l.current.Store(s)
	l.setOnline(true)
	l.log.Info("registered with ipamd", "server", server)
	defer func() {
		l.current.CompareAndSwap(s, nil)
		l.setOnline(false)
	}()
	work, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context, *session) error{l.watchNode, l.watchOwnership, l.mirror, l.report} {
		work.Go(func() error { return part(ctx, s) })
	}
	err = work.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// register opens a session and brings the book in line with what ipamd answers.
func (l *link) register(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	held, number := l.book.heldBlocks()
	request := &clearwayv1.RegisterRequest{
		Node: l.options.Node, NodeUid: l.options.NodeUID, MachineId: l.options.MachineID, BootId: l.options.BootID,
		JournalId: l.journal.ID().String(), JournalNumber: int64(number), Labels: l.options.Labels,
		AgentVersion: l.options.Version, ProcessId: l.process, HeldBlocks: held,
		AnswersCallBack: true, Allowances: l.book.allowancesTold(),
	}
	from := l.position()
	request.HeldIncarnation, request.HeldTerm, request.HeldRevision = from.incarnation, from.term, from.revision
	for _, address := range l.options.Addresses {
		request.Addresses = append(request.Addresses, address.String())
	}
	answer, err := s.client.Register(ctx, request)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	s.id, s.incarnation, s.revision, s.term = answer.GetSessionId(), answer.GetIncarnation(), answer.GetRevision(), answer.GetTerm()
	s.mirrored = uint64(max(answer.GetMirroredNumber(), 0))
	if err := l.adopt(ctx, answer); err != nil {
		return fmt.Errorf("take registration over: %w", err)
	}
	l.reach(position{answer.GetIncarnation(), answer.GetTerm(), answer.GetRevision()})
	l.notify()
	return nil
}

// adopt takes the answer of a registration into the journal: blocks of ours that it did not know, sealed where ipamd
// says so, blocks that are lost, and the assignments of a journal that was lost.
func (l *link) adopt(ctx context.Context, answer *clearwayv1.RegisterResponse) error {
	if err := l.takeSplits(ctx, answer.GetBlocks(), answer.GetSealedBlocks()); err != nil {
		return err
	}
	// What is lost goes before what is ours: another part of it may be.
	for _, text := range answer.GetLostBlocks() {
		if err := l.lose(ctx, text); err != nil {
			return err
		}
	}
	for _, spec := range answer.GetBlocks() {
		if err := l.adoptBlock(ctx, spec, slices.Contains(answer.GetSealedBlocks(), spec.GetCidr())); err != nil {
			return err
		}
	}
	if l.book.storeOf() != answer.GetIncarnation() {
		if _, err := l.write(ctx, storeRecord{answer.GetIncarnation()}); err != nil {
			return err
		}
	}
	if err := l.adoptAssignments(ctx, answer.GetKnownAssignments()); err != nil {
		return err
	}
	if err := l.takeAllowances(ctx, answer.GetAllowances(), answer.GetRevision()); err != nil {
		return err
	}
	l.book.setAdopted()
	return nil
}

func (l *link) adoptBlock(ctx context.Context, spec *clearwayv1.BlockSpec, sealed bool) error {
	r, err := parseBlock(spec)
	if err != nil {
		l.log.Error("ipamd names a block that cannot be read", "block", spec.GetCidr(), "error", err)
		return nil
	}
	if why := l.book.valid(r.CIDR); why != "" {
		l.log.Error("ipamd names a block that cannot be used", "block", r.CIDR, "reason", why)
		return nil
	}
	r.Sealed = sealed
	was, known := l.book.record(r.CIDR)
	if known {
		r.Parent, r.RestUntil = was.Parent, was.RestUntil
		r.Sealed = r.Sealed || was.Sealed // until it is accounted for, whatever ipamd makes of it by now
		if was.same(r) {
			return nil
		}
	}
	if _, err := l.write(ctx, r); err != nil {
		return err
	}
	if !known || r.Sealed && !was.Sealed {
		l.log.Warn("took over a block that ipamd says is this node's", "block", r.CIDR, "pool", r.Pool, "sealed", r.Sealed)
	}
	return nil
}

// lose drops a block that is no longer the node's. Those who still hold addresses of it cannot be reached any more.
func (l *link) lose(ctx context.Context, text string) error {
	for _, spec := range l.book.specs() {
		if spec.GetCidr() != text {
			continue
		}
		r, err := parseBlock(spec)
		if err != nil {
			return err
		}
		if _, err := l.write(ctx, blockGoneRecord{CIDR: r.CIDR, Generation: r.Generation}); err != nil {
			return err
		}
		if spec.GetState() == clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING {
			continue // given back, and the answer was lost
		}
		stranded := l.book.stranded(r.CIDR)
		l.log.Error("block is no longer this node's; it is withdrawn", "block", r.CIDR, "stranded", stranded)
		l.event(eventWarning, "BlockLost", "Block/"+clearwayv1.PrefixName(text),
			fmt.Sprintf("block %s is no longer this node's; %d assigned addresses in it are stranded", text, len(stranded)))
	}
	return nil
}

// adoptAssignments takes over what ipamd knows of the blocks of a lost journal, so that nothing of it is given twice
// and the attachments get the same answers. What the journal knows itself goes before it.
func (l *link) adoptAssignments(ctx context.Context, specs []*clearwayv1.AssignmentSpec) error {
	for _, r := range l.book.adoptable(specs) {
		if _, err := l.write(ctx, r); err != nil {
			return err
		}
	}
	if len(specs) > 0 {
		l.log.Warn("took over assignments that a lost journal had", "assignments", len(specs))
	}
	return nil
}
