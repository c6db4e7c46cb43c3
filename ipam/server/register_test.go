package server_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func TestCloneIsRefusedByName(t *testing.T) {
	d := start(t, newFake())
	a := d.agent("n1")
	clone := &agent{ipamd: d, NodeServiceClient: a.NodeServiceClient, request: &clearwayv1.RegisterRequest{
		Node: "n2", MachineId: "machine-n1", BootId: "boot-9", JournalId: "journal-n1", ProcessId: "other",
	}}
	wantCode(t, clone.register(), codes.AlreadyExists)
	clone.request.Node = "n1" // the same name, from another boot
	wantCode(t, clone.register(), codes.AlreadyExists)
	clone.request.BootId = "boot-1" // restarted: takes over at once
	clone.must(clone.register())
	_, err := a.claim("pods", "k")
	wantCode(t, err, codes.Unauthenticated) // the former session is over
}

func TestDeadConnectionIsNoLiveSession(t *testing.T) {
	d := start(t, newFake())
	a := d.agent("n1")
	if err := a.conn.Close(); err != nil {
		t.Fatal(err)
	}
	d.eventually("the rebooted node registers", func() bool {
		b := &agent{ipamd: d, NodeServiceClient: d.NodeServiceClient, request: &clearwayv1.RegisterRequest{
			Node: "n1", MachineId: "machine-n1", BootId: "boot-2", JournalId: "journal-n1", ProcessId: "p2",
		}}
		return b.register() == nil
	})
}

// comeBack registers a node again after its agent died.
func (a *agent) comeBack(change func(*clearwayv1.RegisterRequest)) *agent {
	a.t.Helper()
	_ = a.conn.Close()
	next := &agent{ipamd: a.ipamd, conn: a.dial(), request: &clearwayv1.RegisterRequest{
		Node: a.request.GetNode(), MachineId: a.request.GetMachineId(), BootId: a.request.GetBootId(),
		JournalId: a.request.GetJournalId(), ProcessId: fmt.Sprintf("p-%d", time.Now().UnixNano()),
	}}
	change(next.request)
	next.NodeServiceClient = clearwayv1.NewNodeServiceClient(next.conn)
	a.eventually("the node registers again", func() bool { return next.register() == nil })
	return next
}

func (a *agent) mirror(request *clearwayv1.MirrorAssignmentsRequest) int64 {
	a.t.Helper()
	request.Node, request.SessionId, request.JournalId = a.request.GetNode(), a.registered.GetSessionId(), a.request.GetJournalId()
	answer, err := a.NodeServiceClient.MirrorAssignments(testContext(a.t), request)
	a.must(err)
	return answer.GetThroughNumber()
}

func assignment(node, address string, number int64) *clearwayv1.AssignmentSpec {
	return &clearwayv1.AssignmentSpec{
		Address: address, Block: "10.244.0.0/26", Pool: "pods", Node: node, JournalNumber: number,
		Attachment: &clearwayv1.Attachment{Network: "net", ContainerId: fmt.Sprint("c", number), Ifname: "eth0"},
		Pod:        &clearwayv1.Pod{Namespace: "default", Name: fmt.Sprint("pod", number)},
	}
}

func TestRegistrationAfterARestart(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"))
	a := d.agent("n1")
	block := a.mustClaim("pods", "k1")
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 7, Assigned: []*clearwayv1.AssignmentSpec{assignment("n1", "10.244.0.5", 7)}})

	for _, test := range []struct {
		name   string
		change func(*clearwayv1.RegisterRequest)
		sealed bool
		number int64
		known  int
	}{
		{"same journal", func(r *clearwayv1.RegisterRequest) { r.JournalNumber = 8 }, false, 7, 0},
		{"remade Node object", func(r *clearwayv1.RegisterRequest) { r.JournalNumber, r.NodeUid = 8, "uid-2" }, false, 7, 0},
		{"old image", func(r *clearwayv1.RegisterRequest) { r.JournalNumber = 3 }, true, 7, 1},
		{"journal lost within one boot", func(r *clearwayv1.RegisterRequest) { r.JournalId = "j2" }, true, 0, 1},
		{"and its agent restarted before it mirrored", func(r *clearwayv1.RegisterRequest) { r.JournalId = "j2" }, true, 0, 1},
		{"rebooted", func(r *clearwayv1.RegisterRequest) { r.BootId, r.JournalNumber = "boot-2", 9 }, false, 7, 0},
		{"rebooted and journal lost", func(r *clearwayv1.RegisterRequest) { r.BootId, r.JournalId = "boot-3", "j3" }, false, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			next := a.comeBack(test.change)
			got := next.registered
			_ = next.conn.Close()
			if len(got.GetBlocks()) != 1 || got.GetBlocks()[0].GetCidr() != block.GetCidr() ||
				got.GetBlocks()[0].GetGeneration() != block.GetGeneration() || got.GetBlocks()[0].GetNodeUid() != got.GetNodeUid() {
				t.Errorf("blocks: %v", got.GetBlocks())
			}
			if sealed := slices.Equal(got.GetSealedBlocks(), []string{block.GetCidr()}); sealed != test.sealed ||
				got.GetMirroredNumber() != test.number || len(got.GetKnownAssignments()) != test.known {
				t.Errorf("got %v", got)
			}
		})
	}
	if left, _ := d.list(&clearwayv1.ListRequest{Kind: "Assignment"}); len(left) != 0 {
		t.Errorf("after the reboot without a journal: %v", left)
	}
}

