package trace

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Input is what is known about a prefix or an address, as ipamd lists it.
type Input struct {
	// Target is what is asked for; an address is a prefix of full length.
	Target netip.Prefix
	Pools  []*clearwayv1.IPPool
	// Blocks hold the target, or a part of it.
	Blocks   []*clearwayv1.Block
	Nodes    []*clearwayv1.Node
	Sessions []*clearwayv1.BGPSession
	// Routes are all nodes' that hold the target's first address, with what the kernels have.
	Routes []*clearwayv1.Route
	// Silent are the nodes that did not answer, and why.
	Silent map[string]string
	// Holder is the Pod that has the address, by ipamd's copy; nil: none is known, or a prefix is asked for.
	Holder *clearwayv1.AssignmentSpec
}

// Reason is why a chain breaks, in one CamelCase word.
type Reason string

// The reasons, in the order of the chain.
const (
	OutsidePools  Reason = "OutsidePools"
	NoOwner       Reason = "NoOwner"
	OwnerUnknown  Reason = "OwnerUnknown"
	OwnerSilent   Reason = "OwnerSilent"
	NotAdvertised Reason = "NotAdvertised"
	ToldToNobody  Reason = "ToldToNobody"
	NotHeard      Reason = "NotHeard"
	Refused       Reason = "Refused"
	NotInKernel   Reason = "NotInKernel"
	Hidden        Reason = "Hidden"
)

// Step is one link of the chain.
type Step struct {
	// Step is owned, told, heard or kernel.
	Step string `json:"step"`
	Node string `json:"node,omitempty"`
	Peer string `json:"peer,omitempty"`
	// State is a word of the step's own: a block's state; Told, OtherFamily, Withheld, NotNegotiated, Down; a verdict, or NotHeard;
	// Installed, Missing, Hidden, Covered, Unknown.
	State  string `json:"state"`
	Detail string `json:"detail,omitempty"`
	// Best: the node chose this path.
	Best bool `json:"best,omitempty"`
}

// Break is where the chain breaks first.
type Break struct {
	Reason Reason `json:"reason"`
	Node   string `json:"node,omitempty"`
}

// Trace is the whole chain.
type Trace struct {
	Target string `json:"target"`
	Block  string `json:"block,omitempty"`
	Owner  string `json:"owner,omitempty"`
	Steps  []Step `json:"steps"`
	// Break is nil where the chain is whole, as far as the nodes answered.
	Break *Break `json:"break,omitempty"`
	// Summary is a sentence: where it breaks, or that it does not.
	Summary string `json:"summary"`
	// Notes are what is not as it should be and breaks nothing.
	Notes []string `json:"notes,omitempty"`
}

// Follow follows the chain.
func Follow(in Input) Trace {
	f := &follower{in: in, trace: Trace{Target: target(in.Target), Steps: []Step{}}}
	if block := f.findBlock(); block != nil {
		f.fromOwner(block)
		f.toOthers()
	}
	f.finish()
	return f.trace
}

func target(prefix netip.Prefix) string {
	if prefix.IsSingleIP() {
		return prefix.Addr().String()
	}
	return prefix.String()
}

type follower struct {
	in     Input
	trace  Trace
	prefix netip.Prefix // the block
	told   []string     // peers of the owner that are told
	whole  int          // other nodes that have it in their kernels
	also   int          // more nodes where the chain breaks as it did first
}

func (f *follower) step(step Step) { f.trace.Steps = append(f.trace.Steps, step) }

// breaks notes where the chain breaks; the first is told.
func (f *follower) breaks(reason Reason, node, format string, args ...any) {
	switch first := f.trace.Break; {
	case first == nil:
		f.trace.Break = &Break{reason, node}
		f.trace.Summary = fmt.Sprintf(format, args...)
	case first.Reason == reason && first.Node != node:
		f.also++
	}
}

func (f *follower) note(format string, args ...any) {
	f.trace.Notes = append(f.trace.Notes, fmt.Sprintf(format, args...))
}

