package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Limits of a recovery.
const (
	// refusedFor is how long a node that was refused is waited for after its last try: agents try every 23 s.
	refusedFor = time.Minute
	// maxNamed bounds the names in one refusal or sentence.
	maxNamed = 20
)

// refusal is why a node that reported was turned away, and when.
type refusal struct {
	at  time.Time
	why string
}

// suspicion is what an agent's registration shows of the store.
type suspicion struct {
	why string
	// remade: the store was made anew in the place of one that the agent knows, rather than gone back in time.
	remade bool
	// above is the greatest epoch that the agent holds a block of.
	above int64
	// of is the incarnation that is in doubt, brought the one that the agent went by, where it is not that.
	of, brought string
}

// suspect tells whether an agent knows more of the store than the store itself: then the store went back in time, or was
// made anew.
func (s *Server) suspect(ctx context.Context, request *clearwayv1.RegisterRequest) (suspicion, error) {
	var found suspicion
	var ahead bool
	if err := s.view(func(st *state) {
		found.above, found.of = greatestEpoch(request.GetHeldBlocks()), st.incarnation
		if request.GetHeldIncarnation() != st.incarnation {
			found.brought = request.GetHeldIncarnation()
			found.why, found.remade = st.suspectIncarnation(request, s.now())
			return
		}
		if request.GetHeldTerm() != 0 && st.denies(request.GetHeldTerm(), request.GetHeldRevision()) {
			found.why = fmt.Sprintf("the store was restored: node %s was told revision %d in a term of office that did not come so "+
				"far here", request.GetNode(), request.GetHeldRevision())
			return
		}
		ahead = st.isBehind(request, st.revision)
	}); err != nil {
		return found, err
	}
	if !ahead {
		return found, nil
	}
	identity, err := s.store.Identity(ctx) // what we have applied may be behind what a follower has told
	if err != nil {
		return found, status.Errorf(codes.Unavailable, "the store does not answer: %v", err)
	}
	return found, s.view(func(st *state) {
		if st.isBehind(request, identity.Revision) {
			found.why = fmt.Sprintf("the store was restored: node %s knows it at revision %d, and it is at %d",
				request.GetNode(), newestKnown(request), identity.Revision)
		}
	})
}

// suspectIncarnation judges an agent that went by another incarnation.
func (s *state) suspectIncarnation(request *clearwayv1.RegisterRequest, now time.Time) (why string, remade bool) {
	node, held := request.GetNode(), request.GetHeldIncarnation()
	known := s.nodes[node]
	switch {
	case held == "" || s.knows(held):
		return "", false
	case known != nil && known.GetStatus().GetJournalId() == request.GetJournalId():
		return fmt.Sprintf("the store was restored: node %s, which it knows, went by its incarnation %s, which it does not know",
			node, held), false
	case s.young(now) && !s.recovering():
		return fmt.Sprintf("the store was made anew: node %s went by another one, of incarnation %s", node, held), true
	}
	return "", false
}

// isBehind tells whether a revision is below what an agent knows.
func (s *state) isBehind(request *clearwayv1.RegisterRequest, revision int64) bool {
	if request.GetHeldRevision() > revision {
		return true
	}
	return slices.ContainsFunc(request.GetHeldBlocks(), func(held *clearwayv1.BlockSpec) bool {
		epoch, at := clearwayv1.SplitGeneration(held.GetGeneration())
		now := epochOf(s.life)
		return epoch > now || (epoch == now && at > revision)
	})
}

func newestKnown(request *clearwayv1.RegisterRequest) int64 {
	newest := request.GetHeldRevision()
	for _, held := range request.GetHeldBlocks() {
		_, at := clearwayv1.SplitGeneration(held.GetGeneration())
		newest = max(newest, at)
	}
	return newest
}

func greatestEpoch(blocks []*clearwayv1.BlockSpec) (greatest int64) {
	for _, block := range blocks {
		epoch, _ := clearwayv1.SplitGeneration(block.GetGeneration())
		greatest = max(greatest, epoch)
	}
	return greatest
}

// beginRecovery stops claims until every known node has reported. It is success when another has begun it meanwhile. A
// store that recovers already does so anew when it went back in time once more.
func (s *Server) beginRecovery(ctx context.Context, found suspicion) error {
	began := false
	var awaited []string
	err := s.claims.do(ctx, true, func(p *plan) error {
		if began = p.incarnation == found.of && !(found.remade && p.recovering()); !began {
			return nil
		}
		var next *clearwayv1.StoreLife
		if found.remade {
			next = remade(p.life, found.why, p.revision+1, found.above, p.now)
		} else {
			next = restored(p.life, p.incarnation, found.why, p.revision+1, found.above, p.now)
			p.write(record.Op{Key: record.Incarnation, Value: []byte(uuid.NewString())})
		}
		next.Brought = remember(next.GetBrought(), found.brought)
		p.write(lifeOp(next))
		p.done(func(int64) {
			s.opens = p.now.Add(p.ipamConfiguration().RecoveryWait)
			s.refused = map[string]refusal{}
			awaited = p.awaited()
		})
		return nil
	})
	if err == nil && began {
		s.noteRecovery(found.why, awaited)
	}
	return err
}