func TestSealedBlocksAreOpenedByAWholeMirror(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"))
	a := d.agent("n1")
	a.mustClaim("pods", "k1")
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 7, Assigned: []*clearwayv1.AssignmentSpec{
		assignment("n1", "10.244.0.5", 7), assignment("n1", "10.244.0.6", 6),
	}})
	b := a.comeBack(func(r *clearwayv1.RegisterRequest) { r.JournalId = "j2" })
	b.mirror(&clearwayv1.MirrorAssignmentsRequest{Replace: true, ThroughNumber: 2, Assigned: []*clearwayv1.AssignmentSpec{
		assignment("n1", "10.244.0.5", 1),
	}})
	c := b.comeBack(func(r *clearwayv1.RegisterRequest) { r.JournalNumber = 2 })
	if len(c.registered.GetSealedBlocks()) != 0 || c.registered.GetMirroredNumber() != 2 {
		t.Errorf("still sealed: %v", c.registered)
	}
	if left, _ := d.list(&clearwayv1.ListRequest{Kind: "Assignment"}); len(left) != 1 {
		t.Errorf("the mirror has %v", left)
	}
}

func TestMirrorGoesInOrderAndComparesWhatItReleases(t *testing.T) {
	d := start(t, newFake())
	a := d.agent("n1")
	if got := a.mirror(&clearwayv1.MirrorAssignmentsRequest{AfterNumber: 5, ThroughNumber: 6}); got != 0 {
		t.Errorf("a gap was taken: %d", got)
	}
	var many []*clearwayv1.AssignmentSpec
	for i := range 250 { // more than one transaction
		many = append(many, assignment("n1", fmt.Sprintf("10.244.0.%d", i), int64(i+1)))
	}
	if got := a.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 250, Assigned: many}); got != 250 {
		t.Errorf("through %d", got)
	}
	if got := a.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 250, Assigned: many}); got != 250 {
		t.Errorf("repeated: through %d", got)
	}
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{AfterNumber: 250, ThroughNumber: 252, Released: []*clearwayv1.ReleasedAddress{
		{Address: "10.244.0.3", JournalNumber: 4}, {Address: "10.244.0.4", JournalNumber: 1}, // the second is an older assignment's
	}})
	held, _ := d.list(&clearwayv1.ListRequest{Kind: "Assignment"})
	if len(held) != 249 {
		t.Fatalf("%d are held", len(held))
	}
	one, _ := d.list(&clearwayv1.ListRequest{Kind: "Assignment", Address: "10.244.0.4"})
	if len(one) != 1 {
		t.Error("a newer assignment was released by an older number")
	}
}

