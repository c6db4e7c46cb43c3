package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// exportVersion is that of the form of exports.
const exportVersion = 1

// maxImported bounds what an import gathers before it begins.
const maxImported = 2_000_000

// configKinds are the kinds that operators apply, those that others name first.
var configKinds = []string{
	kindPool, kindReservation, kindQuota, kindIPAMConfiguration, kindBGPConfiguration, kindFilter, kindPeer, kindNode,
}

// Export implements IPAMService.
func (i *ipamService) Export(
	_ *clearwayv1.ExportRequest, stream grpc.ServerStreamingServer[clearwayv1.ExportResponse],
) error {
	header := &clearwayv1.ExportHeader{Version: exportVersion, CreatedTime: timestamppb.New(i.s.now())}
	var all []*clearwayv1.Resource
	if err := i.s.view(func(st *state) {
		header.Incarnation, header.Revision = st.incarnation, st.revision
		all = st.export()
	}); err != nil {
		return err
	}
	if err := stream.Send(&clearwayv1.ExportResponse{Header: header}); err != nil {
		return err
	}
	for part := range slices.Chunk(all, maxListed) {
		if err := stream.Send(&clearwayv1.ExportResponse{Resources: part}); err != nil {
			return err
		}
	}
	return nil
}

// export is all that lasts, in an order that can be imported.
func (s *state) export() []*clearwayv1.Resource {
	var all []*clearwayv1.Resource
	for _, kind := range configKinds {
		for _, name := range slices.Sorted(maps.Keys(s.config[kind])) {
			all = append(all, clearwayv1.Wrap(s.config[kind][name].object))
		}
	}
	for _, prefix := range slices.SortedFunc(maps.Keys(s.blocks), netip.Prefix.Compare) {
		all = append(all, clearwayv1.Wrap(blockResource(prefix, s.blocks[prefix], nil)))
	}
	for _, node := range sortedNames(s.assignments) {
		for _, address := range slices.SortedFunc(maps.Keys(s.assignments[node]), netip.Addr.Compare) {
			all = append(all, clearwayv1.Wrap(assignmentResource(s.assignments[node][address])))
		}
	}
	for _, name := range sortedNames(s.nodes) {
		all = append(all, clearwayv1.Wrap(s.nodes[name]))
	}
	return all
}

// imported is an export, read.
type imported struct {
	header      *clearwayv1.ExportHeader
	dry         bool
	config      []*clearwayv1.Resource
	nodes       []*clearwayv1.Node
	blocks      []held
	assignments []*clearwayv1.AssignmentSpec
}

// Import implements IPAMService.
func (i *ipamService) Import(stream grpc.ClientStreamingServer[clearwayv1.ImportRequest, clearwayv1.ImportResponse]) error {
	if err := i.s.mustLead(); err != nil {
		return err
	}
	read, err := readImport(stream)
	if err != nil {
		return err
	}
	if err := i.s.checkImport(read); err != nil {
		return err
	}
	if !read.dry {
		if err := i.s.bring(stream.Context(), read); err != nil {
			return err
		}
	}
	return stream.SendAndClose(&clearwayv1.ImportResponse{
		Resources: int64(len(read.config)), Nodes: int64(len(read.nodes)), Blocks: int64(len(read.blocks)),
		Assignments: int64(len(read.assignments)),
	})
}

