package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/pool"
	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// A quota's addresses are delegated: each node has an allowance, that it may give without asking. The sum of all allowances
// is never more than the quota, and no node gives more than its allowance; so the quota holds, whoever is cut off. An
// allowance is set by comparing its generation, so that no late call undoes a newer one. A node that gives some back has
// lowered it in its journal before it says so.

// tightTime is for how long after a node got too little the others are asked for what they do not use.
const tightTime = 5 * time.Second

// allowances are by node, then quota.
type allowances map[string]map[string]*clearwayv1.QuotaAllowance

// former is how the allowances of a machine are kept whose name another one has by now, as long as its Pods may run.
func former(node string) string { return "~" + node }

func (s *state) applyAllowance(one record.Record, touched *change) error {
	node, quota, ok := strings.Cut(one.Key.Rest(), "/")
	if !ok {
		return fmt.Errorf("no quota")
	}
	touched.nodes[node] = struct{}{}
	if one.Value == nil {
		delete(s.allowances[node], quota)
		if len(s.allowances[node]) == 0 {
			delete(s.allowances, node)
		}
		return nil
	}
	next := &clearwayv1.QuotaAllowance{}
	if err := proto.Unmarshal(one.Value, next); err != nil {
		return err
	}
	next.Generation = one.ModRevision
	if s.allowances[node] == nil {
		s.allowances[node] = map[string]*clearwayv1.QuotaAllowance{}
	}
	s.allowances[node][quota] = next
	return nil
}

// allowancesOf are all allowances of a quota, by node.
func (s *state) allowancesOf(quota, uid string) []*clearwayv1.QuotaAllowance {
	var all []*clearwayv1.QuotaAllowance
	for _, node := range sortedNames(s.allowances) {
		if one := s.allowances[node][quota]; one != nil && one.GetQuotaUid() == uid {
			all = append(all, one)
		}
	}
	return all
}

func (s *state) quota(name string) (pool.Quota, bool) {
	made, ok := s.config[kindQuota][name].object.(*clearwayv1.IPQuota)
	if !ok {
		return pool.Quota{}, false
	}
	parsed, faults := pool.ParseQuota(made)
	return parsed, len(faults) == 0
}

// setAllowance sets what a node may give of a quota.
func (s *Server) setAllowance(
	ctx context.Context, request *clearwayv1.SetAllowanceRequest,
) (*clearwayv1.SetAllowanceResponse, error) {
	for field, number := range map[string]int64{
		"amount": request.GetAmount(), "used": request.GetUsed(), "needed": request.GetNeeded(), "generation": request.GetGeneration(),
	} {
		if number < 0 {
			return nil, invalid(field, fmt.Sprint(number), "must not be negative")
		}
	}
	answer := &clearwayv1.SetAllowanceResponse{}
	err := s.claims.do(ctx, false, func(p *plan) error { return s.planAllowance(p, request, answer) })
	if err != nil {
		return nil, err
	}
	if request.GetNeeded() > answer.GetAllowance().GetAmount() {
		s.callInQuota(request.GetQuota())
	}
	return answer, nil
}

func (s *Server) planAllowance(p *plan, request *clearwayv1.SetAllowanceRequest, answer *clearwayv1.SetAllowanceResponse) error {
	node, name := request.GetNode(), request.GetQuota()
	quota, known := p.quota(name)
	switch session := s.sessions.of(node); {
	case session == nil || session.id != request.GetSessionId() || p.nodes[node] == nil:
		return status.Errorf(codes.Unauthenticated, "node %q has registered anew: this call is of before", node)
	case !known || quota.UID != request.GetQuotaUid() || quota.Addresses == pool.Unlimited:
		return status.Errorf(codes.NotFound, "there is no IPQuota %q with a limit of addresses, of UID %q", name, request.GetQuotaUid())
	}
	// Two of one quota are not planned together: each would find the same rest.
	p.marks = append(p.marks, record.Key("quota/"+name))
	have := p.allowances[node][name]
	if have.GetQuotaUid() != quota.UID {
		have = nil
	}
	p.done(func(revision int64) {
		answer.Incarnation, answer.Revision, answer.Limit = p.incarnation, revision, quota.Addresses
		answer.Allowance = &clearwayv1.QuotaAllowance{Quota: name, QuotaUid: quota.UID, Node: node}
		for _, one := range p.allowancesOf(name, quota.UID) {
			answer.Delegated += one.GetAmount()
			if one.GetNode() == node {
				answer.Allowance = one
			} else {
				answer.UnusedElsewhere += max(one.GetAmount()-one.GetUsed(), 0)
			}
		}
	})
	if have.GetGeneration() != request.GetGeneration() {
		return nil // what holds is the answer
	}
	amount := request.GetAmount()
	if amount > have.GetAmount() {
		if err := s.mayClaimNow(p.state); err != nil {
			return err
		}
		var others int64
		for _, one := range p.allowancesOf(name, quota.UID) {
			if one.GetNode() != node {
				others += one.GetAmount()
			}
		}
		amount = max(min(amount, quota.Addresses-others), have.GetAmount())
	}
	if have == nil && amount == 0 || have != nil && have.GetAmount() == amount && have.GetUsed() == request.GetUsed() {
		return nil
	}
	p.write(allowanceOp(node, &clearwayv1.QuotaAllowance{
		Quota: name, QuotaUid: quota.UID, Node: node, Amount: amount, Used: request.GetUsed(),
	}))
	return nil
}

