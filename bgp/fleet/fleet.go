package fleet

import (
	"maps"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/policy"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Fleet is a cluster's resources, as far as BGP goes by them. It is not changed once made.
type Fleet struct {
	objects map[string]clearwayv1.Object // by "Kind/name"; Nodes as they hold
}

// New makes a fleet of resources: BGPConfiguration, BGPPeers, BGPFilters, IPPools, Nodes and Blocks. Others are left
// out. Nodes may be as operators write them or as ipamd lists them.
func New(objects ...clearwayv1.Object) *Fleet {
	return (&Fleet{}).With(objects...)
}

// With is the fleet after these resources were applied to it.
func (f *Fleet) With(objects ...clearwayv1.Object) *Fleet {
	after := &Fleet{objects: maps.Clone(f.objects)}
	if after.objects == nil {
		after.objects = map[string]clearwayv1.Object{}
	}
	for _, object := range objects {
		key := clearwayv1.KeyOf(object)
		if node, ok := object.(*clearwayv1.Node); ok {
			before, _ := f.objects[key].(*clearwayv1.Node)
			object = holding(before, node)
		}
		after.objects[key] = object
	}
	return after
}

// holding is a node with what holds of it in its status: what the operator writes now, laid over what its agent
// reports. ipamd lists the two as one, so that what an operator's word covered and covers no more is not known: it is
// taken to be as it was.
func holding(before, node *clearwayv1.Node) *clearwayv1.Node {
	node = proto.CloneOf(node)
	if node.GetStatus() == nil {
		node.Status = proto.CloneOf(before.GetStatus())
	}
	if node.GetStatus() == nil {
		node.Status = &clearwayv1.NodeStatus{}
	}
	node.Status.AsNumber = 0 // it may be the cluster's of before; what is the node's own is in its spec
	node.Status.Labels = labelsOf(node)
	node.Status.Addresses = addressesOf(node)
	return node
}

func labelsOf(node *clearwayv1.Node) map[string]string {
	all := maps.Clone(node.GetStatus().GetLabels())
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, node.GetMetadata().GetLabels())
	for key, value := range node.GetSpec().GetLabels() {
		if value == "" {
			delete(all, key)
		} else {
			all[key] = value
		}
	}
	return all
}

func addressesOf(node *clearwayv1.Node) []string {
	said := slices.Clone(node.GetSpec().GetAddresses())
	for _, text := range node.GetStatus().GetAddresses() {
		if !slices.ContainsFunc(node.GetSpec().GetAddresses(), func(other string) bool { return sameFamily(text, other) }) {
			said = append(said, text)
		}
	}
	return said
}

func sameFamily(a, b string) bool {
	one, err := netip.ParsePrefix(a)
	other, alsoErr := netip.ParsePrefix(b)
	return err == nil && alsoErr == nil && one.Addr().Is4() == other.Addr().Is4()
}

// Get is the resource of a key such as "BGPPeer/tor"; nil where there is none.
func (f *Fleet) Get(key string) clearwayv1.Object { return f.objects[key] }

func all[T clearwayv1.Object](f *Fleet) []T {
	var found []T
	for _, key := range slices.Sorted(maps.Keys(f.objects)) {
		if object, ok := f.objects[key].(T); ok {
			found = append(found, object)
		}
	}
	return found
}

// Nodes lists the nodes by name. They have in their status what holds of them.
func (f *Fleet) Nodes() []*clearwayv1.Node { return all[*clearwayv1.Node](f) }

// Peers lists the BGPPeers by name.
func (f *Fleet) Peers() []*clearwayv1.BGPPeer { return all[*clearwayv1.BGPPeer](f) }

// Pools lists the IPPools by name.
func (f *Fleet) Pools() []*clearwayv1.IPPool { return all[*clearwayv1.IPPool](f) }

// Blocks lists the Blocks by name.
func (f *Fleet) Blocks() []*clearwayv1.Block { return all[*clearwayv1.Block](f) }