func readImport(stream grpc.ClientStreamingServer[clearwayv1.ImportRequest, clearwayv1.ImportResponse]) (*imported, error) {
	read := &imported{}
	for count := 0; ; {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if request.GetHeader() != nil {
			read.header, read.dry = request.GetHeader(), request.GetDryRun()
		}
		if count += len(request.GetResources()); count > maxImported {
			return nil, invalid("resources", fmt.Sprint(count), fmt.Sprintf("must be at most %d", maxImported))
		}
		for _, resource := range request.GetResources() {
			if err := read.add(resource); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case read.header.GetVersion() != exportVersion:
		return nil, invalid("version", fmt.Sprint(read.header.GetVersion()), fmt.Sprintf("must be %d: this ipamd knows no other form", exportVersion))
	case read.header.GetIncarnation() == "":
		return nil, invalid("incarnation", "", "is required: an export tells what it is of")
	}
	return read, overlapping("spec.cidr", read.blocks)
}

// add sorts a resource in.
func (r *imported) add(resource *clearwayv1.Resource) error {
	switch one := resource.Object().(type) {
	case *clearwayv1.Block:
		prefix, err := netip.ParsePrefix(one.GetSpec().GetCidr())
		if err != nil || prefix != prefix.Masked() || one.GetSpec().GetGeneration() == 0 {
			return invalid("spec.cidr", one.GetSpec().GetCidr(), "must be a block with its generation, as an export has it")
		}
		r.blocks = append(r.blocks, held{one.GetSpec(), prefix})
	case *clearwayv1.Assignment:
		if _, err := netip.ParseAddr(one.GetSpec().GetAddress()); err != nil || one.GetSpec().GetNode() == "" {
			return invalid("spec.address", one.GetSpec().GetAddress(), "must be an address of a node, as an export has it")
		}
		r.assignments = append(r.assignments, one.GetSpec())
	case *clearwayv1.Node:
		if one.GetStatus().GetRegisteredTime() == nil {
			r.config = append(r.config, resource)
			return nil
		}
		r.nodes = append(r.nodes, one)
	case nil:
		return invalid("resources", "", "has an empty one")
	default:
		r.config = append(r.config, resource)
	}
	return nil
}

func (r *imported) reason() string {
	return fmt.Sprintf("an export of revision %d of incarnation %s was imported", r.header.GetRevision(), r.header.GetIncarnation())
}

// checkImport refuses an import over a store that has moved on.
func (s *Server) checkImport(read *imported) error {
	var refused error
	if err := s.view(func(st *state) {
		again := st.recovering() && st.life.GetRecovery().GetReason() == read.reason()
		switch {
		case again:
		case st.incarnation == read.header.GetIncarnation():
			refused = status.Errorf(codes.FailedPrecondition, "this is the store that the export is of, and it has moved on from "+
				"revision %d to %d: nothing is brought into a store that lives", read.header.GetRevision(), st.revision)
		case len(st.nodes)+len(st.blocks) > 0:
			refused = status.Errorf(codes.FailedPrecondition, "the store has moved on: it has %d nodes and %d blocks; an export goes into "+
				"one that is empty", len(st.nodes), len(st.blocks))
		}
	}); err != nil {
		return err
	}
	if refused != nil {
		return refused
	}
	var faults []*clearwayv1.FieldViolation
	for i, resource := range read.config {
		for _, fault := range s.faultsOf(resource) {
			fault.Index, fault.Resource = int32(i), clearwayv1.KeyOf(resource.Object())
			faults = append(faults, fault)
		}
	}
	if len(faults) > 0 {
		return refuse(faults)
	}
	return nil
}

// bring writes an export, each step repeatable: first the store begins to recover, so that nothing is claimed, then
// what operators applied, the blocks, and the nodes, which are awaited from then on.
func (s *Server) bring(ctx context.Context, read *imported) error {
	doubt := suspicion{why: read.reason(), brought: read.header.GetIncarnation(), above: greatestEpoch(specsOf(read.blocks))}
	if err := s.view(func(st *state) {
		if st.life.GetRecovery().GetReason() != read.reason() {
			doubt.of = st.incarnation
		}
	}); err != nil {
		return err
	}
	if doubt.of != "" {
		if err := s.beginRecovery(ctx, doubt); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(read.config, clearwayv1.MaxApply/2) {
		for _, resource := range part {
			resource.Object().GetMetadata().ResourceVersion = ""
		}
		if err := s.claims.do(ctx, true, func(p *plan) error { return (&application{plan: p}).run(part, "") }); err != nil {
			return err
		}
	}
	if err := inParts(ctx, s.claims, read.blocks, func(p *plan, block held) {
		if p.blocks[block.prefix] == nil {
			p.write(blockOp(block.BlockSpec))
		}
	}); err != nil {
		return err
	}
	if err := inParts(ctx, s.copies, read.assignments, func(p *plan, held *clearwayv1.AssignmentSpec) {
		p.write(record.Op{Key: record.AssignmentKey(held.GetNode(), netip.MustParseAddr(held.GetAddress())), Value: mustMarshal(held)})
	}); err != nil {
		return err
	}
	return inParts(ctx, s.claims, read.nodes, func(p *plan, node *clearwayv1.Node) {
		name := node.GetMetadata().GetName()
		if p.nodes[name] != nil {
			return // it is back already
		}
		known := node.GetStatus()
		p.write(record.Op{Key: record.NodeKey(name), Value: mustMarshal(node)}, record.Op{
			Key: record.MirrorKey(name), Value: mustMarshal(&clearwayv1.NodeStatus{
				BootId: known.GetBootId(), MachineId: known.GetMachineId(), JournalId: known.GetJournalId(),
			}),
		})
	})
}

func specsOf(blocks []held) []*clearwayv1.BlockSpec {
	specs := make([]*clearwayv1.BlockSpec, 0, len(blocks))
	for _, one := range blocks {
		specs = append(specs, proto.CloneOf(one.BlockSpec))
	}
	return specs
}

// inParts plans each of many in as many transactions as it takes.
func inParts[T any](ctx context.Context, to *lane, all []T, each func(*plan, T)) error {
	for part := range slices.Chunk(all, maxAdopted) {
		if err := to.do(ctx, true, func(p *plan) error {
			for _, one := range part {
				each(p, one)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}
