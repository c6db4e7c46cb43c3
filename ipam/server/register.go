package server

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// registerNode is the design's Registration: blocks are bound to the node first and taken from its report, each step
// repeatable, then the registration is written, then the session opened.
func (s *Server) registerNode(
	ctx context.Context, request *clearwayv1.RegisterRequest,
) (*clearwayv1.RegisterResponse, error) {
	if err := s.sessions.admit(request); err != nil {
		return nil, err
	}
	reported, err := readReport(request)
	if err != nil {
		return nil, err
	}
	found, err := s.suspect(ctx, request)
	if err != nil {
		return nil, err
	}
	if found.why != "" {
		if err := s.beginRecovery(ctx, found); err != nil {
			return nil, err
		}
	}
	var before identity
	err = s.claims.do(ctx, false, func(p *plan) error {
		before, reported.uid = p.identify(request)
		return p.judge(&reported, request, before)
	})
	s.noteRefused(request.GetNode(), err)
	if err != nil {
		return nil, err
	}
	uid := reported.uid
	if uid == "" {
		uid = uuid.NewString()
		reported.uid = uid
	}
	if err := s.bindBlocks(ctx, request, before, uid); err != nil {
		return nil, err
	}
	if err := s.settleAllowances(ctx, request, before, reported.wins); err != nil {
		return nil, err
	}
	adopted, err := s.settleReport(ctx, reported)
	if err != nil {
		return nil, err
	}
	answer := &clearwayv1.RegisterResponse{NodeUid: uid}
	// Beside others' wishes: what it reads is of this node, and whoever writes of it as well is served before or after.
	if err := s.claims.do(ctx, false, func(p *plan) error {
		return p.register(request, before, reported, adopted, answer)
	}); err != nil {
		return nil, err
	}
	session, err := s.sessions.open(ctx, request)
	if err != nil {
		return nil, err
	}
	answer.SessionId = session.id
	s.log.Info("node registered", "node", request.GetNode(), "blocks", len(answer.GetBlocks()),
		"sealed", len(answer.GetSealedBlocks()), "lost", len(answer.GetLostBlocks()))
	if len(answer.GetSealedBlocks()) > 0 {
		s.note(eventWarning, "BlocksSealed", request.GetNode(), "Node/"+request.GetNode(), fmt.Sprintf(
			"the node's journal was lost or is of an old image: %d blocks give no new addresses until each old one is accounted for",
			len(answer.GetSealedBlocks())))
	}
	return answer, nil
}

// identity is what a registering agent is, by what was known of the node's name.
type identity struct {
	// known: the name was registered. replaced: by another machine, with another journal, whose Pods may still run.
	known, replaced bool
	// returns: the name was deleted, and this is the same agent or machine come back for its orphaned blocks.
	returns bool
}

// identify compares an agent with what is known, and finds the node's UID; "" when it has none yet.
func (p *plan) identify(request *clearwayv1.RegisterRequest) (identity, string) {
	name := request.GetNode()
	prior, gone := p.nodes[name], p.gone[name]
	found := identity{
		known:    prior != nil,
		replaced: prior != nil && !sameMachine(prior.GetStatus(), request),
		returns:  gone != nil && sameMachine(gone.GetStatus(), request),
	}
	for _, uid := range []string{
		request.GetNodeUid(), p.kube.uid(name), prior.GetMetadata().GetUid(), p.nodeConfig(name).GetMetadata().GetUid(),
		gone.GetMetadata().GetUid(),
	} {
		if uid != "" {
			return found, uid
		}
	}
	return found, ""
}

// sameMachine tells whether an agent may be trusted with what the node's name had: the same journal, or the same
// machine. A machine without an id is taken at its word.
func sameMachine(known *clearwayv1.NodeStatus, request *clearwayv1.RegisterRequest) bool {
	return known.GetJournalId() == request.GetJournalId() || known.GetMachineId() == request.GetMachineId() ||
		known.GetMachineId() == "" || request.GetMachineId() == ""
}