func (s *Server) noteRecovery(why string, awaited []string) {
	s.note(eventWarning, "Recovering", "", "", fmt.Sprintf("%s. No block is claimed until all known nodes have reported "+
		"theirs or were named dead: %s", why, listed(awaited)))
}

// listed names some of many.
func listed(names []string) string {
	switch n := len(names); {
	case n == 0:
		return "none is awaited"
	case n > maxNamed:
		return fmt.Sprintf("%d are awaited: %s, ...", n, strings.Join(names[:maxNamed], ", "))
	case n == 1:
		return names[0] + " is awaited"
	}
	return strings.Join(names, ", ") + " are awaited"
}

// keepLife ends a recovery when its time has come, and notes now and then how far the cluster's log is, until the term is
// over.
func (s *Server) keepLife(ctx context.Context) error {
	look, note := time.NewTicker(idleTime), time.NewTicker(lifeEvery)
	defer look.Stop()
	defer note.Stop()
	for {
		var err error
		select {
		case <-look.C:
			err = s.endRecovery(ctx)
		case <-note.C:
			err = s.noteLife(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("what is known of the store's life is kept later", "error", err)
		}
	}
}

// endRecovery opens claims, when nobody is awaited any more.
func (s *Server) endRecovery(ctx context.Context) error {
	s.mu.RLock()
	due := s.recoveredLocked()
	s.mu.RUnlock()
	if !due {
		return nil
	}
	text := ""
	err := s.claims.do(ctx, true, func(p *plan) error {
		if !s.recoveredLocked() {
			return nil
		}
		next := proto.CloneOf(p.life)
		took := p.now.Sub(next.GetRecovery().GetStartedTime().AsTime()).Round(time.Second)
		next.Recovery = nil
		p.write(lifeOp(next))
		text = fmt.Sprintf("%d nodes have reported, and %d blocks are known, after %s: blocks are claimed again",
			len(p.nodes), len(p.blocks), took)
		return nil
	})
	if err == nil && text != "" {
		s.note(eventNormal, "Recovered", "", "", text)
	}
	return err
}

// recoveredLocked tells whether a recovery is over: nobody is awaited, and those that the store does not know had time.
func (s *Server) recoveredLocked() bool {
	now := s.now()
	return s.state.recovering() && !now.Before(s.opens) && len(s.state.awaited()) == 0 && len(s.refusedLocked(now)) == 0
}

// refusedLocked are the nodes that were refused a short time ago, as "name: why".
func (s *Server) refusedLocked(now time.Time) []string {
	var found []string
	for _, name := range sortedNames(s.refused) {
		if one := s.refused[name]; now.Sub(one.at) < refusedFor {
			found = append(found, name+": "+one.why)
		}
	}
	return found
}

// noteRefused keeps why a recovering store turned a node away; nil: it did not.
func (s *Server) noteRefused(node string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.refused, node)
		return
	}
	if s.state.recovering() && status.Code(err) == codes.FailedPrecondition {
		s.refused[node] = refusal{s.now(), status.Convert(err).Message()}
	}
}

// spaceEvery is how often the store's size is looked at.
const spaceEvery = 30 * time.Second

// tightAt is the part of the quota from which on events are dropped, so that blocks have the rest.
const tightAt = 0.8

