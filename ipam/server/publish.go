package server

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// publishLocked tells the watchers what a change touched. The server's lock is held: the log takes changes in the order
// of revisions. It does no I/O.
func (s *Server) publishLocked(touched *change) {
	var entries []*clearwayv1.OwnershipEntry
	for block := range touched.blocks {
		entries = append(entries, s.state.blockEntry(block))
	}
	if touched.config { // labels, AS numbers and addresses may follow from any of it
		for name := range s.state.nodes {
			touched.nodes[name] = struct{}{}
		}
	}
	for name := range touched.nodes {
		if name != "" {
			entries = append(entries, s.state.nodeEntry(name))
		}
	}
	s.owners.set(s.state.revision, entries)
	if touched.config {
		s.sessions.wakeAll()
		return
	}
	for name := range touched.nodes {
		s.sessions.wake(name)
	}
}

// resetOwnersLocked puts all of a new state into the log.
func (s *Server) resetOwnersLocked() {
	entries := make([]*clearwayv1.OwnershipEntry, 0, len(s.state.blocks)+len(s.state.nodes))
	for block := range s.state.blocks {
		if entry := s.state.blockEntry(block); !entry.GetDeleted() {
			entries = append(entries, entry)
		}
	}
	for name := range s.state.nodes {
		entries = append(entries, s.state.nodeEntry(name))
	}
	s.owners.reset(s.state.revision, s.state.incarnation, entries)
}

// blockEntry is a block as all nodes see it. One that rests has no owner: it is none of the log's any more.
func (s *state) blockEntry(prefix netip.Prefix) *clearwayv1.OwnershipEntry {
	block := s.blocks[prefix]
	if block == nil || block.GetState() == clearwayv1.BlockState_BLOCK_STATE_COOLING {
		return deletedBlock(prefix.String())
	}
	return &clearwayv1.OwnershipEntry{Entry: &clearwayv1.OwnershipEntry_Block{Block: &clearwayv1.BlockOwner{
		Cidr: block.GetCidr(), Pool: block.GetPool(), Node: block.GetNode(), NodeUid: block.GetNodeUid(),
		State: block.GetState(), Generation: block.GetGeneration(),
	}}}
}

// nodeEntry is a node as all others see it.
func (s *state) nodeEntry(name string) *clearwayv1.OwnershipEntry {
	node := s.nodes[name]
	if node == nil {
		return deletedNode(name)
	}
	labels := s.labelsOf(name)
	return &clearwayv1.OwnershipEntry{Entry: &clearwayv1.OwnershipEntry_Node{Node: &clearwayv1.NodeEntry{
		Name: name, Uid: node.GetMetadata().GetUid(),
		Addresses: s.addressesOf(name), AsNumber: s.asNumberOf(name), LocalAsNumbers: s.localASNumbers(labels),
	}}}
}

// nodeConfig is what the operator says of a node; its getters take nil.
func (s *state) nodeConfig(name string) *clearwayv1.Node {
	node, _ := s.config[kindNode][name].object.(*clearwayv1.Node)
	return node
}

// labelsOf is what holds of a node's labels: the agent's, and the operator's over them.
func (s *state) labelsOf(name string) map[string]string {
	labels := maps.Clone(s.nodes[name].GetStatus().GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, s.nodeConfig(name).GetMetadata().GetLabels())
	for key, value := range s.nodeConfig(name).GetSpec().GetLabels() {
		if value == "" {
			delete(labels, key)
		} else {
			labels[key] = value
		}
	}
	return labels
}

// addressesOf is what holds of a node's addresses: by family, the operator's where there is one, else the agent's.
func (s *state) addressesOf(name string) []string {
	said := s.nodeConfig(name).GetSpec().GetAddresses()
	have := map[bool]bool{}
	for _, text := range said {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			have[prefix.Addr().Is4()] = true
		}
	}
	addresses := slices.Clone(said)
	for _, text := range s.nodes[name].GetStatus().GetAddresses() {
		if prefix, err := netip.ParsePrefix(text); err == nil && !have[prefix.Addr().Is4()] {
			addresses = append(addresses, text)
		}
	}
	return addresses
}

// defaultASN is BGPConfiguration's default for asNumber.
const defaultASN = 64512

func (s *state) asNumberOf(name string) uint32 {
	cluster, _ := s.config[kindBGPConfiguration][defaultName].object.(*clearwayv1.BGPConfiguration)
	return cmp.Or(s.nodeConfig(name).GetSpec().GetAsNumber(), cluster.GetSpec().GetAsNumber(), defaultASN)
}

// localASNumbers are the AS numbers that a node of these labels shows its BGPPeers, ascending.
func (s *state) localASNumbers(labels map[string]string) []uint32 {
	var numbers []uint32
	for _, peer := range s.peersOf(labels) {
		if asn := peer.GetSpec().GetLocalAsNumber(); asn != 0 {
			numbers = append(numbers, asn)
		}
	}
	slices.Sort(numbers)
	return slices.Compact(numbers)
}

// peersOf are the BGPPeers that select a node of these labels, by name.
func (s *state) peersOf(labels map[string]string) []*clearwayv1.BGPPeer {
	var peers []*clearwayv1.BGPPeer
	for _, name := range slices.Sorted(maps.Keys(s.config[kindPeer])) {
		peer := s.config[kindPeer][name].object.(*clearwayv1.BGPPeer)
		if selects(peer.GetSpec().GetNodeSelector(), labels) {
			peers = append(peers, peer)
		}
	}
	return peers
}