func allowanceOp(node string, one *clearwayv1.QuotaAllowance) record.Op {
	return record.Op{Key: record.AllowanceKey(node, one.GetQuota()), Value: mustMarshal(one)}
}

// callInQuota asks the nodes for what they do not use of a quota: one of them got too little for a Pod that waits.
func (s *Server) callInQuota(name string) {
	s.mu.Lock()
	_, already := s.tightQuotas[name]
	s.tightQuotas[name] = s.now()
	s.mu.Unlock()
	if !already {
		s.sessions.wakeAll()
	}
}

// endTightQuotas tells the nodes when nobody waits for a quota any more.
func (s *Server) endTightQuotas() {
	s.mu.Lock()
	before := len(s.tightQuotas)
	maps.DeleteFunc(s.tightQuotas, func(_ string, since time.Time) bool { return s.now().Sub(since) > tightTime })
	ended := len(s.tightQuotas) < before
	s.mu.Unlock()
	if ended {
		s.sessions.wakeAll()
	}
}

// allowancesTold are a node's, with what is to be given back. The server's lock is held.
func (s *Server) allowancesTold(st *state, node string) []*clearwayv1.QuotaAllowance {
	var all []*clearwayv1.QuotaAllowance
	for _, quota := range sortedNames(st.allowances[node]) {
		one := proto.CloneOf(st.allowances[node][quota])
		_, one.GiveBack = s.tightQuotas[quota]
		all = append(all, one)
	}
	return all
}

// dropStaleAllowances is the wish to delete the allowances of quotas that are gone; nil: there are none.
func (s *Server) dropStaleAllowances() *wish {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.state.staleQuotas {
		return nil
	}
	if len(s.state.staleAllowances()) == 0 {
		s.state.staleQuotas = false
		return nil
	}
	return &wish{ctx: context.Background(), done: make(chan error, 1), own: true, plan: func(p *plan) error {
		for _, key := range p.staleAllowances() {
			p.write(record.Op{Key: key})
		}
		return nil
	}}
}

func (s *state) staleAllowances() (due []record.Key) {
	for _, node := range sortedNames(s.allowances) {
		for name, one := range s.allowances[node] {
			made := s.config[kindQuota][name].object
			if (made == nil || made.GetMetadata().GetUid() != one.GetQuotaUid()) && len(due) < maxRewrite {
				due = append(due, record.AllowanceKey(node, name))
			}
		}
	}
	return due
}

// maxAllowances is how many allowances one transaction moves, each with two operations.
const maxAllowances = maxRewrite / 2

