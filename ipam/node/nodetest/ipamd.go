package nodetest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/pool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// IPAMD is an ipamd in memory.
type IPAMD struct {
	clearwayv1.UnimplementedNodeServiceServer
	t testing.TB

	mu          sync.Mutex // guards all below
	listener    *bufconn.Listener
	server      *grpc.Server
	incarnation string
	revision    int64
	pools       []*clearwayv1.IPPool
	reserved    []*clearwayv1.IPReservation
	ipam        *clearwayv1.IPAMConfiguration
	spaces      map[string]*pool.Space
	blocks      map[string]*clearwayv1.BlockSpec // by CIDR
	nodes       map[string]*nodeState
	changed     chan struct{}
	fail        map[string]error // by method: answered instead of doing it
	lose        map[string]error // by method: answered after doing it
	calls       map[string]int
	reports     []*clearwayv1.ReportStatusRequest
	answers     map[string][]*clearwayv1.AnswerQueryRequest
	refusals    []string
	rests       map[string]time.Time // by pool
	splits      map[string][]string  // the parts, by the call-back's id
	gonePods    []string             // the UIDs that MissingPods tells of
}

type nodeState struct {
	session    string
	registered *clearwayv1.RegisterRequest
	boot       string
	journal    string
	mirrored   int64
	mirror     map[string]*clearwayv1.AssignmentSpec
	queries    chan *clearwayv1.Query
}

// term is this leader's.
const term = 7

// New starts an ipamd that ends with the test.
func New(t testing.TB) *IPAMD {
	d := &IPAMD{
		t: t, incarnation: "first", revision: 1, spaces: map[string]*pool.Space{}, blocks: map[string]*clearwayv1.BlockSpec{},
		nodes: map[string]*nodeState{}, changed: make(chan struct{}), fail: map[string]error{}, lose: map[string]error{},
		calls: map[string]int{}, rests: map[string]time.Time{}, splits: map[string][]string{}, answers: map[string][]*clearwayv1.AnswerQueryRequest{},
	}
	d.Start()
	t.Cleanup(d.Stop)
	return d
}

// Start makes it reachable.
func (d *IPAMD) Start() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.server != nil {
		return
	}
	d.listener = bufconn.Listen(1 << 20)
	d.server = grpc.NewServer()
	clearwayv1.RegisterNodeServiceServer(d.server, d)
	server, listener := d.server, d.listener
	go func() { _ = server.Serve(listener) }() // ends with Stop
}

// Stop makes it unreachable, and ends all sessions.
func (d *IPAMD) Stop() {
	d.mu.Lock()
	server := d.server
	d.server, d.listener = nil, nil
	d.mu.Unlock()
	if server != nil {
		server.Stop()
	}
}

