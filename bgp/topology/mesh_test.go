package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
)

func nodeOf(name string, addresses ...string) policy.Node {
	n := policy.Node{Name: name}
	for _, text := range addresses {
		n.Addresses = append(n.Addresses, netip.MustParsePrefix(text))
	}
	return n
}

func TestLinks(t *testing.T) {
	self := nodeOf("a", "192.0.2.1/24", "2001:db8::1/64")
	for _, c := range []struct {
		name  string
		mesh  Mesh
		other policy.Node
		want  string
	}{
		{"on-link, both families", Auto, nodeOf("b", "192.0.2.2/24", "2001:db8::2/64"), "192.0.2.1-192.0.2.2 [4 6]"},
		{"on-link in IPv6 alone", Auto, nodeOf("b", "198.51.100.2/24", "2001:db8::2/64"), "2001:db8::1-2001:db8::2 [4 6]"},
		{"IPv6 alone", Auto, nodeOf("b", "2001:db8::2/64"), "2001:db8::1-2001:db8::2 [6]"},
		{"another subnet", Auto, nodeOf("b", "198.51.100.2/24"), ""},
		{"another subnet, Full", Full, nodeOf("b", "198.51.100.2/24"), "192.0.2.1-198.51.100.2 [4]"},
		{"another prefix length", Auto, nodeOf("b", "192.0.2.2/25"), ""},
		{"nothing shared", Full, nodeOf("b"), ""},
		{"None", None, nodeOf("b", "192.0.2.2/24"), ""},
		{"the node itself", Full, nodeOf("a", "192.0.2.2/24"), ""},
		{"our address", Full, nodeOf("b", "192.0.2.1/24"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			for _, link := range Links(Settings{Mesh: c.mesh, Threshold: 100, Clients: 100}, self, []policy.Node{c.other}) {
				got = fmt.Sprintf("%s-%s %v", link.Local, link.Remote, link.Families)
			}
			if got != c.want {
				t.Errorf("%q, not %q", got, c.want)
			}
		})
	}
	host := Links(Settings{Threshold: 100}, nodeOf("a", "192.0.2.1/32"), []policy.Node{nodeOf("b", "192.0.2.1/32"), nodeOf("c", "192.0.2.2/32")})
	if len(host) != 0 {
		t.Errorf("host prefixes are on-link to nobody: %v", host)
	}
}

// Both ends of each session see the same session, once; and nodes of one subnet are connected.
func TestMeshIsSymmetricAndConnected(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mesh := rapid.SampledFrom([]Mesh{Auto, Full, None}).Draw(t, "mesh")
		var nodes []policy.Node
		for i := range rapid.IntRange(1, 12).Draw(t, "nodes") {
			n := policy.Node{Name: fmt.Sprintf("n%d", i)}
			if subnet := rapid.IntRange(0, 2).Draw(t, "subnet4"); subnet > 0 {
				n.Addresses = append(n.Addresses, netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/24", subnet, i+1)))
			}
			if subnet := rapid.IntRange(0, 2).Draw(t, "subnet6"); subnet > 0 {
				n.Addresses = append(n.Addresses, netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::%d/64", subnet, i+1)))
			}
			nodes = append(nodes, n)
		}
		seen := map[[2]netip.Addr][]route.Family{}
		pairs := map[[2]string]int{}
		for _, self := range nodes {
			for _, link := range Links(Settings{Mesh: mesh, Threshold: 100, Clients: 100}, self, nodes) {
				seen[[2]netip.Addr{link.Local, link.Remote}] = link.Families
				pairs[[2]string{self.Name, link.Node.Name}]++
			}
		}
		for pair, families := range seen {
			if back := seen[[2]netip.Addr{pair[1], pair[0]}]; !slices.Equal(back, families) {
				t.Fatalf("%v carries %v there and %v back", pair, families, back)
			}
		}
		for _, a := range nodes {
			for _, b := range nodes {
				want := 0
				if a.Name != b.Name && mesh != None && slow(mesh, a, b) {
					want = 1
				}
				if got := pairs[[2]string{a.Name, b.Name}]; got != want {
					t.Fatalf("%v and %v have %d sessions, not %d", a, b, got, want)
				}
			}
		}
	})
}

// slow is the rule as a sentence has it: some address of the one and some of the other, of a family; and for Auto, in
// one subnet.
func slow(mesh Mesh, a, b policy.Node) bool {
	for _, x := range a.Addresses {
		for _, y := range b.Addresses {
			if x.Addr().Is4() == y.Addr().Is4() && (mesh == Full || x.Masked() == y.Masked()) {
				return true
			}
		}
	}
	return false
}
