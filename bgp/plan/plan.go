package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/fleet"
	"github.com/clearway/clearway/bgp/route"
)

// Limits are what a configuration should not pass.
type Limits struct {
	// MaxPrefixes is how many prefixes of a family a node may tell one peer, as the router has it; 0: any number.
	MaxPrefixes int
	// MaxMesh is how many sessions of the node mesh one node may have; 0: any number.
	MaxMesh int
}

// Plan is what a change does to BGP.
type Plan struct {
	// Nodes are those on which anything changes, by name.
	Nodes []Node `json:"nodes"`
	Added int    `json:"added"`
	Gone  int    `json:"removed"`
	Reset int    `json:"reset"`
	Kept  int    `json:"kept"` // sessions that change and stay Established
	Same  int    `json:"unchanged"`
	// Limits are those that are passed and were not before.
	Limits []string `json:"limits,omitempty"`
	// Problems are what could not be done as it is written, and could before or was not asked for.
	Problems []string `json:"problems,omitempty"`
}

// Node is what changes on one node.
type Node struct {
	Node     string    `json:"node"`
	Sessions []Session `json:"sessions,omitempty"`
	// Ways is in how many sessions a family's blocks are told, at the least, where that changes.
	Ways []Ways `json:"ways,omitempty"`
}

// Ways counts the sessions in which a node's blocks of a family are told: the roads that others have to them.
type Ways struct {
	Family string `json:"family"`
	Before int    `json:"before"`
	After  int    `json:"after"`
}

// Session is what becomes of one session.
type Session struct {
	Peer   string        `json:"peer"`
	Origin string        `json:"origin"`
	Effect config.Effect `json:"effect"`
	// Forcing are the fields that a reset is for; Later those that the present session does not take over.
	Forcing []string `json:"forcing,omitempty"`
	Later   []string `json:"later,omitempty"`
	// Gained and Lost are the prefixes that the peer is told, or told no more; Changed those told with other attributes.
	Gained  []netip.Prefix `json:"gained,omitempty"`
	Lost    []netip.Prefix `json:"lost,omitempty"`
	Changed []netip.Prefix `json:"changed,omitempty"`
}

// Disturbs tells whether anything would end, be passed or be cut off: a session begins anew or goes, a limit is passed,
// or a node's blocks are told to nobody any more.
func (p Plan) Disturbs() bool {
	return p.Reset > 0 || p.Gone > 0 || len(p.Limits) > 0 || len(p.Problems) > 0
}

// Compare foretells what the step from one fleet to another does.
func Compare(before, after *fleet.Fleet, limits Limits) Plan {
	plan := Plan{Nodes: []Node{}}
	had := map[string]fleet.Plan{}
	for _, one := range before.Build() {
		had[one.Node.GetMetadata().GetName()] = one
	}
	for _, is := range after.Build() {
		name := is.Node.GetMetadata().GetName()
		was := had[name]
		delete(had, name)
		plan.compareNode(name, was, is, limits)
	}
	for name, was := range had {
		plan.compareNode(name, was, fleet.Plan{}, limits)
	}
	slices.SortFunc(plan.Nodes, func(a, b Node) int { return cmp.Compare(a.Node, b.Node) })
	return plan
}

func (p *Plan) compareNode(name string, was, is fleet.Plan, limits Limits) {
	node := Node{Node: name}
	changed := map[netip.Addr]config.SessionChange{}
	for _, change := range config.SessionChanges(was.Desired, is.Desired) {
		changed[change.Address] = change
	}
	for _, address := range addresses(was.Desired, is.Desired) {
		before, after := neighbor(was.Desired, address), neighbor(is.Desired, address)
		session := Session{Peer: address.String(), Origin: cmp.Or(after.Origin, before.Origin), Effect: config.SessionKept}
		change, differs := changed[address]
		if differs {
			session.Effect, session.Forcing, session.Later = change.Effect, change.Forcing, change.Later
		}
		session.compareTold(told(before, was.Desired), told(after, is.Desired))
		if !differs && len(session.Gained)+len(session.Lost)+len(session.Changed) == 0 {
			p.Same++
			continue
		}
		p.count(session.Effect)
		node.Sessions = append(node.Sessions, session)
	}
	node.Ways = p.compareWays(name, was.Desired, is.Desired)
	p.passed(name, was.Desired, is.Desired, limits)
	for _, problem := range is.Problems {
		if !slices.Contains(was.Problems, problem) {
			p.Problems = append(p.Problems, fmt.Sprintf("node %s: %s: %s", name, problem.Regarding, problem.Message))
		}
	}
	if len(node.Sessions)+len(node.Ways) > 0 {
		p.Nodes = append(p.Nodes, node)
	}
}

