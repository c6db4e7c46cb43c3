package server_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func (a *agent) watchNode(incarnation string, revision int64) grpc.ServerStreamingClient[clearwayv1.WatchNodeResponse] {
	a.t.Helper()
	stream, err := a.NodeServiceClient.WatchNode(testContext(a.t), &clearwayv1.WatchNodeRequest{
		Node: a.request.GetNode(), SessionId: a.registered.GetSessionId(), Incarnation: incarnation, Revision: revision,
	})
	a.must(err)
	return stream
}

func peer(name, rack string, asn, local uint32) *clearwayv1.Resource {
	return clearwayv1.Wrap(&clearwayv1.BGPPeer{
		Metadata: &clearwayv1.ObjectMeta{Name: name},
		Spec: &clearwayv1.BGPPeerSpec{
			PeerAddress: "192.0.2.1", PeerAsn: asn, LocalAsNumber: local,
			NodeSelector: &clearwayv1.LabelSelector{MatchLabels: map[string]string{"rack": rack}},
		},
	})
}

func rack(name string) func(*clearwayv1.RegisterRequest) {
	return func(r *clearwayv1.RegisterRequest) { r.Labels = map[string]string{"rack": name} }
}

func TestWatchNodeSendsWhatConcernsTheNode(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"), peer("tor-r1", "r1", 65101, 0), peer("tor-r2", "r2", 65102, 0))
	a := d.agent("n1", rack("r1"))
	stream := a.watchNode("", 0)
	next := func() *clearwayv1.NodeSnapshot {
		t.Helper()
		message, err := stream.Recv()
		a.must(err)
		return message.GetSnapshot()
	}
	first := next()
	if len(first.GetPools()) != 1 || len(first.GetPeers()) != 1 || first.GetPeers()[0].GetMetadata().GetName() != "tor-r1" ||
		first.GetNode().GetStatus().GetAsNumber() != 64512 || first.GetIncarnation() == "" || len(first.GetBlocks()) != 0 {
		t.Fatalf("first: %v", first)
	}
	d.agent("n2").mustClaim("pods", "k1") // another node's block is none of ours
	block := a.mustClaim("pods", "k1")
	if got := next(); len(got.GetBlocks()) != 1 || got.GetBlocks()[0].GetCidr() != block.GetCidr() || got.GetRevision() <= first.GetRevision() {
		t.Fatalf("after the claim: %v", got)
	}
	d.apply(clearwayv1.Wrap(&clearwayv1.Node{
		Metadata: &clearwayv1.ObjectMeta{Name: "n1"}, Spec: &clearwayv1.NodeSpec{Labels: map[string]string{"rack": "r2"}, Addresses: []string{"192.0.2.77/24"}},
	}))
	got := next()
	if got.GetPeers()[0].GetMetadata().GetName() != "tor-r2" || !slices.Equal(got.GetNode().GetStatus().GetAddresses(), []string{"192.0.2.77/24"}) {
		t.Fatalf("after the change of labels: %v", got)
	}
	// What has the newest gets nothing until something changes.
	again := a.watchNode(got.GetIncarnation(), got.GetRevision())
	d.apply(ipPool("more", "10.245.0.0/16"))
	message, err := again.Recv()
	if err != nil || len(message.GetSnapshot().GetPools()) != 2 {
		t.Fatalf("got %v, %v", message, err)
	}
}

// copyOf is an agent's copy of the ownership log.
type copyOf struct {
	incarnation string
	revision    int64
	entries     map[string]string
	resets      int
}

// take applies one message; it returns complete.
func (c *copyOf) take(message *clearwayv1.WatchOwnershipResponse) bool {
	if message.GetReset_() {
		c.entries, c.resets = map[string]string{}, c.resets+1
	}
	for _, entry := range message.GetEntries() {
		key := "node " + entry.GetNode().GetName()
		value := fmt.Sprint(entry.GetNode().GetAddresses(), entry.GetNode().GetAsNumber(), entry.GetNode().GetLocalAsNumbers())
		if block := entry.GetBlock(); block != nil {
			key = "block " + block.GetCidr()
			value = block.GetNode() + " " + strings.TrimPrefix(block.GetState().String(), "BLOCK_STATE_")
		}
		if entry.GetDeleted() {
			delete(c.entries, key)
		} else {
			c.entries[key] = value
		}
	}
	c.incarnation, c.revision = message.GetIncarnation(), message.GetRevision()
	return message.GetComplete()
}

func (c *copyOf) String() string {
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(c.entries)) {
		lines = append(lines, key+": "+c.entries[key])
	}
	return strings.Join(lines, "\n")
}

// read reads until the copy is at least at a revision.
func (c *copyOf) read(t *testing.T, stream grpc.ServerStreamingClient[clearwayv1.WatchOwnershipResponse], revision int64) {
	t.Helper()
	for {
		message, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if c.take(message) && c.revision >= revision {
			return
		}
	}
}