// findBlock finds the block that holds the target.
func (f *follower) findBlock() *clearwayv1.Block {
	var parts []string
	for _, block := range f.in.Blocks {
		prefix, err := netip.ParsePrefix(block.GetSpec().GetCidr())
		switch {
		case err != nil:
		case prefix.Bits() <= f.in.Target.Bits() && prefix.Contains(f.in.Target.Addr()):
			f.prefix, f.trace.Block, f.trace.Owner = prefix, prefix.String(), block.GetSpec().GetNode()
			return block
		case f.in.Target.Contains(prefix.Addr()):
			parts = append(parts, prefix.String())
		}
	}
	pool := f.pool()
	switch {
	case len(parts) > 0:
		f.breaks(NoOwner, "", "%s is no block, and holds %d of them: ask for one, such as %s", f.trace.Target, len(parts), parts[0])
	case pool == "":
		f.breaks(OutsidePools, "", "%s is in no pool: nobody can own it", f.trace.Target)
	case f.ofServices(pool):
		f.breaks(NoOwner, "", "%s is in pool %s, whose addresses are Services': clearwayctl ipam show --ip says whose it is, and which nodes tell it",
			f.trace.Target, pool)
	default:
		f.breaks(NoOwner, "", "%s is in pool %s, and in no block: no node owns it", f.trace.Target, pool)
	}
	return nil
}

func (f *follower) ofServices(name string) bool {
	return slices.ContainsFunc(f.in.Pools, func(pool *clearwayv1.IPPool) bool {
		return pool.GetMetadata().GetName() == name && pool.GetSpec().GetKind() == "LoadBalancer"
	})
}

func (f *follower) pool() string {
	for _, pool := range f.in.Pools {
		prefix, err := netip.ParsePrefix(pool.GetSpec().GetCidr())
		if err == nil && prefix.Bits() <= f.in.Target.Bits() && prefix.Contains(f.in.Target.Addr()) {
			return pool.GetMetadata().GetName()
		}
	}
	return ""
}

var states = map[clearwayv1.BlockState]string{
	clearwayv1.BlockState_BLOCK_STATE_OWNED: "Owned", clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING: "Withdrawing",
	clearwayv1.BlockState_BLOCK_STATE_COOLING: "Cooling", clearwayv1.BlockState_BLOCK_STATE_ORPHANED: "Orphaned",
}

// fromOwner follows the chain from etcd's word to what the owner tells its peers.
func (f *follower) fromOwner(block *clearwayv1.Block) {
	owner, state := block.GetSpec().GetNode(), cmp.Or(states[block.GetSpec().GetState()], "Unknown")
	detail := fmt.Sprintf("block %s of pool %s", f.prefix, block.GetSpec().GetPool())
	if pod := f.in.Holder.GetPod(); f.in.Holder != nil {
		detail += fmt.Sprintf("; %s holds the address", cmp.Or(strings.Trim(pod.GetNamespace()+"/"+pod.GetName(), "/"),
			f.in.Holder.GetAttachment().GetContainerId()))
	} else if f.in.Target.IsSingleIP() && !f.prefix.IsSingleIP() {
		f.note("nobody holds %s, by ipamd's copy: packets to it end at the owner", f.trace.Target)
	}
	f.step(Step{Step: "owned", Node: owner, State: state, Detail: detail})
	if state == "Cooling" || owner == "" {
		f.breaks(NoOwner, "", "block %s rests (%s): nobody owns it", f.prefix, state)
		return
	}
	if why, silent := f.in.Silent[owner]; silent {
		f.step(Step{Step: "told", Node: owner, State: "Unknown", Detail: why})
		f.breaks(OwnerSilent, owner, "%s owns %s, and its agent cannot be asked: %s", owner, f.prefix, why)
		return
	}
	if !slices.ContainsFunc(f.in.Nodes, func(n *clearwayv1.Node) bool { return n.GetMetadata().GetName() == owner }) {
		f.breaks(OwnerUnknown, owner, "%s owns %s, and there is no such node any more: block %s is %s", owner, f.prefix, f.prefix, state)
		return
	}
	if state != "Owned" {
		f.note("block %s is %s: its owner is about to stop, or gone", f.prefix, state)
	}
	f.tells(owner)
}