// Dial is a node's Options.Dial but for its result's type.
func (d *IPAMD) Dial(context.Context, string) (*grpc.ClientConn, error) {
	d.mu.Lock()
	listener := d.listener
	d.mu.Unlock()
	if listener == nil {
		return nil, status.Error(codes.Unavailable, "ipamd is down")
	}
	return grpc.NewClient("passthrough:///ipamd",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// Pool adds a pool or changes one.
func (d *IPAMD) Pool(name string, spec *clearwayv1.IPPoolSpec) { d.PoolWas(name, spec) }

// PoolWas is Pool of one that had other prefixes before, which running Pods go by.
func (d *IPAMD) PoolWas(name string, spec *clearwayv1.IPPoolSpec, former ...string) {
	d.t.Helper()
	object := &clearwayv1.IPPool{
		ApiVersion: clearwayv1.APIVersion, Kind: "IPPool", Metadata: &clearwayv1.ObjectMeta{Name: name}, Spec: spec,
		Status: &clearwayv1.IPPoolStatus{FormerCidrs: former},
	}
	parsed, faults := pool.Parse(object)
	if len(faults) > 0 {
		d.t.Fatalf("pool %s: %v", name, faults)
	}
	d.change(func() {
		d.pools = append(slices.DeleteFunc(d.pools, func(p *clearwayv1.IPPool) bool { return p.GetMetadata().GetName() == name }), object)
		if before := d.spaces[name]; before == nil || before.Prefix() != parsed.CIDR {
			d.spaces[name] = pool.NewSpace(parsed.CIDR)
			for _, block := range d.blocks {
				if block.GetPool() == name {
					_ = d.spaces[name].Take(netip.MustParsePrefix(block.GetCidr())) // one that was left out is nobody's business
				}
			}
		}
	})
}

// Configure sets the IPAMConfiguration.
func (d *IPAMD) Configure(spec *clearwayv1.IPAMConfigurationSpec) {
	d.change(func() {
		d.ipam = &clearwayv1.IPAMConfiguration{
			ApiVersion: clearwayv1.APIVersion, Kind: "IPAMConfiguration",
			Metadata: &clearwayv1.ObjectMeta{Name: "default"}, Spec: spec,
		}
	})
}

// Reserve adds a reservation.
func (d *IPAMD) Reserve(name string, cidrs ...string) {
	d.change(func() {
		d.reserved = append(d.reserved, &clearwayv1.IPReservation{
			ApiVersion: clearwayv1.APIVersion, Kind: "IPReservation", Metadata: &clearwayv1.ObjectMeta{Name: name},
			Spec: &clearwayv1.IPReservationSpec{Cidrs: cidrs},
		})
	})
}

// Fail makes a method answer an error without doing anything; nil ends it.
func (d *IPAMD) Fail(method string, err error) { d.change(func() { d.fail[method] = err }) }

// LoseReply makes a method do its work and answer an error; nil ends it.
func (d *IPAMD) LoseReply(method string, err error) { d.change(func() { d.lose[method] = err }) }

// GiveTo makes a block another node's, as after an operator's word that its owner is off.
func (d *IPAMD) GiveTo(node, cidr string) {
	d.change(func() { d.blocks[cidr].Node, d.blocks[cidr].Generation = node, d.revision })
}

// Grant makes a free block a node's, as a claim whose answer was lost long ago.
func (d *IPAMD) Grant(node, poolName, cidr string) {
	d.change(func() {
		if err := d.spaces[poolName].Take(netip.MustParsePrefix(cidr)); err != nil {
			d.t.Fatal(err)
		}
		d.blocks[cidr] = &clearwayv1.BlockSpec{
			Cidr: cidr, Pool: poolName, Node: node, State: clearwayv1.BlockState_BLOCK_STATE_OWNED, Generation: d.revision,
		}
	})
}

// CallBack asks a block's owner for the block or for a half of it; an empty called takes that back.
func (d *IPAMD) CallBack(cidr, called, id string) {
	d.change(func() {
		next := proto.CloneOf(d.blocks[cidr])
		next.CallBack = nil
		if called != "" {
			next.CallBack = &clearwayv1.CallBack{Id: id, Cidr: called, WantedBy: "n2"}
		}
		d.blocks[cidr] = next
	})
}

// Rest makes the addresses of a pool's next blocks rest until a time, as another node had them.
func (d *IPAMD) Rest(poolName string, until time.Time) {
	d.change(func() { d.rests[poolName] = until })
}

// Refusals are why call-backs were declined.
func (d *IPAMD) Refusals() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.refusals)
}

// States are a node's blocks and their states.
func (d *IPAMD) States(node string) map[string]clearwayv1.BlockState {
	d.mu.Lock()
	defer d.mu.Unlock()
	states := map[string]clearwayv1.BlockState{}
	for _, spec := range d.ownedLocked(node) {
		states[spec.GetCidr()] = spec.GetState()
	}
	return states
}

// Restore is an ipamd restored from a backup: a new incarnation.
func (d *IPAMD) Restore(incarnation string) {
	d.change(func() {
		d.incarnation = incarnation
		for _, n := range d.nodes {
			n.session = ""
		}
	})
}

func (d *IPAMD) change(what func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.revision++
	what()
	close(d.changed)
	d.changed = make(chan struct{})
}

// Calls is how often a method was called.
func (d *IPAMD) Calls(method string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[method]
}