func (d *ipamd) watchOwnership(ctx context.Context, c *copyOf) grpc.ServerStreamingClient[clearwayv1.WatchOwnershipResponse] {
	stream, err := d.WatchOwnership(ctx, &clearwayv1.WatchOwnershipRequest{Node: "n9", Incarnation: c.incarnation, Revision: c.revision})
	if err != nil {
		d.t.Fatal(err)
	}
	return stream
}

func TestOwnershipIsResumedByRevision(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.0.0/16"), peer("tor-r1", "r1", 65101, 65001))
	a := d.agent("n1", rack("r1"))
	a.mustClaim("pods", "k1")
	mine := &copyOf{}
	ctx, cancel := context.WithCancel(testContext(t))
	claimed := a.mustClaim("pods", "k2")
	mine.read(t, d.watchOwnership(ctx, mine), claimed.GetGeneration())
	want := "block 10.244.0.0/26: n1 OWNED\nblock 10.244.0.64/26: n1 OWNED\nnode n1: [192.0.2.1/24] 64512 [65001]"
	if mine.String() != want || mine.resets != 1 {
		t.Fatalf("first (%d resets):\n%s", mine.resets, mine)
	}
	cancel() // the stream breaks
	a.must(a.release(claimed))
	d.apply(clearwayv1.Wrap(&clearwayv1.BGPConfiguration{
		Metadata: &clearwayv1.ObjectMeta{Name: "default"}, Spec: &clearwayv1.BGPConfigurationSpec{AsNumber: 64600},
	}))
	third := a.mustClaim("pods", "k3")
	mine.read(t, d.watchOwnership(testContext(t), mine), third.GetGeneration())
	want = "block 10.244.0.0/26: n1 OWNED\nblock 10.244.0.128/26: n1 OWNED\nnode n1: [192.0.2.1/24] 64600 [65001]"
	if mine.String() != want || mine.resets != 1 {
		t.Fatalf("resumed (%d resets):\n%s", mine.resets, mine)
	}
	// Nothing new: one empty message says that the copy is complete.
	message, err := d.watchOwnership(testContext(t), mine).Recv()
	if err != nil || !message.GetComplete() || len(message.GetEntries()) != 0 || message.GetReset_() {
		t.Fatalf("got %v, %v", message, err)
	}
	if err := d.deleteNode("n1", false); err != nil {
		t.Fatal(err)
	}
	mine.read(t, d.watchOwnership(testContext(t), mine), mine.revision+1)
	for strings.Contains(mine.String(), "node n1") {
		mine.read(t, d.watchOwnership(testContext(t), mine), mine.revision)
	}
	if want := "block 10.244.0.0/26: n1 ORPHANED\nblock 10.244.0.128/26: n1 ORPHANED"; mine.String() != want {
		t.Fatalf("after the deletion:\n%s", mine)
	}
	// Another ipamd has no log of before: it sends the whole.
	d.stop()
	e := start(t, records)
	mine.read(t, e.watchOwnership(testContext(t), mine), 0)
	if mine.resets != 2 || !strings.Contains(mine.String(), "ORPHANED") {
		t.Fatalf("from another ipamd (%d resets):\n%s", mine.resets, mine)
	}
}

func TestQuestionsAreRelayedToNodes(t *testing.T) {
	d := start(t, newFake())
	answering, silent := d.agent("n1"), d.agent("n2")
	_ = silent
	stream := answering.watchNode("", 0)
	go func() {
		for {
			message, err := stream.Recv()
			if err != nil {
				return
			}
			query := message.GetQuery()
			if query == nil {
				continue
			}
			answer, err := answering.NodeServiceClient.AnswerQuery(stream.Context())
			if err != nil {
				return
			}
			for _, prefix := range []string{"10.0.2.0/24", "10.0.1.0/24"} {
				_ = answer.Send(&clearwayv1.AnswerQueryRequest{
					Node: "n1", SessionId: answering.registered.GetSessionId(), QueryId: query.GetId(),
					Answer: &clearwayv1.ListResponse{Resources: []*clearwayv1.Resource{clearwayv1.Wrap(&clearwayv1.Route{
						Metadata: &clearwayv1.ObjectMeta{Name: clearwayv1.PrefixName(prefix)},
						Spec:     &clearwayv1.RouteSpec{Node: "n1", Prefix: prefix, Direction: query.GetList().GetPool()},
					})}},
				})
			}
			_, _ = answer.CloseAndRecv()
		}
	}()
	d.eventually("the node is asked", func() bool {
		routes, warnings := d.list(&clearwayv1.ListRequest{Kind: "Route", Pool: "handed on"})
		return len(routes) == 2 && routes[0].GetRoute().GetSpec().GetPrefix() == "10.0.1.0/24" &&
			routes[0].GetRoute().GetSpec().GetDirection() == "handed on" &&
			len(warnings) == 1 && strings.Contains(warnings[0], "n2: its agent is not connected")
	})
}

