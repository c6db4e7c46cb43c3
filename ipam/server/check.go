package server

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Why two books differ. The names are told to operators.
const (
	memoryDiffers     = "MemoryDiffers"
	blockNotInJournal = "BlockNotInJournal"
	blockNotInStore   = "BlockNotInStore"
	blockOverlaps     = "BlockOverlaps"
	blockWithoutNode  = "BlockWithoutNode"
	blockWithoutPool  = "BlockWithoutPool"
	restOverdue       = "RestOverdue"
	notMirrored       = "NotMirrored"
	mirrorDiffers     = "MirrorDiffers"
	onlyInMirror      = "OnlyInMirror"
	recordWithoutNode = "RecordWithoutNode"
	notAdvertised     = "NotAdvertised"
	notInKernel       = "NotInKernel"
)

// What mends a difference.
const (
	repairRegister = "the node registers again"
	repairMirror   = "the node mirrors its journal anew"
	repairFree     = "the block is freed"
	repairForget   = "the records are deleted"
	repairReload   = "ipamd reads its store anew"
)

// checkPause is the time between two looks: what is on its way meanwhile is no difference. A mirror is behind by about a
// second. Tests shorten it.
var checkPause = 3 * time.Second

// overdueAfter is how long after its rest a block may still be there: it is freed within seconds.
const overdueAfter = time.Minute

// books are what one node says of itself.
type books struct {
	blocks      []*clearwayv1.BlockSpec
	assignments map[netip.Addr]*clearwayv1.AssignmentSpec
	routes      []*clearwayv1.Route
}

// look is one comparison.
type look struct {
	differences []*clearwayv1.Difference
	warnings    []string
	assignments int64
	blocks      int64
	nodes       int64
}

