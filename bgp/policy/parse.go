package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// The most of each that one BGPFilter, or one rule, may have: a path is judged by all of it.
const (
	maxRules   = 256
	maxClauses = 1024 // values in one clause
	maxRegex   = 256  // characters
)

// ParseFilter reads a BGPFilter and lists its faults; the filter is whole only when there is none.
func ParseFilter(object *clearwayv1.BGPFilter) (Filter, []*clearwayv1.FieldViolation) {
	filter := Filter{Name: object.GetMetadata().GetName()}
	rules := object.GetSpec().GetRules()
	if len(rules) > maxRules {
		return filter, []*clearwayv1.FieldViolation{fault("spec.rules", fmt.Sprint(len(rules)), fmt.Sprintf("are more than %d", maxRules))}
	}
	var faults []*clearwayv1.FieldViolation
	for i, spec := range rules {
		p := ruleParser{at: fmt.Sprintf("spec.rules[%d]", i)}
		filter.Rules = append(filter.Rules, p.rule(spec))
		faults = append(faults, p.faults...)
	}
	return filter, faults
}

// ruleParser reads one rule.
type ruleParser struct {
	at     string
	faults []*clearwayv1.FieldViolation
}

func (p *ruleParser) fault(field string, value any, format string, args ...any) {
	p.faults = append(p.faults, fault(p.at+"."+field, fmt.Sprint(value), fmt.Sprintf(format, args...)))
}

func (p *ruleParser) rule(spec *clearwayv1.BGPFilterRule) FilterRule {
	rule := FilterRule{Accept: spec.GetAction() == "Accept", Continue: spec.GetAction() == "Continue", Transit: spec.GetTransit()}
	switch spec.GetAction() {
	case "Accept", "Reject", "Continue":
	default:
		p.fault("action", spec.GetAction(), "must be Accept, Reject or Continue")
	}
	if rule.Transit && !rule.Accept {
		p.fault("transit", true, "goes with action Accept alone")
	}
	p.count("prefixes", len(spec.GetPrefixes()))
	for i, prefix := range spec.GetPrefixes() {
		rule.Prefixes = append(rule.Prefixes, p.prefix(fmt.Sprintf("prefixes[%d]", i), prefix))
	}
	rule.Communities = CommunityClauses{
		Any:  p.communities("anyCommunities", spec.GetAnyCommunities(), true),
		All:  p.communities("allCommunities", spec.GetAllCommunities(), true),
		None: p.communities("noCommunities", spec.GetNoCommunities(), true),
	}
	if spec.AsPath != nil {
		rule.ASPath = p.asPath(spec.GetAsPath())
	}
	p.sessions(&rule, spec)
	if spec.Set != nil {
		if spec.GetAction() == "Reject" {
			p.fault("set", "", "has no effect on what is rejected; leave it out")
		}
		rule.Changes = p.changes(spec.GetSet())
	}
	return rule
}

func (p *ruleParser) count(field string, count int) {
	if count > maxClauses {
		p.fault(field, count, "are more than %d", maxClauses)
	}
}

func (p *ruleParser) sessions(rule *FilterRule, spec *clearwayv1.BGPFilterRule) {
	p.count("nextHops", len(spec.GetNextHops()))
	for i, text := range spec.GetNextHops() {
		prefix, why := ParsePrefix(text)
		if why != "" {
			p.fault(fmt.Sprintf("nextHops[%d]", i), text, "%s", why)
		}
		rule.NextHops = append(rule.NextHops, prefix)
	}
	p.count("peers", len(spec.GetPeers()))
	for i, text := range spec.GetPeers() {
		if _, err := netip.ParseAddr(text); err != nil && len(validation.IsDNS1123Subdomain(text)) > 0 {
			p.fault(fmt.Sprintf("peers[%d]", i), text, "must be the name of a BGPPeer or node, or a peer's address")
		}
	}
	rule.Peers = spec.GetPeers()
	switch spec.GetPeerType() {
	case "":
	case "External":
		rule.PeerType = External
	case "Internal":
		rule.PeerType = Internal
	default:
		p.fault("peerType", spec.GetPeerType(), "must be External (eBGP) or Internal (iBGP)")
	}
	for i, text := range spec.GetSources() {
		source, ok := route.SourceOf(text)
		if !ok {
			p.fault(fmt.Sprintf("sources[%d]", i), text, "must be one of %s", strings.Join(route.SourceNames(), ", "))
		}
		rule.Sources = append(rule.Sources, source)
	}
}

func (p *ruleParser) prefix(field string, spec *clearwayv1.PrefixMatch) Match {
	prefix, why := ParsePrefix(spec.GetCidr())
	if why != "" {
		p.fault(field+".cidr", spec.GetCidr(), "%s", why)
		return Match{}
	}
	match := Match{CIDR: prefix, GE: prefix.Bits(), LE: prefix.Bits()}
	longest := prefix.Addr().BitLen()
	if spec.Ge != nil {
		match.GE, match.LE = int(spec.GetGe()), longest
	}
	if spec.Le != nil {
		match.LE = int(spec.GetLe())
	}
	if match.GE < prefix.Bits() || match.GE > longest {
		p.fault(field+".ge", match.GE, "must be %d to %d: a prefix length within %s", prefix.Bits(), longest, prefix)
	} else if match.LE < match.GE || match.LE > longest {
		p.fault(field+".le", match.LE, "must be %d to %d: a prefix length within %s, not below ge", match.GE, longest, prefix)
	}
	return match
}

