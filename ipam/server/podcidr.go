package server

import (
	"net/netip"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/ipam/block"
	"github.com/clearway/clearway/ipam/cidr"
)

// podBlockOf is the block that a node has of a pool with usePodCIDR: its Node's spec.podCIDR, of one that is larger than any
// block the first that is not. The zero Prefix: Kubernetes gave the Node none there.
func (s *state) podBlockOf(from *poolState, node string) netip.Prefix {
	known := s.kube.nodes[node]
	if known.GetGoneTime() != nil {
		return netip.Prefix{}
	}
	for _, text := range known.GetPodCidrs() {
		prefix, err := netip.ParsePrefix(text)
		if err != nil || prefix != prefix.Masked() || !cidr.Contains(from.CIDR, prefix) {
			continue
		}
		if least := prefix.Addr().BitLen() - block.MaxBits; prefix.Bits() < least {
			prefix = netip.PrefixFrom(prefix.Addr(), least)
		}
		return prefix
	}
	return netip.Prefix{}
}

// podBlock takes the block that Kubernetes gave a node. Whoever has it of before must have given it up: a Node that was made
// anew may get what another's was.
func (p *plan) podBlock(from *poolState, node string) (netip.Prefix, error) {
	prefix := p.podBlockOf(from, node)
	if !prefix.IsValid() {
		return netip.Prefix{}, status.Errorf(codes.FailedPrecondition,
			"blocks of pool %q are the Nodes' spec.podCIDR, and Kubernetes' Node %q has none within %s", from.Name, node, from.CIDR)
	}
	if from.Drains(prefix) {
		return netip.Prefix{}, status.Errorf(codes.FailedPrecondition, "%s, the podCIDR of Node %q, lies in a part of pool %q that is being drained",
			prefix, node, from.Name)
	}
	if _, rests := p.cooling[prefix]; rests && p.blocks[prefix].GetWithdrawn() {
		return prefix, nil // nobody else gets it, so it need not rest longer than its addresses
	}
	live := p.liveOf(prefix)
	if other, met := live.Overlap(prefix); met {
		return netip.Prefix{}, status.Errorf(codes.ResourceExhausted, "%s, the podCIDR of Node %q, is not free: %s is %s, of node %q",
			prefix, node, other, stateName(p.blocks[other].GetState()), p.blocks[other].GetNode())
	}
	for _, space := range []interface {
		Take(netip.Prefix) error
		Give(netip.Prefix) error
	}{live, from.space} {
		if err := space.Take(prefix); err != nil {
			return netip.Prefix{}, status.Errorf(codes.Internal, "pool %q and the live blocks disagree: %v", from.Name, err)
		}
		p.failed(func() { _ = space.Give(prefix) })
	}
	return prefix, nil
}
