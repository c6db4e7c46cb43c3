package server

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Delete implements ResourceService.
func (r *resourceService) Delete(
	ctx context.Context, request *clearwayv1.DeleteRequest,
) (*clearwayv1.DeleteResponse, error) {
	object, err := clearwayv1.New(request.GetKind())
	if err != nil {
		return nil, invalid("kind", request.GetKind(), err.Error())
	}
	kind := kindOf(object)
	switch {
	case !clearwayv1.Writable(kind):
		return nil, invalid("kind", kind, "is read only: it cannot be deleted")
	case request.GetName() == "":
		return nil, invalid("name", "", "is required")
	case request.GetPoweredOff() && kind != kindNode:
		return nil, invalid("powered_off", "true", "is for a Node, not for a "+kind)
	}
	if key := request.GetRequestKey(); key != "" {
		if err := checkRequestKey(key); err != nil {
			return nil, err
		}
	}
	if err := r.s.mustLead(); err != nil {
		return nil, err
	}
	answer := &clearwayv1.DeleteResponse{}
	if done, err := r.deletedBefore(ctx, request.GetRequestKey()); done || err != nil {
		return answer, err
	}
	if r.s.options.Source != nil {
		if err := r.s.deleteThrough(ctx, kind, request); err != nil {
			return nil, err
		}
	}
	if kind == kindNode {
		return answer, r.s.deleteNode(ctx, request)
	}
	err = r.s.claims.do(ctx, true, func(p *plan) error { return p.deleteConfig(kind, request, answer) })
	if err != nil {
		return nil, err
	}
	if left := answer.GetRemaining().GetIpPool(); left != nil {
		r.s.note(eventNormal, "PoolDraining", "", "IPPool/"+request.GetName(), "is being deleted: "+drainedMessage(left))
	}
	return answer, nil
}

func (r *resourceService) deletedBefore(ctx context.Context, key string) (bool, error) {
	if key == "" {
		return false, nil
	}
	_, done, err := r.s.store.Get(ctx, record.RequestKey("delete:"+key))
	if err != nil {
		return false, status.Errorf(codes.Unavailable, "the store does not answer: %v", err)
	}
	return done, nil
}

// remember keeps the request's key, so that a repeated delete is success and not NOT_FOUND.
func (p *plan) remember(key string) {
	if key != "" {
		p.write(record.Op{Key: record.RequestKey("delete:" + key), Value: []byte{}, Expires: true})
	}
}

func (p *plan) deleteConfig(kind string, request *clearwayv1.DeleteRequest, answer *clearwayv1.DeleteResponse) error {
	name := request.GetName()
	if _, exists := p.config[kind][name]; !exists {
		return errNotFound(kind, name)
	}
	if err := p.checkVersion(kind, name, request.GetResourceVersion()); err != nil {
		return err
	}
	if err := p.stillUsed(kind, name); err != nil {
		return err
	}
	if kind == kindPool {
		p.deletePool(name, answer)
	} else {
		p.write(record.Op{Key: record.ConfigKey(kind, name)})
	}
	p.remember(request.GetRequestKey())
	return nil
}

// stillUsed refuses to delete what something else names.
func (s *state) stillUsed(kind, name string) error {
	switch kind {
	case kindPool:
		for _, other := range sortedNames(s.pools) {
			if s.pools[other].DrainTo == name {
				return status.Errorf(codes.FailedPrecondition, "IPPool %q is what IPPool/%s is drained to (spec.drainTo)", name, other)
			}
		}
		if users := s.kube.services.usersOf(name, func(netip.Addr) bool { return true }); users != "" {
			return status.Errorf(codes.FailedPrecondition, "IPPool %q has given addresses to %s; they keep them, so that it stays until "+
				"they are gone; spec.disabled keeps it from giving more", name, users)
		}
	case kindFilter:
		var users []string
		for _, peer := range named[*clearwayv1.BGPPeer](s, kindPeer) {
			filters := slices.Concat(peer.GetSpec().GetImportFilters(), peer.GetSpec().GetExportFilters())
			if slices.Contains(filters, name) {
				users = append(users, "BGPPeer/"+peer.GetMetadata().GetName())
			}
		}
		if len(users) > 0 {
			return status.Errorf(codes.FailedPrecondition, "BGPFilter %q is named by %s", name, strings.Join(users, ", "))
		}
	}
	return nil
}

// maxDeleteTries bounds the race of a node's deletion with its agent's return.
const maxDeleteTries = 5

