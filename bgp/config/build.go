package config

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
	"github.com/clearway/clearway/bgp/topology"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Build computes what the node's speaker is to be, but for what it advertises. nodes are the other nodes, as the
// ownership log has them. What cannot be done as it is written is named in a Problem, and the rest is done: one bad
// resource never stops a node's other sessions.
//
// Peers that are found on the spot (by interface, by default gateway) are not among it: BuildAt has them.
func Build(nodeName string, snapshot *clearwayv1.NodeSnapshot, nodes []policy.Node) (Desired, []Problem) {
	return BuildAt(Surroundings{}, nodeName, snapshot, nodes)
}

// BuildAt is Build at a place: with the peers that are found there.
func BuildAt(place Surroundings, nodeName string, snapshot *clearwayv1.NodeSnapshot, nodes []policy.Node) (Desired, []Problem) {
	b := &builder{
		place: place, ranges: map[netip.Prefix]Range{},
		snapshot: snapshot,
		spec:     snapshot.GetBgpConfiguration().GetSpec(),
		taken:    map[netip.Addr]Neighbor{},
		filters:  map[string]policy.Filter{},
	}
	b.self = b.readSelf(nodeName)
	b.readFilters()
	desired := Desired{Global: b.global()}
	b.addPeers()
	b.addMesh(nodes)
	for _, neighbor := range b.taken {
		neighbor.Leaving = b.leaving(neighbor)
		desired.Neighbors = append(desired.Neighbors, neighbor)
	}
	slices.SortFunc(desired.Neighbors, func(a, b Neighbor) int { return a.Address.Compare(b.Address) })
	for _, prefix := range slices.SortedFunc(maps.Keys(b.ranges), netip.Prefix.Compare) {
		one := b.ranges[prefix]
		one.Session.Leaving = b.leaving(one.Session)
		desired.Ranges = append(desired.Ranges, one)
	}
	desired.Awaited = b.awaited
	return desired, b.problems
}

// builder holds one Build's intermediate values.
type builder struct {
	snapshot *clearwayv1.NodeSnapshot
	spec     *clearwayv1.BGPConfigurationSpec
	self     policy.Node
	filters  map[string]policy.Filter
	taken    map[netip.Addr]Neighbor // one session an address
	ranges   map[netip.Prefix]Range  // one a prefix
	awaited  []Awaited               // in order of the peers' names
	place    Surroundings
	problems []Problem
}

func (b *builder) problem(regarding, reason, format string, args ...any) {
	b.problems = append(b.problems, Problem{regarding, reason, fmt.Sprintf(format, args...)})
}

// ClusterASN is the AS number of nodes that have none of their own.
func ClusterASN(snapshot *clearwayv1.NodeSnapshot) uint32 {
	return cmp.Or(snapshot.GetBgpConfiguration().GetSpec().GetAsNumber(), defaults.asn)
}

func (b *builder) readSelf(name string) policy.Node {
	node := b.snapshot.GetNode()
	texts := node.GetSpec().GetAddresses()
	if len(texts) == 0 {
		texts = node.GetStatus().GetAddresses()
	}
	self := policy.Node{
		Name: name,
		ASN:  cmp.Or(node.GetSpec().GetAsNumber(), node.GetStatus().GetAsNumber(), ClusterASN(b.snapshot)),
	}
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			b.problem("Node/"+name, "BadAddress", "address %q is left out: write it with its prefix length, as 192.0.2.11/24", text)
			continue
		}
		if self.Address(prefix.Addr().Is4()).IsValid() {
			continue // one a family: the first
		}
		self.Addresses = append(self.Addresses, prefix)
	}
	return self
}

func (b *builder) readFilters() {
	for _, object := range b.snapshot.GetFilters() {
		filter, faults := policy.ParseFilter(object)
		if len(faults) == 0 {
			b.filters[filter.Name] = filter
			continue
		}
		b.problem(clearwayv1.KeyOf(object), "BadFilter", "%s %q %s", faults[0].GetField(), faults[0].GetValue(), faults[0].GetMessage())
	}
}

func (b *builder) global() Global {
	return Global{
		ASN:        b.self.ASN,
		RouterID:   b.self.RouterID(),
		ListenPort: cmp.Or(int(b.spec.GetListenPort()), defaults.port),
		NextHop4:   b.self.Address(true),
		NextHop6:   b.self.Address(false),
		BMP:        collectors(b.spec.GetBmpCollectors()),
	}
}

// addPeers takes the BGPPeers in order of their names, so that of two with one address the same one always wins.
func (b *builder) addPeers() {
	peers := slices.Clone(b.snapshot.GetPeers())
	slices.SortFunc(peers, func(x, y *clearwayv1.BGPPeer) int {
		return cmp.Compare(x.GetMetadata().GetName(), y.GetMetadata().GetName())
	})
	for _, peer := range peers {
		if peer.GetSpec().GetDisabled() {
			continue
		}
		b.addPeer(peer)
	}
}