// bindBlocks gives the node's blocks its UID, orphans those of a machine that it replaces, and brings back those that
// were orphaned from it.
func (s *Server) bindBlocks(
	ctx context.Context, request *clearwayv1.RegisterRequest, before identity, uid string,
) error {
	orphaned, err := s.rewriteBlocks(ctx, request.GetNode(), func(_ *plan, block *clearwayv1.BlockSpec) *clearwayv1.BlockSpec {
		next := proto.CloneOf(block)
		switch block.GetState() {
		case clearwayv1.BlockState_BLOCK_STATE_ORPHANED:
			if !before.returns {
				return nil
			}
			next.State, next.NodeUid = clearwayv1.BlockState_BLOCK_STATE_OWNED, uid
			next.UnheldSince, next.UnheldSeen = nil, nil
		case clearwayv1.BlockState_BLOCK_STATE_COOLING:
			return nil
		default:
			if before.replaced {
				next.State = clearwayv1.BlockState_BLOCK_STATE_ORPHANED
			} else {
				next.NodeUid = uid
			}
		}
		if proto.Equal(next, block) {
			return nil
		}
		return next
	})
	if before.replaced && orphaned > 0 {
		s.note(eventWarning, "MachineReplaced", request.GetNode(), "Node/"+request.GetNode(), fmt.Sprintf(
			"another machine registered under this name: %d blocks of the former one are orphaned, since its Pods may still run", orphaned))
	}
	return err
}

// register writes the registration and fills in the answer.
func (p *plan) register(
	request *clearwayv1.RegisterRequest, before identity, reported report, adopted map[string]bool,
	answer *clearwayv1.RegisterResponse,
) error {
	name := request.GetNode()
	if p.recovering() && request.GetHeldIncarnation() != p.incarnation && !reported.wins {
		return status.Error(codes.Aborted, "the store began to recover meanwhile; register again")
	}
	node := p.registration(request, reported.uid)
	mirror, mirrored := p.mirrors[name]
	p.write(record.Op{Key: record.NodeKey(name), Value: mustMarshal(node)})
	switch {
	case before.returns:
		p.write(record.Op{Key: record.GoneKey(name)})
	case before.replaced:
		p.write(record.Op{Key: record.GoneKey(name), Value: mustMarshal(p.nodes[name])})
	}
	answer.LostBlocks = p.lostOf(reported)
	sealed := mirrored && !before.replaced && seals(mirror.NodeStatus, request)
	if !sealed {
		p.startMirror(request, mirror, mirrored, before)
	} else {
		answer.KnownAssignments = slices.Collect(maps.Values(p.assignments[name]))
	}
	p.done(func(revision int64) {
		answer.Incarnation, answer.Revision, answer.Term = p.incarnation, revision, p.term()
		answer.Blocks = p.blocksOwned(name)
		for _, quota := range sortedNames(p.allowances[name]) {
			answer.Allowances = append(answer.Allowances, p.allowances[name][quota])
		}
		for _, block := range answer.GetBlocks() {
			if sealed && !adopted[block.GetCidr()] {
				answer.SealedBlocks = append(answer.SealedBlocks, block.GetCidr())
			}
		}
		if kept := p.mirrors[name]; kept.NodeStatus.GetJournalId() == request.GetJournalId() {
			answer.MirroredNumber = kept.GetJournalNumber()
		}
	})
	return nil
}

func (p *plan) registration(request *clearwayv1.RegisterRequest, uid string) *clearwayv1.Node {
	name := request.GetNode()
	created := p.nodes[name].GetMetadata().GetCreationTimestamp()
	if created == nil {
		created = timestamppb.New(p.now)
	}
	return &clearwayv1.Node{
		ApiVersion: clearwayv1.APIVersion, Kind: kindNode,
		Metadata: &clearwayv1.ObjectMeta{Name: name, Uid: uid, CreationTimestamp: created, Generation: 1},
		Status: &clearwayv1.NodeStatus{
			Addresses: request.GetAddresses(), Labels: request.GetLabels(), BootId: request.GetBootId(),
			MachineId: request.GetMachineId(), JournalId: request.GetJournalId(), JournalNumber: request.GetJournalNumber(),
			AgentVersion: request.GetAgentVersion(), RegisteredTime: timestamppb.New(p.now), Incarnation: p.incarnation,
		},
	}
}