func (p *Plan) count(effect config.Effect) {
	switch effect {
	case config.SessionAdded:
		p.Added++
	case config.SessionRemoved:
		p.Gone++
	case config.SessionReset:
		p.Reset++
	default:
		p.Kept++
	}
}

// addresses are those of both, ascending.
func addresses(before, after config.Desired) []netip.Addr {
	var all []netip.Addr
	for _, n := range slices.Concat(before.Neighbors, after.Neighbors) {
		all = append(all, n.Address)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

func neighbor(desired config.Desired, address netip.Addr) config.Neighbor {
	for _, n := range desired.Neighbors {
		if n.Address == address {
			return n
		}
	}
	return config.Neighbor{}
}

// how a prefix is told.
type how struct {
	told config.Told
	next netip.Addr
}

// told is what a neighbour is told, and how.
func told(n config.Neighbor, desired config.Desired) map[netip.Prefix]how {
	all := map[netip.Prefix]how{}
	for _, a := range desired.Advertise {
		family := route.FamilyOf(a.Prefix)
		if !slices.Contains(n.Families, family) {
			continue
		}
		accept, as := n.Tell(desired.Global, a)
		if accept {
			all[a.Prefix] = how{as, n.NextHop(family)}
		}
	}
	return all
}

func (s *Session) compareTold(before, after map[netip.Prefix]how) {
	for prefix, now := range after {
		switch was, had := before[prefix]; {
		case !had:
			s.Gained = append(s.Gained, prefix)
		case !reflect.DeepEqual(was, now):
			s.Changed = append(s.Changed, prefix)
		}
	}
	for prefix := range before {
		if _, has := after[prefix]; !has {
			s.Lost = append(s.Lost, prefix)
		}
	}
	for _, list := range [][]netip.Prefix{s.Gained, s.Lost, s.Changed} {
		slices.SortFunc(list, netip.Prefix.Compare)
	}
}

// compareWays counts the roads to a node's blocks; a block that nobody is told of any more is a limit of its own.
func (p *Plan) compareWays(name string, was, is config.Desired) []Ways {
	var all []Ways
	for _, family := range []route.Family{route.IPv4, route.IPv6} {
		before, after := ways(was, family), ways(is, family)
		if before == after || before < 0 && after < 0 {
			continue
		}
		all = append(all, Ways{fmt.Sprintf("IPv%d", family), max(0, before), max(0, after)})
		if after == 0 && before > 0 {
			p.Limits = append(p.Limits, fmt.Sprintf("node %s: a block of IPv%d would be told to nobody any more; it is told in %d sessions now",
				name, family, before))
		}
	}
	return all
}

// ways is the least number of sessions in which a block of the family is told; -1: there is no block.
func ways(desired config.Desired, family route.Family) int {
	count := map[netip.Prefix]int{}
	for _, a := range desired.Advertise {
		if route.FamilyOf(a.Prefix) == family {
			count[a.Prefix] = 0
		}
	}
	for _, n := range desired.Neighbors {
		for prefix := range told(n, desired) {
			if route.FamilyOf(prefix) == family {
				count[prefix]++
			}
		}
	}
	least := -1
	for _, sessions := range count {
		if least < 0 || sessions < least {
			least = sessions
		}
	}
	return least
}

// passed names the limits that are passed now and were not before.
func (p *Plan) passed(name string, was, is config.Desired, limits Limits) {
	if most := limits.MaxMesh; most > 0 && mesh(is) > most && mesh(was) <= most {
		p.Limits = append(p.Limits, fmt.Sprintf("node %s: the node mesh would have %d sessions, more than %d", name, mesh(is), most))
	}
	if limits.MaxPrefixes <= 0 {
		return
	}
	for _, n := range is.Neighbors {
		before := families(told(neighbor(was, n.Address), was))
		for family, count := range families(told(n, is)) {
			if count > limits.MaxPrefixes && before[family] <= limits.MaxPrefixes {
				p.Limits = append(p.Limits, fmt.Sprintf("node %s: %s (%s) would be told %d prefixes of IPv%d, more than %d",
					name, n.Address, n.Origin, count, family, limits.MaxPrefixes))
			}
		}
	}
}

func mesh(desired config.Desired) int {
	count := 0
	for _, n := range desired.Neighbors {
		if n.MeshNode != "" {
			count++
		}
	}
	return count
}

func families(told map[netip.Prefix]how) map[route.Family]int {
	count := map[route.Family]int{}
	for prefix := range told {
		count[route.FamilyOf(prefix)]++
	}
	return count
}
