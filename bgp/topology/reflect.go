package topology

import (
	"cmp"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"github.com/clearway/clearway/bgp/policy"
)

// Each client has two reflectors, so that one may go. A failure domain of fewer nodes than smallDomain has no reflectors of
// its own but shares them with others like it: else there would be almost as many reflectors as nodes.
const (
	reflectorsPerClient = 2
	smallDomain         = 32
)

// roles are who reflects among the nodes that one node has to do with.
type roles struct {
	self       policy.Node
	reflect    bool            // the node's group reflects; else it meshes
	inGroup    map[string]bool // nodes of the group, by name
	reflectors map[string][]policy.Node
	domainOf   map[string]string
	isOne      map[string]bool
	mine       map[string]bool // reflectors that self is a client of
}

func rolesOf(settings Settings, self policy.Node, others []policy.Node) *roles {
	r := &roles{self: self, inGroup: map[string]bool{}}
	group := []policy.Node{self}
	for _, other := range others {
		if other.ASN != self.ASN {
			continue // routes are reflected within an AS
		}
		if settings.Mesh == Reflectors || settings.Mesh == Auto && subnetOf(other).IsValid() && subnetOf(other) == subnetOf(self) {
			group = append(group, other)
		}
	}
	r.reflect = settings.Mesh == Reflectors || settings.Mesh == Auto && len(group) > settings.Threshold
	if !r.reflect {
		return r
	}
	for _, node := range group {
		r.inGroup[node.Name] = true
	}
	r.elect(settings, group)
	r.mine = r.reflectorsOf(self)
	return r
}

// subnetOf is the subnet by which a node belongs to a group: of IPv4 where it has one, else of IPv6; invalid for a node that
// is on a link with nobody.
func subnetOf(node policy.Node) netip.Prefix {
	for _, is4 := range []bool{true, false} {
		if prefix, ok := prefixOf(node, is4); ok && !prefix.IsSingleIP() {
			return prefix.Masked()
		}
	}
	return netip.Prefix{}
}

// elect finds the reflectors of each domain.
func (r *roles) elect(settings Settings, group []policy.Node) {
	r.domainOf, r.isOne, r.reflectors = domains(settings, group), map[string]bool{}, map[string][]policy.Node{}
	members := map[string][]policy.Node{}
	for _, node := range group {
		domain := r.domainOf[node.Name]
		members[domain] = append(members[domain], node)
	}
	for domain, nodes := range members {
		var chosen []policy.Node
		if settings.Mesh == Reflectors {
			chosen = slices.DeleteFunc(slices.Clone(nodes), func(n policy.Node) bool { return !n.Reflector })
		} else {
			chosen = heaviest(domain, staying(nodes), max(reflectorsPerClient, (reflectorsPerClient*len(nodes)+settings.Clients-1)/settings.Clients))
		}
		r.reflectors[domain] = chosen
		for _, node := range chosen {
			r.isOne[node.Name] = true
		}
	}
}

// domains is each node's domain. Named reflectors serve all.
func domains(settings Settings, group []policy.Node) map[string]string {
	of, size := map[string]string{}, map[string]int{}
	for _, node := range group {
		size[node.Domain]++
	}
	for _, node := range group {
		if settings.Mesh != Reflectors && size[node.Domain] >= smallDomain {
			of[node.Name] = node.Domain
		} else {
			of[node.Name] = ""
		}
	}
	return of
}

// staying leaves out nodes that are being drained, unless too few were left.
func staying(nodes []policy.Node) []policy.Node {
	stay := slices.DeleteFunc(slices.Clone(nodes), func(n policy.Node) bool { return n.Leaving })
	if len(stay) < reflectorsPerClient {
		return nodes
	}
	return stay
}

// heaviest are the n nodes with the greatest weights under a key (rendezvous hashing).
func heaviest(key string, nodes []policy.Node, n int) []policy.Node {
	type weighed struct {
		node   policy.Node
		weight uint64
	}
	list := make([]weighed, len(nodes))
	for i, node := range nodes {
		list[i] = weighed{node, weight(key, node.Name)}
	}
	slices.SortFunc(list, func(a, b weighed) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), strings.Compare(a.node.Name, b.node.Name))
	})
	chosen := make([]policy.Node, 0, n)
	for _, one := range list[:min(n, len(list))] {
		chosen = append(chosen, one.node)
	}
	return chosen
}

// weight is a hash of two names; FNV's own low bits depend on few of theirs, so they are mixed (MurmurHash3's last step).
func weight(key, name string) uint64 {
	hash := fnv.New64a()
	hash.Write([]byte(key))
	hash.Write([]byte{0})
	hash.Write([]byte(name))
	w := hash.Sum64()
	w ^= w >> 33
	w *= 0xff51afd7ed558ccd
	w ^= w >> 33
	w *= 0xc4ceb9fe1a85ec53
	return w ^ w>>33
}

// reflectorsOf are those that a node is a client of; none for a reflector.
func (r *roles) reflectorsOf(node policy.Node) map[string]bool {
	if r.isOne[node.Name] {
		return nil
	}
	names := map[string]bool{}
	for _, one := range heaviest(node.Name, r.reflectors[r.domainOf[node.Name]], reflectorsPerClient) {
		names[one.Name] = true
	}
	return names
}

// with tells what another node is to this one, and whether there is a session.
func (r *roles) with(other policy.Node) (role Role, wanted bool) {
	if !r.reflect || !r.inGroup[other.Name] {
		return Equal, true
	}
	switch {
	case r.isOne[r.self.Name] && r.isOne[other.Name]:
		return CoReflector, true
	case r.isOne[r.self.Name]:
		return Client, r.reflectorsOf(other)[r.self.Name]
	}
	return Reflector, r.mine[other.Name]
}