// seals tells whether the node's blocks are sealed: a journal lost within one boot, or one that is behind the mirror,
// of an old image. The copy then stays as it is, until the agent has accounted for each old address and replaces it.
func seals(mirror *clearwayv1.NodeStatus, request *clearwayv1.RegisterRequest) bool {
	if mirror.GetJournalId() != request.GetJournalId() {
		return mirror.GetBootId() == request.GetBootId()
	}
	return request.GetJournalNumber() < mirror.GetJournalNumber()
}

// startMirror notes which journal the copy is taken of. A new journal after a reboot starts from nothing: no Pod of
// before lives.
func (p *plan) startMirror(request *clearwayv1.RegisterRequest, was mirror, mirrored bool, before identity) {
	name := request.GetNode()
	next := &clearwayv1.NodeStatus{
		BootId: request.GetBootId(), MachineId: request.GetMachineId(), JournalId: request.GetJournalId(),
	}
	if mirrored && was.GetJournalId() == request.GetJournalId() {
		next.JournalNumber = was.GetJournalNumber()
	} else if len(p.assignments[name]) > 0 && !before.replaced {
		p.write(record.Op{Key: record.AssignmentsOf(name), Under: true})
	}
	if mirrored && proto.Equal(next, was.NodeStatus) {
		return
	}
	p.guard(record.Guard{Key: record.MirrorKey(name), ModRevision: was.revision})
	p.write(record.Op{Key: record.MirrorKey(name), Value: mustMarshal(next)})
}

func (s *state) owns(node string, block *clearwayv1.BlockSpec) bool {
	return block.GetNode() == node && isOwned(block)
}

// blocksOwned are a node's own blocks, by address.
func (s *state) blocksOwned(node string) []*clearwayv1.BlockSpec {
	var owned []*clearwayv1.BlockSpec
	for _, prefix := range slices.SortedFunc(maps.Keys(s.blocksOf[node]), netip.Prefix.Compare) {
		if block := s.blocks[prefix]; isOwned(block) {
			owned = append(owned, block)
		}
	}
	return owned
}

// mirrorAssignments copies a piece of a node's journal.
func (s *Server) mirrorAssignments(
	ctx context.Context, session *session, request *clearwayv1.MirrorAssignmentsRequest,
) (*clearwayv1.MirrorAssignmentsResponse, error) {
	if n := len(request.GetAssigned()) + len(request.GetReleased()) + len(request.GetEnded()); n > maxMirrored {
		return nil, invalid("assigned", fmt.Sprint(n), fmt.Sprintf("must be at most %d changes a call; send pieces", maxMirrored))
	}
	changes, err := parseChanges(request)
	if err != nil {
		return nil, err
	}
	if err := s.keepEnded(ctx, request); err != nil {
		return nil, err
	}
	answer := &clearwayv1.MirrorAssignmentsResponse{}
	for {
		more := false
		err := s.copies.do(ctx, false, func(p *plan) error {
			more = p.mirror(session, request, changes, answer)
			return nil
		})
		if err != nil {
			return nil, err
		}
		if !more {
			return answer, nil
		}
	}
}

// maxMirrored bounds one piece.
const maxMirrored = 5000

// changes are a piece of journal by address: what is assigned now; a nil spec is a release.
type changes struct {
	assigned map[netip.Addr]*clearwayv1.AssignmentSpec
	released map[netip.Addr]int64 // the journal number of the assignment that ended
	ends     ends
}

func parseChanges(request *clearwayv1.MirrorAssignmentsRequest) (changes, error) {
	parsed := changes{
		assigned: map[netip.Addr]*clearwayv1.AssignmentSpec{}, released: map[netip.Addr]int64{}, ends: endsOf(request),
	}
	for _, spec := range request.GetAssigned() {
		address, err := netip.ParseAddr(spec.GetAddress())
		if err != nil || address.Zone() != "" || address.Is4In6() {
			return changes{}, invalid("assigned", spec.GetAddress(), "must be an address")
		}
		if spec.GetNode() != request.GetNode() {
			return changes{}, invalid("assigned", spec.GetNode(), fmt.Sprintf("must be of node %q", request.GetNode()))
		}
		parsed.assigned[address] = spec
	}
	for _, one := range request.GetReleased() {
		address, err := netip.ParseAddr(one.GetAddress())
		if err != nil {
			return changes{}, invalid("released", one.GetAddress(), "must be an address")
		}
		parsed.released[address] = max(parsed.released[address], one.GetJournalNumber())
	}
	return parsed, nil
}

