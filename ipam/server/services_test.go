package server_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/ipam/server"
	"github.com/clearway/clearway/ipam/service"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// snapshots keeps what a node is told last, by its snapshot and by the ownership log.
type snapshots struct {
	mu   sync.Mutex // guards all following fields
	last *clearwayv1.NodeSnapshot
	log  policy.Log
}

func (a *agent) listen() *snapshots {
	l := &snapshots{}
	stream := a.watchNode("", 0)
	go func() {
		for {
			message, err := stream.Recv()
			if err != nil {
				return
			}
			if snapshot := message.GetSnapshot(); snapshot != nil {
				l.mu.Lock()
				l.last = snapshot
				l.mu.Unlock()
			}
		}
	}()
	log, err := a.NodeServiceClient.WatchOwnership(testContext(a.t), &clearwayv1.WatchOwnershipRequest{
		Node: a.request.GetNode(), SessionId: a.registered.GetSessionId(),
	})
	a.must(err)
	go func() {
		for {
			piece, err := log.Recv()
			if err != nil {
				return
			}
			l.mu.Lock()
			_, _ = l.log.Receive(piece)
			l.mu.Unlock()
		}
	}()
	return l
}

// services are the addresses that the node tells.
func (l *snapshots) services() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []string
	for _, one := range config.Services(l.last, l.log.Owners().Services()) {
		list = append(list, one.Prefix.String())
	}
	return list
}

// withServices is ipamd with a pool for Services, and leave to tell of them.
func withServices(t testing.TB, records server.Store) *ipamd {
	t.Helper()
	d := start(t, records)
	d.apply(ipPool("vips", "203.0.113.0/24", func(s *clearwayv1.IPPoolSpec) { s.Kind = "LoadBalancer" }),
		clearwayv1.Wrap(&clearwayv1.BGPConfiguration{
			Metadata: &clearwayv1.ObjectMeta{Name: "default"},
			Spec: &clearwayv1.BGPConfigurationSpec{Services: &clearwayv1.ServiceRoutes{
				LoadBalancerIps: []string{"203.0.113.0/24"}, ExternalIps: []string{"198.51.100.0/24"},
			}},
		}))
	return d
}

func (d *ipamd) see(all map[string]*service.Service) map[string]service.Answer {
	d.t.Helper()
	answers, err := d.server.SeeServices(testContext(d.t), all)
	if err != nil {
		d.t.Fatal(err)
	}
	return answers
}

func balanced(name string, endpoints map[string]service.Readiness) *service.Service {
	return &service.Service{
		Namespace: "web", Name: name, UID: "uid-" + name, LoadBalancer: true, Class: service.Class,
		Families: []service.Family{service.IPv4}, Endpoints: endpoints,
	}
}

// TestServicesOutlastTheLeader: a new leader tells what the one before told, until it has listed the Services itself, and gives
// nobody what somebody has.
func TestServicesOutlastTheLeader(t *testing.T) {
	records := newFake()
	first := withServices(t, records)
	ready := map[string]service.Readiness{"n1": service.Ready}
	all := map[string]*service.Service{"web/a": balanced("a", ready)}
	if got := first.see(all)["web/a"].Addresses; fmt.Sprint(got) != "[203.0.113.0]" {
		t.Fatalf("got %v", got)
	}
	first.stop()
	second := start(t, records)
	heard := second.agent("n1").listen()
	second.eventually("the node tells it", func() bool { return fmt.Sprint(heard.services()) == "[203.0.113.0/32]" })
	older := balanced("b", ready)
	older.Created = time.Unix(0, 0)
	all["web/b"] = older
	all["web/a"].Created = time.Unix(1, 0)
	answers := second.see(all)
	if got := fmt.Sprint(answers["web/a"].Addresses, answers["web/b"].Addresses); got != "[203.0.113.0] [203.0.113.1]" {
		t.Errorf("got %s", got)
	}
	second.eventually("the node tells both", func() bool {
		return fmt.Sprint(heard.services()) == "[203.0.113.0/32 203.0.113.1/32]"
	})
	for at, want := range map[string]string{"n2": "[203.0.113.1/32]", "n1": "[203.0.113.0/32 203.0.113.1/32]"} {
		moved := balanced("a", map[string]service.Readiness{"n3": service.Ready})
		moved.ExternalLocal = true
		all["web/a"] = moved
		second.see(all)
		second.eventually("the node tells b alone", func() bool { return fmt.Sprint(heard.services()) == "[203.0.113.1/32]" })
		moved = balanced("a", map[string]service.Readiness{at: service.Ready}) // from one node to another: nobody else hears of it
		moved.ExternalLocal = true
		all["web/a"] = moved
		second.see(all)
		second.eventually("the node tells "+want, func() bool { return fmt.Sprint(heard.services()) == want })
	}
	second.see(map[string]*service.Service{})
	second.eventually("the node tells none", func() bool { return len(heard.services()) == 0 })
	answer, err := second.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "IPPool", Name: "vips"})
	if err != nil {
		t.Errorf("the pool is empty, and stays: %v %v", answer, err)
	}
}