// TestMirrorIsReplacedInPieces: what a later piece brings stays until then, and what none brings is gone in the end.
func TestMirrorIsReplacedInPieces(t *testing.T) {
	d := start(t, newFake())
	a := d.agent("n1")
	var all []*clearwayv1.AssignmentSpec
	for i := range 6 {
		all = append(all, assignment("n1", fmt.Sprintf("10.244.0.%d", i), int64(i+1)))
	}
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 6, Assigned: all})
	held := func() (names []string) {
		listed, _ := d.list(&clearwayv1.ListRequest{Kind: "Assignment"})
		for _, one := range listed {
			names = append(names, one.GetAssignment().GetSpec().GetAddress())
		}
		return names
	}
	// Of the first three one is gone, and of the last ones too.
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{Replace: true, Ranged: true, ThroughNumber: 3, Assigned: []*clearwayv1.AssignmentSpec{all[0], all[2]}})
	if got := held(); !slices.Equal(got, []string{"10.244.0.0", "10.244.0.2", "10.244.0.3", "10.244.0.4", "10.244.0.5"}) {
		t.Errorf("after the first piece: %q", got)
	}
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{Ranged: true, Last: true, AfterNumber: 3, ThroughNumber: 4, Assigned: all[3:4]})
	if got := held(); !slices.Equal(got, []string{"10.244.0.0", "10.244.0.2", "10.244.0.3"}) {
		t.Errorf("after the last piece: %q", got)
	}
}

func (d *ipamd) deleteNode(name string, poweredOff bool) error {
	_, err := d.Delete(testContext(d.t), &clearwayv1.DeleteRequest{Kind: "Node", Name: name, PoweredOff: poweredOff})
	return err
}

func TestFencedDeletedNodeKeepsItsBlocksUntilItIsSaidToBeOff(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/25"))
	a, b := d.agent("n1"), d.agent("n2")
	block := a.mustClaim("pods", "k1")
	b.mustClaim("pods", "k1")
	wantCode(t, d.deleteNode("n1", true), codes.FailedPrecondition) // its agent is connected
	if err := d.deleteNode("n1", false); err != nil {
		t.Fatal(err)
	}
	if got := d.block(t, block.GetCidr()).GetSpec(); got.GetState() != clearwayv1.BlockState_BLOCK_STATE_ORPHANED || got.GetNode() != "n1" {
		t.Fatalf("got %v", got)
	}
	_, err := b.claim("pods", "k2")
	wantCode(t, err, codes.ResourceExhausted)
	if nodes, _ := d.list(&clearwayv1.ListRequest{Kind: "Node"}); len(nodes) != 1 {
		t.Errorf("nodes: %v", nodes)
	}

	back := a.comeBack(func(*clearwayv1.RegisterRequest) {}) // it was alive
	if got := back.registered.GetBlocks(); len(got) != 1 || got[0].GetGeneration() != block.GetGeneration() ||
		got[0].GetState() != clearwayv1.BlockState_BLOCK_STATE_OWNED || len(back.registered.GetSealedBlocks()) != 0 {
		t.Fatalf("back: %v", back.registered)
	}
	_ = back.conn.Close()
	d.eventually("the node is deleted", func() bool { return d.deleteNode("n1", true) == nil })
	if got := d.block(t, block.GetCidr()).GetSpec(); got.GetState() != clearwayv1.BlockState_BLOCK_STATE_COOLING {
		t.Fatalf("got %v", got)
	}
	d.clock.Advance(131 * time.Second)
	d.eventually("another node gets it", func() bool { _, err := b.claim("pods", "k3"); return err == nil })

	late := a.comeBack(func(r *clearwayv1.RegisterRequest) { r.HeldBlocks = []*clearwayv1.BlockSpec{block} })
	if got := late.registered; len(got.GetBlocks()) != 0 || !slices.Equal(got.GetLostBlocks(), []string{block.GetCidr()}) {
		t.Errorf("it was not off after all: %v", got)
	}
	wantCode(t, d.deleteNode("nosuch", true), codes.NotFound)
}

func TestOrphansOfADeletedNodeCanBeReleasedLater(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/25"))
	a := d.agent("n1")
	block := a.mustClaim("pods", "k1")
	if err := d.deleteNode("n1", false); err != nil {
		t.Fatal(err)
	}
	if err := d.deleteNode("n1", true); err != nil {
		t.Fatal(err)
	}
	if got := d.block(t, block.GetCidr()).GetSpec(); got.GetState() != clearwayv1.BlockState_BLOCK_STATE_COOLING {
		t.Fatalf("got %v", got)
	}
	wantCode(t, d.deleteNode("n1", true), codes.NotFound)
}

