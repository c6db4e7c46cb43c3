package route

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// LargeCommunity is a large community (RFC 8092): the administrator's AS number and two numbers of his.
type LargeCommunity struct{ Global, Local1, Local2 uint32 }

func (c LargeCommunity) String() string { return fmt.Sprintf("%d:%d:%d", c.Global, c.Local1, c.Local2) }

// Compare orders large communities as numbers.
func (c LargeCommunity) Compare(other LargeCommunity) int {
	return cmp.Or(cmp.Compare(c.Global, other.Global), cmp.Compare(c.Local1, other.Local1), cmp.Compare(c.Local2, other.Local2))
}

// Well-known communities that decisions are made by, or that have a name.
const (
	GracefulShutdown  uint32 = 0xffff0000 // RFC 8326
	AcceptOwn         uint32 = 0xffff0001 // RFC 7611
	LLGRStale         uint32 = 0xffff0006 // RFC 9494
	NoLLGR            uint32 = 0xffff0007 // RFC 9494
	Blackhole         uint32 = 0xffff029a // RFC 7999
	NoExport          uint32 = 0xffffff01 // RFC 1997
	NoAdvertise       uint32 = 0xffffff02 // RFC 1997
	NoExportSubconfed uint32 = 0xffffff03 // RFC 1997
	NoPeer            uint32 = 0xffffff04 // RFC 3765
)

var wellKnown = []struct {
	name  string
	value uint32
}{
	{"GracefulShutdown", GracefulShutdown}, {"AcceptOwn", AcceptOwn}, {"LLGRStale", LLGRStale}, {"NoLLGR", NoLLGR},
	{"Blackhole", Blackhole}, {"NoExport", NoExport}, {"NoAdvertise", NoAdvertise},
	{"NoExportSubconfed", NoExportSubconfed}, {"NoPeer", NoPeer},
}

// WellKnownCommunities lists the names that stand for communities.
func WellKnownCommunities() []string {
	var names []string
	for _, known := range wellKnown {
		names = append(names, known.name)
	}
	return names
}

// CommunityText writes a standard community, with its name where it has one.
func CommunityText(community uint32) string {
	for _, known := range wellKnown {
		if known.value == community {
			return known.name
		}
	}
	return fmt.Sprintf("%d:%d", community>>16, community&0xffff)
}

// CommunityMatch is a community, standard or large, or all of a kind: each part is a number or any.
type CommunityMatch struct {
	Parts [3]uint32 // of a standard one the first two
	Any   [3]bool   // parts that may be any number
	Large bool
}

// ParseCommunityMatch reads "65535:0", "64512:1:2", either with * for numbers, or a well-known name ("GracefulShutdown",
// "graceful-shutdown"). ok is false for anything else.
func ParseCommunityMatch(text string) (match CommunityMatch, ok bool) {
	plain := strings.ReplaceAll(text, "-", "")
	for _, known := range wellKnown {
		if strings.EqualFold(known.name, plain) {
			return CommunityMatch{Parts: [3]uint32{known.value >> 16, known.value & 0xffff}}, true
		}
	}
	parts := strings.Split(text, ":")
	if len(parts) != 2 && len(parts) != 3 {
		return CommunityMatch{}, false
	}
	match.Large = len(parts) == 3
	bits := 16
	if match.Large {
		bits = 32
	}
	for i, part := range parts {
		if part == "*" {
			match.Any[i] = true
			continue
		}
		number, err := strconv.ParseUint(part, 10, bits)
		if err != nil || part[0] == '+' {
			return CommunityMatch{}, false
		}
		match.Parts[i] = uint32(number)
	}
	return match, true
}

// Exact tells whether it is one community, not many.
func (m CommunityMatch) Exact() bool { return m.Any == [3]bool{} }

// Standard is the standard community that it is, if it is exact and none of the large ones.
func (m CommunityMatch) Standard() uint32 { return m.Parts[0]<<16 | m.Parts[1] }

// LargeCommunity is the large community that it is, if it is exact and a large one.
func (m CommunityMatch) LargeCommunity() LargeCommunity {
	return LargeCommunity{m.Parts[0], m.Parts[1], m.Parts[2]}
}

func (m CommunityMatch) part(i int, number uint32) bool { return m.Any[i] || m.Parts[i] == number }

// Matches tells whether it is, or is among, a standard community.
func (m CommunityMatch) Matches(community uint32) bool {
	return !m.Large && m.part(0, community>>16) && m.part(1, community&0xffff)
}

// MatchesLarge tells whether it is, or is among, a large community.
func (m CommunityMatch) MatchesLarge(c LargeCommunity) bool {
	return m.Large && m.part(0, c.Global) && m.part(1, c.Local1) && m.part(2, c.Local2)
}

// In tells whether the path carries one that matches.
func (m CommunityMatch) In(path *Path) bool {
	if m.Large {
		return slices.ContainsFunc(path.Large(), m.MatchesLarge)
	}
	return slices.ContainsFunc(path.Communities, m.Matches)
}

func (m CommunityMatch) String() string {
	if !m.Large && m.Exact() {
		return CommunityText(m.Standard())
	}
	parts := make([]string, 0, 3)
	for i := range 2 + number(m.Large) {
		if m.Any[i] {
			parts = append(parts, "*")
		} else {
			parts = append(parts, strconv.FormatUint(uint64(m.Parts[i]), 10))
		}
	}
	return strings.Join(parts, ":")
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}
