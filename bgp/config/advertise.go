package config

import (
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Advertise is what a node with these blocks tells its peers, before export filters: each with the communities of its pool,
// and of the prefixes of BGPConfiguration that hold it. What cannot be read was refused when it was applied, and is left out.
func Advertise(snapshot *clearwayv1.NodeSnapshot, blocks []netip.Prefix) []route.Advertisement {
	communities := communitiesByPrefix(snapshot)
	aggregates := Originated(snapshot, blocks)
	list := make([]route.Advertisement, 0, len(blocks)+len(aggregates))
	for _, block := range blocks {
		told := communities.of(block, sourceOf(snapshot, block))
		for _, one := range aggregates {
			if one.Alone && policy.Within(block, one.Prefix) {
				told.CoveredBy = one.Prefix
			}
		}
		list = append(list, told)
	}
	for _, one := range aggregates {
		list = append(list, allCommunities{{one.Prefix, one.Communities}}.of(one.Prefix, route.SourceAggregate))
	}
	slices.SortFunc(list, func(a, b route.Advertisement) int { return a.Prefix.Compare(b.Prefix) })
	return list
}

// sourceOf tells a node's block from an address of a Floating pool, which is a block of one address.
func sourceOf(snapshot *clearwayv1.NodeSnapshot, block netip.Prefix) route.Source {
	for _, pool := range snapshot.GetPools() {
		prefix, why := policy.ParsePrefix(pool.GetSpec().GetCidr())
		if why == "" && pool.GetSpec().GetKind() == "Floating" && policy.Within(block, prefix) {
			return route.SourceFloating
		}
	}
	return route.SourceOwn
}

// OriginatedAggregate is an aggregate that a node tells.
type OriginatedAggregate struct {
	Prefix      netip.Prefix
	Alone       bool // without the blocks in it
	Communities []route.CommunityMatch
}

// Originated are the aggregates that a node with these blocks tells: those that select it and hold one of its blocks, which
// is not the aggregate itself.
func Originated(snapshot *clearwayv1.NodeSnapshot, blocks []netip.Prefix) []OriginatedAggregate {
	var list []OriginatedAggregate
	for _, spec := range snapshot.GetBgpConfiguration().GetSpec().GetOriginatedAggregates() {
		prefix, why := policy.ParsePrefix(spec.GetCidr())
		communities, faults := policy.ParseCommunities("", spec.GetCommunities(), false)
		holds := func(block netip.Prefix) bool { return block != prefix && policy.Within(block, prefix) }
		if why != "" || len(faults) > 0 || !slices.ContainsFunc(blocks, holds) || slices.Contains(blocks, prefix) ||
			!Selects(spec.GetNodeSelector(), snapshot.GetNode().GetStatus().GetLabels()) {
			continue
		}
		list = append(list, OriginatedAggregate{prefix, spec.GetWithoutSpecifics(), communities})
	}
	return list
}

// Selects tells whether a standard selector takes these labels; absent and empty take all. One that would not have been
// accepted takes none.
func Selects(selector *clearwayv1.LabelSelector, of map[string]string) bool {
	set := labels.Set(of)
	for key, value := range selector.GetMatchLabels() {
		if !set.Has(key) || set.Get(key) != value {
			return false
		}
	}
	for _, expression := range selector.GetMatchExpressions() {
		operator, known := operators[expression.GetOperator()]
		requirement, err := labels.NewRequirement(expression.GetKey(), operator, expression.GetValues())
		if !known || err != nil || !requirement.Matches(set) {
			return false
		}
	}
	return true
}

// prefixCommunities are communities of what lies in a prefix.
type prefixCommunities struct {
	prefix netip.Prefix
	list   []route.CommunityMatch
}

type allCommunities []prefixCommunities

func communitiesByPrefix(snapshot *clearwayv1.NodeSnapshot) allCommunities {
	var all allCommunities
	add := func(cidr string, texts []string) {
		prefix, why := policy.ParsePrefix(cidr)
		list, faults := policy.ParseCommunities("", texts, false)
		if why == "" && len(faults) == 0 && len(list) > 0 {
			all = append(all, prefixCommunities{prefix, list})
		}
	}
	for _, pool := range snapshot.GetPools() {
		add(pool.GetSpec().GetCidr(), pool.GetSpec().GetCommunities())
	}
	for _, item := range snapshot.GetBgpConfiguration().GetSpec().GetPrefixCommunities() {
		add(item.GetCidr(), item.GetCommunities())
	}
	return all
}

func (all allCommunities) of(prefix netip.Prefix, source route.Source) route.Advertisement {
	path := &route.Path{}
	for _, item := range all {
		if policy.Within(prefix, item.prefix) {
			policy.WithCommunities(path, path.Communities, path.Large(), item.list)
		}
	}
	return route.Advertisement{Prefix: prefix, Source: source, Communities: path.Communities, LargeCommunities: path.Large()}
}
