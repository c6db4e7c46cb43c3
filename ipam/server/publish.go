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
	if touched.life && s.lifeChangedLocked() {
		return
	}
	var entries []*clearwayv1.OwnershipEntry
	if s.state.recovering() { // who has just reported is told with all of its blocks
		for name := range touched.nodes {
			for block := range s.state.blocksOf[name] {
				touched.blocks[block] = struct{}{}
			}
		}
	}
	for block := range touched.blocks {
		entries = append(entries, s.state.blockEntry(block))
	}
	for name := range touched.services {
		entries = append(entries, s.state.kube.services.entry(name))
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
	s.owners.set(s.state.revision, s.state.told(entries))
	if touched.config {
		s.sessions.wakeAll()
		return
	}
	for name := range touched.nodes {
		s.sessions.wake(name)
	}
	for name := range touched.tellers {
		s.sessions.wake(name)
	}
}

// resetOwnersLocked puts all of a new state into the log.
// whole: nobody goes on from what he has.
func (s *Server) resetOwnersLocked(whole bool) {
	entries := make([]*clearwayv1.OwnershipEntry, 0, len(s.state.blocks)+len(s.state.nodes))
	for block := range s.state.blocks {
		if entry := s.state.blockEntry(block); !entry.GetDeleted() {
			entries = append(entries, entry)
		}
	}
	for name := range s.state.nodes {
		entries = append(entries, s.state.nodeEntry(name))
	}
	for name := range s.state.kube.services.everywhere {
		entries = append(entries, s.state.kube.services.entry(name))
	}
	s.owners.begin(s.termLocked())
	s.owners.reset(s.state.revision, s.state.incarnation, s.state.told(entries), whole, s.state.recovering())
}

// lifeChangedLocked tells the watchers when the store began to recover, or has recovered: all of them begin anew.
func (s *Server) lifeChangedLocked() bool {
	s.owners.begin(s.termLocked())
	incarnation, adds := s.owners.life()
	if incarnation == s.state.incarnation && adds == s.state.recovering() {
		return false
	}
	s.resetOwnersLocked(true)
	if incarnation != s.state.incarnation {
		s.sessions.endAll()
	} else {
		s.sessions.wakeAll()
	}
	return true
}

// termLocked is the term that what is told is of. A follower names none: it may stand between two.
func (s *Server) termLocked() uint64 {
	if !s.leader {
		return 0
	}
	return s.state.term()
}

// told leaves out what a recovering store does not know for certain: the blocks and addresses of nodes that have not
// reported yet, and what is no more. Agents keep what they know until it has recovered (rule NoEarlyPrune).
func (s *state) told(entries []*clearwayv1.OwnershipEntry) []*clearwayv1.OwnershipEntry {
	if !s.recovering() {
		return entries
	}
	certain := entries[:0]
	for _, entry := range entries {
		node := cmp.Or(entry.GetBlock().GetNode(), entry.GetNode().GetName())
		if !entry.GetDeleted() && s.reported(node) {
			certain = append(certain, entry)
		}
	}
	return certain
}

// blockEntry is a block as all nodes see it. One that rests has no owner: it is none of the log's any more.
func (s *state) blockEntry(prefix netip.Prefix) *clearwayv1.OwnershipEntry {
	block := s.blocks[prefix]
	if block == nil || block.GetState() == clearwayv1.BlockState_BLOCK_STATE_COOLING {
		return deletedBlock(prefix.String())
	}
	return &clearwayv1.OwnershipEntry{Entry: &clearwayv1.OwnershipEntry_Block{Block: &clearwayv1.BlockOwner{
		Cidr: block.GetCidr(), Pool: block.GetPool(), Node: block.GetNode(), NodeUid: block.GetNodeUid(),
		State: block.GetState(), Generation: block.GetGeneration(), Splits: splits(block),
	}}}
}

// nodeEntry is a node as all others see it.
func (s *state) nodeEntry(name string) *clearwayv1.OwnershipEntry {
	node := s.nodes[name]
	if node == nil {
		return deletedNode(name)
	}
	labels := s.labelsOf(name)
	cluster, _ := s.config[kindBGPConfiguration][defaultName].object.(*clearwayv1.BGPConfiguration)
	reflectors := cluster.GetSpec().GetReflectors()
	return &clearwayv1.OwnershipEntry{Entry: &clearwayv1.OwnershipEntry_Node{Node: &clearwayv1.NodeEntry{
		Domain:    labels[reflectors.GetDomainLabel()],
		Reflector: reflectors.GetSelector() != nil && selects(reflectors.GetSelector(), labels),
		Leaving:   s.drainOf(name) != nil && len(s.drainOf(name).GetPeers()) == 0,
		Name:      name, Uid: node.GetMetadata().GetUid(),
		Addresses: s.addressesOf(name), AsNumber: s.asNumberOf(name), LocalAsNumbers: s.localASNumbers(labels),
	}}}
}

// nodeConfig is what the operator says of a node; its getters take nil.
func (s *state) nodeConfig(name string) *clearwayv1.Node {
	node, _ := s.config[kindNode][name].object.(*clearwayv1.Node)
	return node
}

// labelsOf is what holds of a node's labels: the agent's, and over them Kubernetes' and the operator's.
func (s *state) labelsOf(name string) map[string]string {
	labels := maps.Clone(s.nodes[name].GetStatus().GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, s.kube.nodes[name].GetLabels())
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

// addressesOf is what holds of a node's addresses: by family, the operator's where there is one, else that of the
// annotation in Kubernetes, else the agent's.
func (s *state) addressesOf(name string) []string {
	var addresses []string
	have := map[bool]bool{}
	for _, said := range [][]string{
		s.nodeConfig(name).GetSpec().GetAddresses(), s.kube.nodes[name].GetAddresses(), s.nodes[name].GetStatus().GetAddresses(),
	} {
		told := map[bool]bool{}
		for _, text := range said {
			prefix, err := netip.ParsePrefix(text)
			if err != nil || have[prefix.Addr().Is4()] {
				continue
			}
			told[prefix.Addr().Is4()] = true
			addresses = append(addresses, text)
		}
		maps.Copy(have, told)
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