// watchSpace looks how full the store is, until the term is over. Events go first.
func (s *Server) watchSpace(ctx context.Context) error {
	tick := time.NewTicker(spaceEvery)
	defer tick.Stop()
	for {
		if health, err := s.store.Health(ctx); err == nil && health.Quota > 0 {
			tight := float64(health.Size) > tightAt*float64(health.Quota)
			if tight && !s.tight.Swap(tight) {
				s.log.Warn("the store is nearly full: events are no longer kept", "bytes", health.Size, "quota", health.Quota)
			}
			s.tight.Store(tight)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// noteLife notes how far the cluster's log is, so that a restore is recognised by it.
func (s *Server) noteLife(ctx context.Context) error {
	identity, err := s.store.Identity(ctx)
	if err != nil {
		return err
	}
	return s.claims.do(ctx, true, func(p *plan) error {
		next := proto.CloneOf(p.life)
		next.Cluster, next.LogIndex = identity.Cluster, max(next.GetLogIndex(), identity.LogIndex)
		p.write(lifeOp(next))
		return nil
	})
}

// awaitReturnLocked refuses claims for a while after the start, until the nodes that the store knows are back.
func (s *Server) awaitReturnLocked() error {
	if s.returnBy.IsZero() {
		return nil
	}
	var away []string
	if s.now().Before(s.returnBy) {
		away = slices.DeleteFunc(sortedNames(s.state.nodes), func(name string) bool { return s.sessions.of(name) != nil })
	}
	if len(away) == 0 {
		s.returnBy = time.Time{}
		return nil
	}
	return withDetails(status.New(codes.Unavailable, fmt.Sprintf("ipamd has just started, and gives no block before all nodes are "+
		"back, or before %s; %s", s.returnBy.UTC().Format(time.TimeOnly), listed(away))), protoadapt.MessageV1Of(
		&clearwayv1.Recovering{Awaited: away[:min(len(away), maxNamed)], Earliest: timestamppb.New(s.returnBy)}))
}

// mayClaimNow refuses claims while the store recovers. The server's lock is held.
func (s *Server) mayClaimNow(st *state) error {
	if !st.recovering() {
		return s.awaitReturnLocked()
	}
	awaited := st.awaited()
	text := fmt.Sprintf("ipamd is recovering (%s): no block is given until every known node has reported its own; %s",
		st.life.GetRecovery().GetReason(), listed(awaited))
	if len(awaited) == 0 {
		text = fmt.Sprintf("ipamd is recovering (%s): no block is given before %s, so that nodes which the store does not know "+
			"can report theirs", st.life.GetRecovery().GetReason(), s.opens.UTC().Format(time.TimeOnly))
	}
	return withDetails(status.New(codes.Unavailable, text), protoadapt.MessageV1Of(&clearwayv1.Recovering{
		Awaited: awaited[:min(len(awaited), maxNamed)], Earliest: timestamppb.New(s.opens),
	}))
}

// Recovering tells in a sentence that the store recovers and whom it awaits; "" when it does not.
func (s *Server) Recovering() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.state == nil || !s.state.recovering() {
		return ""
	}
	text := "recovering: " + s.state.life.GetRecovery().GetReason() + "; " + listed(s.state.awaited())
	if refused := s.refusedLocked(s.now()); len(refused) > 0 {
		text += "; refused are " + strings.Join(refused[:min(len(refused), maxNamed)], "; ")
	}
	return text
}

// Recover implements IPAMService.
func (i *ipamService) Recover(
	ctx context.Context, request *clearwayv1.RecoverRequest,
) (*clearwayv1.RecoverResponse, error) {
	if err := i.s.mustLead(); err != nil {
		return nil, err
	}
	if text := i.s.Recovering(); text != "" {
		return nil, status.Errorf(codes.FailedPrecondition, "the store is recovering already: %s", text)
	}
	why := "an operator said so"
	if text := request.GetReason(); text != "" {
		if len(text) > maxText {
			return nil, invalid("reason", text[:32]+"...", fmt.Sprintf("is longer than %d bytes", maxText))
		}
		why += ": " + text
	}
	doubt := suspicion{why: why}
	if err := i.s.view(func(st *state) { doubt.of = st.incarnation }); err != nil {
		return nil, err
	}
	if err := i.s.beginRecovery(ctx, doubt); err != nil {
		return nil, err
	}
	answer := &clearwayv1.RecoverResponse{}
	return answer, i.s.view(func(st *state) { answer.Incarnation = st.incarnation })
}

// ShowStore implements IPAMService.
func (i *ipamService) ShowStore(
	ctx context.Context, _ *clearwayv1.ShowStoreRequest,
) (*clearwayv1.ShowStoreResponse, error) {
	answer := &clearwayv1.ShowStoreResponse{}
	i.s.mu.RLock()
	where, opens := i.s.where, i.s.opens
	refused := i.s.refusedLocked(i.s.now())
	i.s.mu.RUnlock()
	if err := i.s.view(func(st *state) {
		answer.Incarnation, answer.Revision, answer.Leader = st.incarnation, st.revision, where
		if !st.recovering() {
			return
		}
		if opens.IsZero() { // a follower's guess
			opens = st.life.GetRecovery().GetStartedTime().AsTime().Add(st.ipamConfiguration().RecoveryWait)
		}
		answer.Recovery = &clearwayv1.RecoveryStatus{
			StartedTime: st.life.GetRecovery().GetStartedTime(), Reason: st.life.GetRecovery().GetReason(),
			Awaited: st.awaited(), Refused: refused, Earliest: timestamppb.New(opens),
		}
	}); err != nil {
		return nil, err
	}
	if health, err := i.s.store.Health(ctx); err == nil {
		answer.Health = &clearwayv1.StoreHealth{
			Size: health.Size, SizeInUse: health.InUse, Quota: health.Quota, Faults: health.Faults,
			MembersAnswering: int32(health.Answering), Members: int32(health.Members), Version: health.Version,
		}
	}
	return answer, nil
}
