package policy

import (
	"net/netip"
	"testing"

	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func ptr(n int32) *int32 { return &n }

func filterOf(rules ...*clearwayv1.BGPFilterRule) *clearwayv1.BGPFilter {
	return &clearwayv1.BGPFilter{Metadata: &clearwayv1.ObjectMeta{Name: "f"}, Spec: &clearwayv1.BGPFilterSpec{Rules: rules}}
}

func rule(action string, matches ...*clearwayv1.PrefixMatch) *clearwayv1.BGPFilterRule {
	return &clearwayv1.BGPFilterRule{Action: action, Prefixes: matches}
}

func decide(chain Chain, prefix string) (accept bool, rule string) {
	outcome := chain.Evaluate(Subject{Path: &route.Path{Prefix: netip.MustParsePrefix(prefix)}})
	return outcome.Accept, outcome.Rule()
}

func TestFilterDecides(t *testing.T) {
	ten := func(ge, le *int32) *clearwayv1.PrefixMatch {
		return &clearwayv1.PrefixMatch{Cidr: "10.0.0.0/8", Ge: ge, Le: le}
	}
	for _, c := range []struct {
		match  *clearwayv1.PrefixMatch
		prefix string
		want   bool
	}{
		{ten(nil, nil), "10.0.0.0/8", true}, {ten(nil, nil), "10.0.0.0/9", false},
		{ten(ptr(24), nil), "10.1.2.3/32", true}, {ten(ptr(24), nil), "10.1.2.0/23", false},
		{ten(nil, ptr(16)), "10.1.0.0/16", true}, {ten(nil, ptr(16)), "10.0.0.0/8", true}, {ten(nil, ptr(16)), "10.1.0.0/17", false},
		{ten(ptr(24), ptr(26)), "10.1.2.0/25", true}, {ten(ptr(24), ptr(26)), "10.1.2.0/27", false},
		{ten(ptr(8), nil), "11.0.0.0/8", false}, {ten(ptr(8), nil), "2001:db8::/32", false}, {ten(ptr(8), nil), "0.0.0.0/0", false},
	} {
		filter, faults := ParseFilter(filterOf(rule("Reject", c.match)))
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		accept, why := decide(Chain{filter}, c.prefix)
		if accept == c.want || (why != "") != c.want {
			t.Errorf("%v of %s: %v %q", c.match, c.prefix, accept, why)
		}
	}
}

func TestFirstRuleThatMatchesDecides(t *testing.T) {
	one := Filter{Name: "one", Rules: []FilterRule{
		{Accept: true, Prefixes: []Match{{CIDR: netip.MustParsePrefix("10.1.0.0/16"), GE: 16, LE: 32}}},
		{Prefixes: []Match{{CIDR: netip.MustParsePrefix("10.0.0.0/8"), GE: 8, LE: 32}}},
	}}
	chain := Chain{one, {Name: "two", Rules: []FilterRule{{Accept: false}}}}
	for prefix, want := range map[string]string{
		"10.1.2.0/24": "rule 1 of BGPFilter one", "10.2.0.0/16": "rule 2 of BGPFilter one", "11.0.0.0/8": "rule 1 of BGPFilter two",
	} {
		if _, why := decide(chain, prefix); why != want {
			t.Errorf("%s: %q, not %q", prefix, why, want)
		}
	}
	if accept, why := decide(Chain{}, "10.0.0.0/8"); !accept || why != "" {
		t.Errorf("no filter: %v %q", accept, why)
	}
}

func TestFilterNamedErrors(t *testing.T) {
	for _, c := range []struct {
		rule  *clearwayv1.BGPFilterRule
		field string
	}{
		{rule("accept"), "spec.rules[0].action"},
		{rule(""), "spec.rules[0].action"},
		{rule("Accept", &clearwayv1.PrefixMatch{Cidr: "10.0.0.1/8"}), "spec.rules[0].prefixes[0].cidr"},
		{rule("Accept", &clearwayv1.PrefixMatch{Cidr: "::ffff:10.0.0.0/104"}), "spec.rules[0].prefixes[0].cidr"},
		{rule("Accept", &clearwayv1.PrefixMatch{Cidr: "10.0.0.0/8", Ge: ptr(7)}), "spec.rules[0].prefixes[0].ge"},
		{rule("Accept", &clearwayv1.PrefixMatch{Cidr: "10.0.0.0/8", Ge: ptr(33)}), "spec.rules[0].prefixes[0].ge"},
		{rule("Accept", &clearwayv1.PrefixMatch{Cidr: "10.0.0.0/8", Ge: ptr(24), Le: ptr(23)}), "spec.rules[0].prefixes[0].le"},
		{rule("Accept", &clearwayv1.PrefixMatch{Cidr: "2001:db8::/32", Le: ptr(129)}), "spec.rules[0].prefixes[0].le"},
	} {
		_, faults := ParseFilter(filterOf(c.rule))
		if len(faults) != 1 || faults[0].GetField() != c.field || faults[0].GetMessage() == "" {
			t.Errorf("%v: %v", c.rule, faults)
		}
	}
}

// A filter that is accepted decides on any prefix without a panic.
func FuzzFilter(f *testing.F) {
	f.Add("10.0.0.0/8", int32(9), int32(30), "10.1.0.0/16")
	f.Add("::/0", int32(0), int32(128), "2001:db8::/32")
	f.Fuzz(func(t *testing.T, cidr string, ge, le int32, prefix string) {
		filter, faults := ParseFilter(filterOf(rule("Reject", &clearwayv1.PrefixMatch{Cidr: cidr, Ge: &ge, Le: &le})))
		p, why := ParsePrefix(prefix)
		if len(faults) > 0 || why != "" {
			return
		}
		accept, _ := decide(Chain{filter}, p.String())
		outer := netip.MustParsePrefix(cidr)
		if inside := outer.Overlaps(p) && p.Bits() >= outer.Bits(); !accept && !inside {
			t.Errorf("%s is rejected by a match of %s", p, cidr)
		}
	})
}
