package fib

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/clearway/clearway/bgp/route"
)

// manyGateways are routes by as many gateways on n1, two by each.
func manyGateways(gateways int) []route.Change {
	var changes []route.Change
	for i := range 2 * gateways {
		changes = append(changes, via(fmt.Sprintf("10.9.%d.0/24", i), fmt.Sprintf("10.0.1.%d", 10+i%gateways)))
	}
	return changes
}

// leading counts the routes of ours that lead to objects, and those that don't.
func leading(t testing.TB) (toObjects, plain int) {
	t.Helper()
	for line := range strings.Lines(ip(t, "-4 route show proto 73 type unicast")) {
		if strings.Contains(line, "nhid") {
			toObjects++
		} else {
			plain++
		}
	}
	return toObjects, plain
}

// objectsShown counts what ip(8) shows of the objects of a protocol.
func objectsShown(t testing.TB, protocol string) int {
	t.Helper()
	return strings.Count(ip(t, "nexthop show protocol "+protocol), "id ")
}

// anObject is the gateway of some object of ours.
func anObject(t testing.TB) string {
	t.Helper()
	words := strings.Fields(ip(t, "nexthop show protocol 73"))
	return words[slices.Index(words, "via")+1]
}

const someGateways = plainGateways + 30

func withManyGateways(t testing.TB, every func(*Writer)) (*Writer, func()) {
	t.Helper()
	inNetns(t)
	fabric(t)
	w := open(t, Options{})
	if every != nil {
		every(w)
	}
	stop := start(t, w)
	w.Settled()
	w.Apply(manyGateways(someGateways))
	waitFor(t, "routes", func() bool { return w.Count() == 2*someGateways })
	return w, stop
}

func often(w *Writer) { w.core.resync.every, w.core.resync.gap = resyncSoon, resyncSoon }

func checkLeading(t testing.TB, wantObjects, wantPlain int) {
	t.Helper()
	if to, plain := leading(t); to != wantObjects || plain != wantPlain {
		t.Errorf("%d routes lead to objects and %d do not, want %d and %d", to, plain, wantObjects, wantPlain)
	}
}

// The gateways past the first ones are nexthop objects; these go when no route leads to them any more.
func TestFurtherGatewaysAreObjects(t *testing.T) {
	w, _ := withManyGateways(t, often)
	checkLeading(t, 2*30, 2*plainGateways)
	if got := objectsShown(t, "73"); got != 30 {
		t.Errorf("%d objects, want 30", got)
	}
	gateway := anObject(t)
	w.apply(via("10.9.0.0/24", gateway), via("10.9.1.0/24", "10.0.2.9"))
	waitShown(t, "10.9.0.0/24", fmt.Sprintf("10.9.0.0/24 nhid %d via %s dev n1 proto 73 metric 20", gatewayID(netip.MustParseAddr(gateway)), gateway))
	waitShown(t, "10.9.1.0/24", "10.9.1.0/24 via 10.0.2.9 dev n2 proto 73 metric 20")
	w.Apply(withdrawn(manyGateways(someGateways)))
	waitFor(t, "routes to go", func() bool { return w.Count() == 0 })
	waitFor(t, "objects to go", func() bool { return objectsShown(t, "73") == 0 })
	w.Apply(manyGateways(someGateways))
	waitFor(t, "routes", func() bool { return w.Count() == 2*someGateways })
	checkLeading(t, 2*30, 2*plainGateways)
}

// The next process finds the objects, and neither writes the routes anew nor loses an object in use.
func TestObjectsAreAdopted(t *testing.T) {
	_, stop := withManyGateways(t, nil)
	stop()
	w := open(t, Options{})
	often(w)
	if got := len(w.core.objects.made); got != 30 {
		t.Errorf("adopted %d objects, want 30", got)
	}
	seen := watchRoutes(t)
	start(t, w)
	changes := manyGateways(someGateways)
	w.Apply(changes)
	w.Settled()
	for _, c := range changes {
		waitState(t, w, c.Prefix.String(), route.Installed)
	}
	for _, e := range seen() {
		t.Errorf("written anew: %+v", e)
	}
	for range 3 {
		w.apply(via("10.10.0.0/24", "10.0.2.9"), none("10.10.0.0/24"))
		waitFor(t, "a comparison", func() bool { return w.Count() == 2*someGateways })
	}
	checkLeading(t, 2*30, 2*plainGateways)
}

// The kernel removes objects and the routes to them, without a word, when the carrier goes. They come back with it.
func TestObjectsComeBackWithTheCarrier(t *testing.T) {
	w, _ := withManyGateways(t, nil)
	ip(t, "link set n1-far down")
	waitFor(t, "the carrier to go", func() bool { return strings.Contains(ip(t, "link show n1"), "NO-CARRIER") })
	ip(t, "link set n1-far up")
	waitFor(t, "routes", func() bool { to, plain := leading(t); return to == 2*30 && plain == 2*plainGateways })
	waitFor(t, "states", func() bool { return w.stateCount(route.Installed) == 2*someGateways })
}

