package server

import (
	"maps"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// WatchNode implements NodeService.
func (n *nodeService) WatchNode(
	request *clearwayv1.WatchNodeRequest, stream grpc.ServerStreamingServer[clearwayv1.WatchNodeResponse],
) error {
	session, err := n.enter(stream.Context(), request.GetNode(), request.GetSessionId())
	if err != nil {
		return err
	}
	mine := session.watch()
	defer session.unwatch(mine)
	var sent []byte
	for first := true; ; first = false {
		snapshot, err := n.s.snapshotOf(request.GetNode())
		if err != nil {
			return err
		}
		content := contentOf(snapshot)
		newest := first && request.GetIncarnation() == snapshot.GetIncarnation() && request.GetRevision() == snapshot.GetRevision()
		if string(content) != string(sent) && !newest {
			message := &clearwayv1.WatchNodeResponse{Message: &clearwayv1.WatchNodeResponse_Snapshot{Snapshot: snapshot}}
			if err := stream.Send(message); err != nil {
				return err
			}
		}
		sent = content
		if err := n.awaitNode(session, mine, stream); err != nil {
			return err
		}
	}
}

// awaitNode relays questions until the snapshot may have changed.
func (n *nodeService) awaitNode(
	session *session, mine *watcher, stream grpc.ServerStreamingServer[clearwayv1.WatchNodeResponse],
) error {
	for {
		select {
		case <-mine.dirty:
			return nil
		case query := <-mine.asked:
			message := &clearwayv1.WatchNodeResponse{Message: &clearwayv1.WatchNodeResponse_Query{Query: query}}
			if err := stream.Send(message); err != nil {
				return err
			}
		case <-mine.replaced:
			return status.Error(codes.Aborted, "a newer WatchNode stream of this session took this one's place")
		case <-session.ended:
			return n.s.sessionEnded(session)
		case <-n.s.down:
			return notLeader("")
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// sessionEnded is what ends the streams of a session that ended: with the office, or by itself.
func (s *Server) sessionEnded(session *session) error {
	if err := s.mustLead(); err != nil {
		return err
	}
	return status.Errorf(codes.Unauthenticated, "session %q of node %q is over: register again", session.id, session.node)
}

// contentOf is a snapshot without its revision, to tell whether anything else differs.
func contentOf(snapshot *clearwayv1.NodeSnapshot) []byte {
	revision := snapshot.GetRevision()
	snapshot.Revision = 0
	defer func() { snapshot.Revision = revision }()
	return mustMarshal(snapshot)
}

// snapshotOf is all the configuration that a node needs.
func (s *Server) snapshotOf(name string) (*clearwayv1.NodeSnapshot, error) {
	snapshot := &clearwayv1.NodeSnapshot{}
	err := s.view(func(st *state) {
		snapshot.Incarnation, snapshot.Revision, snapshot.Term = st.incarnation, st.revision, s.termLocked()
		snapshot.Blocks = st.blocksOwned(name)
		snapshot.Node = st.cordonedNode(name, st.nodeOf(name))
		snapshot.Pools = named[*clearwayv1.IPPool](st, kindPool)
		snapshot.Quotas, snapshot.Allowances = named[*clearwayv1.IPQuota](st, kindQuota), s.allowancesTold(st, name)
		snapshot.Reservations = named[*clearwayv1.IPReservation](st, kindReservation)
		snapshot.IpamConfiguration, _ = st.config[kindIPAMConfiguration][defaultName].object.(*clearwayv1.IPAMConfiguration)
		snapshot.BgpConfiguration, _ = st.config[kindBGPConfiguration][defaultName].object.(*clearwayv1.BGPConfiguration)
		snapshot.Peers = st.peersOf(st.labelsOf(name))
		snapshot.Filters = st.filtersOf(snapshot.GetPeers())
		snapshot.Namespaces = st.namespacesFor()
		snapshot.Services = st.servicesFor(name)
	})
	return snapshot, err
}

// named are the resources of a kind, by name.
func named[T clearwayv1.Object](s *state, kind string) []T {
	var all []T
	for _, name := range slices.Sorted(maps.Keys(s.config[kind])) {
		all = append(all, s.config[kind][name].object.(T))
	}
	return all
}

// filtersOf are the filters that peers name, by name.
func (s *state) filtersOf(peers []*clearwayv1.BGPPeer) []*clearwayv1.BGPFilter {
	wanted := map[string]bool{}
	for _, peer := range peers {
		for _, name := range slices.Concat(peer.GetSpec().GetImportFilters(), peer.GetSpec().GetExportFilters()) {
			wanted[name] = true
		}
	}
	var filters []*clearwayv1.BGPFilter
	for _, filter := range named[*clearwayv1.BGPFilter](s, kindFilter) {
		if wanted[filter.GetMetadata().GetName()] {
			filters = append(filters, filter)
		}
	}
	return filters
}

// nodeOf is a node as it holds: the operator's word over the agent's. What changes by itself (phase, counts, times) is
// not in it. It is nil when neither says anything.
func (s *state) nodeOf(name string) *clearwayv1.Node {
	registered, configured := s.nodes[name], s.nodeConfig(name)
	if registered == nil && configured == nil {
		return nil
	}
	node := &clearwayv1.Node{ApiVersion: clearwayv1.APIVersion, Kind: kindNode}
	if configured != nil {
		node.Metadata, node.Spec = proto.CloneOf(configured.GetMetadata()), configured.GetSpec()
	} else {
		node.Metadata = proto.CloneOf(registered.GetMetadata())
	}
	if uid := registered.GetMetadata().GetUid(); uid != "" {
		node.Metadata.Uid = uid
	}
	node.Status = &clearwayv1.NodeStatus{
		Addresses: s.addressesOf(name), AsNumber: s.asNumberOf(name), Labels: s.labelsOf(name),
	}
	return node
}

// cordonedNode is a node with the drain that follows from its cordon in Kubernetes, where the configuration has it so. It is for
// the agent, and not for operators: they see what they said.
func (s *state) cordonedNode(name string, node *clearwayv1.Node) *clearwayv1.Node {
	drain := s.drainOf(name)
	if node == nil || drain == nil || node.GetSpec().GetDrain() != nil {
		return node
	}
	told := proto.CloneOf(node)
	if told.Spec == nil {
		told.Spec = &clearwayv1.NodeSpec{}
	}
	told.Spec.Drain = drain
	return told
}

// drainOf is a node's drain: the operator's word, else what follows from a cordon.
func (s *state) drainOf(name string) *clearwayv1.Drain {
	if said := s.nodeConfig(name).GetSpec().GetDrain(); said != nil {
		return said
	}
	cluster, _ := s.config[kindBGPConfiguration][defaultName].object.(*clearwayv1.BGPConfiguration)
	if known := s.kube.nodes[name]; cluster.GetSpec().GetDrainCordoned() && known.GetCordoned() && known.GetGoneTime() == nil {
		return &clearwayv1.Drain{Keep: true}
	}
	return nil
}

// WatchOwnership implements NodeService. Followers serve it too: it needs no session there.
func (n *nodeService) WatchOwnership(
	request *clearwayv1.WatchOwnershipRequest, stream grpc.ServerStreamingServer[clearwayv1.WatchOwnershipResponse],
) error {
	if err := n.s.view(func(*state) {}); err != nil {
		return err
	}
	replaced, done := n.s.limits.watches.open(request.GetNode())
	defer done()
	at := position{incarnation: request.GetIncarnation(), revision: request.GetRevision()}
	for first := true; ; first = false {
		next, messages, more := n.s.owners.since(at.incarnation, at.revision)
		if first && len(messages) == 0 {
			messages = []encoded{next.complete()}
		}
		for _, message := range messages {
			if err := stream.SendMsg(message); err != nil {
				return err
			}
		}
		at = next
		select {
		case <-more:
		case <-replaced:
			return status.Error(codes.Aborted, "newer WatchOwnership streams of this node took this one's place")
		case <-n.s.down:
			return notLeader("")
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
