package server

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/clearway/clearway/ipam/block"
	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// maxAdoptedAddresses is how many addresses of one node are taken in: several times what a node has Pods.
const maxAdoptedAddresses = 20_000

// adoption is an AdoptRequest that has been read.
type adoption struct {
	*clearwayv1.AdoptRequest
	blocks    []held
	addresses []adopted
}

type adopted struct {
	*clearwayv1.AssignmentSpec
	address netip.Addr
}

// Adopt implements IPAMService.
func (i *ipamService) Adopt(ctx context.Context, request *clearwayv1.AdoptRequest) (*clearwayv1.AdoptResponse, error) {
	if err := i.s.mustLead(); err != nil {
		return nil, err
	}
	read, err := readAdoption(request)
	if err != nil {
		return nil, err
	}
	return i.s.adoptNode(ctx, read)
}

func readAdoption(request *clearwayv1.AdoptRequest) (*adoption, error) {
	read := &adoption{AdoptRequest: request}
	if reasons := validation.IsDNS1123Subdomain(request.GetNode()); len(reasons) > 0 {
		return nil, invalid("node", request.GetNode(), "must be the node's name: "+reasons[0])
	}
	for field, text := range map[string]string{
		"node_uid": request.GetNodeUid(), "boot_id": request.GetBootId(), "machine_id": request.GetMachineId(),
	} {
		if len(text) > maxText {
			return nil, invalid(field, text[:32]+"...", fmt.Sprintf("is longer than %d bytes", maxText))
		}
	}
	switch {
	case request.GetBootId() == "":
		return nil, invalid("boot_id", "", "is required: without it the node's agent would take its Pods for those of an earlier boot")
	case len(request.GetBlocks()) == 0:
		return nil, invalid("blocks", "", "is required: a node without blocks needs no taking in")
	case len(request.GetBlocks()) > maxHeld:
		return nil, invalid("blocks", fmt.Sprint(len(request.GetBlocks())), fmt.Sprintf("must be at most %d", maxHeld))
	case len(request.GetAssignments()) > maxAdoptedAddresses:
		return nil, invalid("assignments", fmt.Sprint(len(request.GetAssignments())), fmt.Sprintf("must be at most %d", maxAdoptedAddresses))
	}
	for _, one := range request.GetBlocks() {
		prefix, err := netip.ParsePrefix(one.GetCidr())
		if err != nil || prefix != prefix.Masked() {
			return nil, invalid("blocks.cidr", one.GetCidr(), "must be a prefix with its host bits zero, as 10.244.0.0/26")
		}
		if bits := prefix.Addr().BitLen() - prefix.Bits(); bits > block.MaxBits {
			return nil, invalid("blocks.cidr", one.GetCidr(), fmt.Sprintf("must have at most %d addresses", 1<<block.MaxBits))
		}
		read.blocks = append(read.blocks, held{one, prefix})
	}
	if err := overlapping("blocks.cidr", read.blocks); err != nil {
		return nil, err
	}
	return read, read.readAddresses()
}

// readAddresses reads the assignments, and finds each one's block.
func (a *adoption) readAddresses() error {
	seen := map[netip.Addr]bool{}
	for _, spec := range a.GetAssignments() {
		address, err := netip.ParseAddr(spec.GetAddress())
		if err != nil || address.Zone() != "" || address.Is4In6() {
			return invalid("assignments.address", spec.GetAddress(), "must be an address")
		}
		if seen[address] {
			return invalid("assignments.address", spec.GetAddress(), "is named twice")
		}
		seen[address] = true
		if to := spec.GetAttachment(); to.GetNetwork() == "" || to.GetContainerId() == "" || to.GetIfname() == "" {
			return invalid("assignments.attachment", spec.GetAddress(), "must name network, container and interface")
		}
		at := slices.IndexFunc(a.blocks, func(b held) bool { return b.prefix.Contains(address) })
		if at < 0 {
			return invalid("assignments.address", spec.GetAddress(), "lies in none of the blocks")
		}
		full := proto.CloneOf(spec)
		full.Node, full.Block, full.Pool, full.JournalNumber = a.GetNode(), a.blocks[at].GetCidr(), a.blocks[at].GetPool(), 0
		a.addresses = append(a.addresses, adopted{full, address})
	}
	return nil
}

