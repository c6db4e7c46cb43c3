package policy

import (
	"fmt"
	"net/netip"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Filter is a BGPFilter as a value: the first rule that matches decides.
type Filter struct {
	Name  string
	Rules []FilterRule
}

// FilterRule accepts or rejects the prefixes it matches. No Prefixes: it matches all.
type FilterRule struct {
	Prefixes []Match
	Accept   bool
}

// Match matches prefixes inside CIDR whose length is from GE to LE, both included.
type Match struct {
	CIDR   netip.Prefix
	GE, LE int
}

// Matches tells whether the prefix is inside and of a fitting length.
func (m Match) Matches(prefix netip.Prefix) bool {
	return prefix.Bits() >= m.GE && prefix.Bits() <= m.LE && Within(prefix, m.CIDR)
}

// Within tells whether inner is outer, or a part of it.
func Within(inner, outer netip.Prefix) bool {
	return inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}

func (r FilterRule) matches(prefix netip.Prefix) bool {
	for _, match := range r.Prefixes {
		if match.Matches(prefix) {
			return true
		}
	}
	return len(r.Prefixes) == 0
}

// Chain is filters in order. What no rule matches is accepted.
type Chain []Filter

// Decide tells whether the chain accepts the prefix, and which rule said so ("" when none did).
func (c Chain) Decide(prefix netip.Prefix) (accept bool, rule string) {
	for _, filter := range c {
		for i, r := range filter.Rules {
			if r.matches(prefix) {
				return r.Accept, fmt.Sprintf("rule %d of BGPFilter %s", i+1, filter.Name)
			}
		}
	}
	return true, ""
}

// ParseFilter reads a BGPFilter and lists its faults; the filter is whole only when there is none.
func ParseFilter(object *clearwayv1.BGPFilter) (Filter, []*clearwayv1.FieldViolation) {
	filter := Filter{Name: object.GetMetadata().GetName()}
	var faults []*clearwayv1.FieldViolation
	for i, spec := range object.GetSpec().GetRules() {
		rule, found := parseRule(fmt.Sprintf("spec.rules[%d]", i), spec)
		filter.Rules = append(filter.Rules, rule)
		faults = append(faults, found...)
	}
	return filter, faults
}

func parseRule(field string, spec *clearwayv1.BGPFilterRule) (FilterRule, []*clearwayv1.FieldViolation) {
	var faults []*clearwayv1.FieldViolation
	rule := FilterRule{Accept: spec.GetAction() == "Accept"}
	if spec.GetAction() != "Accept" && spec.GetAction() != "Reject" {
		faults = append(faults, fault(field+".action", spec.GetAction(), "must be Accept or Reject"))
	}
	for i, prefix := range spec.GetPrefixes() {
		match, found := parseMatch(fmt.Sprintf("%s.prefixes[%d]", field, i), prefix)
		rule.Prefixes = append(rule.Prefixes, match)
		faults = append(faults, found...)
	}
	return rule, faults
}

func parseMatch(field string, spec *clearwayv1.PrefixMatch) (Match, []*clearwayv1.FieldViolation) {
	prefix, why := ParsePrefix(spec.GetCidr())
	if why != "" {
		return Match{}, []*clearwayv1.FieldViolation{fault(field+".cidr", spec.GetCidr(), why)}
	}
	match := Match{CIDR: prefix, GE: prefix.Bits(), LE: prefix.Bits()}
	longest := prefix.Addr().BitLen()
	if spec.Ge != nil {
		match.GE, match.LE = int(spec.GetGe()), longest
	}
	if spec.Le != nil {
		match.LE = int(spec.GetLe())
	}
	var faults []*clearwayv1.FieldViolation
	if match.GE < prefix.Bits() || match.GE > longest {
		faults = append(faults, fault(field+".ge", fmt.Sprint(match.GE),
			fmt.Sprintf("must be %d to %d: a prefix length within %s", prefix.Bits(), longest, prefix)))
	} else if match.LE < match.GE || match.LE > longest {
		faults = append(faults, fault(field+".le", fmt.Sprint(match.LE),
			fmt.Sprintf("must be %d to %d: a prefix length within %s, not below ge", match.GE, longest, prefix)))
	}
	return match, faults
}

// ParsePrefix reads a prefix in its own form; why says what is wrong, and what would be right.
func ParsePrefix(text string) (prefix netip.Prefix, why string) {
	prefix, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return prefix, "is no prefix; write it as 192.0.2.0/24 or 2001:db8::/64"
	case prefix.Addr().Is4In6():
		return prefix, "is an IPv4-mapped IPv6 prefix; write the IPv4 prefix itself"
	case prefix != prefix.Masked():
		return prefix, fmt.Sprintf("has host bits set; the prefix is %s", prefix.Masked())
	}
	return prefix, ""
}

func fault(field, value, message string) *clearwayv1.FieldViolation {
	return &clearwayv1.FieldViolation{Field: field, Value: value, Message: message}
}