// tells lists the owner's peers.
func (f *follower) tells(owner string) {
	advertised := f.route(owner, "Advertised")
	if advertised == nil {
		f.breaks(NotAdvertised, owner, "%s owns %s and does not advertise it: its agent does not have the block, or no configuration yet", owner, f.prefix)
		return
	}
	var not, other []string
	for _, peer := range advertised.GetStatus().GetPeers() {
		f.step(Step{Step: "told", Node: owner, Peer: named(peer.GetPeerAddress(), peer.GetOrigin()), State: peer.GetState(), Detail: peer.GetReason()})
		who := named(peer.GetPeerAddress(), peer.GetOrigin())
		if peer.GetState() == "Told" {
			f.told = append(f.told, who)
			continue
		}
		if peer.GetState() == "OtherFamily" {
			other = append(other, who)
			continue
		}
		not = append(not, fmt.Sprintf("%s is %s (%s)", who, peer.GetState(), peer.GetReason()))
	}
	switch {
	case len(advertised.GetStatus().GetPeers()) == 0:
		f.breaks(ToldToNobody, owner, "%s owns %s and has no BGP session that it is told in: no BGPPeer selects the node, and the mesh has nobody for it", owner, f.prefix)
	case len(f.told)+len(not) == 0:
		f.breaks(ToldToNobody, owner, "%s tells %s to nobody: none of its sessions is for the family: %s", owner, f.prefix, strings.Join(other, ", "))
	case len(f.told) == 0:
		f.breaks(ToldToNobody, owner, "%s tells %s to nobody: %s", owner, f.prefix, strings.Join(not, "; "))
	default:
		for _, one := range not {
			f.note("%s tells %s not to all: %s", owner, f.prefix, one)
		}
	}
}

// family is the prefix's, as sessions name it.
func (f *follower) family() string { return fmt.Sprintf("IPv%d", route.FamilyOf(f.prefix)) }

func named(address, origin string) string {
	if origin == "" {
		return address
	}
	return address + " (" + origin + ")"
}

// route is a node's own route of the block.
func (f *follower) route(node, direction string) *clearwayv1.Route {
	for _, route := range f.in.Routes {
		spec := route.GetSpec()
		if spec.GetNode() == node && spec.GetDirection() == direction && spec.GetPrefix() == f.prefix.String() {
			return route
		}
	}
	return nil
}

// toOthers follows the chain into every other node.
func (f *follower) toOthers() {
	for _, node := range f.in.Nodes {
		name := node.GetMetadata().GetName()
		if name == f.trace.Owner {
			continue
		}
		if why, silent := f.in.Silent[name]; silent {
			f.step(Step{Step: "heard", Node: name, State: "Unknown", Detail: why})
			continue
		}
		if learned := f.route(name, "Learned"); learned != nil {
			f.hears(name, learned)
			continue
		}
		f.hearsNothing(name)
	}
}

// covering is a longer or shorter road of a node to the target, beside the block's own: an aggregate, a default route.
func (f *follower) covering(node string) *clearwayv1.Route {
	var best *clearwayv1.Route
	longest := -1
	for _, route := range f.in.Routes {
		prefix, err := netip.ParsePrefix(route.GetSpec().GetPrefix())
		if err != nil || route.GetSpec().GetNode() != node || route.GetSpec().GetDirection() != "Learned" ||
			prefix.Bits() >= f.prefix.Bits() || !prefix.Contains(f.prefix.Addr()) || !route.GetStatus().GetKernel().GetPresent() {
			continue
		}
		if prefix.Bits() > longest {
			best, longest = route, prefix.Bits()
		}
	}
	return best
}

func (f *follower) hearsNothing(node string) {
	if cover := f.covering(node); cover != nil {
		f.whole++
		f.step(Step{Step: "kernel", Node: node, State: "Covered", Detail: fmt.Sprintf("by %s %s", cover.GetSpec().GetPrefix(), hops(cover))})
		return
	}
	var up, down []string
	for _, session := range f.in.Sessions {
		spec := session.GetSpec()
		if spec.GetNode() != node {
			continue
		}
		if carried := session.GetStatus().GetFamilies(); len(carried) > 0 && !slices.Contains(carried, f.family()) {
			continue // it could not tell
		}
		if who := named(spec.GetPeerAddress(), spec.GetOrigin()); session.GetStatus().GetState() == "Established" {
			up = append(up, who)
		} else {
			down = append(down, fmt.Sprintf("%s is %s: %s", who, session.GetStatus().GetState(), session.GetStatus().GetReason()))
		}
	}
	f.step(Step{Step: "heard", Node: node, State: "NotHeard", Detail: strings.Join(append(slices.Clone(up), down...), "; ")})
	switch {
	case len(up) > 0 && len(f.told) > 0:
		f.breaks(NotHeard, node, "%s does not hear of %s: its owner %s tells %s, and nothing of it comes from %s: look at what is between them",
			node, f.prefix, f.trace.Owner, some(f.told), some(up))
	case len(down) > 0:
		f.breaks(NotHeard, node, "%s does not hear of %s: none of its sessions is established: %s", node, f.prefix, some(down))
	case len(up) > 0:
		f.breaks(NotHeard, node, "%s does not hear of %s from %s", node, f.prefix, some(up))
	default:
		f.breaks(NotHeard, node, "%s does not hear of %s: it has no BGP session", node, f.prefix)
	}
}

