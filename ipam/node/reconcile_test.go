package node

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/ipam/node/nodetest"
	"github.com/clearway/clearway/ipam/proof"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// machine is the namespaces of a node, as a test says.
type machine struct {
	mu       sync.Mutex // guards all below
	paths    map[string]proof.File
	next     uint64
	fault    string
	places   map[netip.Addr]proof.Place
	reached  map[netip.Addr]string
	looks    int
	duringly func() // called in the middle of a look
}

var runFolder = proof.File{Device: 2, Inode: 3}

func newMachine() *machine {
	return &machine{paths: map[string]proof.File{}, places: map[netip.Addr]proof.Place{}, reached: map[netip.Addr]string{}}
}

func (m *machine) Identify(path string) proof.Namespace {
	m.mu.Lock()
	defer m.mu.Unlock()
	self, ok := m.paths[path]
	if !ok {
		return proof.Namespace{Path: path}
	}
	return proof.Namespace{Path: path, Self: self, Folder: runFolder}
}

func (m *machine) Sight(n proof.Namespace) proof.Sighting {
	m.mu.Lock()
	defer m.mu.Unlock()
	self, ok := m.paths[n.Path]
	return proof.Sighting{Self: self, Folder: runFolder, Missing: !ok}
}

func (m *machine) Look(context.Context) proof.View {
	m.mu.Lock()
	m.looks++
	view := proof.View{Fault: m.fault, Places: map[netip.Addr][]proof.Place{}, Reached: map[netip.Addr]string{}}
	for address, place := range m.places {
		view.Places[address] = []proof.Place{place}
	}
	for address, how := range m.reached {
		view.Reached[address] = how
	}
	during := m.duringly
	m.mu.Unlock()
	if during != nil {
		during()
	}
	return view
}

