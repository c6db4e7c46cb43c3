package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/clearway/clearway/bgp/route"
)

// differs is the first clause that the path does not fit, as a sentence to be written when somebody asks; nil: it fits all.
func (r *FilterRule) differs(s Subject) func() string {
	p := s.Path
	switch {
	case len(r.Prefixes) > 0 && !slices.ContainsFunc(r.Prefixes, func(m Match) bool { return m.Matches(p.Prefix) }):
		return func() string { return fmt.Sprintf("%s is not in %s", p.Prefix, list(r.Prefixes)) }
	case len(r.Sources) > 0 && !slices.Contains(r.Sources, s.Source):
		return func() string { return fmt.Sprintf("its source is %s, not %s", s.Source, list(r.Sources)) }
	case r.PeerType == External && !s.Peer.EBGP, r.PeerType == Internal && s.Peer.EBGP:
		return func() string { return "the session is not " + r.PeerType.String() }
	case len(r.Peers) > 0 && !slices.ContainsFunc(r.Peers, s.Peer.is):
		return func() string { return fmt.Sprintf("the peer is %s, not %s", s.Peer, strings.Join(r.Peers, ", ")) }
	case len(r.NextHops) > 0 && !slices.ContainsFunc(r.NextHops, func(n netip.Prefix) bool { return n.Contains(p.NextHop.WithZone("")) }):
		return func() string { return fmt.Sprintf("its next hop %s is not in %s", p.NextHop, list(r.NextHops)) }
	}
	if why := r.Communities.differs(p); why != nil {
		return why
	}
	if r.ASPath != nil {
		return r.ASPath.differs(p)
	}
	return nil
}

// String is what the rule matches, in words.
func (r *FilterRule) String() string {
	var parts []string
	add := func(there bool, format string, args ...any) {
		if there {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(len(r.Prefixes) > 0, "prefix in %s", list(r.Prefixes))
	add(len(r.Sources) > 0, "source %s", list(r.Sources))
	add(r.PeerType != AnyPeer, "session %s", r.PeerType)
	add(len(r.Peers) > 0, "peer %s", strings.Join(r.Peers, ", "))
	add(len(r.NextHops) > 0, "next hop in %s", list(r.NextHops))
	add(len(r.Communities.Any) > 0, "any community of %s", list(r.Communities.Any))
	add(len(r.Communities.All) > 0, "all communities of %s", list(r.Communities.All))
	add(len(r.Communities.None) > 0, "no community of %s", list(r.Communities.None))
	add(r.ASPath != nil, "%s", r.ASPath)
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, "; ")
}

func (t PeerType) String() string { return [...]string{"of any kind", "External", "Internal"}[t] }

// Name is the BGPPeer's or the node's.
func (s Session) Name() string {
	_, name, _ := strings.Cut(s.Origin, "/")
	return name
}

func (s Session) String() string { return fmt.Sprintf("%s (%s)", s.Name(), s.Address) }

func (s Session) is(text string) bool {
	if text == s.Name() {
		return true
	}
	address, err := netip.ParseAddr(text)
	return err == nil && address == s.Address
}

func (c CommunityClauses) differs(p *route.Path) func() string {
	carries := func(m route.CommunityMatch) bool { return m.In(p) }
	if len(c.Any) > 0 && !slices.ContainsFunc(c.Any, carries) {
		return func() string { return "it carries none of the communities " + list(c.Any) }
	}
	for _, match := range c.All {
		if !carries(match) {
			return func() string { return "it does not carry community " + match.String() }
		}
	}
	for _, match := range c.None {
		if carries(match) {
			return func() string { return "it carries community " + match.String() }
		}
	}
	return nil
}

func (m *ASPathMatch) differs(p *route.Path) func() string {
	holds := func(asn uint32) bool { return slices.Contains(m.Contains, asn) }
	switch {
	case len(m.Contains) > 0 && !slices.ContainsFunc(p.ASPath, holds):
		return func() string { return fmt.Sprintf("AS path %q contains none of %s", asPathText(p), list(m.Contains)) }
	case len(m.Origins) > 0 && (len(p.ASPath) == 0 || !slices.Contains(m.Origins, p.ASPath[len(p.ASPath)-1])):
		return func() string {
			return fmt.Sprintf("AS path %q was originated by none of %s", asPathText(p), list(m.Origins))
		}
	case len(m.Neighbors) > 0 && (len(p.ASPath) == 0 || !slices.Contains(m.Neighbors, p.ASPath[0])):
		return func() string {
			return fmt.Sprintf("AS path %q begins with none of %s", asPathText(p), list(m.Neighbors))
		}
	case p.ASPathLen < m.MinLength:
		return func() string { return fmt.Sprintf("its AS path is %d long, less than %d", p.ASPathLen, m.MinLength) }
	case m.MaxLength >= 0 && p.ASPathLen > m.MaxLength:
		return func() string { return fmt.Sprintf("its AS path is %d long, more than %d", p.ASPathLen, m.MaxLength) }
	case m.compiled != nil && !m.compiled.MatchString(asPathText(p)):
		return func() string { return fmt.Sprintf("AS path %q does not match %q", asPathText(p), m.Regex) }
	}
	return nil
}

func (m *ASPathMatch) String() string {
	var parts []string
	if len(m.Contains) > 0 {
		parts = append(parts, "contains "+list(m.Contains))
	}
	if len(m.Origins) > 0 {
		parts = append(parts, "originated by "+list(m.Origins))
	}
	if len(m.Neighbors) > 0 {
		parts = append(parts, "beginning with "+list(m.Neighbors))
	}
	if m.MinLength > 0 {
		parts = append(parts, fmt.Sprintf("at least %d long", m.MinLength))
	}
	if m.MaxLength >= 0 {
		parts = append(parts, fmt.Sprintf("at most %d long", m.MaxLength))
	}
	if m.Regex != "" {
		parts = append(parts, fmt.Sprintf("matching %q", m.Regex))
	}
	return "AS path " + strings.Join(parts, ", ")
}

// asPathText is an AS path as regular expressions see it.
func asPathText(p *route.Path) string {
	text := make([]byte, 0, 8*len(p.ASPath))
	for i, asn := range p.ASPath {
		if i > 0 {
			text = append(text, ' ')
		}
		text = strconv.AppendUint(text, uint64(asn), 10)
	}
	return string(text)
}

func list[T any](items []T) string {
	texts := make([]string, 0, len(items))
	for _, item := range items {
		texts = append(texts, fmt.Sprint(item))
	}
	return strings.Join(texts, ", ")
}