// settleAllowances brings the allowances of a node that registers in line with who it is, each step repeatable: those of a
// machine that it replaces are put aside, for that one's Pods may still run; and its own report goes before what a
// recovering store has.
func (s *Server) settleAllowances(ctx context.Context, request *clearwayv1.RegisterRequest, before identity, wins bool) error {
	node := request.GetNode()
	another := func(p *plan) bool {
		return before.replaced || !before.known && p.gone[node] != nil && !before.returns
	}
	more, err := s.due(ctx, func(p *plan) bool { return another(p) && len(p.allowances[node]) > 0 })
	if err != nil {
		return err
	}
	for more {
		err := s.claims.do(ctx, true, func(p *plan) error {
			more = another(p) && p.keepFormerAllowances(node)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if !wins {
		return nil
	}
	return inParts(ctx, s.claims, request.GetAllowances(), func(p *plan, one *clearwayv1.QuotaAllowance) {
		p.reportAllowance(node, one)
	})
}

func (p *plan) keepFormerAllowances(node string) (more bool) {
	names := sortedNames(p.allowances[node])
	for _, name := range names[:min(len(names), maxAllowances)] {
		one := proto.CloneOf(p.allowances[node][name])
		if aside := p.allowances[former(node)][name]; aside.GetQuotaUid() == one.GetQuotaUid() {
			one.Amount, one.Used = one.GetAmount()+aside.GetAmount(), one.GetUsed()+aside.GetUsed()
		}
		one.Node = former(node)
		p.write(record.Op{Key: record.AllowanceKey(node, name)}, allowanceOp(former(node), one))
	}
	return len(names) > maxAllowances
}

// forgetAllowances drops what a node could give: none of its Pods lives.
func (p *plan) forgetAllowances(node string) {
	if len(p.allowances[node]) > 0 {
		p.write(record.Op{Key: record.AllowancesOf(node), Under: true})
	}
}

// reportAllowance takes over what a node may give of a quota, which may have another UID since it was applied anew.
func (p *plan) reportAllowance(node string, one *clearwayv1.QuotaAllowance) {
	quota, known := p.quota(one.GetQuota())
	if !known || one.GetAmount() < 0 {
		return
	}
	p.write(allowanceOp(node, &clearwayv1.QuotaAllowance{
		Quota: one.GetQuota(), QuotaUid: quota.UID, Node: node, Amount: one.GetAmount(), Used: one.GetUsed(),
	}))
}

// mayHaveBlock refuses a node a block beyond a quota of blocks.
func (p *plan) mayHaveBlock(from *poolState, node string) error {
	for _, name := range sortedNames(p.config[kindQuota]) {
		quota, known := p.quota(name)
		if !known || quota.Blocks == pool.Unlimited || !quota.Of(from.Name) || !quota.NodeSelector.Matches(labelSet(p.labelsOf(node))) {
			continue
		}
		p.marks = append(p.marks, record.Key("quota/"+name))
		if count, of := p.quotaBlocks(quota), p.blockCounts[blockCount{from.Name, node}]; count >= quota.Blocks {
			return status.Errorf(codes.ResourceExhausted, "IPQuota %q allows %d blocks, and nodes that it takes have %d, of which node %q has %d of pool %q",
				name, quota.Blocks, count, node, of, from.Name)
		}
	}
	return nil
}

// blockCount is what blocks are counted by.
type blockCount struct{ pool, node string }

// countBlock keeps the counts of blocks that somebody has.
func (s *state) countBlock(block *clearwayv1.BlockSpec, more int64) {
	if block.GetState() == clearwayv1.BlockState_BLOCK_STATE_COOLING || block.GetFloating() != nil {
		return
	}
	key := blockCount{block.GetPool(), block.GetNode()}
	if s.blockCounts[key] += more; s.blockCounts[key] == 0 {
		delete(s.blockCounts, key)
	}
}

// quotaBlocks counts the blocks that a quota bounds.
func (s *state) quotaBlocks(quota pool.Quota) (count int64) {
	for key, blocks := range s.blockCounts {
		if quota.Of(key.pool) && quota.NodeSelector.Matches(labelSet(s.labelsOf(key.node))) {
			count += blocks
		}
	}
	return count
}

// quotaStatus is a quota with what is delegated and used of it.
func (s *state) quotaStatus(made *clearwayv1.IPQuota) *clearwayv1.IPQuota {
	made = proto.CloneOf(made)
	made.Status = &clearwayv1.IPQuotaStatus{}
	quota, faults := pool.ParseQuota(made)
	if len(faults) > 0 {
		return made
	}
	if quota.Blocks != pool.Unlimited {
		made.Status.Blocks = s.quotaBlocks(quota)
	}
	made.Status.Allowances = slices.Clone(s.allowancesOf(quota.Name, quota.UID))
	for _, one := range made.GetStatus().GetAllowances() {
		made.Status.Delegated += one.GetAmount()
		made.Status.Used += one.GetUsed()
	}
	return made
}