func (m *machine) do(change func(*machine)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

// sandbox makes a namespace and tells the ADD where it is.
func (m *machine) sandbox(path string) func(*clearwayv1.AddRequest) {
	m.do(func(m *machine) {
		m.next++
		m.paths[path] = proof.File{Device: 4, Inode: m.next}
	})
	return func(r *clearwayv1.AddRequest) { r.Netns = path }
}

// configure puts addresses into the namespace at a path, as a main plugin does.
func (m *machine) configure(path string, addresses []string) {
	m.do(func(m *machine) {
		for _, text := range addresses {
			m.places[netip.MustParsePrefix(text).Addr()] = proof.Place{Self: m.paths[path], Path: path}
		}
	})
}

// vanish removes a namespace and what is in it, without a DEL.
func (m *machine) vanish(path string) {
	m.do(func(m *machine) {
		for address, place := range m.places {
			if place.Path == path {
				delete(m.places, address)
			}
		}
		delete(m.paths, path)
	})
}

// pod makes a sandbox with addresses.
func (a *agent) pod(m *machine, name string) []string {
	a.t.Helper()
	path := "/run/netns/" + name
	addresses := a.mustAdd(name, m.sandbox(path))
	m.configure(path, addresses)
	return addresses
}

func (a *agent) held() int {
	all, _ := a.book.assignments()
	return len(all)
}

func reported(d *nodetest.IPAMD, reason string) []*clearwayv1.EventSpec {
	return slices.DeleteFunc(d.Events(), func(e *clearwayv1.EventSpec) bool { return e.GetReason() != reason })
}

const grace = 5 * time.Minute // LeakGrace's default

// watched runs an agent on a machine within a bubble of time.
func watched(t *testing.T, test func(t *testing.T, d *nodetest.IPAMD, m *machine, a *agent)) {
	synctest.Test(t, func(t *testing.T) {
		d, m := nodetest.New(t), newMachine()
		d.Pool("pods", &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/28", BlockSize: 29, MinBlockSize: 29})
		a := run(t, d, t.TempDir(), func(o *Options) { o.Namespaces, o.Metrics = m, prometheus.NewRegistry() })
		test(t, d, m, a)
		a.stop()
		d.Stop()
	})
}

// TestCollects: an attachment whose namespace is gone is released after it was seen so over the grace time, rests, and
// those that live are not touched.
func TestCollects(t *testing.T) {
	watched(t, func(t *testing.T, d *nodetest.IPAMD, m *machine, a *agent) {
		gone := a.pod(m, "gone")
		lives := a.pod(m, "lives")
		time.Sleep(grace)
		m.vanish("/run/netns/gone")
		time.Sleep(grace - time.Second)
		if a.held() != 2 {
			t.Fatal("freed before its time")
		}
		for end := time.Now().Add(grace); a.held() == 2 && time.Now().Before(end); {
			time.Sleep(time.Second)
		}
		if err := a.checkHolds("lives", lives...); err != nil || a.held() != 1 {
			t.Fatalf("%d are held, %v", a.held(), err)
		}
		if got := testutil.ToFloat64(a.metrics.leaks.WithLabelValues("gone")); got != 1 {
			t.Errorf("metric: %v", got)
		}
		if again := a.pod(m, "next"); again[0] == gone[0] {
			t.Errorf("%s did not rest", gone[0])
		}
		time.Sleep(time.Minute)
		if told := reported(d, "AddressCollected"); len(told) != 1 || !strings.Contains(told[0].GetMessage(), "/run/netns/gone is gone") {
			t.Errorf("events: %v", told)
		}
	})
}

// TestCollectsNothingWithoutProof: whatever is not known, or shows life, keeps an address held for ever.
func TestCollectsNothingWithoutProof(t *testing.T) {
	for name, hide := range map[string]func(m *machine, address netip.Addr){
		"not all can be seen":     func(m *machine, _ netip.Addr) { m.fault = "no permission" },
		"another namespace's":     func(m *machine, address netip.Addr) { m.places[address] = proof.Place{Path: "/proc/9/ns/net"} },
		"a route leads to it":     func(m *machine, address netip.Addr) { m.reached[address] = "a route" },
		"its namespace came back": func(m *machine, _ netip.Addr) { m.paths["/run/netns/p"] = proof.File{Device: 4, Inode: 1} },
	} {
		t.Run(name, func(t *testing.T) {
			watched(t, func(t *testing.T, _ *nodetest.IPAMD, m *machine, a *agent) {
				addresses := a.pod(m, "p")
				m.vanish("/run/netns/p")
				time.Sleep(grace / 2)
				m.do(func(m *machine) { hide(m, netip.MustParsePrefix(addresses[0]).Addr()) })
				time.Sleep(10 * grace)
				if a.held() != 1 {
					t.Error("freed")
				}
			})
		})
	}
	t.Run("no namespace was named", func(t *testing.T) {
		watched(t, func(t *testing.T, _ *nodetest.IPAMD, _ *machine, a *agent) {
			a.mustAdd("p")
			time.Sleep(10 * grace)
			if a.held() != 1 {
				t.Error("freed")
			}
			if got := testutil.ToFloat64(a.metrics.unseen); got != 1 {
				t.Errorf("metric: %v", got)
			}
		})
	})
	t.Run("switched off", func(t *testing.T) {
		watched(t, func(t *testing.T, d *nodetest.IPAMD, m *machine, a *agent) {
			d.Configure(&clearwayv1.IPAMConfigurationSpec{LeakGrace: "0s"})
			a.pod(m, "p")
			time.Sleep(time.Second)
			m.vanish("/run/netns/p")
			time.Sleep(10 * grace)
			if a.held() != 1 {
				t.Error("freed")
			}
		})
	})
}

// TestCollectsByPod: an attachment of which no namespace is known comes free when its Pod is gone for Kubernetes, seen in
// looks over the grace time, and not while ipamd is silent, or something on the machine has the address.
func TestCollectsByPod(t *testing.T) {
	ofPod := func(r *clearwayv1.AddRequest) { r.Pod = &clearwayv1.Pod{Namespace: "default", Name: "p", Uid: "uid-p"} }
	for name, c := range map[string]struct {
		during func(d *nodetest.IPAMD, m *machine, address netip.Addr)
		held   int
	}{
		"gone":          {func(*nodetest.IPAMD, *machine, netip.Addr) {}, 0},
		"another's UID": {func(d *nodetest.IPAMD, _ *machine, _ netip.Addr) { d.PodsGone("uid-q") }, 1},
		"ipamd does not tell": {func(d *nodetest.IPAMD, _ *machine, _ netip.Addr) {
			d.Fail("MissingPods", status.Error(codes.FailedPrecondition, "no Kubernetes"))
		}, 1},
		"in use": {func(_ *nodetest.IPAMD, m *machine, address netip.Addr) {
			m.do(func(m *machine) { m.reached[address] = "a route" })
		}, 1},
		"not all can be seen": {func(_ *nodetest.IPAMD, m *machine, _ netip.Addr) {
			m.do(func(m *machine) { m.fault = "no permission" })
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			watched(t, func(t *testing.T, d *nodetest.IPAMD, m *machine, a *agent) {
				addresses := a.mustAdd("p", ofPod)
				time.Sleep(2 * grace)
				if a.held() != 1 {
					t.Fatal("freed while its Pod is there")
				}
				d.PodsGone("uid-p")
				c.during(d, m, netip.MustParsePrefix(addresses[0]).Addr())
				time.Sleep(grace - time.Second)
				if a.held() != 1 {
					t.Fatal("freed before the grace time was over")
				}
				time.Sleep(grace)
				if a.held() != c.held {
					t.Errorf("%d attachments hold addresses, not %d", a.held(), c.held)
				}
			})
		})
	}
}

// TestBlindnessIsToldOnce: in the log and in an event, not with every look; and the metric stands.
func TestBlindnessIsToldOnce(t *testing.T) {
	watched(t, func(t *testing.T, d *nodetest.IPAMD, m *machine, a *agent) {
		m.do(func(m *machine) { m.fault = "no permission" })
		a.pod(m, "p")
		time.Sleep(50 * time.Minute)
		if told := reported(d, "NamespacesHidden"); len(told) != 1 {
			t.Errorf("told %v", told)
		}
		if testutil.ToFloat64(a.metrics.blind) != 1 {
			t.Error("the metric says that all is seen")
		}
	})
}

// TestRetriesOfOnePod: each try of a Pod that fails leaves a sandbox that no DEL comes for; the next try frees it at
// once when its namespace is gone, also when no address is left, and not while it is there.
func TestRetriesOfOnePod(t *testing.T) {
	watched(t, func(t *testing.T, _ *nodetest.IPAMD, m *machine, a *agent) {
		same := func(r *clearwayv1.AddRequest) { r.Pod = &clearwayv1.Pod{Namespace: "default", Name: "p", Uid: "uid-p"} }
		for i := range 40 { // more than the pool has
			name := string(rune('a'+i%26)) + string(rune('a'+i/26))
			path := "/run/netns/" + name
			m.configure(path, a.mustAdd(name, m.sandbox(path), same))
			m.vanish(path)
			time.Sleep(time.Second)
		}
		if a.held() > 2 {
			t.Errorf("%d sandboxes of one Pod hold addresses", a.held())
		}
		there := a.mustAdd("there", m.sandbox("/run/netns/there"), same)
		a.mustAdd("later", m.sandbox("/run/netns/later"), same)
		time.Sleep(10 * grace)
		if err := a.checkHolds("there", there...); err != nil {
			t.Errorf("the older sandbox, which is there, was freed: %v", err)
		}
	})
}

// TestLookDoesNotJudgeLaterOnes: what comes while a look is under way is not judged by it, and one that is told its
// addresses again is not freed by what was seen before.
func TestLookDoesNotJudgeLaterOnes(t *testing.T) {
	watched(t, func(t *testing.T, _ *nodetest.IPAMD, m *machine, a *agent) {
		a.pod(m, "p")
		m.vanish("/run/netns/p")
		time.Sleep(grace)
		m.do(func(m *machine) {
			m.duringly = func() { a.mustAdd("p", func(r *clearwayv1.AddRequest) { r.Netns = "/run/netns/p" }) }
		})
		time.Sleep(3 * grace)
		if a.held() != 1 {
			t.Error("freed what had just been told again")
		}
	})
}

// lost runs a test of an agent whose journal was lost while Pods a and b run; c had gone before, and ipamd does not know
// of b, whose ADD was the last. The block has room for five.
func lost(t *testing.T, test func(t *testing.T, d *nodetest.IPAMD, m *machine, a *agent, addresses map[string][]string)) {
	synctest.Test(t, func(t *testing.T) {
		d, m, dir := nodetest.New(t), newMachine(), t.TempDir()
		d.Pool("pods", &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/29", BlockSize: 29, MinBlockSize: 29})
		with := func(o *Options) { o.Namespaces, o.Metrics = m, prometheus.NewRegistry() }
		a := run(t, d, dir, with)
		addresses := map[string][]string{"a": a.pod(m, "a"), "c": a.pod(m, "c")}
		a.mustDel("c")
		m.vanish("/run/netns/c")
		time.Sleep(10 * time.Second) // it is mirrored
		d.Fail("MirrorAssignments", status.Error(codes.Unavailable, "away"))
		addresses["b"] = a.pod(m, "b")
		a.stop()
		d.Fail("MirrorAssignments", nil)
		if err := os.Remove(filepath.Join(dir, "journal")); err != nil {
			t.Fatal(err)
		}
		a = run(t, d, dir, with)
		time.Sleep(time.Second)
		if u := a.book.blockUse(); len(u) != 1 || !u[0].GetSealed() {
			t.Fatalf("blocks: %v", u)
		}
		test(t, d, m, a, addresses)
		a.stop()
		d.Stop()
	})
}

// TestUnseals: when every namespace was seen twice over the grace time, running Pods hold what they have, all else
// rests, and is given then.
func TestUnseals(t *testing.T) {
	lost(t, func(t *testing.T, d *nodetest.IPAMD, m *machine, a *agent, addresses map[string][]string) {
		m.do(func(m *machine) { // the node's end of a Pod's link has the pool's gateway
			m.places[netip.MustParseAddr("10.244.0.1")] = proof.Place{Path: "/proc/1/ns/net", Self: proof.File{Device: 4, Inode: 1}}
		})
		if _, err := a.add("early"); err == nil {
			t.Fatal("an address was given of a sealed block")
		}
		for end := time.Now().Add(2 * grace); a.book.blockUse()[0].GetSealed() && time.Now().Before(end); {
			time.Sleep(time.Second)
		}
		// Of 8 addresses, two are the pool's ends and one its gateway.
		if u := a.book.blockUse(); u[0].GetSealed() || u[0].GetAssigned() != 2 || u[0].GetCooling() != 3 {
			t.Fatalf("after it is accounted for: %v", u)
		}
		if err := a.checkHolds("a", addresses["a"]...); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if told := reported(d, "BlockUnsealed"); len(told) != 1 {
			t.Errorf("events: %v", told)
		}
		time.Sleep(3 * time.Minute)
		taken := map[string]string{addresses["a"][0]: "a", addresses["b"][0]: "b"}
		for _, name := range []string{"d", "e", "f"} {
			for _, address := range a.pod(m, name) {
				if taken[address] != "" {
					t.Errorf("%s of %s was given to %s", address, taken[address], name)
				}
				taken[address] = name
			}
		}
		// Whom nobody knew by name is known by its namespace, and goes with it.
		m.vanish("/run/netns/b")
		time.Sleep(3 * grace)
		if a.held() != 4 {
			t.Errorf("%d are held", a.held())
		}
	})
}

// TestStaysSealed: without the sight of every namespace, and without the mirror, a block gives nothing.
func TestStaysSealed(t *testing.T) {
	lost(t, func(t *testing.T, _ *nodetest.IPAMD, m *machine, a *agent, _ map[string][]string) {
		m.do(func(m *machine) { m.fault = "no permission" })
		time.Sleep(10 * grace)
		if u := a.book.blockUse(); !u[0].GetSealed() {
			t.Errorf("opened blindly: %v", u)
		}
		m.do(func(m *machine) { m.fault = "" })
		time.Sleep(2 * grace)
		if u := a.book.blockUse(); u[0].GetSealed() {
			t.Errorf("still sealed: %v", u)
		}
	})
	lost(t, func(t *testing.T, d *nodetest.IPAMD, m *machine, a *agent, _ map[string][]string) {
		a.stop()
		d.Stop()
		again := run(t, d, a.options.DataDir, func(o *Options) { o.Namespaces = m })
		time.Sleep(10 * grace)
		if u := again.book.blockUse(); !u[0].GetSealed() {
			t.Errorf("opened without the mirror: %v", u)
		}
		again.stop()
	})
}

// TestUnsealingWaitsForWhoIsBeingWired: an address that was answered just before the journal was lost comes into its
// namespace after the first look.
func TestUnsealingWaitsForWhoIsBeingWired(t *testing.T) {
	lost(t, func(t *testing.T, _ *nodetest.IPAMD, m *machine, a *agent, addresses map[string][]string) {
		late := netip.MustParsePrefix(addresses["b"][0]).Addr().Next()
		time.Sleep(grace / 4)
		m.do(func(m *machine) { m.reached[late] = "a route" })
		time.Sleep(2 * grace)
		if u := a.book.blockUse(); u[0].GetSealed() || u[0].GetAssigned() != 3 {
			t.Fatalf("blocks: %v", u)
		}
	})
}

// TestUnsealingForgetsWhoIsReleased: a Pod that was seen and known, and is deleted before the block opens, is not found
// in use for ever.
func TestUnsealingForgetsWhoIsReleased(t *testing.T) {
	lost(t, func(t *testing.T, _ *nodetest.IPAMD, m *machine, a *agent, _ map[string][]string) {
		time.Sleep(grace / 4)
		a.mustDel("a")
		m.vanish("/run/netns/a")
		time.Sleep(2 * grace)
		if u := a.book.blockUse(); u[0].GetSealed() || u[0].GetAssigned() != 1 { // b's alone
			t.Fatalf("blocks: %v", u)
		}
	})
}