// TestCommunitiesOfServices: with communities that cannot be read, or too many of them, no new route is told: some of them
// alone might let it get where it must not.
func TestCommunitiesOfServices(t *testing.T) {
	d := withServices(t, newFake())
	heard := d.agent("n1").listen()
	for name, communities := range map[string][]string{"none": {"64512"}, "many": slices.Repeat([]string{"64512:1"}, 33)} {
		t.Run(name, func(t *testing.T) {
			s := balanced(name, map[string]service.Readiness{"n1": service.Ready})
			s.Communities = communities
			answer := d.see(map[string]*service.Service{s.Key(): s})[s.Key()]
			if len(answer.Addresses) != 1 || !strings.Contains(answer.Refusal, "annotation clearway.io/communities") {
				t.Errorf("%+v", answer)
			}
			told, err := d.ShowAddress(testContext(t), &clearwayv1.ShowAddressRequest{Address: answer.Addresses[0].String()})
			if err != nil || !strings.Contains(told.GetSummary(), "no node tells it") || len(heard.services()) > 0 {
				t.Errorf("%v %v, and the node tells %v", told.GetSummary(), err, heard.services())
			}
		})
	}
}

// servicesWorld is what there is in Kubernetes, for the test and for its twin.
type servicesWorld struct {
	services map[string]*service.Service
	excluded map[string]bool // nodes
}

// happening is a change of one object: a node's, or a Service's.
type happening struct {
	object string
	change func(*servicesWorld)
}

const servicesNodes, servicesCount = 5, 30

// happenings are drawn so that each Service asks for an address that is its own: what there is in the end does not depend on
// the order of different objects' changes.
func happenings(random *rand.Rand, count int) []happening {
	var all []happening
	for serial := range count {
		if random.IntN(20) == 0 {
			node, excluded := fmt.Sprint("n", 1+random.IntN(servicesNodes)), random.IntN(2) == 0
			all = append(all, happening{node, func(w *servicesWorld) { w.excluded[node] = excluded }})
			continue
		}
		n := random.IntN(servicesCount)
		s := balanced(fmt.Sprintf("s%02d", n), map[string]service.Readiness{})
		s.UID = fmt.Sprint(serial)
		s.Asked = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, byte(n)})}
		s.ExternalLocal, s.LoadBalancer = random.IntN(2) == 0, random.IntN(4) > 0
		if random.IntN(3) == 0 {
			s.ExternalIPs = []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, byte(random.IntN(4))}), netip.MustParseAddr("8.8.8.8")}
		}
		for range random.IntN(4) {
			s.Endpoints[fmt.Sprint("n", 1+random.IntN(servicesNodes))] = service.Readiness(random.IntN(3))
		}
		gone := random.IntN(5) == 0
		all = append(all, happening{s.Name, func(w *servicesWorld) {
			if delete(w.services, s.Key()); !gone {
				w.services[s.Key()] = s
			}
		}})
	}
	return all
}