// some joins the first few.
func some(list []string) string {
	const most = 3
	if len(list) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
	}
	return strings.Join(list, ", ")
}

func (f *follower) hears(node string, learned *clearwayv1.Route) {
	accepted, first := false, ""
	for _, path := range learned.GetStatus().GetPaths() {
		f.step(Step{
			Step: "heard", Node: node, Peer: path.GetPeerAddress(), State: path.GetVerdict(), Best: path.GetBest(),
			Detail: fmt.Sprintf("AS path %s, next hop %s: %s", asPath(path.GetAsPath()), path.GetNextHop(), path.GetReason()),
		})
		accepted = accepted || path.GetVerdict() == "Accepted"
		if first == "" {
			first = fmt.Sprintf("what %s tells is %s: %s", path.GetPeerAddress(), path.GetVerdict(), path.GetReason())
		}
	}
	if !accepted {
		if cover := f.covering(node); cover != nil {
			f.whole++
			f.step(Step{Step: "kernel", Node: node, State: "Covered", Detail: fmt.Sprintf("by %s %s", cover.GetSpec().GetPrefix(), hops(cover))})
			f.note("%s takes %s by %s alone: %s", node, f.prefix, cover.GetSpec().GetPrefix(), first)
			return
		}
		f.breaks(Refused, node, "%s does not take %s: %s", node, f.prefix, first)
		return
	}
	f.installs(node, learned)
}

func (f *follower) installs(node string, learned *clearwayv1.Route) {
	kernel, status := learned.GetStatus().GetKernel(), learned.GetStatus()
	step := Step{Step: "kernel", Node: node, State: "Installed", Detail: hops(learned)}
	switch {
	case !kernel.GetPresent():
		step.State, step.Detail = "Missing", strings.TrimSuffix(status.GetState()+": "+status.GetReason(), ": ")
		f.breaks(NotInKernel, node, "%s has accepted %s, and its kernel does not have it: the route writer says %s", node, f.prefix, step.Detail)
	case kernel.GetHiddenBy() != "":
		step.State, step.Detail = "Hidden", kernel.GetHiddenBy()
		f.breaks(Hidden, node, "%s has %s in its kernel, and packets follow somebody else's route: %s", node, f.prefix, step.Detail)
	default:
		f.whole++
	}
	f.step(step)
}

func hops(route *clearwayv1.Route) string {
	return strings.Join(route.GetStatus().GetKernel().GetNextHops(), ", ")
}

func asPath(path []uint32) string {
	if len(path) == 0 {
		return "empty"
	}
	return strings.Trim(fmt.Sprint(path), "[]")
}

// finish writes the sentence.
func (f *follower) finish() {
	switch {
	case f.trace.Break != nil && f.also == 1:
		f.trace.Summary += " (and so it is with 1 more node)"
	case f.trace.Break != nil && f.also > 1:
		f.trace.Summary += fmt.Sprintf(" (and so it is with %d more nodes)", f.also)
	case f.trace.Break == nil:
		f.trace.Summary = fmt.Sprintf("%s of %s is told to %s, and %d of %d other nodes have it in their kernels",
			f.prefix, f.trace.Owner, some(f.told), f.whole, max(0, len(f.in.Nodes)-1))
		if silent := len(f.in.Silent); silent > 0 {
			f.trace.Summary += fmt.Sprintf("; %d did not answer", silent)
		}
	}
}
