package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func chainOf(t testing.TB, rules ...*clearwayv1.BGPFilterRule) Chain {
	t.Helper()
	filter, faults := ParseFilter(filterOf(rules...))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return Chain{filter}
}

// subject is a path from an eBGP router: next hop 192.0.2.1, AS path 65101 64512, communities GracefulShutdown, 64512:7 and
// 64512:1:2.
func subject() Subject {
	return Subject{
		Path: &route.Path{
			Prefix: netip.MustParsePrefix("10.244.2.0/26"), NextHop: netip.MustParseAddr("192.0.2.1"), Peer: tor, PeerASN: 65101,
			ASPath: []uint32{65101, 64512}, ASPathLen: 2, LocalPref: 100, EBGP: true,
			Communities: []uint32{64512<<16 | 7, route.GracefulShutdown},
			Extra:       &route.Extra{LargeCommunities: []route.LargeCommunity{{Global: 64512, Local1: 1, Local2: 2}}},
		},
		Peer: Session{Address: tor, Origin: "BGPPeer/tor", EBGP: true, LocalASN: 64512, PeerASN: 65101},
	}
}

func TestClauses(t *testing.T) {
	for name, c := range map[string]struct {
		yes, no *clearwayv1.BGPFilterRule
		why     string // the clause of no, as the reader is told
	}{
		"any community": {
			&clearwayv1.BGPFilterRule{AnyCommunities: []string{"1:1", "graceful-shutdown"}},
			&clearwayv1.BGPFilterRule{AnyCommunities: []string{"1:1", "NoExport"}}, "it carries none of the communities 1:1, NoExport",
		},
		"all communities, of both kinds": {
			&clearwayv1.BGPFilterRule{AllCommunities: []string{"64512:*", "64512:1:*"}},
			&clearwayv1.BGPFilterRule{AllCommunities: []string{"64512:7", "64512:1:3"}}, "it does not carry community 64512:1:3",
		},
		"no community": {
			&clearwayv1.BGPFilterRule{NoCommunities: []string{"64513:*"}},
			&clearwayv1.BGPFilterRule{NoCommunities: []string{"*:*:2"}}, "it carries community *:*:2",
		},
		"AS path contains": {
			&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{Contains: []uint32{1, 64512}}},
			&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{Contains: []uint32{6451}}}, `AS path "65101 64512" contains none of 6451`,
		},
		"AS path origin": {
			&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{Origins: []uint32{64512}}},
			&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{Origins: []uint32{65101}}}, `AS path "65101 64512" was originated by none of 65101`,
		},
		"AS path neighbor": {
			&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{Neighbors: []uint32{65101}}},
			&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{Neighbors: []uint32{64512}}}, `AS path "65101 64512" begins with none of 64512`,
		},
		"AS path length": {
			&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{MinLength: ptr(2), MaxLength: ptr(2)}},
			&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{MaxLength: ptr(1)}}, "its AS path is 2 long, more than 1",
		},
		"AS path by expression": {
			&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{Regex: "^65101_(64512|64513)$"}},
			&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{Regex: "_4512_"}}, `AS path "65101 64512" does not match "_4512_"`,
		},
		"next hop": {
			&clearwayv1.BGPFilterRule{NextHops: []string{"192.0.2.0/24", "2001:db8::/64"}},
			&clearwayv1.BGPFilterRule{NextHops: []string{"2001:db8::/64"}}, "its next hop 192.0.2.1 is not in 2001:db8::/64",
		},
		"peer by name or address": {
			&clearwayv1.BGPFilterRule{Peers: []string{"other", "192.0.2.1"}},
			&clearwayv1.BGPFilterRule{Peers: []string{"other"}}, "the peer is tor (192.0.2.1), not other",
		},
		"peer type": {
			&clearwayv1.BGPFilterRule{PeerType: "External"}, &clearwayv1.BGPFilterRule{PeerType: "Internal"}, "the session is not Internal",
		},
		"source": {
			&clearwayv1.BGPFilterRule{Sources: []string{"Own", "Learned"}},
			&clearwayv1.BGPFilterRule{Sources: []string{"Own", "VIP"}}, "its source is Learned, not Own, VIP",
		},
		"all clauses together": {
			&clearwayv1.BGPFilterRule{PeerType: "External", AnyCommunities: []string{"64512:7"}},
			&clearwayv1.BGPFilterRule{PeerType: "External", AnyCommunities: []string{"64512:8"}}, "it carries none of the communities 64512:8",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.yes.Action, c.no.Action = "Reject", "Reject"
			if outcome := chainOf(t, c.yes).Evaluate(subject()); outcome.Accept {
				t.Errorf("%v does not match", c.yes)
			}
			if outcome := chainOf(t, c.no).Evaluate(subject()); !outcome.Accept || outcome.Rule() != "" {
				t.Errorf("%v matches", c.no)
			}
			if steps := chainOf(t, c.no).Explain(subject()); len(steps) != 1 || steps[0].Clause != c.why {
				t.Errorf("explained as %v, not %s", steps, c.why)
			}
		})
	}
}

