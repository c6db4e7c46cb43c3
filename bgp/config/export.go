package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
)

// defaultLocalPref is what a path without LOCAL_PREF has within the AS.
const defaultLocalPref = 100

// ExportSubject is an advertisement as the neighbour's export filters see it.
func (n Neighbor) ExportSubject(a route.Advertisement) policy.Subject {
	path := &route.Path{Prefix: a.Prefix, NextHop: n.NextHop(route.FamilyOf(a.Prefix)), LocalPref: defaultLocalPref}
	policy.WithCommunities(path, a.Communities, a.LargeCommunities, nil)
	return policy.Subject{Path: path, Source: a.Source, Peer: n.Session(), Export: true}
}

// SetExports computes what the neighbour is told of the advertisements, and how. SetNextHops goes before it.
func (n *Neighbor) SetExports(global Global, advertise []route.Advertisement) {
	n.Withhold, n.Told = nil, nil
	groups := map[string]int{}
	for _, a := range advertise {
		accept, told := n.Tell(global, a)
		switch {
		case !accept:
			n.Withhold = append(n.Withhold, a.Prefix)
			continue
		case told.isDefault():
			continue
		}
		key := fmt.Sprintf("%+v", told)
		at, known := groups[key]
		if !known {
			at = len(n.Told)
			groups[key] = at
			n.Told = append(n.Told, told)
		}
		n.Told[at].Prefixes = append(n.Told[at].Prefixes, a.Prefix)
	}
	slices.SortFunc(n.Withhold, netip.Prefix.Compare)
	for i := range n.Told {
		slices.SortFunc(n.Told[i].Prefixes, netip.Prefix.Compare)
	}
}

// Tell tells whether the neighbour is told an advertisement, and how; Prefixes is left empty.
func (n *Neighbor) Tell(global Global, a route.Advertisement) (accept bool, told Told) {
	subject := n.ExportSubject(a)
	outcome := n.Export.Evaluate(subject)
	told = Told{
		Communities: outcome.Path.Communities, LargeCommunities: outcome.Path.Large(),
		LocalPref: outcome.Path.LocalPref, MED: outcome.Path.MED, Prepend: outcome.Prepend,
	}
	if n.EBGP() {
		told.LocalPref = defaultLocalPref // it is not sent (RFC 4271 section 5.1.5)
	}
	if n.Leaving != nil {
		n.Leaving.mark(&told, n.EBGP())
	}
	own := global.NextHop(route.FamilyOf(a.Prefix))
	if outcome.NextHop == policy.NextHopKeep && own != subject.Path.NextHop {
		told.NextHop = own
	}
	return outcome.Accept && n.Why(a) == "", told
}

// Why is what keeps an advertisement from the neighbour beside its export filters, in words; empty: nothing.
func (n *Neighbor) Why(a route.Advertisement) string {
	switch {
	case n.Withdrawn:
		return "the drain is done"
	case a.CoveredBy.IsValid() && n.MeshNode == "":
		return fmt.Sprintf("the aggregate %s is told in its place", a.CoveredBy)
	case a.Source == route.SourceAggregate && n.MeshNode != "":
		return "nodes are told blocks, not aggregates"
	case a.Source == route.SourceVIP && n.MeshNode != "":
		return "every node reaches Services by itself"
	}
	return ""
}

// mark makes a prefix the last choice of everyone who hears of it: by the community where that is known, by preference
// within the AS, and by the length of the AS path where that is wanted.
func (l Leaving) mark(told *Told, external bool) {
	told.Communities = append(slices.Clone(told.Communities), route.GracefulShutdown)
	slices.Sort(told.Communities)
	told.Communities = slices.Compact(told.Communities)
	if external {
		told.Prepend += l.Prepend
	} else {
		told.LocalPref = 0
	}
}

func (t Told) isDefault() bool {
	return len(t.Communities) == 0 && len(t.LargeCommunities) == 0 && t.LocalPref == defaultLocalPref && t.MED == 0 &&
		t.Prepend == 0 && !t.NextHop.IsValid()
}

// String is how the prefixes are told, in words; empty for the default.
func (t Told) String() string {
	var words []string
	add := func(there bool, format string, args ...any) {
		if there {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	for _, community := range t.Communities {
		words = append(words, "community "+route.CommunityText(community))
	}
	for _, community := range t.LargeCommunities {
		words = append(words, "community "+community.String())
	}
	add(t.LocalPref != defaultLocalPref, "local preference %d", t.LocalPref)
	add(t.MED != 0, "MED %d", t.MED)
	add(t.Prepend > 0, "%d times prepended", t.Prepend)
	add(t.NextHop.IsValid(), "next hop %s", t.NextHop)
	return strings.Join(words, ", ")
}

// Withholds tells whether the neighbour's export filters keep a prefix from it.
func (n Neighbor) Withholds(prefix netip.Prefix) bool {
	_, there := slices.BinarySearchFunc(n.Withhold, prefix, netip.Prefix.Compare)
	return there
}

// How is how the neighbour is told a prefix, in words; empty for the default.
func (n Neighbor) How(prefix netip.Prefix) string {
	for _, told := range n.Told {
		if _, there := slices.BinarySearchFunc(told.Prefixes, prefix, netip.Prefix.Compare); there {
			return told.String()
		}
	}
	return ""
}
