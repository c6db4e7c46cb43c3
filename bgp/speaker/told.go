package speaker

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/api"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// What a neighbour is told otherwise than by default is written into the export policy: prefix by prefix, as
// config.SetExports computed it. GoBGP evaluates no filter of ours. Its own paths carry nothing that a neighbour may not
// get: not even communities, by which GoBGP would decide itself (NO_EXPORT).

// statements collects statements of the export policy; those that differ in their neighbours alone become one.
type statements struct {
	request *api.SetPoliciesRequest
	list    []*api.Statement
	byWhat  map[string]*api.DefinedSet // the neighbours of a statement, by what it does
}

// audience are those to whom one set of exports goes: a neighbour, or who calls from a range.
type audience struct {
	config.Neighbor
	member string // as GoBGP's sets have it
}

// audiences: a link-local neighbour is one on all its interfaces, since GoBGP compares addresses without zones.
func audiences(desired config.Desired) []audience {
	all := make([]audience, 0, len(desired.Neighbors)+len(desired.Ranges))
	for _, n := range desired.Neighbors {
		all = append(all, audience{n, netip.PrefixFrom(n.Address.WithZone(""), n.Address.BitLen()).String()})
	}
	for _, r := range desired.Ranges {
		all = append(all, audience{r.Session, r.Prefix.String()})
	}
	return all
}

// say adds a statement for some prefixes of one audience.
func (s *statements) say(n audience, what string, prefixes []netip.Prefix, actions func(route.Family) *api.Actions) {
	for _, family := range []route.Family{route.IPv4, route.IPv6} {
		matches := exactly(prefixes, family)
		if len(matches) == 0 {
			continue
		}
		key := fmt.Sprintf("IPv%d %s %v", family, what, prefixes)
		if set := s.byWhat[key]; set != nil {
			set.List = append(set.List, n.member)
			continue
		}
		name := fmt.Sprintf("told %d", len(s.byWhat)+1)
		neighbors := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: "whom " + name, List: []string{n.member}}
		s.byWhat[key] = neighbors
		s.request.DefinedSets = append(s.request.DefinedSets, neighbors,
			&api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_PREFIX, Name: "what " + name, Prefixes: matches})
		s.list = append(s.list, &api.Statement{
			Name: name,
			Conditions: &api.Conditions{
				NeighborSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: "whom " + name},
				PrefixSet:   &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: "what " + name},
			},
			Actions: actions(family),
		})
	}
}

func exactly(prefixes []netip.Prefix, family route.Family) []*api.Prefix {
	var matches []*api.Prefix
	for _, prefix := range prefixes {
		if route.FamilyOf(prefix) == family {
			bits := uint32(prefix.Bits())
			matches = append(matches, &api.Prefix{IpPrefix: prefix.String(), MaskLengthMin: bits, MaskLengthMax: bits})
		}
	}
	return matches
}

// tell writes all that neighbours are told otherwise than by default.
func tell(request *api.SetPoliciesRequest, desired config.Desired) []*api.Statement {
	neighbors := audiences(desired)
	s := &statements{request: request, byWhat: map[string]*api.DefinedSet{}}
	zero := lastChoices(desired)
	for _, n := range neighbors {
		if restored := restored(n.Neighbor, zero); len(restored) > 0 {
			s.say(n, "restore", restored, func(route.Family) *api.Actions {
				return &api.Actions{LocalPref: &api.LocalPrefAction{Value: usualLocalPref}}
			})
		}
	}
	for _, n := range neighbors {
		for _, told := range n.Told {
			what := fmt.Sprintf("%s by %d", told, n.LocalASN)
			s.say(n, what, told.Prefixes, func(route.Family) *api.Actions { return actionsOf(n.Neighbor, told) })
		}
	}
	return s.list
}

// usualLocalPref is what GoBGP gives a path that has none.
const usualLocalPref = 100

// lastChoices are the prefixes that some peer is told with a local preference of 0. GoBGP's policies cannot set 0: its path
// has it then, and for other peers the policy sets what they are to get.
func lastChoices(desired config.Desired) map[netip.Prefix]bool {
	zero := map[netip.Prefix]bool{}
	for _, n := range audiences(desired) {
		for _, told := range n.Told {
			if told.LocalPref == 0 && !n.EBGP() {
				for _, prefix := range told.Prefixes {
					zero[prefix] = true
				}
			}
		}
	}
	return zero
}

// restored are the prefixes of which a peer must not get the 0 that another one gets, ascending.
func restored(n config.Neighbor, zero map[netip.Prefix]bool) []netip.Prefix {
	if n.EBGP() || len(zero) == 0 {
		return nil // it is not sent
	}
	kept := map[netip.Prefix]bool{}
	for _, told := range n.Told {
		if told.LocalPref == 0 {
			for _, prefix := range told.Prefixes {
				kept[prefix] = true
			}
		}
	}
	var list []netip.Prefix
	for prefix := range zero {
		if !kept[prefix] {
			list = append(list, prefix)
		}
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	return list
}

func actionsOf(n config.Neighbor, told config.Told) *api.Actions {
	actions := &api.Actions{}
	if len(told.Communities) > 0 {
		actions.Community = &api.CommunityAction{Type: api.CommunityAction_TYPE_REPLACE}
		for _, c := range told.Communities {
			actions.Community.Communities = append(actions.Community.Communities, fmt.Sprintf("%d:%d", c>>16, c&0xffff))
		}
	}
	if len(told.LargeCommunities) > 0 {
		actions.LargeCommunity = &api.CommunityAction{Type: api.CommunityAction_TYPE_REPLACE}
		for _, c := range told.LargeCommunities {
			actions.LargeCommunity.Communities = append(actions.LargeCommunity.Communities, c.String())
		}
	}
	if told.LocalPref != usualLocalPref && told.LocalPref != 0 {
		actions.LocalPref = &api.LocalPrefAction{Value: told.LocalPref}
	}
	if told.MED != 0 {
		actions.Med = &api.MedAction{Type: api.MedAction_TYPE_REPLACE, Value: int64(told.MED)}
	}
	if told.Prepend > 0 {
		actions.AsPrepend = &api.AsPrependAction{Asn: n.LocalASN, Repeat: uint32(told.Prepend)}
	}
	if told.NextHop.IsValid() {
		actions.Nexthop = &api.NexthopAction{Address: told.NextHop.String()}
	}
	return actions
}