// Blocks are a node's, by address.
func (d *IPAMD) Blocks(node string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for _, spec := range d.ownedLocked(node) {
		all = append(all, spec.GetCidr())
	}
	return all
}

// Registered is a node's last registration; nil: none.
func (d *IPAMD) Registered(node string) *clearwayv1.RegisterRequest {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.nodes[node]; n != nil {
		return n.registered
	}
	return nil
}

// Mirror is what is known of a node's assignments, by address, and through which number.
func (d *IPAMD) Mirror(node string) (map[string]*clearwayv1.AssignmentSpec, int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[node]
	if n == nil {
		return nil, 0
	}
	return maps.Clone(n.mirror), n.mirrored
}

// Report is a node's last; nil: none.
func (d *IPAMD) Report() *clearwayv1.ReportStatusRequest {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.reports) == 0 {
		return nil
	}
	return d.reports[len(d.reports)-1]
}

// Events are all that were reported.
func (d *IPAMD) Events() []*clearwayv1.EventSpec {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []*clearwayv1.EventSpec
	for _, r := range d.reports {
		all = append(all, r.GetEvents()...)
	}
	return all
}

// Ask sends a question to a node; Answers has what came back.
func (d *IPAMD) Ask(node, id string, list *clearwayv1.ListRequest) {
	d.mu.Lock()
	queries := d.nodes[node].queries
	d.mu.Unlock()
	queries <- &clearwayv1.Query{Id: id, List: list}
}

// AskVerify asks a node to compare its routes.
func (d *IPAMD) AskVerify(node, id string, verify *clearwayv1.VerifyQuery) {
	d.mu.Lock()
	queries := d.nodes[node].queries
	d.mu.Unlock()
	queries <- &clearwayv1.Query{Id: id, Verify: verify}
}

// Answers are the pieces of the answer to a question.
func (d *IPAMD) Answers(id string) []*clearwayv1.AnswerQueryRequest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.answers[id])
}

func (d *IPAMD) ownedLocked(node string) []*clearwayv1.BlockSpec {
	var owned []*clearwayv1.BlockSpec
	for _, spec := range d.blocks {
		if spec.GetNode() == node {
			owned = append(owned, proto.CloneOf(spec))
		}
	}
	slices.SortFunc(owned, func(a, b *clearwayv1.BlockSpec) int {
		return netip.MustParsePrefix(a.GetCidr()).Compare(netip.MustParsePrefix(b.GetCidr()))
	})
	return owned
}

// enter counts a call, checks its session and tells the error to answer at once.
func (d *IPAMD) enter(method, node, session string) (*nodeState, error) {
	d.calls[method]++
	if err := d.fail[method]; err != nil {
		return nil, err
	}
	n := d.nodes[node]
	if n == nil || n.session == "" || n.session != session {
		return nil, status.Error(codes.Unauthenticated, "register again")
	}
	return n, nil
}

// Register implements NodeService.
func (d *IPAMD) Register(_ context.Context, in *clearwayv1.RegisterRequest) (*clearwayv1.RegisterResponse, error) {
	answer := &clearwayv1.RegisterResponse{}
	d.mu.Lock()
	d.calls["Register"]++
	err := d.fail["Register"]
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	d.change(func() {
		n := d.nodes[in.GetNode()]
		sealed := n != nil && (n.journal != in.GetJournalId() && n.boot == in.GetBootId() ||
			n.journal == in.GetJournalId() && in.GetJournalNumber() < n.mirrored)
		if n == nil {
			n = &nodeState{mirror: map[string]*clearwayv1.AssignmentSpec{}, queries: make(chan *clearwayv1.Query, 16)}
			d.nodes[in.GetNode()] = n
		}
		n.session, n.registered = fmt.Sprintf("session-%d", d.revision), in
		if sealed {
			answer.KnownAssignments = slices.Collect(maps.Values(n.mirror))
		} else if n.journal != in.GetJournalId() {
			n.boot, n.journal, n.mirrored, n.mirror = in.GetBootId(), in.GetJournalId(), 0, map[string]*clearwayv1.AssignmentSpec{}
		}
		n.boot = in.GetBootId()
		for _, spec := range d.ownedLocked(in.GetNode()) {
			answer.Blocks = append(answer.Blocks, spec)
			if sealed {
				answer.SealedBlocks = append(answer.SealedBlocks, spec.GetCidr())
			}
		}
		for _, held := range in.GetHeldBlocks() {
			if spec := d.blocks[held.GetCidr()]; spec.GetNode() != in.GetNode() {
				answer.LostBlocks = append(answer.LostBlocks, held.GetCidr())
			}
		}
		answer.NodeUid, answer.SessionId = "uid-"+in.GetNode(), n.session
		answer.Incarnation, answer.Revision, answer.Term = d.incarnation, d.revision, term
		if n.journal == in.GetJournalId() {
			answer.MirroredNumber = n.mirrored
		}
	})
	return answer, nil
}

