package policy

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/clearway/clearway/bgp/route"
)

// apply makes the changes on a copy of the outcome's path. A prepending on export is counted only: the AS path is written
// when the peer is told, behind our own AS number, and in iBGP not at all (RFC 4271 section 5.1.2).
func (c *Changes) apply(outcome *Outcome, s Subject) {
	if c.NextHop != NextHopDefault && s.Export {
		outcome.NextHop = c.NextHop
	}
	if c.Prepend > 0 && s.Export && s.Peer.EBGP {
		outcome.Prepend = min(outcome.Prepend+c.Prepend, maxPrepend)
	}
	onImport := c.Prepend > 0 && !s.Export
	if !c.changesCommunities() && c.LocalPref == nil && c.MED == nil && !onImport {
		return
	}
	path := *outcome.Path
	if c.changesCommunities() {
		c.communities(&path)
	}
	if c.LocalPref != nil {
		path.LocalPref = *c.LocalPref
	}
	if c.MED != nil {
		path.MED = *c.MED
	}
	if onImport {
		path.ASPath = append(slices.Repeat([]uint32{s.Peer.PeerASN}, c.Prepend), path.ASPath...)
		path.ASPathLen += c.Prepend
	}
	outcome.Path = &path
}

// maxPrepend bounds what a chain prepends in all.
const maxPrepend = 10

func (c *Changes) changesCommunities() bool {
	return len(c.Communities)+len(c.RemoveCommunities)+len(c.AddCommunities) > 0
}

// communities keeps them ascending and each once, so that the same set is always the same list.
func (c *Changes) communities(path *route.Path) {
	standard, large := slices.Clone(path.Communities), slices.Clone(path.Large())
	if len(c.Communities) > 0 {
		standard, large = nil, nil
	}
	standard = slices.DeleteFunc(standard, func(have uint32) bool {
		return slices.ContainsFunc(c.RemoveCommunities, func(m route.CommunityMatch) bool { return m.Matches(have) })
	})
	large = slices.DeleteFunc(large, func(have route.LargeCommunity) bool {
		return slices.ContainsFunc(c.RemoveCommunities, func(m route.CommunityMatch) bool { return m.MatchesLarge(have) })
	})
	WithCommunities(path, standard, large, slices.Concat(c.Communities, c.AddCommunities))
}

// WithCommunities gives the path these communities and more, ascending and each once.
func WithCommunities(path *route.Path, standard []uint32, large []route.LargeCommunity, more []route.CommunityMatch) {
	standard, large = slices.Clone(standard), slices.Clone(large)
	for _, add := range more {
		if add.Large {
			large = append(large, add.LargeCommunity())
		} else {
			standard = append(standard, add.Standard())
		}
	}
	slices.Sort(standard)
	slices.SortFunc(large, route.LargeCommunity.Compare)
	path.Communities = slices.Compact(standard)
	extra := route.Extra{}
	if path.Extra != nil {
		extra = *path.Extra
	}
	extra.LargeCommunities = slices.Compact(large)
	path.Extra = &extra
	if len(large) == 0 && len(extra.ClusterList) == 0 && !extra.OriginatorID.IsValid() {
		path.Extra = nil
	}
}

// difference is what changed between two outcomes, in words.
func difference(before, after Outcome) []string {
	var words []string
	add := func(changed bool, format string, args ...any) {
		if changed {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	words = append(words, Difference(before.Path, after.Path)...)
	add(before.Prepend != after.Prepend, "our AS number prepended %d times", after.Prepend)
	add(before.NextHop != after.NextHop, "next hop %s", after.NextHop)
	return words
}

// Difference is what is not the same in a path and what was made of it, in words.
func Difference(before, after *route.Path) []string {
	if before == after {
		return nil
	}
	var words []string
	for _, text := range lacking(before, after) {
		words = append(words, "community "+text+" added")
	}
	for _, text := range lacking(after, before) {
		words = append(words, "community "+text+" removed")
	}
	if before.LocalPref != after.LocalPref {
		words = append(words, fmt.Sprintf("local preference %d in place of %d", after.LocalPref, before.LocalPref))
	}
	if before.MED != after.MED {
		words = append(words, fmt.Sprintf("MED %d in place of %d", after.MED, before.MED))
	}
	if n := after.ASPathLen - before.ASPathLen; n > 0 {
		words = append(words, fmt.Sprintf("AS %d prepended %d times", cmp.Or(after.PeerASN, after.ASPath[0]), n))
	}
	return words
}

// lacking are the communities that one path carries and another does not.
func lacking(without, with *route.Path) []string {
	var texts []string
	for _, community := range with.Communities {
		if !without.HasCommunity(community) {
			texts = append(texts, route.CommunityText(community))
		}
	}
	for _, community := range with.Large() {
		if !slices.Contains(without.Large(), community) {
			texts = append(texts, community.String())
		}
	}
	return texts
}
