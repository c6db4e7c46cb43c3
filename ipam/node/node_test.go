package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/ipam/node/nodetest"
	"github.com/clearway/clearway/ipam/proof"
	"github.com/clearway/clearway/ipam/spool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent is a Node that runs, with what it told.
type agent struct {
	*Node
	t      testing.TB
	api    clearwayv1.AddressServiceServer
	cancel context.CancelFunc
	ended  chan error

	mu        sync.Mutex
	states    []State
	ownership []*clearwayv1.WatchOwnershipResponse
}

// run starts an agent. Options may be changed before.
func run(t testing.TB, d *nodetest.IPAMD, dir string, change ...func(*Options)) *agent {
	t.Helper()
	a := &agent{t: t, ended: make(chan error, 1)}
	options := Options{
		Node: "n1", MachineID: "m1", BootID: "boot1", DataDir: dir, SpoolDir: filepath.Join(dir, "spool"),
		Servers: []string{"ipamd"}, Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
		Dial:    func(ctx context.Context, server string) (Conn, error) { return d.Dial(ctx, server) },
		OnState: func(s State) { a.mu.Lock(); a.states = append(a.states, s); a.mu.Unlock() },
		OnOwnership: func(p *clearwayv1.WatchOwnershipResponse) {
			a.mu.Lock()
			a.ownership = append(a.ownership, p)
			a.mu.Unlock()
		},
	}
	for _, c := range change {
		c(&options)
	}
	n, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	a.Node, a.api = n, n.AddressServer()
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	go func() { a.ended <- n.Run(ctx) }()
	t.Cleanup(a.stop)
	return a
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	if testing.Verbose() {
		fmt.Fprint(os.Stderr, string(p))
	}
	return len(p), nil
}

func (a *agent) stop() {
	if a.cancel == nil {
		return
	}
	a.cancel()
	a.cancel = nil
	if err := <-a.ended; err != nil {
		a.t.Errorf("Run: %v", err)
	}
	if err := a.Close(); err != nil {
		a.t.Error(err)
	}
}

func (a *agent) state() State {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.states) == 0 {
		return State{}
	}
	return a.states[len(a.states)-1]
}

func attachment(container string) *clearwayv1.Attachment {
	return &clearwayv1.Attachment{Network: "pods", ContainerId: container, Ifname: "eth0"}
}

// spooled is a DEL as the plugin leaves it.
func spooled(container string) spool.Request {
	a := attachment(container)
	return spool.Request{Attachment: spool.Attachment{Network: a.Network, ContainerID: a.ContainerId, Ifname: a.Ifname}}
}