// adoptNode takes a node in, as if its agent had registered on this boot, claimed and given what it has, and lost its journal
// then: who registers next finds the blocks sealed. What holders have is written first, which is nobody's yet; then the blocks,
// and with the last of them the node and its mirror: an agent that came before is not written over.
func (s *Server) adoptNode(ctx context.Context, read *adoption) (*clearwayv1.AdoptResponse, error) {
	answer := &clearwayv1.AdoptResponse{}
	if err := s.claims.do(ctx, true, func(p *plan) error { return p.mayAdopt(read) }); err != nil || read.GetDryRun() {
		return answer, err
	}
	if err := inParts(ctx, s.copies, read.addresses, func(p *plan, one adopted) {
		if !proto.Equal(p.assignments[read.GetNode()][one.address], one.AssignmentSpec) {
			p.write(record.Op{Key: record.AssignmentKey(read.GetNode(), one.address), Value: mustMarshal(one.AssignmentSpec)})
			answer.Assignments++
		}
	}); err != nil {
		return nil, err
	}
	for from := 0; from < len(read.blocks); from += maxAdopted {
		to := min(from+maxAdopted, len(read.blocks))
		taken := 0
		if err := s.claims.do(ctx, true, func(p *plan) (err error) {
			taken, err = p.adoptPart(read, read.blocks[from:to], to == len(read.blocks))
			return err
		}); err != nil {
			return nil, err
		}
		answer.Blocks += int64(taken)
	}
	if answer.GetBlocks() > 0 {
		s.note(eventNormal, "NodeAdopted", read.GetNode(), "Node/"+read.GetNode(), fmt.Sprintf(
			"taken in with %d blocks and %d addresses of another network; its agent has not registered yet", len(read.blocks), len(read.addresses)))
	}
	return answer, nil
}

// adoptPart takes some of the blocks, and with the last ones the node.
func (p *plan) adoptPart(read *adoption, blocks []held, last bool) (taken int, err error) {
	if err := p.mayAdopt(read); err != nil {
		return 0, err
	}
	for _, block := range blocks {
		switch {
		case p.owns(read.GetNode(), p.blocks[block.prefix]):
		case p.adopt(block, report{node: read.GetNode(), uid: read.GetNodeUid()}, 0):
			taken++
		default:
			return 0, status.Errorf(codes.Aborted, "block %s was taken meanwhile; try again", block.GetCidr())
		}
	}
	if last {
		p.mirrorOf(read)
		p.writeAdopted(read)
	}
	return taken, nil
}

// mayAdopt refuses what is not to be taken in, before anything is written.
func (p *plan) mayAdopt(read *adoption) error {
	name := read.GetNode()
	if known := p.nodes[name]; known.GetStatus().GetJournalId() != "" || p.gone[name] != nil {
		return status.Errorf(codes.FailedPrecondition, "node %q has or had an agent of its own: its blocks are what that says; "+
			"only a node that never had one is taken in", name)
	}
	if uid := p.kube.uid(name); uid != "" && read.GetNodeUid() != uid {
		return status.Errorf(codes.FailedPrecondition, "node %q has UID %s in Kubernetes, and not %q", name, uid, read.GetNodeUid())
	}
	for _, block := range read.blocks {
		from, have := p.pools[block.GetPool()], p.blocks[block.prefix]
		switch {
		case p.owns(name, have) && have.GetPool() == block.GetPool():
			continue
		case from == nil:
			return status.Errorf(codes.FailedPrecondition, "block %s: there is no pool %q; apply it first", block.GetCidr(), block.GetPool())
		case !from.carves(block):
			return status.Errorf(codes.FailedPrecondition, "block %s: pool %q (%s, %s) has no such block", block.GetCidr(), block.GetPool(), from.CIDR, from.Kind)
		}
		if other, met := p.liveOf(block.prefix).Overlap(block.prefix); met {
			return status.Errorf(codes.FailedPrecondition, "block %s meets block %s of node %q", block.GetCidr(), other, p.blocks[other].GetNode())
		}
	}
	return nil
}

// mirrorOf notes on which boot the copy was taken, of a journal that no agent has.
func (p *plan) mirrorOf(read *adoption) {
	next := &clearwayv1.NodeStatus{BootId: read.GetBootId(), MachineId: read.GetMachineId()}
	was, there := p.mirrors[read.GetNode()]
	if there && proto.Equal(was.NodeStatus, next) {
		return
	}
	p.guard(record.Guard{Key: record.MirrorKey(read.GetNode()), ModRevision: was.revision})
	p.write(record.Op{Key: record.MirrorKey(read.GetNode()), Value: mustMarshal(next)})
}

// writeAdopted makes the node known. Without a journal's id it is one that no agent has registered.
func (p *plan) writeAdopted(read *adoption) {
	name := read.GetNode()
	if p.nodes[name] != nil {
		return
	}
	p.write(record.Op{Key: record.NodeKey(name), Value: mustMarshal(&clearwayv1.Node{
		ApiVersion: clearwayv1.APIVersion, Kind: kindNode,
		Metadata: &clearwayv1.ObjectMeta{Name: name, Uid: read.GetNodeUid(), CreationTimestamp: timestamppb.New(p.now), Generation: 1},
		Status: &clearwayv1.NodeStatus{
			BootId: read.GetBootId(), MachineId: read.GetMachineId(), RegisteredTime: timestamppb.New(p.now), Incarnation: p.incarnation,
		},
	})})
}