// mirror plans as much of a piece as one transaction takes, and tells whether there is more. The number that says
// "copied" is written with the last part; every part may be repeated.
func (p *plan) mirror(
	session *session, request *clearwayv1.MirrorAssignmentsRequest, changes changes,
	answer *clearwayv1.MirrorAssignmentsResponse,
) (more bool) {
	name := request.GetNode()
	was := p.mirrors[name]
	same := was.NodeStatus.GetJournalId() == request.GetJournalId()
	if !request.GetReplace() && (!same || was.GetJournalNumber() != request.GetAfterNumber()) {
		answer.ThroughNumber = 0
		if same {
			answer.ThroughNumber = was.GetJournalNumber()
		}
		return false
	}
	ops := p.mirrorOps(name, changes, replacedBy(request))
	if limit := p.past.limit(maxRewrite); len(ops) > limit {
		p.endTenures(name, ops[:limit], changes)
		p.write(ops[:limit]...)
		p.guard(record.Guard{Key: record.MirrorKey(name), ModRevision: was.revision})
		p.marks = append(p.marks, record.MirrorKey(name))
		return true
	}
	next := &clearwayv1.NodeStatus{
		BootId: session.boot, MachineId: session.machine, JournalId: request.GetJournalId(),
		JournalNumber: request.GetThroughNumber(),
	}
	answer.ThroughNumber = request.GetThroughNumber()
	if len(ops) == 0 && proto.Equal(next, was.NodeStatus) {
		return false
	}
	p.endTenures(name, ops, changes)
	p.write(ops...)
	p.guard(record.Guard{Key: record.MirrorKey(name), ModRevision: was.revision})
	p.write(record.Op{Key: record.MirrorKey(name), Value: mustMarshal(next)})
	return false
}

// replacedBy tells of which numbers a piece is the whole; nil: of none, it is what changed.
func replacedBy(request *clearwayv1.MirrorAssignmentsRequest) func(number int64) bool {
	switch {
	case request.GetRanged():
		return func(number int64) bool {
			return number > request.GetAfterNumber() && (number <= request.GetThroughNumber() || request.GetLast())
		}
	case request.GetReplace():
		return func(int64) bool { return true }
	}
	return nil
}

// mirrorOps are the writes that bring a node's copy to where the changes lead, none for what is there already. They end
// with one more than a transaction takes: then there is more, and what comes behind is found the next time.
func (p *plan) mirrorOps(name string, changes changes, replaced func(number int64) bool) []record.Op {
	var ops []record.Op
	have := p.assignments[name]
	for address, spec := range changes.assigned {
		if len(ops) > maxRewrite {
			return ops
		}
		if !proto.Equal(have[address], spec) {
			ops = append(ops, record.Op{Key: record.AssignmentKey(name, address), Value: mustMarshal(spec)})
		}
	}
	gone := maps.Keys(changes.released)
	if replaced != nil {
		gone = maps.Keys(have)
	}
	for address := range gone {
		if len(ops) > maxRewrite {
			return ops
		}
		spec, there := have[address]
		_, kept := changes.assigned[address]
		if replaced != nil && !replaced(spec.GetJournalNumber()) {
			continue
		}
		if there && !kept && (replaced != nil || spec.GetJournalNumber() <= changes.released[address]) {
			ops = append(ops, record.Op{Key: record.AssignmentKey(name, address)})
		}
	}
	return ops
}

// errNotFound is the answer to a delete or list of what is not there.
func errNotFound(kind, name string) error {
	return status.Errorf(codes.NotFound, "there is no %s %q", kind, name)
}
