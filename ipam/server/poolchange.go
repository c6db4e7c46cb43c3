package server

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/pool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// maxFormer bounds how often a pool's prefix or gateway changes while nodes have blocks that they had all the time.
const maxFormer = 16

// settled are the resources as they are judged and stored: what only ipamd writes is out, and a pool's gateway that is
// not said stays what it is while nodes have blocks of the pool.
func (s *state) settled(resources []*clearwayv1.Resource) []*clearwayv1.Resource {
	all := slices.Clone(resources)
	for i, resource := range resources {
		made := resource.GetIpPool()
		if made == nil {
			continue
		}
		version := made.GetMetadata().GetResourceVersion()
		next := forStore(made).(*clearwayv1.IPPool)
		next.Metadata.ResourceVersion = version
		s.keepGateway(next)
		all[i] = clearwayv1.Wrap(next)
	}
	return all
}

// keepGateway says the gateway that a pool has, where another would follow from its new prefix.
func (s *state) keepGateway(next *clearwayv1.IPPool) {
	before := s.pools[next.GetMetadata().GetName()]
	parsed, faults := pool.Parse(next)
	if before == nil || len(faults) > 0 || next.GetSpec().GetGateway() != "" || parsed.Gateway == before.Gateway ||
		parsed.Rigid || !before.Gateway.IsValid() || !parsed.CIDR.Contains(before.Gateway) || !s.used(before) {
		return
	}
	next.Spec.Gateway = before.Gateway.String()
}

// poolFaults compares a pool with its former self and with the blocks there are.
func (s *state) poolFaults(next pool.Pool) []*clearwayv1.FieldViolation {
	before, exists := s.pools[next.Name]
	if !exists {
		return s.strangers(next)
	}
	if before.Kind != next.Kind {
		return []*clearwayv1.FieldViolation{{Field: "spec.kind", Value: string(next.Kind),
			Message: fmt.Sprintf("is %s and cannot be changed; make another pool", before.Kind)}}
	}
	if same(before.Pool, next) {
		return nil
	}
	use := s.useOf(before, every)
	faults := slices.Concat(s.strangers(next), s.leftOut(before, next), pool.CheckChange(before.Pool, next, use.blocks()))
	if use.blocks() > 0 && len(faults) == 0 && !next.Rigid {
		faults = append(s.gatewayFaults(before, next), s.endFaults(before, next)...)
	}
	return faults
}

// same tells whether nothing changed that blocks and running Pods go by.
func same(before, next pool.Pool) bool {
	return before.CIDR == next.CIDR && before.Gateway == next.Gateway && before.Rigid == next.Rigid
}

// leftOut refuses to leave out of a pool what nodes have blocks in.
func (s *state) leftOut(before *poolState, next pool.Pool) []*clearwayv1.FieldViolation {
	if cidr.Contains(next.CIDR, before.CIDR) {
		return nil
	}
	if users := s.kube.services.usersOf(before.Name, func(addr netip.Addr) bool { return !next.CIDR.Contains(addr) }); users != "" {
		return []*clearwayv1.FieldViolation{{Field: "spec.cidr", Value: next.CIDR.String(), Message: fmt.Sprintf(
			"leaves out addresses of %s; they keep them until they are gone", users)}}
	}
	left := s.useOf(before, func(block *clearwayv1.BlockSpec) bool {
		prefix, err := netip.ParsePrefix(block.GetCidr())
		return err != nil || !cidr.Contains(next.CIDR, prefix)
	})
	if left.blocks() == 0 {
		return nil
	}
	return []*clearwayv1.FieldViolation{{Field: "spec.cidr", Value: next.CIDR.String(), Message: fmt.Sprintf(
		"leaves out %s; drain what is to go first (spec.drainCIDRs: [%s]), and change the cidr when it is empty",
		left, strings.Join(without(before.CIDR, next.CIDR), ", "))}}
}

// without are the parts of a prefix that are not in another.
func without(whole, part netip.Prefix) []string {
	var builder netipx.IPSetBuilder
	builder.AddPrefix(whole)
	builder.RemovePrefix(part)
	set, _ := builder.IPSet() // its parts are valid: they come from parsed values
	var texts []string
	for _, prefix := range set.Prefixes() {
		texts = append(texts, prefix.String())
	}
	return texts
}

