package policy

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
	"google.golang.org/protobuf/proto"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Block is what the ownership log says of one block.
type Block struct {
	Node  string
	State clearwayv1.BlockState
	// Splits: its owner is asked to give a part of it back.
	Splits bool
}

// live tells whether somebody may advertise the block. A withdrawing one is told until its owner has stopped, and an
// orphaned one until its node is known to be off (the invariant Fenced); a cooling one by nobody.
func (b Block) live() bool {
	return b.Node != "" && b.State != clearwayv1.BlockState_BLOCK_STATE_COOLING
}

// Node is what the ownership log says of one node.
type Node struct {
	Name      string
	Addresses []netip.Prefix // with the prefix length of the interface, at most one a family
	ASN       uint32         // 0: the cluster's
	LocalASNs []uint32       // those it shows its BGPPeers, beside ASN

	Domain    string // its failure domain
	Reflector bool   // it is to reflect, by an operator's choice
	Leaving   bool   // it is being drained
}

// RouterID is the node's BGP identifier: its IPv4 address, or without one a stable hash of its name. RFC 6286 asks for no
// more than that it is not zero and unique within the AS.
func (n Node) RouterID() netip.Addr {
	if address := n.Address(true); address.IsValid() {
		return address
	}
	hash := fnv.New32a()
	hash.Write([]byte(n.Name))
	sum := max(hash.Sum32(), 1)
	return netip.AddrFrom4([4]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
}

// Address is the node's address of a family ("4" when is4), invalid where it has none.
func (n Node) Address(is4 bool) netip.Addr {
	for _, prefix := range n.Addresses {
		if prefix.Addr().Is4() == is4 {
			return prefix.Addr()
		}
	}
	return netip.Addr{}
}

func (n Node) equal(other Node) bool {
	return n.ASN == other.ASN && slices.Equal(n.Addresses, other.Addresses) && slices.Equal(n.LocalASNs, other.LocalASNs) &&
		n.Domain == other.Domain && n.Reflector == other.Reflector && n.Leaving == other.Leaving
}

// Owners is this node's copy of the ownership log. Its zero value is empty and ready.
type Owners struct {
	blocks  bart.Table[Block]
	nodes   map[string]Node
	held    map[string]map[netip.Prefix]struct{} // the blocks of each node
	subnets bart.Table[int]                      // the nodes' subnets, and how many nodes are in each
	// services are those that every node tells of, by name.
	services map[string]*clearwayv1.ServiceEntry
}

// Effect is what a change of the log touches.
type Effect struct {
	// Blocks whose entry, or whose owner's AS numbers, changed: paths to these, to their parts and to what covers
	// them are to be judged again.
	Blocks []netip.Prefix
	// Nodes came, went, or changed their addresses or AS numbers: the node mesh is to be computed again, and paths
	// that touch a node subnet are to be judged again.
	Nodes bool
	// Services that every node tells of came, went, or changed.
	Services bool
}

func (e *Effect) merge(other Effect) {
	e.Services = e.Services || other.Services
	e.Blocks = append(e.Blocks, other.Blocks...)
	e.Nodes = e.Nodes || other.Nodes
}

// Block is the entry of exactly this prefix.
func (o *Owners) Block(prefix netip.Prefix) (Block, bool) { return o.blocks.Get(prefix) }

// Node is the entry of the node of that name.
func (o *Owners) Node(name string) (Node, bool) {
	node, ok := o.nodes[name]
	return node, ok
}

// Nodes lists the nodes by name.
func (o *Owners) Nodes() []Node {
	return slices.SortedFunc(maps.Values(o.nodes), func(a, b Node) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
}

// Blocks lists the blocks, in no order.
func (o *Owners) Blocks(yield func(netip.Prefix, Block) bool) { o.blocks.All()(yield) }

// Size is the number of blocks.
func (o *Owners) Size() int { return o.blocks.Size() }

// overlapping finds a live block that is not the prefix itself but shares addresses with it.
func (o *Owners) overlapping(prefix netip.Prefix) (netip.Prefix, Block, bool) {
	for at, block := range o.blocks.Supernets(prefix) {
		if at != prefix && block.live() {
			return at, block, true
		}
	}
	for at, block := range o.blocks.Subnets(prefix) {
		if at != prefix && block.live() {
			return at, block, true
		}
	}
	return netip.Prefix{}, Block{}, false
}

// inSplit finds the owner of a block that was split: the log names its parts, all of one owner, and one of them is still
// withdrawing. Until it is not, the owner may tell the whole, so that there is a route while its parts become known.
func (o *Owners) inSplit(prefix netip.Prefix) (owner Block, found bool) {
	var covered float64 // of the prefix; sums of halves are exact
	withdrawing := false
	for at, block := range o.blocks.Subnets(prefix) {
		if covered > 0 && block.Node != owner.Node || !block.live() {
			return Block{}, false
		}
		owner, withdrawing = block, withdrawing || block.State == clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING
		covered += math.Ldexp(1, prefix.Bits()-at.Bits())
	}
	return owner, withdrawing && covered == 1
}

// Splitting tells whether a prefix is a block that is being split, or a part of one: what the log says of it, and what its
// owner tells, may differ meanwhile.
func (o *Owners) Splitting(prefix netip.Prefix) (Block, bool) {
	if block, splits := o.inSplit(prefix); splits {
		return block, true
	}
	if block, found := o.whole(prefix); found && block.Splits {
		return block, true
	}
	return Block{}, false
}

// whole finds the live block that a prefix is a part of.
func (o *Owners) whole(prefix netip.Prefix) (Block, bool) {
	for at, block := range o.blocks.Supernets(prefix) {
		if at != prefix && block.live() {
			return block, true
		}
	}
	return Block{}, false
}

// inNodeSubnet tells whether the prefix is a node subnet or a part of one.
func (o *Owners) inNodeSubnet(prefix netip.Prefix) bool {
	for range o.subnets.Supernets(prefix) {
		return true
	}
	return false
}

// Apply takes one entry of the log over. A fault is an entry that cannot be read; nothing is changed by it.
func (o *Owners) Apply(entry *clearwayv1.OwnershipEntry) (Effect, error) {
	switch {
	case entry.GetBlock() != nil:
		return o.applyBlock(entry.GetBlock(), entry.GetDeleted())
	case entry.GetNode() != nil:
		return o.applyNode(entry.GetNode(), entry.GetDeleted())
	case entry.GetService() != nil:
		return o.applyService(entry.GetService(), entry.GetDeleted()), nil
	}
	return Effect{}, nil // a kind of entry that a later ipamd knows: nothing of ours
}

func (o *Owners) applyBlock(entry *clearwayv1.BlockOwner, deleted bool) (Effect, error) {
	prefix, why := ParsePrefix(entry.GetCidr())
	if why != "" {
		return Effect{}, fmt.Errorf("ownership log: block %q %s", entry.GetCidr(), why)
	}
	before, known := o.blocks.Get(prefix)
	after := Block{Node: entry.GetNode(), State: entry.GetState(), Splits: entry.GetSplits()}
	if known == !deleted && (deleted || before == after) {
		return Effect{}, nil
	}
	if known {
		delete(o.held[before.Node], prefix)
		o.blocks.Delete(prefix)
	}
	if !deleted {
		o.hold(after.Node, prefix)
		o.blocks.Insert(prefix, after)
	}
	return Effect{Blocks: []netip.Prefix{prefix}}, nil
}

func (o *Owners) hold(node string, prefix netip.Prefix) {
	if o.held == nil {
		o.held = map[string]map[netip.Prefix]struct{}{}
	}
	if o.held[node] == nil {
		o.held[node] = map[netip.Prefix]struct{}{}
	}
	o.held[node][prefix] = struct{}{}
}

func (o *Owners) applyNode(entry *clearwayv1.NodeEntry, deleted bool) (Effect, error) {
	after, err := ParseNode(entry)
	if err != nil && !deleted {
		return Effect{}, fmt.Errorf("ownership log: %w", err)
	}
	before, known := o.nodes[after.Name]
	if known == !deleted && (deleted || before.equal(after)) {
		return Effect{}, nil
	}
	o.countSubnets(before, -1)
	delete(o.nodes, after.Name)
	if !deleted {
		if o.nodes == nil {
			o.nodes = map[string]Node{}
		}
		o.nodes[after.Name] = after
		o.countSubnets(after, 1)
	}
	return Effect{Blocks: slices.Collect(maps.Keys(o.held[after.Name])), Nodes: true}, nil
}

// applyService keeps the entry itself: it is read where it is told.
func (o *Owners) applyService(entry *clearwayv1.ServiceEntry, deleted bool) Effect {
	before, known := o.services[entry.GetName()]
	switch {
	case deleted && !known, !deleted && proto.Equal(before, entry):
		return Effect{}
	case deleted:
		delete(o.services, entry.GetName())
	default:
		if o.services == nil {
			o.services = map[string]*clearwayv1.ServiceEntry{}
		}
		o.services[entry.GetName()] = entry
	}
	return Effect{Services: true}
}

// Services lists the Services that every node tells of, in no order. They are not to be changed.
func (o *Owners) Services() []*clearwayv1.ServiceEntry {
	return slices.Collect(maps.Values(o.services))
}

func (o *Owners) countSubnets(node Node, by int) {
	for _, address := range node.Addresses {
		o.subnets.Modify(address.Masked(), func(count int, _ bool) (int, bool) {
			return count + by, count+by <= 0
		})
	}
}

// ParseNode reads a node's entry.
func ParseNode(entry *clearwayv1.NodeEntry) (Node, error) {
	node := Node{Name: entry.GetName(), ASN: entry.GetAsNumber(), LocalASNs: entry.GetLocalAsNumbers(),
		Domain: entry.GetDomain(), Reflector: entry.GetReflector(), Leaving: entry.GetLeaving()}
	for _, text := range entry.GetAddresses() {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return node, fmt.Errorf("node %s: address %q: %w", node.Name, text, err)
		}
		node.Addresses = append(node.Addresses, prefix)
	}
	return node, nil
}

// diff is what is not the same in two copies.
func (o *Owners) diff(other *Owners) Effect {
	var effect Effect
	for prefix, block := range o.blocks.All() {
		if there, ok := other.blocks.Get(prefix); !ok || there != block {
			effect.Blocks = append(effect.Blocks, prefix)
		}
	}
	for prefix := range other.blocks.All() {
		if _, ok := o.blocks.Get(prefix); !ok {
			effect.Blocks = append(effect.Blocks, prefix)
		}
	}
	effect.Services = !maps.EqualFunc(o.services, other.services, func(a, b *clearwayv1.ServiceEntry) bool { return proto.Equal(a, b) })
	for name := range keysOfBoth(o.nodes, other.nodes) {
		here, known := o.nodes[name]
		there, alsoKnown := other.nodes[name]
		if known != alsoKnown || !here.equal(there) {
			effect.Nodes = true
			effect.Blocks = append(effect.Blocks, slices.Collect(maps.Keys(other.held[name]))...)
		}
	}
	return effect
}

func keysOfBoth(a, b map[string]Node) map[string]struct{} {
	keys := make(map[string]struct{}, len(a))
	for name := range a {
		keys[name] = struct{}{}
	}
	for name := range b {
		keys[name] = struct{}{}
	}
	return keys
}
