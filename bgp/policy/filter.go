package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/clearway/clearway/bgp/route"
)

// Filter is a BGPFilter as a value: its rules are asked in order, and the first that matches and does not say Continue
// decides.
type Filter struct {
	Name  string
	Rules []FilterRule
}

// FilterRule applies to the paths that all of its clauses match. One that is empty matches every path.
type FilterRule struct {
	Prefixes    []Match
	Communities CommunityClauses
	ASPath      *ASPathMatch
	NextHops    []netip.Prefix
	Peers       []string // names of BGPPeers, of nodes of the mesh, or addresses
	PeerType    PeerType
	Sources     []route.Source
	Accept      bool
	Continue    bool // the changes are made, and the next rule is asked
	Transit     bool // accepted though outside of all pools
	Changes     Changes
}

// PeerType is a kind of session.
type PeerType uint8

// The kinds.
const (
	AnyPeer PeerType = iota
	External
	Internal
)

// CommunityClauses are what a path must carry one of, all of, and none of.
type CommunityClauses struct{ Any, All, None []route.CommunityMatch }

// ASPathMatch matches AS paths that fit each field that is set.
type ASPathMatch struct {
	Contains, Origins, Neighbors []uint32
	MinLength, MaxLength         int // MaxLength below 0: no limit
	Regex                        string
	compiled                     *regexp.Regexp
}

// Changes are what a rule changes of a path.
type Changes struct {
	Communities       []route.CommunityMatch // replace all, when there are any
	RemoveCommunities []route.CommunityMatch
	AddCommunities    []route.CommunityMatch
	LocalPref, MED    *uint32
	Prepend           int
	NextHop           NextHopMode
}

// NextHopMode is which next hop a peer is told.
type NextHopMode uint8

// The modes.
const (
	NextHopDefault NextHopMode = iota // as config's Neighbor has it
	NextHopSelf                       // the node's address on the session
	NextHopKeep                       // the path's own next hop; of the node's own prefixes, the node's own address
)

func (m NextHopMode) String() string { return [...]string{"", "Self", "Keep"}[m] }

// Match matches prefixes inside CIDR whose length is from GE to LE, both included.
type Match struct {
	CIDR   netip.Prefix
	GE, LE int
}

// Matches tells whether the prefix is inside and of a fitting length.
func (m Match) Matches(prefix netip.Prefix) bool {
	return prefix.Bits() >= m.GE && prefix.Bits() <= m.LE && Within(prefix, m.CIDR)
}

func (m Match) String() string {
	switch {
	case m.GE == m.CIDR.Bits() && m.LE == m.CIDR.Bits():
		return m.CIDR.String()
	case m.GE == m.LE:
		return fmt.Sprintf("%s of length %d", m.CIDR, m.GE)
	}
	return fmt.Sprintf("%s of length %d to %d", m.CIDR, m.GE, m.LE)
}

// Within tells whether inner is outer, or a part of it.
func Within(inner, outer netip.Prefix) bool {
	return inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}

// Chain is filters in order. What no rule decides on is accepted.
type Chain []Filter

// Subject is what a chain judges: a path, and the session that it came by or goes to.
type Subject struct {
	Path   *route.Path
	Source route.Source
	Peer   Session
	// Export: the path goes to the peer; else it came from it.
	Export bool
}

// Session is the session with a peer, as filters see it.
type Session struct {
	Address  netip.Addr
	Origin   string // "BGPPeer/<name>" or "nodeMesh/<node>"
	EBGP     bool
	LocalASN uint32
	PeerASN  uint32
}

// Outcome is what a chain makes of a path.
type Outcome struct {
	Accept bool
	// Path is the path as changed: the subject's own when nothing was. On export, Prepend is not in its AS path yet.
	Path    *route.Path
	Prepend int
	NextHop NextHopMode
	// Transit: the rule that accepts it means what lies outside of all pools, too.
	Transit bool

	filter string // "": no rule decided
	rule   int
}

// Rule is the rule that decided ("rule 2 of BGPFilter f"); empty when none did.
func (o Outcome) Rule() string {
	if o.filter == "" {
		return ""
	}
	return ruleName(o.filter, o.rule)
}

func ruleName(filter string, rule int) string {
	return fmt.Sprintf("rule %d of BGPFilter %s", rule+1, filter)
}

// Evaluate runs the path through the chain.
func (c Chain) Evaluate(s Subject) Outcome {
	outcome := Outcome{Accept: true, Path: s.Path}
	for f := range c {
		for i := range c[f].Rules {
			rule := &c[f].Rules[i]
			s.Path = outcome.Path // a rule sees what those before it changed
			if rule.differs(s) != nil {
				continue
			}
			rule.Changes.apply(&outcome, s)
			if !rule.Continue {
				outcome.Accept, outcome.Transit, outcome.filter, outcome.rule = rule.Accept, rule.Transit, c[f].Name, i
				return outcome
			}
		}
	}
	return outcome
}

// Step is one rule that was asked, for a reader.
type Step struct {
	Rule    string // "rule 2 of BGPFilter f"
	Matched bool
	// Clause is why: the first clause that does not match, or all that do.
	Clause string
	// Action is what follows when it matches: "Accept", "Accept as transit", "Reject", "Continue".
	Action  string
	Changes []string // in words
}

// Explain tells how Evaluate comes to its outcome: each rule that it asks, in order, and which clause of it matched or did not.
func (c Chain) Explain(s Subject) []Step {
	var steps []Step
	outcome := Outcome{Accept: true, Path: s.Path}
	for _, filter := range c {
		for i := range filter.Rules {
			rule := &filter.Rules[i]
			s.Path = outcome.Path
			step := Step{Rule: ruleName(filter.Name, i)}
			if why := rule.differs(s); why != nil {
				step.Clause = why()
				steps = append(steps, step)
				continue
			}
			before := outcome
			rule.Changes.apply(&outcome, s)
			step.Matched, step.Clause, step.Action = true, rule.String(), rule.action()
			step.Changes = difference(before, outcome)
			steps = append(steps, step)
			if !rule.Continue {
				return steps
			}
		}
	}
	return steps
}

func (s Step) String() string {
	if !s.Matched {
		return fmt.Sprintf("%s does not match: %s", s.Rule, s.Clause)
	}
	text := fmt.Sprintf("%s matches (%s): %s", s.Rule, s.Clause, s.Action)
	for i, change := range s.Changes {
		text += map[bool]string{true: ", with ", false: ", "}[i == 0] + change
	}
	return text
}

func (r *FilterRule) action() string {
	switch {
	case r.Continue:
		return "Continue"
	case r.Accept && r.Transit:
		return "Accept as transit"
	case r.Accept:
		return "Accept"
	}
	return "Reject"
}

// RejectAll is a filter of this name that accepts nothing. It stands for one that is missing or broken: to let everything
// through would be the one thing its author did not want.
func RejectAll(name string) Filter { return Filter{Name: name, Rules: []FilterRule{{}}} }

// Exports tells whether a rule of the chain changes what only a path that is told has.
func (c Chain) Exports() (rule string, found bool) {
	for _, filter := range c {
		i := slices.IndexFunc(filter.Rules, func(r FilterRule) bool { return r.Changes.NextHop != NextHopDefault })
		if i >= 0 {
			return ruleName(filter.Name, i), true
		}
	}
	return "", false
}
