package server

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/pool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// ipamService answers questions about addresses.
type ipamService struct {
	clearwayv1.UnimplementedIPAMServiceServer
	s *Server
}

// What an address may be.
const (
	addressAssigned  = "Assigned"
	addressCooling   = "Cooling"
	addressFree      = "Free"
	addressUnclaimed = "Unclaimed"
	addressGateway   = "Gateway"
	addressReserved  = "Reserved"
	addressOutside   = "Outside"
)

// ShowAddress implements IPAMService.
func (i *ipamService) ShowAddress(
	_ context.Context, request *clearwayv1.ShowAddressRequest,
) (*clearwayv1.ShowAddressResponse, error) {
	address, err := cidr.ParseAddress(request.GetAddress())
	if err != nil {
		return nil, invalid("address", request.GetAddress(), cidr.Reason(err))
	}
	answer := &clearwayv1.ShowAddressResponse{AsOf: timestamppb.New(i.s.now())}
	if err := i.s.view(func(st *state) { i.s.show(st, address, answer) }); err != nil {
		return nil, err
	}
	return answer, nil
}

// show fills in what an address belongs to, and says it in a sentence.
func (s *Server) show(st *state, address netip.Addr, answer *clearwayv1.ShowAddressResponse) {
	parsed, made := st.poolAt(address)
	if made != nil {
		answer.Pool = s.statusOf(st, kindPool)(made).(*clearwayv1.IPPool)
	}
	prefix, inBlock := st.liveOf(netip.PrefixFrom(address, address.BitLen())).Overlap(netip.PrefixFrom(address, address.BitLen()))
	if inBlock {
		answer.Block = blockResource(prefix, st.blocks[prefix], s.blockUse(st)(prefix))
		if seen := s.seen(st.blocks[prefix].GetNode()); !seen.IsZero() {
			answer.AsOf = timestamppb.New(seen)
		}
	}
	kept := st.reservationOf(address, s.now())
	if kept != nil {
		answer.Reservation, _ = st.config[kindReservation][kept.Name].object.(*clearwayv1.IPReservation)
	}
	spec := st.assignmentAt(address, answer.GetBlock().GetSpec().GetNode())
	services := st.kube.services.namesAt(address)
	switch {
	case services != "":
		answer.State = addressAssigned
		answer.Summary = fmt.Sprintf("%s is held by %s, of pool %s; %s.", address, services, parsed.Name, st.kube.services.toldAt(address))
	case spec != nil:
		answer.State, answer.Assignment = addressAssigned, assignmentResource(spec)
		answer.Summary = fmt.Sprintf("%s is held by %s on node %s%s.", address, holderOf(spec), spec.GetNode(), within(answer))
		if kept != nil {
			answer.Summary += fmt.Sprintf(" It is reserved by %s, and is given to nobody else.", reservationText(kept))
		}
	case made == nil && !inBlock:
		answer.State = addressOutside
		answer.Summary = fmt.Sprintf("%s is in no pool.", address)
	case made != nil && isGateway(parsed, prefix, address):
		answer.State = addressGateway
		answer.Summary = fmt.Sprintf("%s is the gateway that Pods of pool %s see; nobody is given it.", address, parsed.Name)
	case kept != nil:
		answer.State = addressReserved
		answer.Summary = fmt.Sprintf("%s is reserved: %s.", address, reservationText(kept))
	case excluded(address, prefix, parsed, made) != "":
		answer.State = addressReserved
		answer.Summary = fmt.Sprintf("%s is reserved: %s.", address, excluded(address, prefix, parsed, made))
	case !inBlock:
		answer.State = addressUnclaimed
		answer.Summary = fmt.Sprintf("%s is in pool %s and in no node's block.", address, parsed.Name)
		if parsed.Kind != pool.Block {
			answer.Summary = fmt.Sprintf("%s is in pool %s, of kind %s, and nobody has it.", address, parsed.Name, parsed.Kind)
		}
	default:
		s.showInBlock(address, answer)
	}
}

func (s *Server) showInBlock(address netip.Addr, answer *clearwayv1.ShowAddressResponse) {
	block := answer.GetBlock().GetSpec()
	if block.GetFloating() != nil {
		showFloating(address, block, answer)
		return
	}
	switch block.GetState() {
	case clearwayv1.BlockState_BLOCK_STATE_COOLING:
		answer.State = addressCooling
		answer.Summary = fmt.Sprintf("%s is in block %s, which was node %s's and rests until %s.", address, block.GetCidr(),
			block.GetNode(), block.GetFreeTime().AsTime().Format(time.RFC3339))
	case clearwayv1.BlockState_BLOCK_STATE_ORPHANED:
		answer.State = addressFree
		answer.Summary = fmt.Sprintf("%s is not assigned, in block %s of the deleted node %s, which waits for the word that the "+
			"machine is off.", address, block.GetCidr(), block.GetNode())
	default:
		answer.State = addressFree
		answer.Summary = fmt.Sprintf("%s is not assigned, as far as node %s has told%s.", address, block.GetNode(), within(answer))
	}
}