// gatewayFaults refuses a gateway that a Pod may have as its own address.
func (s *state) gatewayFaults(before *poolState, next pool.Pool) []*clearwayv1.FieldViolation {
	if before.Gateway == next.Gateway {
		return nil
	}
	fault := func(message string, args ...any) []*clearwayv1.FieldViolation {
		return []*clearwayv1.FieldViolation{{Field: "spec.gateway", Value: next.Gateway.String(), Message: fmt.Sprintf(message, args...)}}
	}
	if len(before.FormerGateways) >= maxFormer {
		return fault("was changed %d times while nodes had blocks; keep %s, or make another pool", maxFormer, before.Gateway)
	}
	if slices.Contains(before.FormerGateways, next.Gateway) {
		return nil // nobody has been given it since
	}
	only := netip.PrefixFrom(next.Gateway, next.Gateway.BitLen())
	if prefix, met := s.liveOf(only).Overlap(only); met && s.blocks[prefix].GetState() != clearwayv1.BlockState_BLOCK_STATE_COOLING {
		return fault("is %s, and the new one is in block %s of node %s, where a Pod may have it; choose an address that is in no block",
			before.Gateway, prefix, s.blocks[prefix].GetNode())
	}
	return nil
}

// endFaults refuses a prefix by which an address that a Pod has would be the subnet's first or last.
func (s *state) endFaults(before *poolState, next pool.Pool) []*clearwayv1.FieldViolation {
	if before.CIDR == next.CIDR {
		return nil
	}
	fault := func(message string, args ...any) []*clearwayv1.FieldViolation {
		return []*clearwayv1.FieldViolation{{Field: "spec.cidr", Value: next.CIDR.String(), Message: fmt.Sprintf(message, args...)}}
	}
	if len(before.FormerCIDRs) >= maxFormer {
		return fault("was changed %d times while nodes had blocks; keep %s, or make another pool", maxFormer, before.CIDR)
	}
	var ends []netip.Addr
	if next.ReservedFirst > 0 {
		ends = append(ends, next.CIDR.Addr())
	}
	if next.ReservedLast > 0 {
		ends = append(ends, cidr.Last(next.CIDR))
	}
	for _, end := range ends {
		if holder := s.assignmentAt(end, ""); holder != nil {
			return fault("has %s at its end, which %s holds on node %s; end that first", end, holderOf(holder), holder.GetNode())
		}
	}
	return nil
}

// keepFormer notes in a pool what running Pods may still go by: as long as nodes have blocks of it.
func (s *state) keepFormer(next *clearwayv1.IPPool) {
	before := s.pools[next.GetMetadata().GetName()]
	if before == nil || before.Rigid || !s.used(before) {
		return
	}
	parsed, _ := pool.Parse(next) // its faults have been told
	var status clearwayv1.IPPoolStatus
	for _, former := range append(slices.Clone(before.FormerCIDRs), before.CIDR) {
		if text := former.String(); former != parsed.CIDR && !slices.Contains(status.GetFormerCidrs(), text) {
			status.FormerCidrs = append(status.FormerCidrs, text)
		}
	}
	for _, former := range append(slices.Clone(before.FormerGateways), before.Gateway) {
		if text := former.String(); former.IsValid() && former != parsed.Gateway && !slices.Contains(status.GetFormerGateways(), text) {
			status.FormerGateways = append(status.FormerGateways, text)
		}
	}
	next.Status = &status
}

// strangers tells of blocks of other pools, deleted ones, that a pool would lie over (rule NoOverlap).
func (s *state) strangers(next pool.Pool) []*clearwayv1.FieldViolation {
	for prefix, block := range s.blocks {
		if !next.CIDR.Overlaps(prefix) || (block.GetPool() == next.Name && next.Kind != pool.LoadBalancer && cidr.Contains(next.CIDR, prefix)) {
			continue
		}
		return []*clearwayv1.FieldViolation{{Field: "spec.cidr", Value: next.CIDR.String(), Message: fmt.Sprintf(
			"overlaps block %s of pool %q, which is still %s", prefix, block.GetPool(), stateName(block.GetState()))}}
	}
	return nil
}