func (b *builder) addPeer(peer *clearwayv1.BGPPeer) {
	key := clearwayv1.KeyOf(peer)
	if faults := Validate(peer); len(faults) > 0 {
		b.problem(key, "BadPeer", "no session: %s %q %s", faults[0].GetField(), faults[0].GetValue(), faults[0].GetMessage())
		return
	}
	spec := peer.GetSpec()
	switch {
	case spec.GetPeerInterface() != "":
		b.addByInterface(key, spec)
	case spec.GetDefaultGateways() != "":
		b.addByGateway(key, spec)
	case len(spec.GetListenRanges()) > 0:
		b.addRanges(key, spec)
	default:
		b.addAt(key, spec, netip.MustParseAddr(spec.GetPeerAddress()))
	}
}

// addAt makes the session with one address.
func (b *builder) addAt(key string, spec *clearwayv1.BGPPeerSpec, address netip.Addr) {
	if b.isSelf(address) {
		return // a peer for all nodes that is one of them
	}
	if other, ok := b.taken[address]; ok {
		if other.Origin != key {
			b.problem(key, "DuplicatePeer", "no session: %s has the same peerAddress %s and goes first", other.Origin, address)
		}
		return
	}
	neighbor, ok := b.neighbor(key, spec, address)
	if ok {
		b.taken[address] = neighbor
	}
}

func (b *builder) isSelf(address netip.Addr) bool {
	return slices.ContainsFunc(b.self.Addresses, func(p netip.Prefix) bool { return p.Addr() == address })
}

func (b *builder) neighbor(key string, spec *clearwayv1.BGPPeerSpec, address netip.Addr) (Neighbor, bool) {
	neighbor := Neighbor{
		Address: address, Port: uint16(cmp.Or(int(spec.GetPeerPort()), defaults.port)), Origin: key,
		PeerASN: spec.GetPeerAsn(), LocalASN: cmp.Or(spec.GetLocalAsNumber(), b.self.ASN),
		Families:         b.familiesOf(spec.GetFamilies(), address),
		ConnectRetryTime: durationOr(spec.GetConnectRetryTime(), defaults.connectRetry),
		GracefulRestart:  gracefulRestart(spec.GetGracefulRestart(), b.spec.GetGracefulRestart()),
		SourceAddress:    b.source(spec, address),
		TTLSecurity:      uint8(spec.GetTtlSecurityHops()),
		MaxPrefixes:      maxPrefixes(spec.GetMaxPrefixes()), AddPathReceive: spec.GetAddPath().GetReceive(),
		MultihopTTL: uint8(spec.GetMultihopTtl()), Passive: spec.GetPassive(), PasswordFile: spec.GetPasswordFile(),
		Scope: scopes[spec.GetImportScope()], AllowOwnAS: defaults.allowOwnAS,
		Import: b.chain(key, spec.GetImportFilters()), Export: b.chain(key, spec.GetExportFilters()),
	}
	if rule, found := neighbor.Import.Exports(); found {
		b.problem(key, "ExportOnly", "nextHop of %s has no effect: it is for export filters", rule)
	}
	if spec.GetPeerType() == TypeInternal {
		neighbor.PeerASN = neighbor.LocalASN
	}
	neighbor.HoldTime, neighbor.KeepaliveTime = timers(spec.GetHoldTime(), spec.GetKeepaliveTime(), b.spec)
	if spec.AllowOwnAs != nil {
		neighbor.AllowOwnAS = int(spec.GetAllowOwnAs())
	}
	neighbor.BFD = watch(spec.GetBfd(), b.spec.GetBfd(), neighbor)
	if len(neighbor.Families) == 0 {
		b.problem(key, "NoFamily", "no session: the node has no address of %v, so it could be no next hop", spec.GetFamilies())
		return Neighbor{}, false
	}
	return neighbor, true
}

// familiesOf are the families asked for (both, when none is) that the node has an address of: without one it could
// not be the next hop of what it advertises, nor reach what it learns. A link-local session has one of its own for both.
func (b *builder) familiesOf(texts []string, peer netip.Addr) []route.Family {
	if len(texts) == 0 {
		texts = []string{"IPv4", "IPv6"}
	}
	var list []route.Family
	for _, text := range texts {
		family := families[text]
		if b.self.Address(family == route.IPv4).IsValid() || peer.IsLinkLocalUnicast() && peer.Is6() {
			list = append(list, family)
		}
	}
	slices.Sort(list)
	return list
}

func (b *builder) chain(key string, names []string) policy.Chain {
	var chain policy.Chain
	for _, name := range names {
		filter, ok := b.filters[name]
		if !ok {
			b.problem(key, "MissingFilter", "there is no sound BGPFilter %s; until there is, everything it would judge is rejected", name)
			filter = policy.RejectAll(name)
		}
		chain = append(chain, filter)
	}
	return chain
}

var meshes = map[string]topology.Mesh{
	"": topology.Auto, MeshAuto: topology.Auto, MeshFull: topology.Full, MeshReflectors: topology.Reflectors, MeshNone: topology.None,
}