// Rules that continue change the path for those after them; the words tell each change once.
func TestChangesAndWords(t *testing.T) {
	pref, med := uint32(200), uint32(5)
	chain := chainOf(t,
		&clearwayv1.BGPFilterRule{Action: "Continue", AnyCommunities: []string{"GracefulShutdown"}, Set: &clearwayv1.RouteChanges{
			RemoveCommunities: []string{"*:*"}, AddCommunities: []string{"64512:9", "NoExport", "64512:0:1"}, LocalPref: &pref, Prepend: 2,
		}},
		&clearwayv1.BGPFilterRule{Action: "Reject", AnyCommunities: []string{"GracefulShutdown"}},
		&clearwayv1.BGPFilterRule{Action: "Accept", AnyCommunities: []string{"64512:9"}, Set: &clearwayv1.RouteChanges{Med: &med}},
	)
	told := subject()
	outcome := chain.Evaluate(told)
	got := outcome.Path
	if !outcome.Accept || outcome.Rule() != "rule 3 of BGPFilter f" || got.LocalPref != 200 || got.MED != 5 || got.ASPathLen != 4 ||
		fmt.Sprint(got.ASPath) != "[65101 65101 65101 64512]" || fmt.Sprint(got.Large()) != "[64512:0:1 64512:1:2]" ||
		!slices.Equal(got.Communities, []uint32{64512<<16 | 9, route.NoExport}) {
		t.Errorf("%+v: %+v", outcome, got)
	}
	if fmt.Sprint(told.Path.Communities) != fmt.Sprint(subject().Path.Communities) || told.Path.LocalPref != 100 {
		t.Error("the path as told was changed")
	}
	var words []string
	for _, step := range chain.Explain(told) {
		words = append(words, step.String())
	}
	want := `rule 1 of BGPFilter f matches (any community of GracefulShutdown): Continue, with community 64512:9 added, community NoExport added, community 64512:0:1 added, community 64512:7 removed, community GracefulShutdown removed, local preference 200 in place of 100, AS 65101 prepended 2 times
rule 2 of BGPFilter f does not match: it carries none of the communities GracefulShutdown
rule 3 of BGPFilter f matches (any community of 64512:9): Accept, with MED 5 in place of 0`
	if strings.Join(words, "\n") != want {
		t.Errorf("%s\nnot\n%s", strings.Join(words, "\n"), want)
	}
}

// On export the AS path is left to whoever writes it: in eBGP with our own number so many times more, in iBGP never.
func TestPrependOnExport(t *testing.T) {
	chain := chainOf(t, &clearwayv1.BGPFilterRule{Action: "Accept", Set: &clearwayv1.RouteChanges{Prepend: 3, NextHop: "Keep"}})
	for _, external := range []bool{true, false} {
		s := subject()
		s.Export, s.Peer.EBGP = true, external
		outcome := chain.Evaluate(s)
		if outcome.Path != s.Path || (outcome.Prepend == 3) != external || outcome.NextHop != NextHopKeep {
			t.Errorf("external %v: %+v", external, outcome)
		}
	}
}