// CheckBooks implements IPAMService.
func (i *ipamService) CheckBooks(
	request *clearwayv1.CheckBooksRequest, stream grpc.ServerStreamingServer[clearwayv1.CheckBooksResponse],
) error {
	if err := i.s.mustLead(); err != nil {
		return err
	}
	if node := request.GetNode(); node != "" {
		var known bool
		if err := i.s.view(func(st *state) { known = st.nodes[node] != nil }); err != nil {
			return err
		}
		if !known {
			return errNotFound(kindNode, node)
		}
	}
	found, err := i.s.checkTwice(stream.Context(), request.GetNode())
	if err != nil {
		return err
	}
	if request.GetRepair() && !request.GetDryRun() {
		if err := i.s.repair(stream.Context(), found.differences); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(found.differences, maxListed) {
		if err := stream.Send(&clearwayv1.CheckBooksResponse{Differences: part}); err != nil {
			return err
		}
	}
	return stream.Send(&clearwayv1.CheckBooksResponse{
		Warnings: found.warnings, Nodes: found.nodes, Blocks: found.blocks, Assignments: found.assignments,
	})
}

// checkTwice looks, and where something differs looks again: what is there both times is told.
func (s *Server) checkTwice(ctx context.Context, only string) (look, error) {
	first, err := s.checkOnce(ctx, only)
	if err != nil || len(first.differences) == 0 {
		return first, err
	}
	select {
	case <-time.After(checkPause):
	case <-ctx.Done():
		return look{}, ctx.Err()
	}
	second, err := s.checkOnce(ctx, only)
	if err != nil {
		return look{}, err
	}
	seen := map[string]bool{}
	for _, one := range first.differences {
		seen[differenceKey(one)] = true
	}
	second.differences = slices.DeleteFunc(second.differences, func(one *clearwayv1.Difference) bool {
		return !seen[differenceKey(one)]
	})
	return second, nil
}

func differenceKey(one *clearwayv1.Difference) string {
	return one.GetReason() + " " + one.GetNode() + " " + one.GetSubject()
}

// checkOnce asks the nodes, reads the store anew, and compares.
func (s *Server) checkOnce(ctx context.Context, only string) (look, error) {
	var names []string
	if err := s.view(func(st *state) { names = sortedNames(st.nodes) }); err != nil {
		return look{}, err
	}
	if only != "" {
		names = []string{only}
	}
	told, warnings := s.askBooks(ctx, names)
	stored, err := s.load(ctx)
	if err != nil {
		return look{}, status.Errorf(codes.Unavailable, "the store does not answer: %v", err)
	}
	found := look{warnings: warnings}
	err = s.view(func(st *state) {
		for _, name := range names {
			if of := told[name]; of != nil {
				found.nodes++
				found.blocks += int64(len(of.blocks))
				found.assignments += int64(len(of.assignments))
				found.differences = append(found.differences, st.compareNode(name, of)...)
			}
		}
		if only == "" {
			found.differences = append(found.differences, st.compareStore(stored, s.now())...)
		}
	})
	slices.SortStableFunc(found.differences, func(a, b *clearwayv1.Difference) int {
		return strings.Compare(differenceKey(a), differenceKey(b))
	})
	return found, err
}

// askBooks asks nodes for what they know of themselves. Those that do not answer are warnings: nothing is said of them.
func (s *Server) askBooks(ctx context.Context, names []string) (map[string]*books, []string) {
	told := map[string]*books{}
	var warnings []string
	var mu sync.Mutex // guards both
	var group errgroup.Group
	group.SetLimit(askAtOnce)
	for _, name := range names {
		group.Go(func() error {
			of, err := s.askBooksOf(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				warnings = append(warnings, fmt.Sprintf("node %s is not compared: %v", name, err))
			} else {
				told[name] = of
			}
			return nil
		})
	}
	_ = group.Wait() // its parts return no errors
	slices.Sort(warnings)
	return told, warnings
}

func (s *Server) askBooksOf(ctx context.Context, name string) (*books, error) {
	of := &books{assignments: map[netip.Addr]*clearwayv1.AssignmentSpec{}}
	for _, kind := range []string{kindBlock, kindAssignment, kindRoute} {
		err := s.ask(ctx, name, &clearwayv1.ListRequest{Kind: kind}, func(resources []*clearwayv1.Resource) error {
			for _, one := range resources {
				if block := one.GetBlock(); block != nil {
					of.blocks = append(of.blocks, block.GetSpec())
				}
				if held := one.GetAssignment().GetSpec(); held != nil {
					address, err := netip.ParseAddr(held.GetAddress())
					if err != nil {
						return fmt.Errorf("it tells of the address %q", held.GetAddress())
					}
					of.assignments[address] = held
				}
				if route := one.GetRoute(); route != nil {
					of.routes = append(of.routes, route)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return of, nil
}

// compareNode compares a node's own books with ours of it.
func (s *state) compareNode(name string, of *books) (found []*clearwayv1.Difference) {
	add := func(reason, subject, repair, detail string, args ...any) {
		found = append(found, &clearwayv1.Difference{
			Reason: reason, Node: name, Subject: subject, Repair: repair, Detail: fmt.Sprintf(detail, args...),
		})
	}
	has := map[string]bool{}
	for _, block := range of.blocks {
		has[block.GetCidr()] = true
		prefix, err := netip.ParsePrefix(block.GetCidr())
		if err == nil && !s.owns(name, s.blocks[prefix]) && block.GetState() == clearwayv1.BlockState_BLOCK_STATE_OWNED {
			add(blockNotInStore, block.GetCidr(), repairRegister, "the node's journal has it, and ipamd %s", s.ownerText(prefix))
		}
	}
	for _, block := range s.blocksOwned(name) {
		if !has[block.GetCidr()] && block.GetState() == clearwayv1.BlockState_BLOCK_STATE_OWNED {
			add(blockNotInJournal, block.GetCidr(), repairRegister, "ipamd gives it to the node, and the node's journal lacks it")
		}
	}
	s.compareMirror(name, of, add)
	compareRoutes(of, add)
	return found
}

// ownerText tells whose a prefix is.
func (s *state) ownerText(prefix netip.Prefix) string {
	if block := s.blocks[prefix]; block != nil {
		return fmt.Sprintf("says that it is %s, of node %s", stateName(block.GetState()), block.GetNode())
	}
	return "does not know it"
}

type adder func(reason, subject, repair, detail string, args ...any)

// compareMirror compares a node's journal with our copy of it.
func (s *state) compareMirror(name string, of *books, add adder) {
	copied := s.assignments[name]
	for address, held := range of.assignments {
		switch have := copied[address]; {
		case have == nil:
			add(notMirrored, address.String(), repairMirror, "%s holds it by the node's journal, and ipamd's copy lacks it", holderOf(held))
		case !proto.Equal(have.GetAttachment(), held.GetAttachment()):
			add(mirrorDiffers, address.String(), repairMirror, "%s holds it by the node's journal, and %s by ipamd's copy",
				holderOf(held), holderOf(have))
		}
	}
	for address, have := range copied {
		if of.assignments[address] == nil {
			add(onlyInMirror, address.String(), repairMirror, "%s holds it by ipamd's copy, and nobody by the node's journal", holderOf(have))
		}
	}
}

// compareRoutes tells what a node has and does not advertise, and what its kernel did not take. A node without an
// established session advertises nothing.
func compareRoutes(of *books, add adder) {
	advertised := map[string]bool{}
	for _, route := range of.routes {
		switch state := route.GetStatus().GetState(); {
		case route.GetSpec().GetDirection() == directionAdvertised:
			advertised[route.GetSpec().GetPrefix()] = true
		case state == "Conflict" || state == "Failed":
			add(notInKernel, route.GetSpec().GetPrefix(), "", "it is learned, and in the node's kernel it is %s: %s", state, route.GetStatus().GetReason())
		}
	}
	for _, block := range of.blocks {
		if len(advertised) > 0 && !advertised[block.GetCidr()] && block.GetState() == clearwayv1.BlockState_BLOCK_STATE_OWNED {
			add(notAdvertised, block.GetCidr(), "", "the node advertises others, and not this block of its own")
		}
	}
}

// directionAdvertised is that of a route which a node tells its peers.
const directionAdvertised = "Advertised"

// compareStore compares memory with what was read from etcd, and looks for records that belong to nobody.
func (s *state) compareStore(stored *state, now time.Time) (found []*clearwayv1.Difference) {
	add := func(reason, node, subject, repair, detail string, args ...any) {
		found = append(found, &clearwayv1.Difference{
			Reason: reason, Node: node, Subject: subject, Repair: repair, Detail: fmt.Sprintf(detail, args...),
		})
	}
	all := maps.Clone(s.blocks)
	maps.Copy(all, stored.blocks)
	prefixes := slices.SortedFunc(maps.Keys(all), netip.Prefix.Compare)
	for i, prefix := range prefixes {
		block := all[prefix]
		node := block.GetNode()
		if !proto.Equal(s.blocks[prefix], stored.blocks[prefix]) {
			add(memoryDiffers, node, prefix.String(), repairReload, "etcd %s, and ipamd's memory %s", stored.ownerText(prefix), s.ownerText(prefix))
		}
		if i > 0 && prefixes[i-1].Overlaps(prefix) {
			add(blockOverlaps, node, prefix.String(), "", "it overlaps %s, which %s", prefixes[i-1], stored.ownerText(prefixes[i-1]))
		}
		if s.nodes[node] == nil && s.gone[node] == nil && block.GetState() != clearwayv1.BlockState_BLOCK_STATE_COOLING {
			add(blockWithoutNode, node, prefix.String(), "", "it is %s, and there is no such node: nobody can say that its Pods are gone", stateName(block.GetState()))
		}
		if s.spaceOf(prefix, block.GetPool()) == nil && block.GetState() != clearwayv1.BlockState_BLOCK_STATE_COOLING {
			add(blockWithoutPool, node, prefix.String(), "", "there is no pool %q, nor another one around it", block.GetPool())
		}
		if free := block.GetFreeTime(); block.GetState() == clearwayv1.BlockState_BLOCK_STATE_COOLING && now.Sub(free.AsTime()) > overdueAfter {
			add(restOverdue, node, prefix.String(), repairFree, "it has rested since %s", free.AsTime().Format(time.RFC3339))
		}
	}
	for _, name := range sortedNames(stored.assignments) {
		if s.nodes[name] == nil && s.gone[name] == nil && len(s.blocksOf[name]) == 0 {
			add(recordWithoutNode, name, record.Assignments, repairForget, "%d assignments are kept of it, and there is no such node, nor a block of it",
				len(stored.assignments[name]))
		}
	}
	return found
}

// repair mends what is safe to mend, and marks it. A node is asked once, whatever the number of its differences.
func (s *Server) repair(ctx context.Context, found []*clearwayv1.Difference) error {
	again, anew, reload := map[string]bool{}, map[string]bool{}, false
	for _, one := range found {
		var err error
		switch one.GetRepair() {
		case repairRegister:
			again[one.GetNode()] = true
		case repairMirror:
			anew[one.GetNode()] = true
		case repairReload:
			reload = true
		case repairFree:
			err = s.freeOverdue(ctx, one.GetSubject())
		case repairForget:
			err = s.forgetStranger(ctx, one.GetNode())
		default:
			continue
		}
		if err != nil {
			return err
		}
		one.Repaired = true
	}
	for name := range anew {
		if err := s.mirrorAnew(ctx, name); err != nil {
			return err
		}
		again[name] = true
	}
	for name := range again {
		s.sessions.end(name)
	}
	if reload {
		select {
		case s.reload <- struct{}{}:
		default: // it will be
		}
	}
	return nil
}

// freeOverdue frees a block that has rested, if it still is one.
func (s *Server) freeOverdue(ctx context.Context, cidr string) error {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return invalid("cidr", cidr, "is no block")
	}
	return s.claims.do(ctx, true, func(p *plan) error {
		if free, resting := p.cooling[prefix]; resting && p.now.Sub(free) > overdueAfter {
			p.write(record.Op{Key: record.BlockKey(prefix)})
		}
		return nil
	})
}

// forgetStranger deletes the copy of a node that there is not, if it has no blocks.
func (s *Server) forgetStranger(ctx context.Context, name string) error {
	return s.claims.do(ctx, true, func(p *plan) error {
		if p.nodes[name] == nil && p.gone[name] == nil && len(p.blocksOf[name]) == 0 {
			p.forget(name)
		}
		return nil
	})
}

// mirrorAnew makes a node's copy one that nothing is known of: its next session begins with the whole.
func (s *Server) mirrorAnew(ctx context.Context, name string) error {
	return s.copies.do(ctx, false, func(p *plan) error {
		was, mirrored := p.mirrors[name]
		if !mirrored || was.GetJournalId() != p.nodes[name].GetStatus().GetJournalId() {
			return nil // it is of a journal that was lost: what it says is needed
		}
		next := proto.CloneOf(was.NodeStatus)
		next.JournalNumber = 0
		p.guard(record.Guard{Key: record.MirrorKey(name), ModRevision: was.revision})
		p.write(record.Op{Key: record.MirrorKey(name), Value: mustMarshal(next)})
		return nil
	})
}
