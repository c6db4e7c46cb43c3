package topology

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
)

// Mesh is how nodes peer with each other.
type Mesh int

// The meshes.
const (
	Auto       Mesh = iota // among nodes that are on-link to each other; where they are many, by reflectors
	Full                   // among all
	Reflectors             // all nodes with two of those that are named
	None
)

// Settings are how nodes peer with each other.
type Settings struct {
	Mesh      Mesh
	Threshold int // Auto: more nodes than this in one subnet reflect
	Clients   int // Auto: about so many clients a reflector
}

// Role is what the other end of a link is.
type Role uint8

// The roles.
const (
	Equal       Role = iota // each tells its own alone
	Client                  // of ours
	Reflector               // that we are a client of
	CoReflector             // as we are
)

// Link is one session of the mesh, as one of its ends sees it.
type Link struct {
	Node          policy.Node // the other end
	Local, Remote netip.Addr  // of one family
	OnLink        bool        // both are in one subnet of that family
	Families      []route.Family
	Role          Role
}

// Links lists the sessions of one node with the others, by their names. Both ends find the same addresses: the session
// runs over IPv4 where both have it, else over IPv6, and in Auto over the first family in which they are on-link. It
// carries the families that both have an address of. The node itself among the others is left out, and so is a node
// that has an address of this one (a machine that was cloned or renamed): nobody can have a session with himself.
func Links(settings Settings, self policy.Node, others []policy.Node) []Link {
	if settings.Mesh == None {
		return nil
	}
	others = slices.DeleteFunc(slices.Clone(others), func(n policy.Node) bool { return n.Name == self.Name })
	roles := rolesOf(settings, self, others)
	var links []Link
	for _, other := range others {
		role, wanted := roles.with(other)
		if !wanted || sharesAddress(self, other) {
			continue
		}
		if link, ok := between(settings.Mesh, self, other); ok {
			link.Role = role
			links = append(links, link)
		}
	}
	slices.SortFunc(links, func(a, b Link) int { return strings.Compare(a.Node.Name, b.Node.Name) })
	return links
}

func between(mesh Mesh, self, other policy.Node) (Link, bool) {
	var shared []pair
	for _, is4 := range []bool{true, false} {
		if found, ok := pairOf(self, other, is4); ok {
			shared = append(shared, found)
		}
	}
	over := slices.IndexFunc(shared, func(p pair) bool { return mesh != Auto || p.onLink })
	if over < 0 {
		return Link{}, false
	}
	link := Link{Node: other, Local: shared[over].local, Remote: shared[over].remote, OnLink: shared[over].onLink}
	for _, p := range shared {
		link.Families = append(link.Families, p.family)
	}
	return link, true
}

type pair struct {
	family        route.Family
	local, remote netip.Addr
	onLink        bool
}

func pairOf(self, other policy.Node, is4 bool) (pair, bool) {
	local, ok := prefixOf(self, is4)
	remote, alsoOK := prefixOf(other, is4)
	if !ok || !alsoOK {
		return pair{}, false
	}
	return pair{route.FamilyOf(local), local.Addr(), remote.Addr(), OnLink(local, remote)}, true
}

func prefixOf(node policy.Node, is4 bool) (netip.Prefix, bool) {
	for _, prefix := range node.Addresses {
		if prefix.Addr().Is4() == is4 {
			return prefix, true
		}
	}
	return netip.Prefix{}, false
}

// OnLink tells whether two interface addresses are in one subnet. A host prefix (/32, /128) is a subnet of nobody
// else.
func OnLink(a, b netip.Prefix) bool {
	return a.Masked() == b.Masked() && !a.IsSingleIP()
}

func sharesAddress(a, b policy.Node) bool {
	for _, one := range a.Addresses {
		for _, other := range b.Addresses {
			if one.Addr() == other.Addr() {
				return true
			}
		}
	}
	return false
}