func TestRuleNamedErrors(t *testing.T) {
	for _, c := range []struct {
		rule  *clearwayv1.BGPFilterRule
		field string
	}{
		{&clearwayv1.BGPFilterRule{AnyCommunities: []string{"64512"}}, "anyCommunities[0]"},
		{&clearwayv1.BGPFilterRule{AllCommunities: []string{"65536:1"}}, "allCommunities[0]"},
		{&clearwayv1.BGPFilterRule{NoCommunities: []string{"1:2", "1:2:4294967296"}}, "noCommunities[1]"},
		{&clearwayv1.BGPFilterRule{NoCommunities: []string{"1:2:3:4"}}, "noCommunities[0]"},
		{&clearwayv1.BGPFilterRule{NoCommunities: []string{"+1:2"}}, "noCommunities[0]"},
		{&clearwayv1.BGPFilterRule{NoCommunities: []string{""}}, "noCommunities[0]"},
		{&clearwayv1.BGPFilterRule{Set: &clearwayv1.RouteChanges{AddCommunities: []string{"1:*"}}}, "set.addCommunities[0]"},
		{&clearwayv1.BGPFilterRule{Set: &clearwayv1.RouteChanges{Communities: []string{"no-such-name"}}}, "set.communities[0]"},
		{&clearwayv1.BGPFilterRule{Set: &clearwayv1.RouteChanges{Prepend: 11}}, "set.prepend"},
		{&clearwayv1.BGPFilterRule{Set: &clearwayv1.RouteChanges{Prepend: -1}}, "set.prepend"},
		{&clearwayv1.BGPFilterRule{Set: &clearwayv1.RouteChanges{NextHop: "self"}}, "set.nextHop"},
		{&clearwayv1.BGPFilterRule{Action: "Reject", Set: &clearwayv1.RouteChanges{Prepend: 1}}, "set"},
		{&clearwayv1.BGPFilterRule{Action: "Reject", Transit: true}, "transit"},
		{&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{}}, "asPath"},
		{&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{Regex: "[0-9"}}, "asPath.regex"},
		{&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{Regex: `\d+`}}, "asPath.regex"},
		{&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{Regex: "[1_]"}}, "asPath.regex"},
		{&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{Regex: strings.Repeat("1", 257)}}, "asPath.regex"},
		{&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{Regex: "(((1{1000}){1000}){1000})"}}, "asPath.regex"},
		{&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{MinLength: ptr(3), MaxLength: ptr(2)}}, "asPath.maxLength"},
		{&clearwayv1.BGPFilterRule{AsPath: &clearwayv1.ASPathMatch{MinLength: ptr(-1)}}, "asPath.minLength"},
		{&clearwayv1.BGPFilterRule{NextHops: []string{"192.0.2.1"}}, "nextHops[0]"},
		{&clearwayv1.BGPFilterRule{Peers: []string{"Not A Name"}}, "peers[0]"},
		{&clearwayv1.BGPFilterRule{PeerType: "eBGP"}, "peerType"},
		{&clearwayv1.BGPFilterRule{Sources: []string{"Mine"}}, "sources[0]"},
		{&clearwayv1.BGPFilterRule{Prefixes: slices.Repeat([]*clearwayv1.PrefixMatch{{Cidr: "10.0.0.0/8"}}, maxClauses+1)}, "prefixes"},
	} {
		if c.rule.Action == "" {
			c.rule.Action = "Accept"
		}
		_, faults := ParseFilter(filterOf(c.rule))
		if len(faults) != 1 || faults[0].GetField() != "spec.rules[0]."+c.field || faults[0].GetMessage() == "" {
			t.Errorf("%v: %v", c.rule, faults)
		}
	}
	_, faults := ParseFilter(filterOf(slices.Repeat([]*clearwayv1.BGPFilterRule{rule("Accept")}, maxRules+1)...))
	if len(faults) != 1 || faults[0].GetField() != "spec.rules" {
		t.Error(faults)
	}
}

