package topology

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clearway/clearway/bgp/policy"
)

// rack makes n nodes of one subnet, in domains of about the given size; 0: none has one.
func rack(n, domain int) []policy.Node {
	nodes := make([]policy.Node, n)
	for i := range nodes {
		nodes[i] = policy.Node{
			Name:      fmt.Sprintf("node-%d", i),
			Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 8)},
		}
		if domain > 0 {
			nodes[i].Domain = fmt.Sprintf("rack-%d", i/domain)
		}
	}
	return nodes
}

type edge struct{ from, to string }

// every computes every node's links, and checks that both ends see each the same way.
func every(t interface{ Fatalf(string, ...any) }, s Settings, nodes []policy.Node) map[edge]Role {
	edges := map[edge]Role{}
	for _, node := range nodes {
		for _, link := range Links(s, node, nodes) {
			edges[edge{node.Name, link.Node.Name}] = link.Role
		}
	}
	back := map[Role]Role{Equal: Equal, Client: Reflector, Reflector: Client, CoReflector: CoReflector}
	for e, role := range edges {
		if there, ok := edges[edge{e.to, e.from}]; !ok || there != back[role] {
			t.Fatalf("%v is %v at one end and %v (%v) at the other", e, role, there, ok)
		}
	}
	return edges
}

// carried checks that what any node tells comes to every other by the rules of RFC 4456 section 6, and that each client has
// two reflectors.
func carried(t interface{ Fatalf(string, ...any) }, nodes []policy.Node, edges map[edge]Role) {
	out := map[string][]string{}
	for e := range edges {
		out[e.from] = append(out[e.from], e.to)
	}
	for _, node := range nodes {
		reflectors := 0
		for _, to := range out[node.Name] {
			if edges[edge{node.Name, to}] == Reflector {
				reflectors++
			}
		}
		if reflectors == 1 && len(nodes) > 2 {
			t.Fatalf("%s has one reflector", node.Name)
		}
	}
	origin := nodes[len(nodes)/2].Name
	heard := map[string]bool{origin: true}
	type hop struct{ at, from string }
	var queue []hop
	for _, to := range out[origin] {
		queue = append(queue, hop{to, origin})
	}
	for len(queue) > 0 {
		h := queue[0]
		queue = queue[1:]
		fromClient := edges[edge{h.at, h.from}] == Client
		if heard[h.at] && !fromClient {
			continue
		}
		heard[h.at] = true
		for _, to := range out[h.at] {
			role := edges[edge{h.at, to}]
			if !heard[to] && (role == Client || role == CoReflector && fromClient) {
				queue = append(queue, hop{to, h.at})
			}
		}
	}
	if len(heard) != len(nodes) {
		t.Fatalf("%d of %d nodes hear of %s", len(heard), len(nodes), origin)
	}
}

func shuffled(nodes []policy.Node, seed uint64) []policy.Node {
	mixed := slices.Clone(nodes)
	rand.New(rand.NewPCG(seed, 1)).Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	return mixed
}

// Any cluster: the same links whatever the order, everybody hears of everybody, and a node that comes or goes moves few
// sessions of others.
func TestReflectionHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Settings{Mesh: Auto, Threshold: rapid.IntRange(4, 30).Draw(t, "threshold"), Clients: rapid.IntRange(10, 40).Draw(t, "clients")}
		nodes := rack(rapid.IntRange(1, 150).Draw(t, "nodes"), rapid.SampledFrom([]int{0, 3, 20, 40, 70}).Draw(t, "domain"))
		for i := range nodes {
			nodes[i].Leaving = rapid.IntRange(0, 9).Draw(t, "leaving") == 0
		}
		if rapid.IntRange(0, 3).Draw(t, "manual") == 0 {
			s.Mesh = Reflectors
			nodes[0].Reflector = true
			nodes[len(nodes)-1].Reflector = true
		}
		edges := every(t, s, nodes)
		carried(t, nodes, edges)
		if again := every(t, s, shuffled(nodes, rapid.Uint64().Draw(t, "order"))); !maps.Equal(edges, again) {
			t.Fatalf("another order, other links")
		}
	})
}

// At sizes that are met: how many sessions a node has, how many of others change with one node, and what it costs.
func TestReflectionFrom10To5000(t *testing.T) {
	for _, c := range []struct{ nodes, domain, most, moved int }{
		{10, 0, 9, 10}, {100, 0, 99, 5000}, // the 101st is one too many for a mesh
		{101, 0, 101, 10}, {1000, 0, 170, 300}, {1000, 40, 120, 150}, {5000, 0, 280, 600}, {5000, 40, 320, 350},
	} {
		t.Run(fmt.Sprintf("%d nodes in domains of %d", c.nodes, c.domain), func(t *testing.T) {
			s := Settings{Mesh: Auto, Threshold: 100, Clients: 100}
			nodes := rack(c.nodes+1, c.domain)
			before, after := nodes[:c.nodes], nodes
			self := before[0]
			began := time.Now()
			Links(s, self, before)
			took := time.Since(began)
			edges := whole(s, before)
			carried(t, before, edges)
			degree := map[string]int{}
			for e := range edges {
				degree[e.from]++
			}
			most, total := 0, len(edges)/2
			for _, n := range degree {
				most = max(most, n)
			}
			moved := 0
			grown := whole(s, after)
			for e := range grown {
				if _, there := edges[e]; !there {
					moved++
				}
			}
			for e := range edges {
				if _, there := grown[e]; !there {
					moved++
				}
			}
			t.Logf("%d sessions, at most %d a node; one node more begins or ends %d; one node's links in %s", total, most, moved/2, took)
			if most > c.most {
				t.Errorf("a node has %d sessions", most)
			}
			if moved/2 > c.moved {
				t.Errorf("one node more moves %d sessions", moved/2)
			}
		})
	}
}

// whole is all nodes' links, from one election: every node's own would come to the same, in 5000 times the time.
func whole(s Settings, nodes []policy.Node) map[edge]Role {
	r := rolesOf(s, nodes[0], nodes[1:])
	edges := map[edge]Role{}
	if !r.reflect {
		for _, a := range nodes {
			for _, b := range nodes {
				if a.Name != b.Name {
					edges[edge{a.Name, b.Name}] = Equal
				}
			}
		}
		return edges
	}
	for _, a := range nodes {
		for name := range r.reflectorsOf(a) {
			edges[edge{a.Name, name}], edges[edge{name, a.Name}] = Reflector, Client
		}
		if r.isOne[a.Name] {
			for name := range r.isOne {
				if name != a.Name {
					edges[edge{a.Name, name}] = CoReflector
				}
			}
		}
	}
	return edges
}

// A node that is being drained hands its clients over, as long as others can serve.
func TestLeavingNodesDoNotReflect(t *testing.T) {
	nodes := rack(20, 0)
	s := Settings{Mesh: Auto, Threshold: 10, Clients: 100}
	one := ""
	for e, role := range whole(s, nodes) {
		if role == Client {
			one = e.from
		}
	}
	for i := range nodes {
		nodes[i].Leaving = nodes[i].Name == one
	}
	for e, role := range whole(s, nodes) {
		if e.from == one && role != Reflector {
			t.Fatalf("%s leaves and is still %v to %s", one, role, e.to)
		}
	}
	for i := range nodes {
		nodes[i].Leaving = true
	}
	carried(t, nodes, whole(s, nodes))
}
