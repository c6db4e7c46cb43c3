package server

import (
	"context"
	"fmt"
	"net/netip"
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
	spec := st.assignmentAt(address, answer.GetBlock().GetSpec().GetNode())
	switch {
	case spec != nil:
		answer.State, answer.Assignment = addressAssigned, assignmentResource(spec)
		answer.Summary = fmt.Sprintf("%s is held by %s on node %s%s.", address, holderOf(spec), spec.GetNode(), within(answer))
	case made == nil && !inBlock:
		answer.State = addressOutside
		answer.Summary = fmt.Sprintf("%s is in no pool.", address)
	case made != nil && address == parsed.Gateway:
		answer.State = addressGateway
		answer.Summary = fmt.Sprintf("%s is the gateway that Pods of pool %s see; nobody is given it.", address, parsed.Name)
	case st.reserved(address, parsed, made) != "":
		answer.State = addressReserved
		answer.Summary = fmt.Sprintf("%s is reserved: %s.", address, st.reserved(address, parsed, made))
	case !inBlock:
		answer.State = addressUnclaimed
		answer.Summary = fmt.Sprintf("%s is in pool %s and in no node's block.", address, parsed.Name)
	default:
		s.showInBlock(address, answer)
	}
}

func (s *Server) showInBlock(address netip.Addr, answer *clearwayv1.ShowAddressResponse) {
	block := answer.GetBlock().GetSpec()
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
	return fmt.Sprintf(", in block %s of pool %s", block.GetCidr(), block.GetPool())
}

// reserved tells why an address of a pool is never given out; "" when it may be.
func (s *state) reserved(address netip.Addr, parsed pool.Pool, made *clearwayv1.IPPool) string {
	for _, one := range named[*clearwayv1.IPReservation](s, kindReservation) {
		reservation, _ := pool.ParseReservation(one)
		for _, addresses := range reservation.Ranges {
			if addresses.Contains(address) {
				return fmt.Sprintf("IPReservation %s (%s)", reservation.Name, reservation.Reason)
			}
		}
	}
	if made == nil {
		return ""
	}
	only := netip.PrefixFrom(address, address.BitLen())
	for _, addresses := range pool.Excluded(parsed, only, []netipx.IPRange{}) {
		if addresses.Contains(address) {
			return fmt.Sprintf("the first and last address of pool %s are not given out", parsed.Name)
		}
	}
	return ""
}