func TestObjectsComeBackWithTheLink(t *testing.T) {
	w, _ := withManyGateways(t, nil)
	ip(t, "link set n1 down")
	ip(t, "link set n1 up")
	waitFor(t, "routes", func() bool { to, plain := leading(t); return to == 2*30 && plain == 2*plainGateways })
	waitFor(t, "states", func() bool { return w.stateCount(route.Installed) == 2*someGateways })
}

// Whatever others do to the objects, the routes are soon as desired.
func TestObjectsOfOursInOthersHands(t *testing.T) {
	for _, command := range []string{"nexthop flush", "nexthop replace id %d via 10.0.2.77 dev n2", "nexthop del id %d"} {
		t.Run(command, func(t *testing.T) {
			w, _ := withManyGateways(t, nil)
			command := strings.Replace(command, "%d", fmt.Sprint(gatewayID(netip.MustParseAddr(anObject(t)))), 1)
			ip(t, command)
			right := func() bool {
				for _, c := range manyGateways(someGateways) {
					if !strings.Contains(shown(t, c.Prefix.String()), fmt.Sprintf("via %s dev n1 ", c.Route.NextHops[0].Addr)) {
						return false
					}
				}
				return true
			}
			waitFor(t, "routes as desired", right)
			waitFor(t, "states", func() bool { return w.stateCount(route.Installed) == 2*someGateways })
		})
	}
}

// An object of another's stays as it is, whatever its id; and one of ours stays as long as another's route leads to it.
func TestObjectsOfOthersAreLeftAlone(t *testing.T) {
	inNetns(t)
	fabric(t)
	for i := range someGateways {
		ip(t, fmt.Sprintf("nexthop add id %d via 10.0.3.9 dev n3 proto static", gatewayID(netip.MustParseAddr("10.0.1.10"))+uint32(i)))
	}
	w := open(t, Options{})
	often(w)
	start(t, w)
	w.Settled()
	w.Apply(manyGateways(someGateways))
	waitFor(t, "routes", func() bool { return w.Count() == 2*someGateways })
	checkLeading(t, 0, 2*someGateways)
	if got := strings.Count(ip(t, "nexthop show protocol 4"), "via 10.0.3.9 dev n3"); got != someGateways {
		t.Errorf("%d objects of another's are as they were, not %d", got, someGateways)
	}
}

func TestObjectInUseByOthersStays(t *testing.T) {
	w, _ := withManyGateways(t, often)
	ip(t, fmt.Sprintf("route add 10.99.0.0/24 nhid %d proto static", gatewayID(netip.MustParseAddr(anObject(t)))))
	w.Apply(withdrawn(manyGateways(someGateways)))
	waitFor(t, "objects to go", func() bool { return objectsShown(t, "73") == 1 })
	for range 3 {
		w.goRound(t)
	}
	if shown(t, "10.99.0.0/24") == "" {
		t.Error("another's route went with an object of ours")
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if shown(t, "10.99.0.0/24") == "" {
		t.Error("another's route went with the flush")
	}
}

// goRound writes a route and removes it, so that the writer has gone round.
func (w *Writer) goRound(t testing.TB) {
	t.Helper()
	w.apply(via("10.10.0.0/24", "10.0.2.9"))
	waitFor(t, "a route", func() bool { return w.Count() == 1 })
	w.apply(none("10.10.0.0/24"))
	waitFor(t, "no route", func() bool { return w.Count() == 0 })
}

func TestFlushRemovesTheObjects(t *testing.T) {
	w, _ := withManyGateways(t, nil)
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := objectsShown(t, "73"); got != 0 {
		t.Errorf("%d objects are left", got)
	}
}

// Where the kernel would not tell the hops of such routes, there are none.
func TestNoObjectsWithoutCompatMode(t *testing.T) {
	inNetns(t)
	fabric(t)
	if err := os.WriteFile(compatMode, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, _ := run(t, Options{})
	w.Apply(manyGateways(someGateways))
	waitFor(t, "routes", func() bool { return w.Count() == 2*someGateways })
	checkLeading(t, 0, 2*someGateways)
}

// What is written of an object reads back as it was meant.
func TestObjectReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := leg{gateway: genPrefix(false).Draw(t, "gateway").Addr(), ifindex: rapid.IntRange(1, 1<<30).Draw(t, "ifindex"), weight: 1}
		var buf buffer
		buf.newObject(3, gatewayID(l.gateway), l, us)
		m, rest, err := nextMessage(buf.b)
		if err != nil || len(rest) != 0 || m.kind != unix.RTM_NEWNEXTHOP || m.flags&unix.NLM_F_EXCL == 0 {
			t.Fatalf("%+v, %d, %v", m, len(rest), err)
		}
		at, plain, err := parseObject(m.body)
		if err != nil || !plain || at.leg != l || gatewayID(l.gateway) != 0 && !at.ours(us) {
			t.Fatalf("%+v, %v, %v; want %+v", at, plain, err, l)
		}
		if at.ours(who{protocol: us.protocol + 1}) {
			t.Fatal("another protocol's object is taken for ours")
		}
	})
}