func (a *agent) add(container string, change ...func(*clearwayv1.AddRequest)) ([]string, error) {
	request := &clearwayv1.AddRequest{
		Attachment: attachment(container), Pod: &clearwayv1.Pod{Namespace: "default", Name: container, Uid: "uid-" + container},
	}
	for _, c := range change {
		c(request)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	answer, err := a.api.Add(ctx, request)
	var addresses []string
	for _, one := range answer.GetAddresses() {
		addresses = append(addresses, one.GetAddress())
	}
	return addresses, err
}

func (a *agent) mustAdd(container string, change ...func(*clearwayv1.AddRequest)) []string {
	a.t.Helper()
	addresses, err := a.add(container, change...)
	if err != nil {
		a.t.Fatalf("ADD %s: %v", container, err)
	}
	return addresses
}

func (a *agent) mustDel(container string) {
	a.t.Helper()
	if _, err := a.api.Del(context.Background(), &clearwayv1.DelRequest{Attachment: attachment(container)}); err != nil {
		a.t.Fatalf("DEL %s: %v", container, err)
	}
}

func (a *agent) checkHolds(container string, addresses ...string) error {
	_, err := a.api.Check(context.Background(), &clearwayv1.CheckRequest{Attachment: attachment(container), Addresses: addresses})
	return err
}

// cniCode is the CNI code in an error; 0: there is none.
func cniCode(err error) uint32 {
	for _, detail := range status.Convert(err).Details() {
		if e, ok := detail.(*clearwayv1.CNIError); ok {
			return e.GetCode()
		}
	}
	return 0
}

func wantCode(t testing.TB, err error, code uint32, text string) {
	t.Helper()
	if cniCode(err) != code || !strings.Contains(err.Error(), text) {
		t.Fatalf("error %v has the CNI code %d, want %d and %q", err, cniCode(err), code, text)
	}
}

// dualStack is an ipamd with a pool of each family.
func dualStack(t testing.TB) *nodetest.IPAMD {
	d := nodetest.New(t)
	d.Pool("v4", &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/16"})
	d.Pool("v6", &clearwayv1.IPPoolSpec{Cidr: "fd00:1::/48"})
	return d
}

// tiny is an ipamd with one pool of two blocks of four addresses, of which 10.0.0.0 and .1 and .7 are never given.
func tiny(t testing.TB) *nodetest.IPAMD {
	d := nodetest.New(t)
	d.Pool("tiny", &clearwayv1.IPPoolSpec{Cidr: "10.0.0.0/29", BlockSize: 30})
	return d
}

func TestAddGivesBothFamiliesWithThePoolsPrefixAndGateway(t *testing.T) {
	a := run(t, dualStack(t), t.TempDir())
	answer, err := a.api.Add(context.Background(), &clearwayv1.AddRequest{Attachment: attachment("c1")})
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(answer.GetAddresses(), answer.GetRoutes())
	for _, want := range []string{`"10.244.0.2/16"`, `"10.244.0.1"`, `"fd00:1::2/48"`, `"fd00:1::1"`, `"0.0.0.0/0"`, `"::/0"`} {
		if !strings.Contains(got, want) {
			t.Errorf("answer lacks %s: %s", want, got)
		}
	}
	if err := a.checkHolds("c1", "10.244.0.2/16", "fd00:1::2/48"); err != nil {
		t.Error(err)
	}
	wantCode(t, a.checkHolds("c1", "10.244.0.2/16"), cniNotHeld, "fd00:1::2")
	wantCode(t, a.checkHolds("c1", "10.244.0.2", "fd00:1::2", "10.244.0.3"), cniNotHeld, "10.244.0.3")
	wantCode(t, a.checkHolds("c2", "10.244.0.2/16"), cniNotHeld, "holds no address")
}

func TestIdempotentAddAnswersTheSame(t *testing.T) {
	dir := t.TempDir()
	d := dualStack(t)
	a := run(t, d, dir)
	first := a.mustAdd("c1")
	if again := a.mustAdd("c1"); !slices.Equal(first, again) {
		t.Fatalf("%v, then %v", first, again)
	}
	a.stop()
	d.Pool("v4", &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/16", Gateway: "10.244.255.1"})
	a = run(t, d, dir)
	if again := a.mustAdd("c1"); !slices.Equal(first, again) {
		t.Fatalf("%v, after a restart %v", first, again)
	}
}

func TestIdempotentConcurrentDuplicates(t *testing.T) {
	a := run(t, dualStack(t), t.TempDir())
	var all sync.WaitGroup
	answers := make([][]string, 32)
	for i := range answers {
		all.Go(func() { answers[i], _ = a.add("same") })
	}
	all.Wait()
	for _, got := range answers {
		if len(got) != 2 || !slices.Equal(got, answers[0]) {
			t.Fatalf("%v and %v", got, answers[0])
		}
	}
	if held, _ := a.book.assignments(); len(held) != 1 {
		t.Fatalf("%d assignments", len(held))
	}
}

func TestOneHolderUnderConcurrentChurn(t *testing.T) {
	d := nodetest.New(t)
	d.Pool("v4", &clearwayv1.IPPoolSpec{Cidr: "10.1.0.0/24", BlockSize: 28})
	d.Configure(&clearwayv1.IPAMConfigurationSpec{Cooldown: "0s"})
	dir := t.TempDir()
	a := run(t, d, dir)
	var mu sync.Mutex
	holders := map[string]string{}
	var all sync.WaitGroup
	for w := range 16 {
		all.Go(func() {
			for i := range 40 {
				name := fmt.Sprintf("w%d-%d", w, i%3)
				got, err := a.add(name)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if other, held := holders[got[0]]; held && other != name {
					t.Errorf("%s is held by %s and %s", got[0], other, name)
				}
				holders[got[0]] = name
				mu.Unlock()
				if i%2 == 0 {
					mu.Lock()
					delete(holders, got[0])
					mu.Unlock()
					a.mustDel(name)
				}
			}
		})
	}
	all.Wait()
	a.stop()
	a = run(t, d, dir)
	for address, name := range holders {
		if err := a.checkHolds(name, address); err != nil {
			t.Errorf("after a restart: %v", err)
		}
	}
	held, through := a.book.assignments()
	if len(held) != len(holders) {
		t.Errorf("%d assignments, %d holders", len(held), len(holders))
	}
	nodetest.Eventually(t, "the mirror has what the node has", func() bool {
		mirror, number := d.Mirror("n1")
		return number >= int64(through) && len(mirror) == len(holders)
	})
	mirror, _ := d.Mirror("n1")
	for address, name := range holders {
		if got := mirror[strings.TrimSuffix(address, "/24")].GetAttachment().GetContainerId(); got != name {
			t.Errorf("the mirror says %q holds %s, not %q", got, address, name)
		}
	}
}

func TestCompareAndDelete(t *testing.T) {
	a := run(t, dualStack(t), t.TempDir())
	got := a.mustAdd("c1")
	other := &clearwayv1.DelRequest{Attachment: attachment("c1"), Pod: &clearwayv1.Pod{Uid: "another"}}
	if _, err := a.api.Del(context.Background(), other); err != nil {
		t.Fatal(err)
	}
	if err := a.checkHolds("c1", got...); err != nil {
		t.Fatalf("the DEL of another Pod freed it: %v", err)
	}
	a.mustDel("c1")
	a.mustDel("c1")
	a.mustDel("never")
	wantCode(t, a.checkHolds("c1", got...), cniNotHeld, "")
}

func TestCooledAcrossARestart(t *testing.T) {
	d, dir := tiny(t), t.TempDir()
	d.Configure(&clearwayv1.IPAMConfigurationSpec{Cooldown: "1h"})
	a := run(t, d, dir)
	first := a.mustAdd("c1")
	a.mustDel("c1")
	a.stop()
	a = run(t, d, dir)
	var given []string
	for i := range 4 {
		given = append(given, a.mustAdd(fmt.Sprint("next", i))...)
	}
	if slices.Contains(given, first[0]) {
		t.Fatalf("%s was given while it rests: %v", first[0], given)
	}
	if got := a.book.cutShort()["tiny"]; got != 0 {
		t.Fatalf("%d rests were cut short", got)
	}
	// Now nothing else is left and ipamd has no block: the rest is cut short.
	if got := a.mustAdd("last"); got[0] != first[0] {
		t.Fatalf("under pressure: %v", got)
	}
	if got := a.book.cutShort()["tiny"]; got != 1 {
		t.Fatalf("%d rests were cut short, and 1 was", got)
	}
	_, err := a.add("none")
	wantCode(t, err, cniTryLater, "5 are assigned")
	wantCode(t, err, cniTryLater, "refused another block")
}

func TestLocalFirst(t *testing.T) {
	d, dir := dualStack(t), t.TempDir()
	a := run(t, d, dir)
	held := a.mustAdd("before")
	nodetest.Eventually(t, "both blocks are told", func() bool { return len(a.state().Blocks) == 2 })
	blocks := a.state().Blocks
	d.Stop()
	nodetest.Eventually(t, "the agent sees that ipamd is away", func() bool { return !a.state().Online })
	a.mustAdd("while")
	a.mustDel("while")
	a.stop()
	a = run(t, d, dir)
	nodetest.Eventually(t, "the agent starts by what is on disk", func() bool { return a.state().Snapshot != nil })
	if s := a.state(); !s.FromDisk || s.Online || !slices.Equal(s.Blocks, blocks) || len(blocks) != 2 {
		t.Fatalf("%+v, blocks before %v", s, blocks)
	}
	a.mustAdd("after")
	if err := a.checkHolds("before", held...); err != nil {
		t.Error(err)
	}
	a.mustDel("before")
	if len(a.ownership) != 1 || !a.ownership[0].GetReset_() || len(a.ownership[0].GetEntries()) != 2 {
		t.Errorf("ownership from disk: %v", a.ownership)
	}
	d.Start()
	nodetest.Eventually(t, "the mirror has caught up", func() bool {
		mirror, number := d.Mirror("n1")
		return uint64(number) == a.book.number() && len(mirror) == 2
	})
	nodetest.Eventually(t, "the state is online", func() bool { return a.state().Online && !a.state().FromDisk })
}

func TestDelOvertakesAdd(t *testing.T) {
	d := tiny(t)
	d.Fail("ClaimBlock", status.Error(codes.Unavailable, "slow"))
	a := run(t, d, t.TempDir())
	added := make(chan error, 1)
	go func() { _, err := a.add("c1"); added <- err }()
	nodetest.Eventually(t, "the ADD waits", func() bool { return a.book.known(keyOf(attachment("c1"))) })
	a.mustDel("c1")
	wantCode(t, <-added, cniTryLater, "deleted")
	d.Fail("ClaimBlock", nil)
	a.mustAdd("c2")
	if held, _ := a.book.assignments(); len(held) != 1 {
		t.Fatalf("%d assignments", len(held))
	}
}

func TestGoneCallerLeavesNothing(t *testing.T) {
	d := tiny(t)
	d.Fail("ClaimBlock", status.Error(codes.Unavailable, "slow"))
	a := run(t, d, t.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	added := make(chan error, 1)
	go func() {
		_, err := a.api.Add(ctx, &clearwayv1.AddRequest{Attachment: attachment("c1")})
		added <- err
	}()
	nodetest.Eventually(t, "the ADD waits", func() bool { return a.book.known(keyOf(attachment("c1"))) })
	cancel()
	if err := <-added; err == nil {
		t.Fatal("an ADD whose caller has gone succeeded")
	}
	if a.book.known(keyOf(attachment("c1"))) {
		t.Fatal("something is left")
	}
}

func TestAllFamiliesOrNone(t *testing.T) {
	d := tiny(t)
	d.Pool("v6", &clearwayv1.IPPoolSpec{Cidr: "fd00::/112"})
	a := run(t, d, t.TempDir())
	for i := range 5 {
		a.mustAdd(fmt.Sprint("c", i))
	}
	_, err := a.add("too-many")
	wantCode(t, err, cniTryLater, `pool "tiny"`)
	if u, _ := a.book.uses(); u["v6"].Assigned != 5 {
		t.Fatalf("IPv6 addresses assigned: %v", u["v6"])
	}
	if err := a.able(nil); err != nil {
		t.Errorf("STATUS at once: %v", err)
	}
}

func TestStatusAfterTheGracePeriod(t *testing.T) {
	d := tiny(t)
	d.Configure(&clearwayv1.IPAMConfigurationSpec{StatusFailsWhenFull: true})
	a := run(t, d, t.TempDir())
	for i := range 5 {
		a.mustAdd(fmt.Sprint("c", i))
	}
	_, err := a.add("too-many")
	wantCode(t, err, cniTryLater, "")
	a.book.mu.Lock()
	real := a.book.now
	a.book.now = func() time.Time { return real().Add(statusGrace + time.Second) }
	a.book.mu.Unlock()
	_, err = a.api.Status(context.Background(), &clearwayv1.StatusRequest{})
	wantCode(t, err, cniUnavailable, "no address is free")
	d.Configure(&clearwayv1.IPAMConfigurationSpec{}) // by default an ADD tells it, and the node stays Ready
	nodetest.Eventually(t, "the configuration", func() bool {
		_, err = a.api.Status(context.Background(), &clearwayv1.StatusRequest{})
		return err == nil
	})
	d.Configure(&clearwayv1.IPAMConfigurationSpec{StatusFailsWhenFull: true})
	nodetest.Eventually(t, "the configuration", func() bool {
		_, err = a.api.Status(context.Background(), &clearwayv1.StatusRequest{})
		return err != nil
	})
	a.mustDel("c0")
	if _, err := a.api.Status(context.Background(), &clearwayv1.StatusRequest{}); err != nil {
		t.Fatalf("with a resting address: %v", err)
	}
}

func TestStaticAddresses(t *testing.T) {
	d := dualStack(t)
	d.Reserve("kept", "10.244.0.9")
	a := run(t, d, t.TempDir())
	ask := func(addresses ...string) func(*clearwayv1.AddRequest) {
		return func(r *clearwayv1.AddRequest) { r.Addresses = addresses }
	}
	if got := a.mustAdd("c1", ask("10.244.0.20")); got[0] != "10.244.0.20/16" || len(got) != 2 {
		t.Fatalf("%v", got)
	}
	for _, c := range []struct {
		address string
		code    uint32
		text    string
	}{
		{"10.244.0.20", cniTryLater, "assigned"}, {"10.244.0.9", cniBadConfig, "excluded"},
		{"10.244.0.1", cniBadConfig, "excluded"}, {"10.244.200.1", cniBadConfig, "none of this node's blocks"},
		{"192.0.2.1", cniBadConfig, "no pool"}, {"nonsense", cniBadConfig, "must be an address"},
	} {
		_, err := a.add("c2", ask(c.address))
		wantCode(t, err, c.code, c.text)
	}
	_, err := a.add("c2", ask("10.244.0.21", "10.244.0.22"))
	wantCode(t, err, cniBadConfig, "one family")
	if held, _ := a.book.assignments(); len(held) != 1 || len(a.book.reserved) != 0 {
		t.Fatalf("refused ADDs left %d assignments, %v", len(held), a.book.reserved)
	}
}

func TestPoolsByName(t *testing.T) {
	d := dualStack(t)
	d.Pool("other", &clearwayv1.IPPoolSpec{Cidr: "10.9.0.0/24"})
	d.Pool("elsewhere", &clearwayv1.IPPoolSpec{
		Cidr: "10.8.0.0/24", NodeSelector: &clearwayv1.LabelSelector{MatchLabels: map[string]string{"rack": "r9"}},
	})
	a := run(t, d, t.TempDir())
	pools := func(names ...string) func(*clearwayv1.AddRequest) {
		return func(r *clearwayv1.AddRequest) { r.Pools = names }
	}
	if got := a.mustAdd("c1", pools("other")); len(got) != 1 || !strings.HasPrefix(got[0], "10.9.0.") {
		t.Fatalf("%v", got)
	}
	_, err := a.add("c2", pools("elsewhere"))
	wantCode(t, err, cniPoolNotAllowed, "nodeSelector")
	_, err = a.add("c2", pools("none"))
	wantCode(t, err, cniBadConfig, `"none"`)
	_, err = a.add("c2", pools("Bad_Name"))
	wantCode(t, err, cniBadConfig, "no pool's name")
}

func TestBlocksComeBeforeTheyAreNeeded(t *testing.T) {
	d := nodetest.New(t)
	d.Pool("v4", &clearwayv1.IPPoolSpec{Cidr: "10.0.0.0/16"})
	a := run(t, d, t.TempDir())
	nodetest.Eventually(t, "the node has its first block", func() bool { return len(d.Blocks("n1")) == 1 })
	for i := range 55 { // of 62 in the first block
		a.mustAdd(fmt.Sprint("c", i))
	}
	nodetest.Eventually(t, "the second block is there before the first is full", func() bool { return len(a.state().Blocks) == 2 })
	if got := len(d.Blocks("n1")); got != 2 {
		t.Fatalf("%d blocks", got)
	}
}

func TestIdempotentClaimAfterALostReply(t *testing.T) {
	d, dir := tiny(t), t.TempDir()
	d.LoseReply("ClaimBlock", status.Error(codes.Unavailable, "lost"))
	a := run(t, d, dir)
	nodetest.Eventually(t, "the claim is repeated", func() bool { return d.Calls("ClaimBlock") >= 2 })
	a.stop()
	if got := d.Blocks("n1"); len(got) != 1 {
		t.Fatalf("blocks %v", got)
	}
	d.LoseReply("ClaimBlock", nil)
	a = run(t, d, dir)
	a.mustAdd("c1")
	if got, have := d.Blocks("n1"), a.book.advertised(); got[0] != "10.0.0.0/30" || have[0].String() != got[0] {
		t.Fatalf("blocks %v, the agent has %v", got, have)
	}
}

func TestRefusalIsPromptAndInNumbers(t *testing.T) {
	d := tiny(t)
	d.Fail("ClaimBlock", status.Error(codes.ResourceExhausted, "the pool is full"))
	a := run(t, d, t.TempDir())
	began := time.Now()
	_, err := a.add("c1")
	wantCode(t, err, cniTryLater, "the pool is full")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	d.Fail("ClaimBlock", nil)
	nodetest.Eventually(t, "an ADD gets an address once there is one", func() bool { _, err := a.add("c1"); return err == nil })
}

func TestWaitEndsBeforeTheDeadline(t *testing.T) {
	d := tiny(t)
	d.Fail("ClaimBlock", status.Error(codes.Unavailable, "busy"))
	a := run(t, d, t.TempDir())
	ctx, cancel := context.WithTimeout(context.Background(), 600*time.Millisecond)
	defer cancel()
	_, err := a.api.Add(ctx, &clearwayv1.AddRequest{Attachment: attachment("c1")})
	wantCode(t, err, cniTryLater, "before the deadline")
	if ctx.Err() != nil {
		t.Error("the answer came after the deadline")
	}
}

func TestReboot(t *testing.T) {
	d, dir := dualStack(t), t.TempDir()
	a := run(t, d, dir)
	a.mustAdd("c1")
	blocks := d.Blocks("n1")
	a.stop()
	rebooted := func(o *Options) { o.BootID = "boot2" }
	a = run(t, d, dir, rebooted)
	if held, _ := a.book.assignments(); len(held) != 0 {
		t.Fatalf("%d assignments live on after a reboot", len(held))
	}
	a.mustAdd("c2")
	if got := d.Blocks("n1"); !slices.Equal(got, blocks) {
		t.Fatalf("blocks %v, before %v", got, blocks)
	}
	nodetest.Eventually(t, "the mirror has dropped what was before", func() bool {
		mirror, _ := d.Mirror("n1")
		return len(mirror) == 2
	})
	a.stop()

	d.Stop()
	// The first start ends before it has heard anything: the next, in the same boot, knows as little.
	for range 2 {
		a = run(t, d, dir, func(o *Options) { o.BootID, o.silence = "boot3", time.Hour })
		mustAwait(t, a, "c3")
		a.stop()
	}
	a = run(t, d, dir, func(o *Options) { o.BootID, o.silence = "boot3", 2*time.Second })
	mustAwait(t, a, "c3")
	nodetest.Eventually(t, "it goes by what is on disk when ipamd stays silent", func() bool { return len(a.state().Blocks) == 2 })
	a.mustAdd("c3")
	a.stop()
	a = run(t, d, dir, func(o *Options) { o.BootID, o.silence = "boot3", time.Hour })
	a.mustAdd("c4") // it was settled in this boot
}

// mustAwait checks that an agent neither gives an address nor tells anything before it has asked ipamd.
func mustAwait(t *testing.T, a *agent, container string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	_, err := a.api.Add(ctx, &clearwayv1.AddRequest{Attachment: attachment(container)})
	wantCode(t, err, cniTryLater, "started anew")
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.states) != 0 || len(a.ownership) != 0 {
		t.Fatal("it went by what is on disk before it asked")
	}
}

func TestWipedDataFolder(t *testing.T) {
	d := dualStack(t)
	a := run(t, d, t.TempDir())
	first := a.mustAdd("c1")
	old := d.Blocks("n1")
	nodetest.Eventually(t, "the mirror knows", func() bool { m, _ := d.Mirror("n1"); return len(m) == 2 })
	a.stop()

	dir := t.TempDir()
	a = run(t, d, dir)
	fresh := a.mustAdd("c2")
	for _, address := range fresh {
		for _, block := range old {
			if netip.MustParsePrefix(block).Contains(netip.MustParsePrefix(address).Addr()) {
				t.Errorf("%s is out of the sealed block %s", address, block)
			}
		}
	}
	if again := a.mustAdd("c1"); !slices.Equal(again, first) {
		t.Fatalf("c1 has %v, had %v", again, first)
	}
	for _, block := range old {
		if !slices.Contains(a.state().Blocks, netip.MustParsePrefix(block)) {
			t.Errorf("%s is no longer advertised: %v", block, a.state().Blocks)
		}
	}
	a.mustDel("c1")
	nodetest.Eventually(t, "the mirror is of the new journal", func() bool {
		m, _ := d.Mirror("n1")
		return len(m) == 2 && m[strings.TrimSuffix(fresh[0], "/16")].GetAttachment().GetContainerId() == "c2"
	})
	a.stop()

	a = run(t, d, dir) // ipamd sees no reason to seal any more, and the seal stays
	for i := range 60 {
		for _, address := range a.mustAdd(fmt.Sprint("more", i)) {
			if netip.MustParsePrefix(old[0]).Contains(netip.MustParsePrefix(address).Addr()) {
				t.Fatalf("%s is out of the sealed block", address)
			}
		}
	}
	a.stop()
	a = run(t, d, dir, func(o *Options) { o.BootID = "boot2" })
	nodetest.Eventually(t, "a reboot unseals", func() bool { u, _ := a.book.uses(); return u["v4"].sealed == 0 })
}

func TestDamagedJournalIsPutAsideAndItsBlocksSealed(t *testing.T) {
	d, dir := dualStack(t), t.TempDir()
	a := run(t, d, dir)
	first := a.mustAdd("c1")
	a.mustAdd("c2")
	a.mustAdd("c3")
	a.stop()
	path := filepath.Join(dir, "journal")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(data), `"container":"c2"`)
	data[at+3] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	d.Stop()
	a = run(t, d, dir)
	if err := a.checkHolds("c1", first...); err != nil {
		t.Error(err)
	}
	nodetest.Eventually(t, "the blocks are advertised", func() bool { return len(a.state().Blocks) == 2 })
	if u, _ := a.book.uses(); u["v4"].sealed != 1 || u["v6"].sealed != 1 {
		t.Errorf("not sealed: %v", u)
	}
	d.Start()
	a.mustAdd("c4")
	if kept, _ := filepath.Glob(path + ".damaged-*"); len(kept) != 1 {
		t.Errorf("the damaged journal is kept as %v", kept)
	}
	nodetest.Eventually(t, "the operator hears of it", func() bool {
		return slices.ContainsFunc(d.Events(), func(e *clearwayv1.EventSpec) bool { return e.GetReason() == "JournalDamaged" })
	})
}

func TestLostBlockIsWithdrawn(t *testing.T) {
	d, dir := dualStack(t), t.TempDir()
	a := run(t, d, dir)
	got := a.mustAdd("c1")
	lost := d.Blocks("n1")[0]
	d.GiveTo("another", lost)
	nodetest.Eventually(t, "the block is withdrawn", func() bool {
		return !slices.Contains(a.state().Blocks, netip.MustParsePrefix(lost)) && len(a.state().Blocks) == 2
	})
	wantCode(t, a.checkHolds("c1", got...), cniNotHeld, "no block")
	a.mustDel("c1")
	nodetest.Eventually(t, "the operator hears of it", func() bool {
		return slices.ContainsFunc(d.Events(), func(e *clearwayv1.EventSpec) bool { return e.GetReason() == "BlockLost" })
	})
	a.mustAdd("c2")
}

func TestBlockThatIpamdKnowsIsAdopted(t *testing.T) {
	d := dualStack(t)
	d.Grant("n1", "v4", "10.244.7.0/26")
	a := run(t, d, t.TempDir())
	if got := a.mustAdd("c1"); got[0] != "10.244.7.0/16" {
		t.Fatalf("%v", got)
	}
	nodetest.Eventually(t, "no further block was needed", func() bool { return len(d.Blocks("n1")) == 2 })
}

func TestIdleBlockIsGivenBack(t *testing.T) {
	d := nodetest.New(t)
	d.Pool("v4", &clearwayv1.IPPoolSpec{Cidr: "10.0.0.0/24", BlockSize: 28})
	d.Configure(&clearwayv1.IPAMConfigurationSpec{Cooldown: "0s", BlockIdleTime: "10m"})
	a := run(t, d, t.TempDir())
	for i := range 40 {
		a.mustAdd(fmt.Sprint("c", i))
	}
	for i := range 40 {
		a.mustDel(fmt.Sprint("c", i))
	}
	had := len(a.book.advertised())
	a.book.mu.Lock()
	if o := a.book.idle(a.book.now()); o != nil {
		t.Errorf("%s is idle at once", o.CIDR)
	}
	real := a.book.now
	a.book.now = func() time.Time { return real().Add(11 * time.Minute) }
	a.book.mu.Unlock()
	for len(a.book.advertised()) > 1 {
		due := a.book.returnable()
		if len(due) != 1 {
			t.Fatalf("%d blocks, due %v", len(a.book.advertised()), due)
		}
		if err := a.returnBlock(context.Background(), due[0]); err != nil {
			t.Fatal(err)
		}
	}
	if due := a.book.returnable(); len(due) > 0 || had < 3 {
		t.Fatalf("of %d blocks, with one left: %v", had, due)
	}
	if got := len(d.Blocks("n1")); got != 1 {
		t.Fatalf("ipamd has %d blocks", got)
	}
}

func TestSpooledDelIsReplayed(t *testing.T) {
	d, dir := dualStack(t), t.TempDir()
	a := run(t, d, dir)
	first := a.mustAdd("c1")
	a.stop()
	if err := spool.Write(filepath.Join(dir, "spool"), spooled("c1")); err != nil {
		t.Fatal(err)
	}
	a = run(t, d, dir)
	nodetest.Eventually(t, "the DEL is replayed", func() bool { return a.checkHolds("c1", first...) != nil })
	second := a.mustAdd("c1")
	for range 3 {
		if err := a.replaySpool(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.checkHolds("c1", second...); err != nil {
		t.Fatalf("the old DEL undid a new ADD: %v", err)
	}
}

// A spooled DEL that two ADDs of its attachment find at once frees what was before, and neither's new address.
func TestSpooledDelAndConcurrentAdds(t *testing.T) {
	d, dir := dualStack(t), t.TempDir()
	a := run(t, d, dir)
	for round := range 10 {
		a.mustAdd("c1")
		if err := spool.Write(filepath.Join(dir, "spool"), spooled("c1")); err != nil {
			t.Fatal(err)
		}
		answers := make([][]string, 8)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() { answers[i], _ = a.add("c1") })
		}
		all.Wait()
		for _, got := range answers {
			if err := a.checkHolds("c1", got...); err != nil || len(got) != 2 {
				t.Fatalf("round %d: %v: %v", round, got, err)
			}
		}
	}
}

func TestOldImageIsSealed(t *testing.T) {
	d, dir := dualStack(t), t.TempDir()
	a := run(t, d, dir)
	a.mustAdd("c1")
	a.stop()
	image, err := os.ReadFile(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	a = run(t, d, dir)
	later := a.mustAdd("c2")
	nodetest.Eventually(t, "the mirror knows", func() bool { m, _ := d.Mirror("n1"); return len(m) == 4 })
	a.stop()
	if err := os.WriteFile(filepath.Join(dir, "journal"), image, 0o600); err != nil {
		t.Fatal(err)
	}
	a = run(t, d, dir)
	nodetest.Eventually(t, "the blocks are sealed", func() bool { u, _ := a.book.uses(); return u["v4"].sealed == 1 })
	nodetest.Eventually(t, "what the image did not know is adopted", func() bool { return a.checkHolds("c2", later...) == nil })
	if got := a.mustAdd("c3"); slices.Contains(got, later[0]) {
		t.Fatalf("%v was given twice", got)
	}
}

func TestGC(t *testing.T) {
	a := run(t, dualStack(t), t.TempDir())
	for _, c := range []string{"keep", "drop1", "drop2"} {
		a.mustAdd(c)
	}
	a.mustAdd("other", func(r *clearwayv1.AddRequest) { r.Attachment.Network = "second" })
	answer, err := a.api.GC(context.Background(), &clearwayv1.GCRequest{
		Network: "pods", ValidAttachments: []*clearwayv1.Attachment{{ContainerId: "keep", Ifname: "eth0"}},
	})
	if err != nil || answer.GetReleased() != 2 {
		t.Fatalf("%v, %v", answer, err)
	}
	if held, _ := a.book.assignments(); len(held) != 2 {
		t.Fatalf("%d assignments are left", len(held))
	}
	all, _ := a.book.assignments()
	if done, err := a.delOld(context.Background(), all[0].key, "", all[0].number-1); done || err != nil {
		t.Fatalf("one newer than the collection was freed: %v", err)
	}
}

func TestNamedErrorsOfBadAttachments(t *testing.T) {
	a := run(t, dualStack(t), t.TempDir())
	for _, c := range []struct {
		attachment *clearwayv1.Attachment
		text       string
	}{
		{nil, "containerID"},
		{&clearwayv1.Attachment{ContainerId: "../x", Ifname: "eth0"}, "containerID"},
		{&clearwayv1.Attachment{ContainerId: strings.Repeat("x", 300), Ifname: "eth0"}, "containerID"},
		{&clearwayv1.Attachment{ContainerId: "c", Ifname: "a/b"}, "ifname"},
		{&clearwayv1.Attachment{ContainerId: "c", Ifname: "sixteencharacter"}, "ifname"},
		{&clearwayv1.Attachment{ContainerId: "c"}, "ifname"},
		{&clearwayv1.Attachment{Network: "n n", ContainerId: "c", Ifname: "eth0"}, "network"},
	} {
		_, err := a.api.Add(context.Background(), &clearwayv1.AddRequest{Attachment: c.attachment})
		if err == nil || cniCode(err) == 0 || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v: %v", c.attachment, err)
		}
	}
}

func TestQueriesAndLists(t *testing.T) {
	d := dualStack(t)
	a := run(t, d, t.TempDir(), func(o *Options) {
		o.Query = func(_ context.Context, r *clearwayv1.ListRequest) ([]*clearwayv1.Resource, error) {
			return nil, fmt.Errorf("no %s here", r.GetKind())
		}
		o.Verify = func(_ context.Context, query *clearwayv1.VerifyQuery) (*clearwayv1.VerifyAnswer, error) {
			return &clearwayv1.VerifyAnswer{Probed: int64(len(query.GetProbes()))}, nil
		}
		o.Metrics = prometheus.NewRegistry()
	})
	a.mustAdd("c1")
	nodetest.Eventually(t, "a status report has the use of the blocks", func() bool {
		return len(d.Report().GetBlocks()) == 2 && d.Report().GetReady()
	})
	d.Ask("n1", "q1", &clearwayv1.ListRequest{Kind: "Assignment", Address: "10.244.0.2"})
	nodetest.Eventually(t, "the question is answered", func() bool { return len(d.Answers("q1")) == 1 })
	got := d.Answers("q1")[0].GetAnswer().GetResources()
	if len(got) != 1 || got[0].GetAssignment().GetSpec().GetAttachment().GetContainerId() != "c1" ||
		got[0].GetAssignment().GetSpec().GetNode() != "n1" {
		t.Fatalf("%v", got)
	}
	d.Ask("n1", "q2", &clearwayv1.ListRequest{Kind: "Route"})
	nodetest.Eventually(t, "the refusal is told", func() bool {
		return len(d.Answers("q2")) == 1 && d.Answers("q2")[0].GetError() == "no Route here"
	})
	d.AskVerify("n1", "q3", &clearwayv1.VerifyQuery{Probes: []*clearwayv1.ProbeTarget{{Address: "10.244.9.1"}}})
	nodetest.Eventually(t, "the routes are compared", func() bool {
		return len(d.Answers("q3")) == 1 && d.Answers("q3")[0].GetVerify().GetProbed() == 1
	})
	blocks, err := a.List(context.Background(), &clearwayv1.ListRequest{Kind: "Block", Address: "fd00:1::2"})
	if err != nil || len(blocks) != 1 || blocks[0].GetBlock().GetStatus().GetAssigned() != 1 {
		t.Fatalf("%v %v", blocks, err)
	}
	if families, err := a.options.Metrics.(*prometheus.Registry).Gather(); err != nil || len(families) < 5 {
		t.Fatalf("%d metrics: %v", len(families), err)
	}
}

func TestCloneIsToldAndPodsKeepTheirs(t *testing.T) {
	d, dir := dualStack(t), t.TempDir()
	a := run(t, d, dir)
	got := a.mustAdd("c1")
	a.stop()
	d.Fail("Register", status.Error(codes.AlreadyExists, "another live agent has the journal"))
	a = run(t, d, dir)
	if err := a.checkHolds("c1", got...); err != nil {
		t.Error(err)
	}
	a.mustAdd("c2")
	d.Fail("Register", nil)
	nodetest.Eventually(t, "it registers when the clone is gone", func() bool { return a.state().Online })
}

func TestRestoredIpamdOfANewIncarnation(t *testing.T) {
	d := dualStack(t)
	a := run(t, d, t.TempDir())
	a.mustAdd("c1")
	d.Restore("second")
	nodetest.Eventually(t, "the new incarnation is taken", func() bool { return a.state().Snapshot.GetIncarnation() == "second" })
	a.mustAdd("c2")
}

// TestRegistrationTellsWhatTheNodeHasHeard: the incarnation is that of the journalled blocks, whatever became of the other
// files; the revision and its term are the newest.
func TestRegistrationTellsWhatTheNodeHasHeard(t *testing.T) {
	d, dir := dualStack(t), t.TempDir()
	a := run(t, d, dir)
	a.mustAdd("c1")
	d.Restore("second")
	nodetest.Eventually(t, "the new incarnation is taken", func() bool { return a.state().Snapshot.GetIncarnation() == "second" })
	a.mustAdd("c2")
	at := a.state().Snapshot.GetRevision()
	a.stop()
	a = run(t, d, dir)
	nodetest.Eventually(t, "it registers", func() bool { return a.state().Online })
	if got := d.Registered("n1"); got.GetHeldIncarnation() != "second" || got.GetHeldTerm() != 7 || got.GetHeldRevision() < at {
		t.Errorf("got %v, and revision %d was applied", got, at)
	}
	a.stop()
	for _, name := range []string{snapshotFile, ownershipFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	a = run(t, d, dir)
	nodetest.Eventually(t, "it registers", func() bool { return a.state().Online })
	if got := d.Registered("n1"); got.GetHeldIncarnation() != "second" || got.GetHeldTerm() != 0 {
		t.Errorf("got %v", got)
	}
}

// TestRecoveringIpamdIsToldToWhoWaits: an ADD that needs a block ends with ipamd's words, and the claim goes on.
func TestRecoveringIpamdIsToldToWhoWaits(t *testing.T) {
	d := dualStack(t)
	recovering, err := status.New(codes.Unavailable, "ipamd is recovering; n2 is awaited").WithDetails(&clearwayv1.Recovering{Awaited: []string{"n2"}})
	if err != nil {
		t.Fatal(err)
	}
	d.Fail("ClaimBlock", recovering.Err())
	a := run(t, d, t.TempDir())
	nodetest.Eventually(t, "the ADD is refused", func() bool {
		_, err := a.add("c1")
		return err != nil && strings.Contains(err.Error(), "n2 is awaited")
	})
	d.Fail("ClaimBlock", nil)
	nodetest.Eventually(t, "an address comes", func() bool { _, err := a.add("c1"); return err == nil })
}

// fakeNamespaces answers for every path with one namespace.
type fakeNamespaces proof.Namespace

func (fakeNamespaces) Sight(n proof.Namespace) proof.Sighting {
	return proof.Sighting{Self: n.Self, Folder: n.Folder}
}
func (fakeNamespaces) Look(context.Context) proof.View { return proof.View{} }

func (f fakeNamespaces) Identify(path string) proof.Namespace {
	f.Path = path
	return proof.Namespace(f)
}

// TestNamespaceIsKept: where an attachment lives is known after a restart, and after the journal was replaced.
func TestNamespaceIsKept(t *testing.T) {
	d := nodetest.New(t)
	d.Pool("pods", &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/24"})
	dir := t.TempDir()
	want := proof.Namespace{Path: "/run/netns/a", Self: proof.File{Device: 4, Inode: 7}, Folder: proof.File{Device: 2, Inode: 3}}
	with := func(o *Options) { o.Namespaces = fakeNamespaces(want) }
	a := run(t, d, dir, with)
	a.mustAdd("a", func(r *clearwayv1.AddRequest) { r.Netns = want.Path })
	for range 3 { // of a record, then of a snapshot
		all, _ := a.book.assignments()
		if len(all) != 1 || all[0].netns != want {
			t.Fatalf("got %+v, want %+v", all, want)
		}
		a.stop()
		a = run(t, d, dir, with)
	}
	if _, err := a.add("b", func(r *clearwayv1.AddRequest) { r.Netns = "/" + strings.Repeat("x", maxNetns) }); err == nil {
		t.Error("a path without end is taken")
	}
}

// TestDelBeatsAnAddThatBeganBefore: however late the ADD is looked at, it gets nothing; one that began after the DEL does.
func TestDelBeatsAnAddThatBeganBefore(t *testing.T) {
	d := nodetest.New(t)
	d.Pool("pods", &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/24"})
	a := run(t, d, t.TempDir())
	a.mustAdd("other")
	began := sinceBoot()
	a.mustDel("p")
	_, err := a.add("p", func(r *clearwayv1.AddRequest) { r.Started = int64(began) })
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "deleted while it was being added") {
		t.Errorf("an ADD of before the DEL: %v", err)
	}
	if a.book.heldBy(keyOf(attachment("p"))) != nil {
		t.Error("it holds something")
	}
	a.mustAdd("p", func(r *clearwayv1.AddRequest) { r.Started = int64(sinceBoot()) })
	a.mustDel("p")
	a.mustAdd("p") // by a plugin that does not say when it began
}

func TestTombstonesAreBounded(t *testing.T) {
	var stones tombstones
	name := func(i int) key { return key{Container: fmt.Sprint(i), Ifname: "eth0"} }
	for i := range 2 * maxTombstones {
		stones.bury(name(i), time.Second)
	}
	if len(stones.at) != maxTombstones || len(stones.order) != maxTombstones {
		t.Errorf("%d and %d are kept", len(stones.at), len(stones.order))
	}
	if last := name(2*maxTombstones - 1); stones.covers(name(0), 1) || !stones.covers(last, 1) || stones.covers(last, 0) || stones.covers(last, time.Second) {
		t.Error("the wrong ones are kept")
	}
	stones.bury(name(1), keepTombstone)
	stones.bury(name(1), keepTombstone+2*time.Second)
	if len(stones.at) != 1 || len(stones.order) != 2 || !stones.covers(name(1), keepTombstone+time.Second) {
		t.Errorf("%v", stones)
	}
}

// TestStatusTellsOfPodsThatAreCutOff: 51 in place of 50 when Pods hold addresses of a block that was lost.
func TestStatusTellsOfPodsThatAreCutOff(t *testing.T) {
	d := nodetest.New(t)
	d.Pool("pods", &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/24"})
	a := run(t, d, t.TempDir())
	a.mustAdd("c")
	wantCode(t, statusOf(a.book.limited(refuse(cniUnavailable, "none"))), cniUnavailable, "none")
	record, _ := a.book.record(netip.MustParsePrefix("10.244.0.0/26"))
	if _, err := a.write(context.Background(), blockGoneRecord{CIDR: record.CIDR, Generation: record.Generation}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, statusOf(a.book.limited(refuse(cniUnavailable, "none"))), cniUnavailableLimited, "1 addresses that Pods have")
	wantCode(t, statusOf(a.book.limited(refuse(cniTryLater, "none"))), cniTryLater, "none")
}