// twin reads a rule as its author wrote it, clause by clause and text by text.
func twinMatches(r *clearwayv1.BGPFilterRule, p *route.Path, s Subject) bool {
	texts := map[string]bool{}
	for _, c := range p.Communities {
		texts[fmt.Sprintf("%d:%d", c>>16, c&0xffff)] = true
	}
	for _, c := range p.Large() {
		texts[c.String()] = true
	}
	carries := func(pattern string) bool {
		expression := regexp.MustCompile("^" + strings.ReplaceAll(pattern, "*", "[0-9]+") + "$")
		for text := range texts {
			if expression.MatchString(text) {
				return true
			}
		}
		return false
	}
	anyOf := len(r.AnyCommunities) == 0
	for _, pattern := range r.AnyCommunities {
		anyOf = anyOf || carries(pattern)
	}
	all, none := true, true
	for _, pattern := range r.AllCommunities {
		all = all && carries(pattern)
	}
	for _, pattern := range r.NoCommunities {
		none = none && !carries(pattern)
	}
	inside := len(r.Prefixes) == 0
	for _, m := range r.Prefixes {
		cidr := netip.MustParsePrefix(m.GetCidr())
		least, most := cidr.Bits(), cidr.Bits()
		if m.Ge != nil {
			least, most = int(*m.Ge), cidr.Addr().BitLen()
		}
		if m.Le != nil {
			most = int(*m.Le)
		}
		inside = inside || cidr.Overlaps(p.Prefix) && p.Prefix.Bits() >= least && p.Prefix.Bits() <= most
	}
	asPath := true
	if r.AsPath != nil && len(r.AsPath.Contains) > 0 {
		asPath = slices.Contains(p.ASPath, r.AsPath.Contains[0])
	}
	if r.AsPath.GetRegex() != "" { // "_N_": N is one of the numbers
		asPath = asPath && slices.Contains(strings.Fields(strings.Trim(fmt.Sprint(p.ASPath), "[]")), strings.Trim(r.AsPath.Regex, "_"))
	}
	kind := r.PeerType == "" || (r.PeerType == "External") == s.Peer.EBGP
	return anyOf && all && none && inside && asPath && kind
}

func drawRule(t *rapid.T) *clearwayv1.BGPFilterRule {
	communities := rapid.SliceOfN(rapid.SampledFrom([]string{"1:1", "1:2", "2:1", "1:*", "*:1", "1:1:1", "1:1:2", "*:*:2"}), 0, 2)
	exact := rapid.SliceOfN(rapid.SampledFrom([]string{"1:1", "1:2", "3:1", "1:1:1", "2:2:2"}), 0, 2)
	r := &clearwayv1.BGPFilterRule{
		Action:         rapid.SampledFrom([]string{"Accept", "Reject", "Continue", "Continue"}).Draw(t, "action"),
		AnyCommunities: communities.Draw(t, "any"), NoCommunities: communities.Draw(t, "none"),
		PeerType: rapid.SampledFrom([]string{"", "", "External", "Internal"}).Draw(t, "type"),
	}
	if rapid.IntRange(0, 3).Draw(t, "all?") == 0 {
		r.AllCommunities = communities.Draw(t, "all")
	}
	if rapid.Bool().Draw(t, "prefix?") {
		ge := int32(rapid.IntRange(24, 32).Draw(t, "ge"))
		r.Prefixes = append(r.Prefixes, &clearwayv1.PrefixMatch{Cidr: rapid.SampledFrom([]string{"10.0.0.0/24", "10.0.0.0/25"}).Draw(t, "cidr"), Le: &ge})
		if ge < 25 {
			r.Prefixes[0].Cidr = "10.0.0.0/24"
		}
	}
	switch rapid.IntRange(0, 4).Draw(t, "path?") {
	case 0:
		r.AsPath = &clearwayv1.ASPathMatch{Contains: []uint32{uint32(rapid.IntRange(1, 12).Draw(t, "as"))}}
	case 1:
		r.AsPath = &clearwayv1.ASPathMatch{Regex: fmt.Sprintf("_%d_", rapid.IntRange(1, 12).Draw(t, "as"))}
	}
	if r.Action != "Reject" {
		r.Set = &clearwayv1.RouteChanges{
			Communities: exact.Draw(t, "replace"), RemoveCommunities: communities.Draw(t, "remove"), AddCommunities: exact.Draw(t, "add"),
			Prepend: int32(rapid.IntRange(0, 2).Draw(t, "prepend")),
		}
		if rapid.Bool().Draw(t, "pref?") {
			pref, med := uint32(rapid.IntRange(0, 3).Draw(t, "pref")), uint32(rapid.IntRange(0, 3).Draw(t, "med"))
			r.Set.LocalPref, r.Set.Med = &pref, &med
		}
	}
	return r
}