func (b *builder) addMesh(nodes []policy.Node) {
	mesh, ok := meshes[b.spec.GetNodeMesh()]
	if !ok {
		b.problem("BGPConfiguration/"+DefaultName, "BadNodeMesh", "nodeMesh %s is not available: no session among nodes", b.spec.GetNodeMesh())
		return
	}
	settings := topology.Settings{
		Mesh: mesh, Threshold: cmp.Or(int(b.spec.GetReflectors().GetThreshold()), defaults.reflectAbove),
		Clients: cmp.Or(int(b.spec.GetReflectors().GetClientsPerReflector()), defaults.clientsPerReflector),
	}
	if mesh == topology.Reflectors && !slices.ContainsFunc(nodes, func(n policy.Node) bool { return n.Reflector }) {
		b.problem("BGPConfiguration/"+DefaultName, "NoReflector", "no node is selected by reflectors.selector: no session among nodes")
	}
	nodes = slices.Clone(nodes)
	for i := range nodes {
		nodes[i].ASN = cmp.Or(nodes[i].ASN, ClusterASN(b.snapshot))
	}
	for _, link := range topology.Links(settings, b.itself(nodes), nodes) {
		origin := "nodeMesh/" + link.Node.Name
		if other, ok := b.taken[link.Remote]; ok {
			if other.MeshNode != "" {
				b.problem(origin, "DuplicateAddress", "no session: %s has the same address %s", other.Origin, link.Remote)
			}
			continue // an operator's BGPPeer for that node goes before the mesh
		}
		b.taken[link.Remote] = b.meshNeighbor(origin, link)
	}
}

// itself is the node with what the ownership log says of its part in the mesh.
func (b *builder) itself(nodes []policy.Node) policy.Node {
	self := b.self
	for _, node := range nodes {
		if node.Name == self.Name {
			self.Domain, self.Reflector, self.Leaving = node.Domain, node.Reflector, node.Leaving
		}
	}
	return self
}

func (b *builder) meshNeighbor(origin string, link topology.Link) Neighbor {
	neighbor := Neighbor{
		Address: link.Remote, Port: uint16(defaults.port), Origin: origin, MeshNode: link.Node.Name,
		PeerASN: cmp.Or(link.Node.ASN, ClusterASN(b.snapshot)), LocalASN: b.self.ASN,
		Families:         link.Families,
		ConnectRetryTime: defaults.connectRetry,
		GracefulRestart:  gracefulRestart(nil, b.spec.GetGracefulRestart()),
		SourceAddress:    link.Local,
		Scope:            policy.Owned,
		Client:           link.Role == topology.Client,
		Reflects:         link.Role == topology.Reflector || link.Role == topology.CoReflector,
	}
	if port := int(b.spec.GetListenPort()); port > 0 {
		neighbor.Port = uint16(port) // all nodes listen on the same
	}
	if !link.OnLink {
		neighbor.MultihopTTL = defaults.meshTTL
	}
	if !neighbor.EBGP() {
		neighbor.ClusterID = b.self.RouterID()
	}
	neighbor.HoldTime, neighbor.KeepaliveTime = timers("", "", b.spec)
	neighbor.BFD = watch(b.spec.GetBfd(), nil, neighbor)
	return neighbor
}

// leaving tells whether the node's drain is for a neighbour.
func (b *builder) leaving(n Neighbor) *Leaving {
	drain := b.snapshot.GetNode().GetSpec().GetDrain()
	peer, _ := strings.CutPrefix(n.Origin, "BGPPeer/")
	switch {
	case drain == nil:
		return nil
	case len(drain.GetPeers()) == 0:
		return &Leaving{Prepend: int(drain.GetPrepend())}
	case n.MeshNode == "" && slices.Contains(drain.GetPeers(), peer):
		return &Leaving{Prepend: int(drain.GetPrepend()), Both: true}
	}
	return nil
}

// HandsOver tells whether sessions of the mesh follow from who reflects, so that one gives way to another.
func HandsOver(snapshot *clearwayv1.NodeSnapshot) bool {
	mesh := meshes[snapshot.GetBgpConfiguration().GetSpec().GetNodeMesh()]
	return mesh == topology.Auto || mesh == topology.Reflectors
}

// Pools are the pools by prefix, with their names. One that cannot be read is left out: it was refused when it was
// applied.
func Pools(snapshot *clearwayv1.NodeSnapshot) map[netip.Prefix]string {
	pools := map[netip.Prefix]string{}
	for _, pool := range snapshot.GetPools() {
		if prefix, why := policy.ParsePrefix(pool.GetSpec().GetCidr()); why == "" {
			pools[prefix] = pool.GetMetadata().GetName()
		}
	}
	return pools
}

// Aggregates are the declared aggregates.
func Aggregates(snapshot *clearwayv1.NodeSnapshot) map[netip.Prefix]struct{} {
	aggregates := map[netip.Prefix]struct{}{}
	texts := slices.Clone(snapshot.GetBgpConfiguration().GetSpec().GetAggregates())
	for _, one := range snapshot.GetBgpConfiguration().GetSpec().GetOriginatedAggregates() {
		texts = append(texts, one.GetCidr())
	}
	for _, text := range texts {
		if prefix, why := policy.ParsePrefix(text); why == "" && prefix.Bits() > 0 {
			aggregates[prefix] = struct{}{}
		}
	}
	return aggregates
}