func (p *ruleParser) communities(field string, texts []string, many bool) []route.CommunityMatch {
	p.count(field, len(texts))
	list, faults := ParseCommunities(p.at+"."+field, texts, many)
	p.faults = append(p.faults, faults...)
	return list
}

// ParseCommunities reads communities, standard and large; many: with * for numbers.
func ParseCommunities(field string, texts []string, many bool) ([]route.CommunityMatch, []*clearwayv1.FieldViolation) {
	var list []route.CommunityMatch
	var faults []*clearwayv1.FieldViolation
	for i, text := range texts {
		match, ok := route.ParseCommunityMatch(text)
		at := fmt.Sprintf("%s[%d]", field, i)
		switch {
		case !ok:
			faults = append(faults, fault(at, text, "is no community: write 64512:100 (two numbers up to 65535), 64512:1:2 (three up to "+
				"4294967295) or one of "+strings.Join(route.WellKnownCommunities(), ", ")))
		case !many && !match.Exact():
			faults = append(faults, fault(at, text, "stands for many communities; * is for matching and removing alone"))
		}
		list = append(list, match)
	}
	return list, faults
}

// The language of regexps on AS paths: RE2's, but for classes by name and escapes, of which digits have no need.
var (
	regexAllowed = regexp.MustCompile(`^[0-9 _.*+?^$|()\[\]{},-]*$`)
	regexBracket = regexp.MustCompile(`\[[^\]]*_`)
)

func (p *ruleParser) asPath(spec *clearwayv1.ASPathMatch) *ASPathMatch {
	match := &ASPathMatch{
		Contains: spec.GetContains(), Origins: spec.GetOrigins(), Neighbors: spec.GetNeighbors(),
		MinLength: int(spec.GetMinLength()), MaxLength: -1, Regex: spec.GetRegex(),
	}
	if spec.MaxLength != nil {
		match.MaxLength = int(spec.GetMaxLength())
	}
	if len(match.Contains)+len(match.Origins)+len(match.Neighbors) == 0 && spec.MinLength == nil && spec.MaxLength == nil && match.Regex == "" {
		p.fault("asPath", "", "says nothing; give contains, origins, neighbors, minLength, maxLength or regex")
	}
	p.count("asPath.contains", len(match.Contains))
	p.count("asPath.origins", len(match.Origins))
	p.count("asPath.neighbors", len(match.Neighbors))
	if match.MinLength < 0 {
		p.fault("asPath.minLength", match.MinLength, "must be 0 or more")
	}
	if spec.MaxLength != nil && match.MaxLength < max(0, match.MinLength) {
		p.fault("asPath.maxLength", match.MaxLength, "must be %d or more: not below minLength", max(0, match.MinLength))
	}
	match.compiled = p.regex("asPath.regex", match.Regex)
	return match
}

func (p *ruleParser) regex(field, text string) *regexp.Regexp {
	switch {
	case text == "":
		return nil
	case len(text) > maxRegex:
		p.fault(field, text[:32]+"...", "has %d characters, more than %d", len(text), maxRegex)
		return nil
	case !regexAllowed.MatchString(text):
		p.fault(field, text, "may hold digits, space and _.*+?^$|()[]{},- alone")
		return nil
	case regexBracket.MatchString(text):
		p.fault(field, text, `has "_" in brackets, where it is no single character; write it outside`)
		return nil
	}
	compiled, err := regexp.Compile(strings.ReplaceAll(text, "_", "(?:^| |$)"))
	if err != nil {
		p.fault(field, text, "is no regular expression of RE2: %s", err)
	}
	return compiled
}

func (p *ruleParser) changes(spec *clearwayv1.RouteChanges) Changes {
	changes := Changes{
		Communities:       p.communities("set.communities", spec.GetCommunities(), false),
		RemoveCommunities: p.communities("set.removeCommunities", spec.GetRemoveCommunities(), true),
		AddCommunities:    p.communities("set.addCommunities", spec.GetAddCommunities(), false),
		LocalPref:         spec.LocalPref, MED: spec.Med, Prepend: int(spec.GetPrepend()),
	}
	if changes.Prepend < 0 || changes.Prepend > maxPrepend {
		p.fault("set.prepend", changes.Prepend, "must be 1 to %d, or absent", maxPrepend)
	}
	switch spec.GetNextHop() {
	case "":
	case "Self":
		changes.NextHop = NextHopSelf
	case "Keep":
		changes.NextHop = NextHopKeep
	default:
		p.fault("set.nextHop", spec.GetNextHop(), "must be Self or Keep")
	}
	return changes
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