// The evaluation agrees with a slow reading of what was written, and its explanation with the evaluation.
func TestEvaluateIsWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(drawRule), 0, 5).Draw(t, "rules")
		filter, faults := ParseFilter(filterOf(rules...))
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		external := rapid.Bool().Draw(t, "external")
		path := &route.Path{
			Prefix:    netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 255).Draw(t, "address"))}), rapid.IntRange(24, 32).Draw(t, "bits")).Masked(),
			ASPath:    rapid.SliceOfN(rapid.Uint32Range(1, 12), 0, 3).Draw(t, "asns"),
			LocalPref: 100, PeerASN: 9,
		}
		path.ASPathLen = len(path.ASPath)
		WithCommunities(path, rapid.SliceOfN(rapid.SampledFrom([]uint32{1<<16 | 1, 1<<16 | 2, 2<<16 | 1}), 0, 3).Draw(t, "communities"),
			rapid.SliceOfN(rapid.SampledFrom([]route.LargeCommunity{{Global: 1, Local1: 1, Local2: 1}, {Global: 1, Local1: 1, Local2: 2}}), 0, 2).Draw(t, "large"), nil)
		s := Subject{Path: path, Peer: Session{Address: tor, Origin: "BGPPeer/tor", EBGP: external, PeerASN: 9}}
		got := Chain{filter}.Evaluate(s)

		want, accept, decided := *path, true, -1
		for i, r := range rules {
			if !twinMatches(r, &want, s) {
				continue
			}
			have := map[string]bool{}
			if len(r.GetSet().GetCommunities()) == 0 {
				for _, c := range want.Communities {
					have[fmt.Sprintf("%d:%d", c>>16, c&0xffff)] = true
				}
				for _, c := range want.Large() {
					have[c.String()] = true
				}
			}
			for text := range have {
				for _, pattern := range r.GetSet().GetRemoveCommunities() {
					if regexp.MustCompile("^" + strings.ReplaceAll(pattern, "*", "[0-9]+") + "$").MatchString(text) {
						delete(have, text)
					}
				}
			}
			for _, text := range slices.Concat(r.GetSet().GetCommunities(), r.GetSet().GetAddCommunities()) {
				have[text] = true
			}
			var matches []route.CommunityMatch
			for text := range have {
				match, _ := route.ParseCommunityMatch(text)
				matches = append(matches, match)
			}
			WithCommunities(&want, nil, nil, matches)
			if r.GetSet() != nil && r.GetSet().LocalPref != nil {
				want.LocalPref, want.MED = r.GetSet().GetLocalPref(), r.GetSet().GetMed()
			}
			for range r.GetSet().GetPrepend() {
				want.ASPath = append([]uint32{9}, want.ASPath...)
				want.ASPathLen++
			}
			if r.Action != "Continue" {
				accept, decided = r.Action == "Accept", i
				break
			}
		}
		rule := ""
		if decided >= 0 {
			rule = fmt.Sprintf("rule %d of BGPFilter f", decided+1)
		}
		if got.Accept != accept || got.Rule() != rule || accept && show(got.Path) != show(&want) {
			t.Fatalf("%v by %q: %s\nnot %v by %q: %s", got.Accept, got.Rule(), show(got.Path), accept, rule, show(&want))
		}
		steps := Chain{filter}.Explain(s)
		if decided >= 0 && (!steps[len(steps)-1].Matched || steps[len(steps)-1].Rule != rule || len(steps) != decided+1) {
			t.Fatalf("explained as %v", steps)
		}
	})
}

