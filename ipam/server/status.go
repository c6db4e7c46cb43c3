package server

import (
	"math"
	"math/bits"
	"net/netip"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/pool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// statusOf returns what puts the computed status beside a resource of a kind; the resource itself is not changed.
func (s *Server) statusOf(st *state, kind string) func(clearwayv1.Object) clearwayv1.Object {
	switch kind {
	case kindPool:
		use := st.poolUse()
		for block, called := range s.callableNow(st) {
			if one := use[st.blocks[block].GetPool()]; one != nil {
				one.CallableAddresses = capped(uint64(one.GetCallableAddresses()) + cidr.Count(called))
			}
		}
		return func(object clearwayv1.Object) clearwayv1.Object {
			made := proto.CloneOf(object.(*clearwayv1.IPPool))
			made.Status = st.poolStatus(made, use[made.GetMetadata().GetName()])
			return made
		}
	case kindQuota:
		return func(object clearwayv1.Object) clearwayv1.Object { return st.quotaStatus(object.(*clearwayv1.IPQuota)) }
	case kindReservation:
		now := s.now()
		return func(object clearwayv1.Object) clearwayv1.Object {
			return st.reservationStatus(object.(*clearwayv1.IPReservation), now)
		}
	case kindPeer:
		established := s.establishedOf()
		return func(object clearwayv1.Object) clearwayv1.Object {
			made := proto.CloneOf(object.(*clearwayv1.BGPPeer))
			made.Status = &clearwayv1.BGPPeerStatus{
				Wanted: st.wanted(made), Established: established["BGPPeer/"+made.GetMetadata().GetName()],
			}
			return made
		}
	}
	return func(object clearwayv1.Object) clearwayv1.Object { return object }
}

// poolUse counts blocks and addresses by pool.
func (s *state) poolUse() map[string]*clearwayv1.IPPoolStatus {
	use := map[string]*clearwayv1.IPPoolStatus{}
	of := func(name string) *clearwayv1.IPPoolStatus {
		if use[name] == nil {
			use[name] = &clearwayv1.IPPoolStatus{}
		}
		return use[name]
	}
	for prefix, block := range s.blocks {
		one := of(block.GetPool())
		one.Blocks++
		switch count := cidr.Count(prefix); block.GetState() {
		case clearwayv1.BlockState_BLOCK_STATE_COOLING:
			one.CoolingAddresses = capped(uint64(one.GetCoolingAddresses()) + count)
		case clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING:
			one.WithdrawingAddresses = capped(uint64(one.GetWithdrawingAddresses()) + count)
		case clearwayv1.BlockState_BLOCK_STATE_ORPHANED:
			one.OrphanedAddresses = capped(uint64(one.GetOrphanedAddresses()) + count)
		}
		if block.GetState() != clearwayv1.BlockState_BLOCK_STATE_COOLING {
			one.BlockAddresses = capped(uint64(one.GetBlockAddresses()) + cidr.Count(prefix))
		}
	}
	for _, assigned := range s.assignments {
		for _, spec := range assigned {
			of(spec.GetPool()).Assigned++
		}
	}
	for _, name := range s.kube.services.pools() {
		of(name).Assigned++
	}
	return use
}

func (s *state) poolStatus(made *clearwayv1.IPPool, use *clearwayv1.IPPoolStatus) *clearwayv1.IPPoolStatus {
	if use == nil {
		use = &clearwayv1.IPPoolStatus{}
	}
	use.FormerCidrs, use.FormerGateways = made.GetStatus().GetFormerCidrs(), made.GetStatus().GetFormerGateways()
	one := s.pools[made.GetMetadata().GetName()]
	if one != nil && one.space != nil {
		use.FreeBlocks = capped(one.space.FreeBlocks(one.BlockBits))
		use.FreeAddresses, use.StrandedAddresses = one.unclaimed()
	}
	if one != nil {
		use.Available = one.available(use)
	}
	s.describePool(one, made, use)
	return use
}

// The phases of a pool, and the conditions that tell of them.
const (
	phaseActive   = "Active"
	phaseDisabled = "Disabled"
	phaseDraining = "Draining"

	conditionAvailable = "Available"
	conditionDrained   = "Drained"
)

// describePool fills in a pool's phase and conditions.
func (s *state) describePool(one *poolState, made *clearwayv1.IPPool, status *clearwayv1.IPPoolStatus) {
	generation := made.GetMetadata().GetGeneration()
	available := &clearwayv1.Condition{Type: conditionAvailable, Status: "False", ObservedGeneration: generation}
	status.Conditions = []*clearwayv1.Condition{available}
	switch deleting := made.GetMetadata().GetDeletionTimestamp(); {
	case deleting != nil:
		status.Phase, available.Reason, available.LastTransitionTime = phaseDraining, "Deleting", deleting
		available.Message = "is being deleted: gives no new blocks and no new addresses, and is gone when nobody has a block of it"
	case made.GetSpec().GetDrain():
		status.Phase, available.Reason = phaseDraining, "Draining"
		available.Message = "gives no new blocks and no new addresses (spec.drain)"
	case made.GetSpec().GetDisabled():
		status.Phase, available.Reason = phaseDisabled, "Disabled"
		available.Message = "gives no new blocks and no new addresses (spec.disabled)"
	default:
		status.Phase, available.Status, available.Reason = phaseActive, "True", "Active"
		available.Message = "gives blocks and addresses"
	}
	switch {
	case status.GetPhase() == phaseDraining:
		status.Conditions = append(status.Conditions, drainedCondition(s.useOf(one, every), generation))
	case one != nil && len(one.DrainCIDRs) > 0:
		status.Conditions = append(status.Conditions, drainedCondition(s.useOf(one, one.drains), generation))
	}
}

// drainedCondition tells whether what is to be drained is empty, and else what remains.
func drainedCondition(left inUse, generation int64) *clearwayv1.Condition {
	if left.blocks() == 0 {
		return &clearwayv1.Condition{
			Type: conditionDrained, Status: "True", Reason: "Empty", Message: "nobody has a block", ObservedGeneration: generation,
		}
	}
	return &clearwayv1.Condition{
		Type: conditionDrained, Status: "False", Reason: "BlocksRemain", Message: left.String(), ObservedGeneration: generation,
	}
}

// drainedMessage is what remains of a pool that is drained.
func drainedMessage(made *clearwayv1.IPPool) string {
	for _, condition := range made.GetStatus().GetConditions() {
		if condition.GetType() == conditionDrained {
			return condition.GetMessage()
		}
	}
	return ""
}

// unclaimed counts the addresses in no block: those that can be had, and those in pieces that are smaller than the
// smallest block.
func (p *poolState) unclaimed() (free, stranded int64) {
	for length, count := range p.space.Holes() {
		over, addresses := bits.Mul64(count, cidr.Count(netip.PrefixFrom(p.CIDR.Addr(), length)))
		if over != 0 {
			addresses = math.MaxUint64
		}
		to := &free
		if length > p.MinBlockBits {
			to = &stranded
		}
		*to = capped(uint64(*to) + min(addresses, math.MaxInt64))
	}
	return free, stranded
}

func capped(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

// establishedOf counts the established sessions of live nodes by what wanted them.
func (s *Server) establishedOf() map[string]int32 {
	counts := map[string]int32{}
	for _, session := range s.sessions.all() {
		phase, _, report := session.status()
		if phase == phaseLost {
			continue
		}
		for _, one := range report.GetSessions() {
			if one.GetStatus().GetState() == stateEstablished {
				counts[one.GetSpec().GetOrigin()]++
			}
		}
	}
	return counts
}

// stateEstablished is RFC 4271's state of a session that works.
const stateEstablished = "Established"

// wanted is how many nodes a peer selects.
func (s *state) wanted(peer *clearwayv1.BGPPeer) (count int32) {
	if peer.GetSpec().GetDisabled() {
		return 0
	}
	for name := range s.nodes {
		if selects(peer.GetSpec().GetNodeSelector(), s.labelsOf(name)) {
			count++
		}
	}
	return count
}

// nodeResource is a node with all that is known of it.
func (s *Server) nodeResource(st *state, name string) *clearwayv1.Node {
	node := st.nodeOf(name)
	registered := st.nodes[name].GetStatus()
	to := node.GetStatus()
	to.BootId, to.MachineId, to.JournalId = registered.GetBootId(), registered.GetMachineId(), registered.GetJournalId()
	to.AgentVersion, to.RegisteredTime = registered.GetAgentVersion(), registered.GetRegisteredTime()
	to.JournalNumber = max(registered.GetJournalNumber(), st.mirrors[name].NodeStatus.GetJournalNumber())
	to.Blocks, to.Assigned = int64(len(st.blocksOwned(name))), int64(len(st.assignments[name]))
	to.Phase, to.Incarnation = phaseLost, registered.GetIncarnation()
	if st.recovering() && registered != nil && !st.reported(name) {
		to.Phase = phaseAwaited
	}
	session := s.sessions.of(name)
	if session == nil {
		return node
	}
	phase, seen, report := session.status()
	to.Phase, to.LastSeenTime = phase, timestamppb.New(seen)
	to.Drain, to.DrainReason, to.DrainGeneration = report.GetDrain(), report.GetDrainReason(), report.GetDrainGeneration()
	to.KernelRoutes, to.LastRestart, to.LastRestartReason = report.GetKernelRoutes(), report.GetLastRestart(), report.GetLastRestartReason()
	to.SessionsWanted = int32(len(report.GetSessions()))
	for _, one := range report.GetSessions() {
		if one.GetStatus().GetState() == stateEstablished {
			to.SessionsEstablished++
		}
	}
	return node
}

// blockUse returns what tells how a block is used: by the agent's report where there is one, else by the mirror.
func (s *Server) blockUse(st *state) func(netip.Prefix) *clearwayv1.BlockStatus {
	reported := map[string]*clearwayv1.BlockUse{}
	for _, session := range s.sessions.all() {
		_, _, report := session.status()
		for _, use := range report.GetBlocks() {
			reported[session.node+" "+use.GetCidr()] = use
		}
	}
	mirrored := map[string]int64{}
	for node, of := range st.assignments {
		for _, spec := range of {
			mirrored[node+" "+spec.GetBlock()]++
		}
	}
	callable := s.callableNow(st)
	return func(prefix netip.Prefix) *clearwayv1.BlockStatus {
		key := st.blocks[prefix].GetNode() + " " + prefix.String()
		status := &clearwayv1.BlockStatus{Addresses: capped(cidr.Count(prefix)), Assigned: mirrored[key]}
		if called, ok := callable[prefix]; ok {
			status.Callable = called.String()
		}
		if use := reported[key]; use != nil {
			status.Assigned, status.Cooling, status.Sealed = use.GetAssigned(), use.GetCooling(), use.GetSealed()
		}
		return status
	}
}

func blockResource(prefix netip.Prefix, spec *clearwayv1.BlockSpec, status *clearwayv1.BlockStatus) *clearwayv1.Block {
	return &clearwayv1.Block{
		ApiVersion: clearwayv1.APIVersion, Kind: kindBlock,
		Metadata: &clearwayv1.ObjectMeta{Name: clearwayv1.PrefixName(prefix.String()), CreationTimestamp: spec.GetClaimedTime()},
		Spec:     spec, Status: status,
	}
}

// poolAt finds the pool that an address lies in.
func (s *state) poolAt(address netip.Addr) (pool.Pool, *clearwayv1.IPPool) {
	for name, one := range s.pools {
		if one.CIDR.Contains(address) {
			return one.Pool, s.config[kindPool][name].object.(*clearwayv1.IPPool)
		}
	}
	return pool.Pool{}, nil
}

// available is how many of a pool's addresses nobody holds.
func (p *poolState) available(use *clearwayv1.IPPoolStatus) int64 {
	all := uint64(use.GetBlockAddresses()) + uint64(use.GetFreeAddresses())
	if p.Kind != pool.Block {
		all = cidr.Count(p.CIDR)
	}
	return capped(all - min(all, uint64(use.GetAssigned())))
}