// deleteNode removes a node. Powered off, its blocks rest and are free then; else they are orphaned, for its Pods may
// still run (rule Fenced).
func (s *Server) deleteNode(ctx context.Context, request *clearwayv1.DeleteRequest) error {
	name := request.GetName()
	if err := s.claims.do(ctx, true, func(p *plan) error { return p.mayDeleteNode(request) }); err != nil {
		return err
	}
	if session := s.sessions.of(name); request.GetPoweredOff() && session != nil && session.live() {
		return status.Errorf(codes.FailedPrecondition, "node %q is not powered off: its agent is connected; stop it first, "+
			"or delete the node without saying that it is off", name)
	}
	for range maxDeleteTries {
		s.sessions.end(name)
		count, err := s.rewriteBlocks(ctx, name, disowned(request.GetPoweredOff()))
		if err != nil {
			return err
		}
		again := false
		if err := s.claims.do(ctx, true, func(p *plan) error {
			again = p.deleteNode(request)
			return nil
		}); err != nil {
			return err
		}
		if !again {
			s.noteDeleted(request, count)
			return nil
		}
	}
	return status.Errorf(codes.Aborted, "the agent of node %q comes back faster than it is deleted: stop it first", name)
}

func (p *plan) mayDeleteNode(request *clearwayv1.DeleteRequest) error {
	name := request.GetName()
	if p.nodeOf(name) == nil && p.gone[name] == nil {
		return errNotFound(kindNode, name)
	}
	if p.recovering() && !request.GetPoweredOff() && p.nodes[name] != nil && !p.reported(name) {
		return status.Errorf(codes.FailedPrecondition, "the store is recovering and awaits node %q: start its agent, or, if the "+
			"machine is off and will not come back with its Pods, say so (--powered-off)", name)
	}
	return p.checkVersion(kindNode, name, request.GetResourceVersion())
}

// disowned is what becomes of a deleted node's block; nil: it stays as it is.
func disowned(poweredOff bool) func(*plan, *clearwayv1.BlockSpec) *clearwayv1.BlockSpec {
	return func(p *plan, block *clearwayv1.BlockSpec) *clearwayv1.BlockSpec {
		switch {
		case block.GetState() == clearwayv1.BlockState_BLOCK_STATE_COOLING:
			return nil
		case poweredOff:
			return p.rested(block, p.now.Add(p.ipamConfiguration().Cooldown), false)
		case block.GetState() == clearwayv1.BlockState_BLOCK_STATE_ORPHANED:
			return nil
		}
		next := proto.CloneOf(block)
		next.State = clearwayv1.BlockState_BLOCK_STATE_ORPHANED
		return next
	}
}

// deleteNode writes the end of a node whose blocks are disowned; again: one is not.
func (p *plan) deleteNode(request *clearwayv1.DeleteRequest) (again bool) {
	name := request.GetName()
	orphans := 0
	for prefix := range p.blocksOf[name] {
		switch p.blocks[prefix].GetState() {
		case clearwayv1.BlockState_BLOCK_STATE_ORPHANED:
			orphans++
		case clearwayv1.BlockState_BLOCK_STATE_COOLING:
		default:
			return true
		}
	}
	if request.GetPoweredOff() && orphans > 0 {
		return true
	}
	if node := p.nodes[name]; node != nil {
		p.write(record.Op{Key: record.NodeKey(name)})
		if orphans > 0 {
			p.write(record.Op{Key: record.GoneKey(name), Value: mustMarshal(node)})
		}
	}
	if _, configured := p.config[kindNode][name]; configured {
		p.write(record.Op{Key: record.ConfigKey(kindNode, name)})
	}
	if orphans == 0 {
		p.forget(name)
	}
	p.remember(request.GetRequestKey())
	return false
}

// forget drops what was kept of a node's addresses: nobody holds them any more.
func (p *plan) forget(name string) {
	if p.gone[name] != nil {
		p.write(record.Op{Key: record.GoneKey(name)})
	}
	mirror, mirrored := p.mirrors[name]
	if mirrored {
		p.guard(record.Guard{Key: record.MirrorKey(name), ModRevision: mirror.revision})
		p.write(record.Op{Key: record.MirrorKey(name)})
	}
	if len(p.assignments[name]) > 0 {
		p.write(record.Op{Key: record.AssignmentsOf(name), Under: true})
	}
	p.forgetAllowances(name)
	p.forgetAllowances(former(name))
}

func (s *Server) noteDeleted(request *clearwayv1.DeleteRequest, blocks int) {
	name := request.GetName()
	if request.GetPoweredOff() {
		s.note(eventNormal, "NodeDeleted", name, "Node/"+name, fmt.Sprintf(
			"deleted, and said to be powered off: its %d blocks rest and are free after the cooldown", blocks))
		return
	}
	s.note(eventNormal, "NodeDeleted", name, "Node/"+name, fmt.Sprintf(
		"deleted: its %d blocks are orphaned until the agent returns, the node is said to be powered off, or nobody has held them for the orphanGrace", blocks))
}

// sortedNames are a map's keys in order.
func sortedNames[V any](of map[string]V) []string { return slices.Sorted(maps.Keys(of)) }