func show(p *route.Path) string {
	return fmt.Sprint(p.Communities, p.Large(), p.LocalPref, p.MED, p.ASPath, p.ASPathLen)
}

// Any expression that is accepted is matched without a panic, and in no time.
func FuzzASPathRegex(f *testing.F) {
	for _, seed := range []string{"_65001_", "^(65001|65002)( [0-9]+)*$", "((1*)*)*$", "[0-9]{1,3}_", "^$", "1{2,1}", "_*", "[^1]"} {
		f.Add(seed)
	}
	long := &route.Path{ASPath: slices.Repeat([]uint32{4200000000}, 255)}
	f.Fuzz(func(t *testing.T, text string) {
		filter, faults := ParseFilter(filterOf(&clearwayv1.BGPFilterRule{Action: "Reject", AsPath: &clearwayv1.ASPathMatch{Regex: text, MinLength: ptr(0)}}))
		if len(faults) > 0 {
			return
		}
		Chain{filter}.Evaluate(Subject{Path: long})
	})
}

// A peer that says it is about to go is the last choice; a filter may say otherwise, since it sees the path after that.
func TestGracefulShutdownIsHonoured(t *testing.T) {
	j := testJudge(t)
	leaving := path(tor, "10.244.2.0/26", 65101, 64512)
	leaving.LocalPref, leaving.Communities = 100, []uint32{route.GracefulShutdown}
	verdict, used := j.Judge(leaving)
	if verdict != (Verdict{Accept, BlockOfOwner}) || used.LocalPref != 0 || leaving.LocalPref != 100 {
		t.Errorf("%v, local preference %d", verdict, used.LocalPref)
	}
	words := strings.Join(j.Changes(leaving), "; ")
	if words != "local preference 0 in place of 100; its sender is about to go (community GracefulShutdown, RFC 8326)" {
		t.Error(words)
	}
	peer, pref := j.Peers[tor], uint32(50)
	peer.Import = chainOf(t, &clearwayv1.BGPFilterRule{Action: "Accept", Set: &clearwayv1.RouteChanges{LocalPref: &pref}})
	j.Peers[tor] = peer
	if _, used := j.Judge(leaving); used.LocalPref != 50 {
		t.Errorf("local preference %d", used.LocalPref)
	}
	if stays := path(tor, "10.244.2.0/26", 65101, 64512); true {
		j.Peers[tor] = Peer{Session: peer.Session, AllowOwnAS: 1}
		if _, used := j.Judge(stays); used != stays {
			t.Error("a path that nothing changes is copied")
		}
	}
}

// Transit is what an import filter says; blocks and nodes' subnets stay guarded.
func TestTransit(t *testing.T) {
	j := testJudge(t)
	peer := j.Peers[tor]
	peer.Import = chainOf(t,
		&clearwayv1.BGPFilterRule{Action: "Accept", Transit: true, Prefixes: []*clearwayv1.PrefixMatch{
			{Cidr: "0.0.0.0/0"}, {Cidr: "::/0"}, {Cidr: "192.0.2.0/24"}, {Cidr: "10.244.0.0/16", Le: ptr(32)},
		}},
		&clearwayv1.BGPFilterRule{Action: "Accept"})
	j.Peers[tor] = peer
	for prefix, want := range map[string]Verdict{
		"0.0.0.0/0": {Accept, TransitByFilter}, "::/0": {Accept, TransitByFilter}, "192.0.2.0/24": {Reject, NodeSubnet},
		"10.244.3.0/26": {Reject, OriginASN}, "10.244.2.0/27": {Reject, PieceOfBlock}, "198.51.100.0/24": {Reject, OutsidePools},
		"10.244.1.0/26": {Reject, OwnBlock},
	} {
		p := path(tor, prefix, 65101)
		if got, _ := j.Judge(p); got != want {
			t.Errorf("%s: %v by %v", prefix, got.Decision, got.Rule)
		}
	}
	if why := j.Explain(path(tor, "::/0", 65101)); why != "transit by rule 1 of BGPFilter f" {
		t.Error(why)
	}
}