// ClaimBlock implements NodeService.
func (d *IPAMD) ClaimBlock(_ context.Context, in *clearwayv1.ClaimBlockRequest) (*clearwayv1.ClaimBlockResponse, error) {
	var answer *clearwayv1.ClaimBlockResponse
	var err error
	d.change(func() { answer, err = d.claim(in) })
	return answer, err
}

func (d *IPAMD) claim(in *clearwayv1.ClaimBlockRequest) (*clearwayv1.ClaimBlockResponse, error) {
	if _, err := d.enter("ClaimBlock", in.GetNode(), in.GetSessionId()); err != nil {
		return nil, err
	}
	for _, spec := range d.blocks {
		if spec.GetRequestKey() == in.GetRequestKey() && spec.GetNode() == in.GetNode() {
			return d.claimed(spec)
		}
	}
	i := slices.IndexFunc(d.pools, func(p *clearwayv1.IPPool) bool { return p.GetMetadata().GetName() == in.GetPool() })
	if i < 0 {
		return nil, status.Errorf(codes.NotFound, "there is no pool %q", in.GetPool())
	}
	parsed, _ := pool.Parse(d.pools[i])
	prefix, ok := d.spaces[in.GetPool()].CarveFrom(parsed.Parts(parsed.BlockBits, nil), parsed.BlockBits)
	if !ok {
		return nil, status.Errorf(codes.ResourceExhausted, "pool %q has no free /%d", in.GetPool(), parsed.BlockBits)
	}
	spec := &clearwayv1.BlockSpec{
		Cidr: prefix.String(), Pool: in.GetPool(), Node: in.GetNode(), State: clearwayv1.BlockState_BLOCK_STATE_OWNED,
		Generation: d.revision, RequestKey: in.GetRequestKey(),
	}
	if until, rests := d.rests[in.GetPool()]; rests {
		spec.FreeTime = timestamppb.New(until)
	}
	d.blocks[spec.GetCidr()] = spec
	return d.claimed(spec)
}

func (d *IPAMD) claimed(spec *clearwayv1.BlockSpec) (*clearwayv1.ClaimBlockResponse, error) {
	return &clearwayv1.ClaimBlockResponse{Block: proto.CloneOf(spec), Incarnation: d.incarnation, Revision: d.revision}, d.lose["ClaimBlock"]
}

// ReleaseBlock implements NodeService.
func (d *IPAMD) ReleaseBlock(_ context.Context, in *clearwayv1.ReleaseBlockRequest) (*clearwayv1.ReleaseBlockResponse, error) {
	var err error
	d.change(func() {
		if _, err = d.enter("ReleaseBlock", in.GetNode(), in.GetSessionId()); err != nil {
			return
		}
		if spec := d.blocks[in.GetCidr()]; spec.GetNode() == in.GetNode() && spec.GetGeneration() == in.GetGeneration() {
			_ = d.spaces[spec.GetPool()].Give(netip.MustParsePrefix(in.GetCidr()))
			delete(d.blocks, in.GetCidr())
		}
		err = d.lose["ReleaseBlock"]
	})
	if err != nil {
		return nil, err
	}
	return &clearwayv1.ReleaseBlockResponse{}, nil
}