// inAnotherOrder keeps each object's changes in their order, and nothing else.
func inAnotherOrder(random *rand.Rand, all []happening) []happening {
	of := map[string][]happening{}
	turns := make([]string, 0, len(all))
	for _, one := range all {
		of[one.object] = append(of[one.object], one)
		turns = append(turns, one.object)
	}
	random.Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
	mixed := make([]happening, 0, len(all))
	for _, object := range turns {
		mixed, of[object] = append(mixed, of[object][0]), of[object][1:]
	}
	return mixed
}

// tells is the slow twin: what a node is to tell, one Service after the other, one address after the other.
func (w *servicesWorld) tells(node string) []string {
	told := map[string]bool{}
	if w.excluded[node] {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(w.services)) {
		s := w.services[name]
		serving, here := 0, 0
		for _, least := range []service.Readiness{service.Terminating, service.Ready} {
			for at, readiness := range s.Endpoints {
				if readiness == least {
					if least == service.Ready && serving < 100 {
						serving, here = 100, 0 // those about to go no longer count
					}
					serving++
					if at == node {
						here++
					}
				}
			}
		}
		if serving == 0 || s.ExternalLocal && here == 0 {
			continue
		}
		var addresses []string
		if s.LoadBalancer {
			addresses = append(addresses, s.Asked[0].String())
		}
		for _, addr := range s.ExternalIPs {
			if strings.HasPrefix(addr.String(), "198.51.100.") {
				addresses = append(addresses, addr.String())
			}
		}
		for _, addr := range addresses {
			told[addr] = true
		}
	}
	var list []string
	for addr := range told {
		list = append(list, addr+"/32")
	}
	slices.SortFunc(list, func(a, b string) int {
		return netip.MustParsePrefix(a).Addr().Compare(netip.MustParsePrefix(b).Addr())
	})
	return list
}

// TestServicesInAnyOrder lets 10,000 changes of Services, endpoints and nodes happen in several orders, a few at a time. Now and
// then, and in the end, each node is told what the twin says; in the end that is the same for all orders.
func TestServicesInAnyOrder(t *testing.T) {
	const seed, changes, checkEvery = 1, 10_000, 1_000
	random := rand.New(rand.NewPCG(seed, seed))
	all := happenings(random, changes)
	ends := map[string]bool{}
	for order := range 3 {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			d := withServices(t, newFake())
			w := &servicesWorld{services: map[string]*service.Service{}, excluded: map[string]bool{}}
			heard := map[string]*snapshots{}
			for n := range servicesNodes {
				name := fmt.Sprint("n", n+1)
				heard[name] = d.agent(name).listen()
			}
			check := func() {
				t.Helper()
				d.see(w.services)
				for name, one := range heard {
					d.eventually(name+" tells what the twin says", func() bool { return slices.Equal(one.services(), w.tells(name)) })
				}
			}
			for at, pending := 0, slices.Clone(all); len(pending) > 0; {
				some := min(1+random.IntN(10), len(pending))
				before := maps.Clone(w.excluded)
				for _, one := range pending[:some] {
					one.change(w)
				}
				if !maps.Equal(before, w.excluded) {
					w.label(d)
				}
				d.see(w.services)
				if pending = pending[some:]; at/checkEvery != (at+some)/checkEvery {
					check()
				}
				at += some
			}
			check()
			var end []string
			for _, name := range slices.Sorted(maps.Keys(heard)) {
				end = append(end, name, fmt.Sprint(heard[name].services()))
			}
			ends[strings.Join(end, " ")] = true
		})
		all = inAnotherOrder(random, all)
	}
	if len(ends) != 1 {
		t.Errorf("the orders end in %d ways: %v", len(ends), ends)
	}
}

// label tells ipamd which nodes are left out.
func (w *servicesWorld) label(d *ipamd) {
	d.t.Helper()
	all := map[string]*clearwayv1.KubernetesNode{}
	for n := range servicesNodes {
		name := fmt.Sprint("n", n+1)
		all[name] = &clearwayv1.KubernetesNode{}
		if w.excluded[name] {
			all[name].Labels = map[string]string{"node.kubernetes.io/exclude-from-external-load-balancers": ""}
		}
	}
	if err := d.server.SeeNodes(testContext(d.t), all); err != nil {
		d.t.Fatal(err)
	}
}