func TestFencedAnotherMachineUnderTheNameGetsNoneOfItsBlocks(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/25"))
	a := d.agent("n1")
	block := a.mustClaim("pods", "k1")
	b := a.comeBack(func(r *clearwayv1.RegisterRequest) { r.MachineId, r.JournalId, r.BootId = "m2", "j2", "boot-7" })
	if len(b.registered.GetBlocks()) != 0 {
		t.Fatalf("got %v", b.registered)
	}
	if got := d.block(t, block.GetCidr()).GetSpec(); got.GetState() != clearwayv1.BlockState_BLOCK_STATE_ORPHANED {
		t.Fatalf("got %v", got)
	}
	second := b.mustClaim("pods", "k2")
	_ = b.conn.Close()
	c := a.comeBack(func(*clearwayv1.RegisterRequest) {}) // the first machine again, and the second is gone
	if got := c.registered.GetBlocks(); len(got) != 1 || got[0].GetCidr() != block.GetCidr() {
		t.Fatalf("got %v", got)
	}
	if got := d.block(t, second.GetCidr()).GetSpec(); got.GetState() != clearwayv1.BlockState_BLOCK_STATE_ORPHANED {
		t.Fatalf("got %v", got)
	}
}

func TestHeldBlocksThatNobodyHasAreAdopted(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"))
	d.agent("n0").mustClaim("pods", "k")
	a := d.agent("n1", func(r *clearwayv1.RegisterRequest) {
		r.HeldBlocks = []*clearwayv1.BlockSpec{
			{Cidr: "10.244.1.0/26", Pool: "pods"}, {Cidr: "10.244.0.0/26", Pool: "pods"}, {Cidr: "10.9.0.0/26", Pool: "gone"},
		}
	})
	if got := a.registered; len(got.GetBlocks()) != 1 || got.GetBlocks()[0].GetCidr() != "10.244.1.0/26" ||
		!slices.Equal(got.GetLostBlocks(), []string{"10.244.0.0/26", "10.9.0.0/26"}) {
		t.Errorf("got %v", got)
	}
}

// A store that is new, or was lost, tells nobody that his blocks are not his before it knows their pools.
func TestHeldBlocksOfAnotherStore(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"))
	request := &clearwayv1.RegisterRequest{
		Node: "n1", BootId: "b", JournalId: "j", ProcessId: "p", HeldIncarnation: "another",
		HeldBlocks: []*clearwayv1.BlockSpec{{Cidr: "10.244.1.0/26", Pool: "pods"}, {Cidr: "10.9.0.0/26", Pool: "late"}},
	}
	_, err := d.Register(testContext(t), request)
	wantCode(t, err, codes.FailedPrecondition)
	if !strings.Contains(err.Error(), `no pool "late"`) {
		t.Error(err)
	}
	d.apply(ipPool("late", "10.9.0.0/24"))
	answer, err := d.Register(testContext(t), request)
	if err != nil || len(answer.GetBlocks()) != 2 || len(answer.GetLostBlocks()) != 0 {
		t.Errorf("got %v, %v", answer, err)
	}
}

// A node with more blocks than one transaction takes brings them all in one registration.
func TestManyHeldBlocksComeAtOnce(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"))
	request := &clearwayv1.RegisterRequest{Node: "n1", BootId: "b", JournalId: "j", ProcessId: "p", HeldIncarnation: "another"}
	for i := range 120 {
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i / 4), byte(i % 4 * 64)}), 26)
		request.HeldBlocks = append(request.HeldBlocks, &clearwayv1.BlockSpec{Cidr: cidr.String(), Pool: "pods"})
	}
	answer, err := d.Register(testContext(t), request)
	if err != nil || len(answer.GetBlocks()) != 120 || len(answer.GetLostBlocks()) != 0 {
		t.Fatalf("got %d blocks, %d lost, %v; want 120 and none", len(answer.GetBlocks()), len(answer.GetLostBlocks()), err)
	}
}

func TestRegisterRefusals(t *testing.T) {
	d := start(t, newFake())
	for name, change := range map[string]func(*clearwayv1.RegisterRequest){
		"node":       func(r *clearwayv1.RegisterRequest) { r.Node = "../x" },
		"journal_id": func(r *clearwayv1.RegisterRequest) { r.JournalId = "" },
		"addresses":  func(r *clearwayv1.RegisterRequest) { r.Addresses = []string{"192.0.2.1"} },
		"labels":     func(r *clearwayv1.RegisterRequest) { r.Labels = map[string]string{"a b": "c"} },
	} {
		request := &clearwayv1.RegisterRequest{Node: "n1", BootId: "b", JournalId: "j", ProcessId: "p"}
		change(request)
		_, err := d.Register(testContext(t), request)
		wantCode(t, err, codes.InvalidArgument)
		if found := violations(err); len(found) != 1 || found[0].GetField() != name {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