// AnswerCallBack implements NodeService.
func (d *IPAMD) AnswerCallBack(_ context.Context, in *clearwayv1.AnswerCallBackRequest) (*clearwayv1.AnswerCallBackResponse, error) {
	d.mu.Lock()
	_, err := d.enter("AnswerCallBack", in.GetNode(), in.GetSessionId())
	d.mu.Unlock()
	if err != nil {
		return nil, err // and nobody is told anything
	}
	answer := &clearwayv1.AnswerCallBackResponse{}
	d.change(func() {
		answer.Blocks, err = d.answerCall(in)
		if err == nil {
			err = d.lose["AnswerCallBack"]
		}
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

func (d *IPAMD) answerCall(in *clearwayv1.AnswerCallBackRequest) ([]*clearwayv1.BlockSpec, error) {
	spec := d.blocks[in.GetCidr()]
	if in.GetRefusal() != "" {
		d.refusals = append(d.refusals, in.GetRefusal())
		if spec.GetCallBack().GetId() == in.GetId() {
			spec = proto.CloneOf(spec)
			spec.CallBack = nil
			d.blocks[in.GetCidr()] = spec
		}
		return nil, nil
	}
	if spec.GetCallBack().GetId() == in.GetId() && spec.GetGeneration() == in.GetGeneration() {
		d.split(spec)
	}
	if d.splits[in.GetId()] == nil {
		return nil, status.Error(codes.FailedPrecondition, "not called back")
	}
	var parts []*clearwayv1.BlockSpec
	for _, part := range d.splits[in.GetId()] {
		parts = append(parts, proto.CloneOf(d.blocks[part]))
	}
	return parts, nil
}

// split puts what is called back of a block, and what is beside it, in its place.
func (d *IPAMD) split(spec *clearwayv1.BlockSpec) {
	prefix, call := netip.MustParsePrefix(spec.GetCidr()), spec.GetCallBack()
	delete(d.blocks, spec.GetCidr())
	_ = d.spaces[spec.GetPool()].Give(prefix)
	put := func(part netip.Prefix, state clearwayv1.BlockState) {
		next := proto.CloneOf(spec)
		next.Cidr, next.Generation, next.State, next.CallBack = part.String(), d.revision, state, nil
		d.blocks[next.GetCidr()] = next
		_ = d.spaces[spec.GetPool()].Take(part)
		d.splits[call.GetId()] = append(d.splits[call.GetId()], next.GetCidr())
	}
	at := netip.MustParsePrefix(call.GetCidr())
	put(at, clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING)
	for at.Bits() > prefix.Bits() {
		buddy, _ := cidr.Buddy(at)
		put(buddy, clearwayv1.BlockState_BLOCK_STATE_OWNED)
		at, _ = cidr.Parent(at)
	}
}

// MirrorAssignments implements NodeService.
func (d *IPAMD) MirrorAssignments(_ context.Context, in *clearwayv1.MirrorAssignmentsRequest) (*clearwayv1.MirrorAssignmentsResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.enter("MirrorAssignments", in.GetNode(), in.GetSessionId())
	if err != nil {
		return nil, err
	}
	same := n.journal == in.GetJournalId()
	if !in.GetReplace() && (!same || n.mirrored != in.GetAfterNumber()) {
		if !same {
			return &clearwayv1.MirrorAssignmentsResponse{}, nil
		}
		return &clearwayv1.MirrorAssignmentsResponse{ThroughNumber: n.mirrored}, nil
	}
	maps.DeleteFunc(n.mirror, func(_ string, have *clearwayv1.AssignmentSpec) bool {
		number := have.GetJournalNumber()
		return in.GetRanged() && number > in.GetAfterNumber() && (number <= in.GetThroughNumber() || in.GetLast())
	})
	n.journal, n.mirrored = in.GetJournalId(), in.GetThroughNumber()
	for _, released := range in.GetReleased() {
		if have := n.mirror[released.GetAddress()]; have.GetJournalNumber() <= released.GetJournalNumber() {
			delete(n.mirror, released.GetAddress())
		}
	}
	for _, spec := range in.GetAssigned() {
		n.mirror[spec.GetAddress()] = spec
	}
	return &clearwayv1.MirrorAssignmentsResponse{ThroughNumber: n.mirrored}, d.lose["MirrorAssignments"]
}

// ReportStatus implements NodeService.
func (d *IPAMD) ReportStatus(_ context.Context, in *clearwayv1.ReportStatusRequest) (*clearwayv1.ReportStatusResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.enter("ReportStatus", in.GetNode(), in.GetSessionId()); err != nil {
		return nil, err
	}
	d.reports = append(d.reports, in)
	return &clearwayv1.ReportStatusResponse{}, nil
}

// WatchNode implements NodeService.
func (d *IPAMD) WatchNode(in *clearwayv1.WatchNodeRequest, stream grpc.ServerStreamingServer[clearwayv1.WatchNodeResponse]) error {
	d.mu.Lock()
	n, err := d.enter("WatchNode", in.GetNode(), in.GetSessionId())
	d.mu.Unlock()
	if err != nil {
		return err
	}
	for {
		d.mu.Lock()
		if n.session != in.GetSessionId() {
			d.mu.Unlock()
			return status.Error(codes.Unauthenticated, "register again")
		}
		snapshot := d.snapshotLocked(in.GetNode())
		changed := d.changed
		d.mu.Unlock()
		if err := stream.Send(&clearwayv1.WatchNodeResponse{Message: &clearwayv1.WatchNodeResponse_Snapshot{Snapshot: snapshot}}); err != nil {
			return err
		}
		select {
		case <-changed:
		case query := <-n.queries:
			if err := stream.Send(&clearwayv1.WatchNodeResponse{Message: &clearwayv1.WatchNodeResponse_Query{Query: query}}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (d *IPAMD) snapshotLocked(node string) *clearwayv1.NodeSnapshot {
	snapshot := &clearwayv1.NodeSnapshot{
		Incarnation: d.incarnation, Revision: d.revision, Term: term, Blocks: d.ownedLocked(node),
		Pools: slices.Clone(d.pools), Reservations: slices.Clone(d.reserved), IpamConfiguration: d.ipam,
	}
	return proto.CloneOf(snapshot)
}

// WatchOwnership implements NodeService: the whole at each change.
func (d *IPAMD) WatchOwnership(_ *clearwayv1.WatchOwnershipRequest, stream grpc.ServerStreamingServer[clearwayv1.WatchOwnershipResponse]) error {
	for {
		d.mu.Lock()
		d.calls["WatchOwnership"]++
		piece := &clearwayv1.WatchOwnershipResponse{
			Incarnation: d.incarnation, Revision: d.revision, Term: term, Reset_: true, Complete: true,
		}
		for _, spec := range d.blocks {
			piece.Entries = append(piece.Entries, &clearwayv1.OwnershipEntry{Entry: &clearwayv1.OwnershipEntry_Block{
				Block: &clearwayv1.BlockOwner{Cidr: spec.GetCidr(), Node: spec.GetNode(), Pool: spec.GetPool(), Generation: spec.GetGeneration()},
			}})
		}
		changed := d.changed
		d.mu.Unlock()
		if err := stream.Send(piece); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// AnswerQuery implements NodeService.
func (d *IPAMD) AnswerQuery(stream grpc.ClientStreamingServer[clearwayv1.AnswerQueryRequest, clearwayv1.AnswerQueryResponse]) error {
	var id string
	var pieces []*clearwayv1.AnswerQueryRequest
	for {
		piece, err := stream.Recv()
		if err != nil {
			break
		}
		id, pieces = piece.GetQueryId(), append(pieces, piece)
	}
	d.mu.Lock()
	d.answers[id] = pieces
	d.mu.Unlock()
	return stream.SendAndClose(&clearwayv1.AnswerQueryResponse{})
}

// Eventually waits for a condition, and fails the test when it does not come to hold in time.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	const patience = 20 * time.Second
	for began := time.Now(); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("it did not come to be that %s", what)
		}
	}
}