// showFloating tells of an address of a Floating pool that somebody has, or had, and that no attachment holds.
func showFloating(address netip.Addr, block *clearwayv1.BlockSpec, answer *clearwayv1.ShowAddressResponse) {
	whose := holderKeyOf(block.GetFloating())
	switch block.GetState() {
	case clearwayv1.BlockState_BLOCK_STATE_COOLING:
		answer.State = addressCooling
		answer.Summary = fmt.Sprintf("%s is kept for %s, who had it last on node %s, until %s.", address, whose, block.GetNode(),
			block.GetFreeTime().AsTime().Format(time.RFC3339))
	case clearwayv1.BlockState_BLOCK_STATE_ORPHANED:
		answer.State = addressFree
		answer.Summary = fmt.Sprintf("%s is %s's, on the deleted node %s, which waits for the word that the machine is off.", address, whose, block.GetNode())
	default:
		answer.State = addressFree
		answer.Summary = fmt.Sprintf("%s is %s's, on node %s, and no attachment there holds it, as far as the node has told.", address, whose, block.GetNode())
	}
}

func (s *Server) seen(node string) time.Time {
	session := s.sessions.of(node)
	if session == nil {
		return time.Time{}
	}
	_, seen, _ := session.status()
	return seen
}

// assignmentAt finds who holds an address: by the mirror of the block's owner, or else any node's.
func (s *state) assignmentAt(address netip.Addr, owner string) *clearwayv1.AssignmentSpec {
	if spec := s.assignments[owner][address]; spec != nil {
		return spec
	}
	for _, name := range sortedNames(s.assignments) {
		if spec := s.assignments[name][address]; spec != nil {
			return spec
		}
	}
	return nil
}

func holderOf(spec *clearwayv1.AssignmentSpec) string {
	if pod := spec.GetPod(); pod.GetName() != "" {
		return fmt.Sprintf("Pod %s/%s (%s)", pod.GetNamespace(), pod.GetName(), spec.GetAttachment().GetIfname())
	}
	attachment := spec.GetAttachment()
	return fmt.Sprintf("container %s (%s of network %s)", attachment.GetContainerId(), attachment.GetIfname(), attachment.GetNetwork())
}

func within(answer *clearwayv1.ShowAddressResponse) string {
	block := answer.GetBlock().GetSpec()
	if block == nil {
		return ""
	}
	if block.GetFloating() != nil {
		return fmt.Sprintf(", a floating address of pool %s, whose owner is %s", block.GetPool(), holderKeyOf(block.GetFloating()))
	}
	return fmt.Sprintf(", in block %s of pool %s", block.GetCidr(), block.GetPool())
}

// isGateway tells whether Pods see an address as their gateway; the block is invalid where there is none.
func isGateway(of pool.Pool, block netip.Prefix, address netip.Addr) bool {
	_, gateway := of.Link(block)
	return gateway.IsValid() && gateway == address
}

// excluded tells by which rule of its pool an address, in a block or none, is never given out; "" when it may be.
func excluded(address netip.Addr, block netip.Prefix, parsed pool.Pool, made *clearwayv1.IPPool) string {
	if made == nil {
		return ""
	}
	of := fmt.Sprintf("pool %s", parsed.Name)
	switch {
	case !parsed.Rigid:
		block = netip.PrefixFrom(address, address.BitLen())
	case !block.IsValid():
		return ""
	default:
		of = fmt.Sprintf("block %s", block)
	}
	if !contained(pool.Excluded(parsed, block, nil), address) {
		return ""
	}
	plain := parsed
	plain.AvoidBuggyIPs, plain.FormerCIDRs, plain.FormerGateways = false, nil, nil
	switch {
	case contained(pool.Excluded(plain, block, nil), address):
		return fmt.Sprintf("the first and last addresses of %s are not given out", of)
	case slices.Contains(parsed.FormerGateways, address):
		return fmt.Sprintf("it was the gateway of %s, and Pods may have it for that", of)
	case slices.ContainsFunc(parsed.FormerCIDRs, func(p netip.Prefix) bool { return p.Addr() == address || cidr.Last(p) == address }):
		return fmt.Sprintf("it was the first or last address of %s, and Pods may take it for that", of)
	}
	return fmt.Sprintf("%s gives out no address that ends in .0 or .255", of)
}

func contained(ranges []netipx.IPRange, address netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(one netipx.IPRange) bool { return one.Contains(address) })
}