// Configuration is the BGPConfiguration in force; nil where there is none.
func (f *Fleet) Configuration() *clearwayv1.BGPConfiguration {
	object, _ := f.objects["BGPConfiguration/"+config.DefaultName].(*clearwayv1.BGPConfiguration)
	return object
}

// Snapshot is what ipamd tells the node, as far as BGP goes by it.
func (f *Fleet) Snapshot(node *clearwayv1.Node) *clearwayv1.NodeSnapshot {
	snapshot := &clearwayv1.NodeSnapshot{
		Node: node, Pools: f.Pools(), BgpConfiguration: f.Configuration(), Filters: all[*clearwayv1.BGPFilter](f),
	}
	for _, peer := range f.Peers() {
		if Selects(peer.GetSpec().GetNodeSelector(), node.GetStatus().GetLabels()) {
			snapshot.Peers = append(snapshot.Peers, peer)
		}
	}
	return snapshot
}

// owners are the nodes as the ownership log has them.
func (f *Fleet) owners() []policy.Node {
	var list []policy.Node
	reflectors := f.Configuration().GetSpec().GetReflectors()
	for _, node := range f.Nodes() {
		drain := node.GetSpec().GetDrain()
		entry := &clearwayv1.NodeEntry{
			Domain:    node.GetStatus().GetLabels()[reflectors.GetDomainLabel()],
			Reflector: reflectors.GetSelector() != nil && Selects(reflectors.GetSelector(), node.GetStatus().GetLabels()),
			Leaving:   drain != nil && len(drain.GetPeers()) == 0,
			Name:      node.GetMetadata().GetName(), Addresses: node.GetStatus().GetAddresses(), AsNumber: node.GetSpec().GetAsNumber(),
		}
		for _, peer := range f.Snapshot(node).GetPeers() {
			if asn := peer.GetSpec().GetLocalAsNumber(); asn != 0 {
				entry.LocalAsNumbers = append(entry.LocalAsNumbers, asn)
			}
		}
		slices.Sort(entry.LocalAsNumbers)
		entry.LocalAsNumbers = slices.Compact(entry.LocalAsNumbers)
		if owner, err := policy.ParseNode(entry); err == nil {
			list = append(list, owner)
		}
	}
	return list
}

// Plan is what one node's speaker is to be.
type Plan struct {
	Node     *clearwayv1.Node
	Desired  config.Desired
	Problems []config.Problem
}

// Build computes what each node's agent makes of the resources, by name: its sessions, and what it tells in each. Which
// addresses the node's other interfaces have is not known here, so a session's next hop of the other family is the
// node's own.
func (f *Fleet) Build() []Plan {
	owners, blocks := f.owners(), f.owned()
	var plans []Plan
	for _, node := range f.Nodes() {
		name := node.GetMetadata().GetName()
		snapshot := f.Snapshot(node)
		desired, problems := config.Build(name, snapshot, owners)
		desired.Advertise = config.Advertise(snapshot, blocks[name], nil)
		for i := range desired.Neighbors {
			neighbor := &desired.Neighbors[i]
			neighbor.SetNextHops(desired.Global, nil)
			neighbor.SetExports(desired.Global, desired.Advertise)
		}
		plans = append(plans, Plan{node, desired, problems})
	}
	return plans
}

// owned are the blocks that each node advertises, ascending.
func (f *Fleet) owned() map[string][]netip.Prefix {
	owned := map[string][]netip.Prefix{}
	for _, block := range f.Blocks() {
		spec := block.GetSpec()
		prefix, why := policy.ParsePrefix(spec.GetCidr())
		if why == "" && spec.GetNode() != "" && spec.GetState() == clearwayv1.BlockState_BLOCK_STATE_OWNED {
			owned[spec.GetNode()] = append(owned[spec.GetNode()], prefix)
		}
	}
	for _, list := range owned {
		slices.SortFunc(list, netip.Prefix.Compare)
	}
	return owned
}

// Selects tells whether a standard selector takes these labels; absent and empty take all. One that would not have been
// accepted takes none.
func Selects(selector *clearwayv1.LabelSelector, of map[string]string) bool {
	return config.Selects(selector, of)
}
