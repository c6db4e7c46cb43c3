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
// and of the prefixes of BGPConfiguration that hold it; the addresses of Services besides with their own. What cannot be read
// was refused when it was applied, and is left out.
func Advertise(snapshot *clearwayv1.NodeSnapshot, blocks []netip.Prefix, services []ServicePrefix) []route.Advertisement {
	communities := communitiesByPrefix(snapshot)
	aggregates := Originated(snapshot, blocks, services)
	list := make([]route.Advertisement, 0, len(blocks)+len(services)+len(aggregates))
	add := func(prefix netip.Prefix, source route.Source, own []route.CommunityMatch) {
		told := communities.and(prefix, own).of(prefix, source)
		for _, one := range aggregates {
			if one.Alone && policy.Within(prefix, one.Prefix) {
				told.CoveredBy = one.Prefix
			}
		}
		list = append(list, told)
	}
	for _, block := range blocks {
		add(block, sourceOf(snapshot, block), nil)
	}
	for _, one := range services {
		add(one.Prefix, route.SourceVIP, one.Communities)
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

// ServicePrefix is an address of a Service that a node tells.
type ServicePrefix struct {
	Prefix      netip.Prefix
	Communities []route.CommunityMatch
}

// excludeLabel on a Node keeps it from telling of Services: what Kubernetes has for machines that load balancers must not use.
const excludeLabel = "node.kubernetes.io/exclude-from-external-load-balancers"

// Services are the addresses of Services that a node tells, ascending: of those with endpoints on it, by its snapshot, and of
// those that every node tells of. An address that several share is told as the first of them by name has it.
func Services(snapshot *clearwayv1.NodeSnapshot, everywhere []*clearwayv1.ServiceEntry) []ServicePrefix {
	labels := snapshot.GetNode().GetStatus().GetLabels()
	spec := snapshot.GetBgpConfiguration().GetSpec().GetServices()
	if _, excluded := labels[excludeLabel]; excluded || !Selects(spec.GetNodeSelector(), labels) {
		return nil
	}
	closed := map[string]bool{} // pools that are not for this node
	for _, pool := range snapshot.GetPools() {
		closed[pool.GetMetadata().GetName()] = !Selects(pool.GetSpec().GetNodeSelector(), labels)
	}
	first := map[netip.Addr]*clearwayv1.ServiceEntry{}
	for _, list := range [][]*clearwayv1.ServiceEntry{snapshot.GetServices(), everywhere} {
		for _, entry := range list {
			for _, one := range entry.GetAddresses() {
				addr, err := netip.ParseAddr(one.GetAddress())
				if err != nil || closed[one.GetPool()] || first[addr] != nil && first[addr].GetName() < entry.GetName() {
					continue
				}
				first[addr] = entry
			}
		}
	}
	told := make([]ServicePrefix, 0, len(first))
	for addr, entry := range first {
		if communities, faults := policy.ParseCommunities("", entry.GetCommunities(), false); len(faults) == 0 {
			told = append(told, ServicePrefix{netip.PrefixFrom(addr, addr.BitLen()), communities})
		}
	}
	slices.SortFunc(told, func(a, b ServicePrefix) int { return a.Prefix.Compare(b.Prefix) })
	return told
}

// ServiceSpace is where addresses of Services may be: the pools of kind LoadBalancer, and what BGPConfiguration allows to be
// told of Services.
func ServiceSpace(snapshot *clearwayv1.NodeSnapshot) []netip.Prefix {
	var texts []string
	for _, pool := range snapshot.GetPools() {
		if pool.GetSpec().GetKind() == "LoadBalancer" {
			texts = append(texts, pool.GetSpec().GetCidr())
		}
	}
	services := snapshot.GetBgpConfiguration().GetSpec().GetServices()
	texts = slices.Concat(texts, services.GetLoadBalancerIps(), services.GetExternalIps(), services.GetClusterIps())
	var space []netip.Prefix
	for _, text := range texts {
		if prefix, why := policy.ParsePrefix(text); why == "" && prefix.Bits() > 0 {
			space = append(space, prefix)
		}
	}
	return space
}

// Originated are the aggregates that a node with these blocks tells: those that select it and hold one of its blocks, or an
// address of a Service that it tells, which is not the aggregate itself.
func Originated(snapshot *clearwayv1.NodeSnapshot, blocks []netip.Prefix, services []ServicePrefix) []OriginatedAggregate {
	var list []OriginatedAggregate
	for _, spec := range snapshot.GetBgpConfiguration().GetSpec().GetOriginatedAggregates() {
		prefix, why := policy.ParsePrefix(spec.GetCidr())
		communities, faults := policy.ParseCommunities("", spec.GetCommunities(), false)
		holds := func(block netip.Prefix) bool { return block != prefix && policy.Within(block, prefix) }
		if why != "" || len(faults) > 0 || !slices.ContainsFunc(blocks, holds) &&
			!slices.ContainsFunc(services, func(one ServicePrefix) bool { return holds(one.Prefix) }) || slices.Contains(blocks, prefix) ||
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

// and adds communities that one prefix has of itself.
func (all allCommunities) and(prefix netip.Prefix, own []route.CommunityMatch) allCommunities {
	if len(own) == 0 {
		return all
	}
	return append(slices.Clip(all), prefixCommunities{prefix, own})
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
