package migrate

import (
	"errors"
	"fmt"
	"net/netip"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// A filter of Calico's has rules for both directions; ours has one list.
const (
	importSuffix = "-import"
	exportSuffix = "-export"
)

type calicoFilter struct {
	head
	Spec struct {
		ImportV4, ExportV4, ImportV6, ExportV6 []calicoRule
	}
}

type calicoRule struct {
	Action        string
	MatchOperator string
	CIDR          string
	PrefixLength  *struct{ Min, Max *int32 }
	Source        string
	Interface     string
	PeerType      string
	Communities   *struct{ Values []string }
	ASPathPrefix  []asNumber
	Priority      *int32
	Operations    []struct {
		AddCommunity  *struct{ Value string }
		PrependASPath *struct{ Prefix []asNumber }
		SetPriority   *struct{ Value int32 }
	}
}

func (m *maker) calicoFilters() error {
	all, err := read(m.objects, "calico/BGPFilter", func(f calicoFilter) string { return f.Metadata.Name })
	if err != nil {
		return err
	}
	m.unmade = map[string]bool{}
	for _, one := range all {
		made, err := calicoHalves(one)
		if err != nil {
			m.unmade[one.Metadata.Name] = true
			m.find(Differs, one.name(), "%v: it is not taken over", err)
			continue
		}
		for _, half := range made {
			m.add(half)
		}
	}
	return nil
}

// calicoHalves are the filters of ours that one of Calico's is: of imports, of exports, or both.
func calicoHalves(one calicoFilter) (made []*clearwayv1.BGPFilter, err error) {
	for _, half := range []struct {
		suffix string
		v4, v6 []calicoRule
	}{{importSuffix, one.Spec.ImportV4, one.Spec.ImportV6}, {exportSuffix, one.Spec.ExportV4, one.Spec.ExportV6}} {
		if len(half.v4)+len(half.v6) == 0 {
			continue
		}
		rules, err := calicoRules(half.v4, half.v6)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", half.suffix[1:], err)
		}
		made = append(made, &clearwayv1.BGPFilter{
			ApiVersion: clearwayv1.APIVersion, Kind: "BGPFilter", Metadata: meta(one.Metadata.Name + half.suffix),
			Spec: &clearwayv1.BGPFilterSpec{Rules: rules},
		})
	}
	return made, nil
}

func calicoRules(v4, v6 []calicoRule) (rules []*clearwayv1.BGPFilterRule, err error) {
	// Rules of the two families never match the same prefix: which family comes first is of no account.
	for _, family := range []struct {
		whole string
		rules []calicoRule
	}{{"0.0.0.0/0", v4}, {"::/0", v6}} {
		for i, one := range family.rules {
			rule, err := calicoRuleOf(one, netip.MustParsePrefix(family.whole))
			if err != nil {
				return nil, fmt.Errorf("rule %d of %s: %w", i+1, family.whole, err)
			}
			rules = append(rules, rule)
		}
	}
	return rules, nil
}

// calicoRuleOf reads one rule of a family.
func calicoRuleOf(one calicoRule, whole netip.Prefix) (*clearwayv1.BGPFilterRule, error) {
	rule := &clearwayv1.BGPFilterRule{Action: one.Action}
	match, err := calicoMatch(one, whole)
	if err != nil {
		return nil, err
	}
	rule.Prefixes = []*clearwayv1.PrefixMatch{match}
	switch {
	case one.Interface != "":
		return nil, errors.New("it matches by interface, and no rule of Clearway's does")
	case one.Priority != nil:
		return nil, errors.New("it matches by the route's priority, and no rule of Clearway's does")
	case len(one.ASPathPrefix) > 1:
		return nil, errors.New("it matches the first several AS numbers of a path: write a regex")
	case one.Action != "Accept" && one.Action != "Reject":
		return nil, fmt.Errorf("its action %q is neither Accept nor Reject", one.Action)
	}
	if one.Source == "RemotePeers" {
		rule.Sources = []string{"Learned"}
	}
	if one.Communities != nil {
		rule.AnyCommunities = one.Communities.Values
	}
	if len(one.ASPathPrefix) == 1 {
		rule.AsPath = &clearwayv1.ASPathMatch{Neighbors: []uint32{uint32(one.ASPathPrefix[0])}}
	}
	switch one.PeerType {
	case "eBGP":
		rule.PeerType = "External"
	case "iBGP":
		rule.PeerType = "Internal"
	}
	for _, operation := range one.Operations {
		if operation.AddCommunity == nil {
			return nil, errors.New("it prepends AS numbers or sets a priority: say it with set")
		}
		if rule.Set == nil {
			rule.Set = &clearwayv1.RouteChanges{}
		}
		rule.Set.AddCommunities = append(rule.Set.AddCommunities, operation.AddCommunity.Value)
	}
	return rule, nil
}

func calicoMatch(one calicoRule, whole netip.Prefix) (*clearwayv1.PrefixMatch, error) {
	longest := int32(whole.Addr().BitLen())
	if one.CIDR == "" {
		shortest := int32(0)
		return &clearwayv1.PrefixMatch{Cidr: whole.String(), Ge: &shortest, Le: &longest}, nil
	}
	prefix, err := netip.ParsePrefix(one.CIDR)
	if err != nil || prefix.Addr().Is4() != whole.Addr().Is4() {
		return nil, fmt.Errorf("cidr %q is no prefix of its family", one.CIDR)
	}
	match := &clearwayv1.PrefixMatch{Cidr: prefix.Masked().String()}
	switch one.MatchOperator {
	case "Equal":
		return match, nil
	case "In":
		from := int32(prefix.Bits())
		match.Ge, match.Le = &from, &longest
		if length := one.PrefixLength; length != nil {
			if length.Min != nil {
				match.Ge = length.Min
			}
			if length.Max != nil {
				match.Le = length.Max
			}
		}
		return match, nil
	}
	return nil, fmt.Errorf("matchOperator %s has no counterpart: turn the rules around (first accept what is within, then reject the rest)", one.MatchOperator)
}