func TestReportsShowInListings(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"), peer("tor-r1", "r1", 65101, 0))
	a := d.agent("n1", rack("r1"))
	block := a.mustClaim("pods", "k1")
	node := func() *clearwayv1.NodeStatus {
		nodes, _ := d.list(&clearwayv1.ListRequest{Kind: "Node", LabelSelector: "rack=r1"})
		if len(nodes) != 1 {
			t.Fatalf("%d nodes", len(nodes))
		}
		return nodes[0].GetNode().GetStatus()
	}
	if got := node(); got.GetPhase() != "NotReady" || got.GetBlocks() != 1 {
		t.Errorf("before a report: %v", got)
	}
	_, err := a.NodeServiceClient.ReportStatus(testContext(t), &clearwayv1.ReportStatusRequest{
		Node: "n1", SessionId: a.registered.GetSessionId(), Ready: true, KernelRoutes: 12,
		Sessions: []*clearwayv1.BGPSession{{
			Metadata: &clearwayv1.ObjectMeta{Name: "n1.192-0-2-1"}, Spec: &clearwayv1.BGPSessionSpec{Node: "n1", Origin: "BGPPeer/tor-r1"},
			Status: &clearwayv1.BGPSessionStatus{State: "Established"},
		}},
		Blocks: []*clearwayv1.BlockUse{{Cidr: block.GetCidr(), Assigned: 3, Cooling: 1, Sealed: true}},
		Events: []*clearwayv1.EventSpec{{Type: "Warning", Reason: "Tested", Message: "m"}},
	})
	a.must(err)
	if got := node(); got.GetPhase() != "Ready" || got.GetKernelRoutes() != 12 || got.GetSessionsEstablished() != 1 {
		t.Errorf("after the report: %v", got)
	}
	if got := d.block(t, block.GetCidr()).GetStatus(); got.GetAssigned() != 3 || got.GetCooling() != 1 || !got.GetSealed() || got.GetAddresses() != 64 {
		t.Errorf("block: %v", got)
	}
	peers, _ := d.list(&clearwayv1.ListRequest{Kind: "BGPPeer"})
	if got := peers[0].GetBgpPeer().GetStatus(); got.GetWanted() != 1 || got.GetEstablished() != 1 {
		t.Errorf("peer: %v", got)
	}
	pools, _ := d.list(&clearwayv1.ListRequest{Kind: "IPPool"})
	if got := pools[0].GetIpPool().GetStatus(); got.GetBlocks() != 1 || got.GetFreeBlocks() != 1023 || got.GetBlockAddresses() != 64 || got.GetPhase() != "Active" {
		t.Errorf("pool: %v", got)
	}
	sessions, _ := d.list(&clearwayv1.ListRequest{Kind: "BGPSession"})
	if len(sessions) != 1 {
		t.Errorf("sessions: %v", sessions)
	}
	d.eventually("the event is listed", func() bool {
		events, _ := d.list(&clearwayv1.ListRequest{Kind: "Event", Node: "n1"})
		return len(events) == 1 && events[0].GetEvent().GetSpec().GetReason() == "Tested"
	})
	_ = a.conn.Close()
	d.eventually("the node is lost", func() bool { return node().GetPhase() == "Lost" })
}

func TestShowAddress(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"), clearwayv1.Wrap(&clearwayv1.IPReservation{
		Metadata: &clearwayv1.ObjectMeta{Name: "printers"}, Spec: &clearwayv1.IPReservationSpec{Cidrs: []string{"10.244.0.9-10.244.0.12"}, Reason: "old ones"},
	}))
	a := d.agent("n1")
	a.mustClaim("pods", "k1")
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 7, Assigned: []*clearwayv1.AssignmentSpec{assignment("n1", "10.244.0.5", 7)}})
	for _, test := range []struct{ address, state, words string }{
		{"10.244.0.5", "Assigned", "Pod default/pod7 (eth0) on node n1, in block 10.244.0.0/26 of pool pods"},
		{"10.244.0.6", "Free", "n1"},
		{"10.244.0.1", "Gateway", "pods"},
		{"10.244.0.10", "Reserved", "printers (old ones)"},
		{"10.244.255.255", "Reserved", "last address"},
		{"10.244.9.9", "Unclaimed", "no node's block"},
		{"192.0.2.1", "Outside", "no pool"},
	} {
		got, err := d.ShowAddress(testContext(t), &clearwayv1.ShowAddressRequest{Address: test.address})
		if err != nil || got.GetState() != test.state || !strings.Contains(got.GetSummary(), test.words) {
			t.Errorf("%s: %v %v", test.address, got, err)
		}
	}
	_, err := d.ShowAddress(testContext(t), &clearwayv1.ShowAddressRequest{Address: "10.1"})
	wantCode(t, err, codes.InvalidArgument)
}
