package config

import (
	"fmt"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/clearway/clearway/bgp/policy"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// who lists what is wrong with who a BGPPeer's peers are, and how they are reached.
func (f *faults) who(spec *clearwayv1.BGPPeerSpec) {
	var ways []string
	for _, way := range []struct {
		field string
		given bool
	}{
		{"peerAddress", spec.GetPeerAddress() != ""}, {"peerInterface", spec.GetPeerInterface() != ""},
		{"defaultGateways", spec.GetDefaultGateways() != ""}, {"listenRanges", len(spec.GetListenRanges()) > 0},
	} {
		if way.given {
			ways = append(ways, way.field)
		}
	}
	switch {
	case len(ways) == 0:
		f.add("spec.peerAddress", "", "is missing; write an address such as 192.0.2.1 or 2001:db8::1, or in its place peerInterface, defaultGateways or listenRanges")
	case len(ways) > 1:
		f.add("spec."+ways[1], valueOf(spec, ways[1]), "stands beside %s; who the peers are is said in one way", ways[0])
	case ways[0] == "peerAddress":
		f.addresses(spec)
	case ways[0] == "peerInterface":
		f.byInterface(spec)
	case ways[0] == "defaultGateways":
		f.byGateway(spec)
	default:
		f.ranges(spec)
	}
	f.peerASN(spec, len(ways) == 1 && ways[0] != "peerAddress")
	f.hops(spec)
	f.maxPrefixes(spec.GetMaxPrefixes())
	if limit := spec.GetListenLimit(); limit != 0 && (limit < 1 || limit > 5000) {
		f.add("spec.listenLimit", limit, "must be 1 to 5000, or absent for %d", defaults.listenLimit)
	} else if limit != 0 && len(spec.GetListenRanges()) == 0 {
		f.add("spec.listenLimit", limit, "is for listenRanges alone")
	}
}

func valueOf(spec *clearwayv1.BGPPeerSpec, field string) string {
	switch field {
	case "peerInterface":
		return spec.GetPeerInterface()
	case "defaultGateways":
		return spec.GetDefaultGateways()
	}
	return strings.Join(spec.GetListenRanges(), ",")
}

// peerASN: a number, or a type in its place. Peers that are found may be of any AS but the own one.
func (f *faults) peerASN(spec *clearwayv1.BGPPeerSpec, found bool) {
	switch kind := spec.GetPeerType(); kind {
	case TypeExternal, TypeInternal:
		if spec.GetPeerAsn() != 0 {
			f.add("spec.peerType", kind, "stands in place of peerASN; name one of them")
		}
	case "":
		f.asn("spec.peerASN", spec.GetPeerAsn(), found)
	default:
		f.add("spec.peerType", kind, "must be External or Internal")
	}
}

func (f *faults) addresses(spec *clearwayv1.BGPPeerSpec) {
	peer := f.host("spec.peerAddress", spec.GetPeerAddress())
	if spec.GetSourceAddress() == "" {
		return
	}
	source := f.host("spec.sourceAddress", spec.GetSourceAddress())
	switch {
	case !peer.IsValid() || !source.IsValid():
	case peer.Is4() != source.Is4():
		f.add("spec.sourceAddress", source, "must be of the same family as peerAddress %s", peer)
	case peer == source:
		f.add("spec.sourceAddress", source, "must not be the peer's own address")
	case peer.Zone() != "" && source.Zone() != peer.Zone():
		f.add("spec.sourceAddress", source, "must be a link-local address of the interface %s, or absent for it", peer.Zone())
	}
}

// maxInterface is IFNAMSIZ of Linux less its zero byte.
const maxInterface = 15

func isInterface(name string) bool {
	return len(name) <= maxInterface && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n")
}

func (f *faults) byInterface(spec *clearwayv1.BGPPeerSpec) {
	pattern := spec.GetPeerInterface()
	if _, err := path.Match(pattern, ""); err != nil || !isInterface(pattern) || strings.ContainsAny(pattern, "[]\\") {
		f.add("spec.peerInterface", pattern, "must be an interface's name, such as eth1, or a pattern of it with * and ?, of at most %d characters", maxInterface)
	}
	f.onLink(spec, "peerInterface")
}

func (f *faults) byGateway(spec *clearwayv1.BGPPeerSpec) {
	switch spec.GetDefaultGateways() {
	case "IPv4", "IPv6", gatewaysBoth:
	default:
		f.add("spec.defaultGateways", spec.GetDefaultGateways(), "must be IPv4, IPv6 or Both")
	}
	f.onLink(spec, "defaultGateways")
}

// onLink refuses what has no meaning for peers on a link that the node finds itself.
func (f *faults) onLink(spec *clearwayv1.BGPPeerSpec, way string) {
	if spec.GetSourceAddress() != "" {
		f.add("spec.sourceAddress", spec.GetSourceAddress(), "is for peerAddress; with %s it is the address of the link", way)
	}
	if spec.GetMultihopTtl() != 0 {
		f.add("spec.multihopTTL", spec.GetMultihopTtl(), "is not for %s: these peers are on-link", way)
	}
}

func (f *faults) ranges(spec *clearwayv1.BGPPeerSpec) {
	seen := map[netip.Prefix]bool{}
	for i, text := range spec.GetListenRanges() {
		field := fmt.Sprintf("spec.listenRanges[%d]", i)
		prefix, why := policy.ParsePrefix(text)
		switch {
		case why != "":
			f.add(field, text, "%s", why)
		case seen[prefix]:
			f.add(field, text, "is there twice")
		case prefix.Bits() == 0:
			f.add(field, text, "is everybody; name the prefixes that peers call from")
		}
		seen[prefix] = true
	}
	if source := spec.GetSourceAddress(); source != "" {
		f.host("spec.sourceAddress", source)
	}
	if spec.GetBfd() != nil && !spec.GetBfd().GetDisabled() {
		f.add("spec.bfd", "", "is not available for listenRanges; name the peers by peerAddress")
	}
}

// hops: GTSM and multihop are two answers to one question.
func (f *faults) hops(spec *clearwayv1.BGPPeerSpec) {
	switch hops := spec.GetTtlSecurityHops(); {
	case hops < 0 || hops > 254:
		f.add("spec.ttlSecurityHops", hops, "must be 1 to 254, or absent for no check")
	case hops > 0 && spec.GetMultihopTtl() != 0:
		f.add("spec.ttlSecurityHops", hops, "stands beside multihopTTL; with GTSM (RFC 5082) packets are sent with TTL 255")
	}
}

func (f *faults) maxPrefixes(spec *clearwayv1.MaxPrefixes) {
	if spec == nil {
		return
	}
	if limit := spec.GetLimit(); limit < 1 || limit > 10_000_000 {
		f.add("spec.maxPrefixes.limit", limit, "must be 1 to 10000000")
	}
	switch action := LimitAction(spec.GetAction()); action {
	case "", LimitWarn, LimitRestart, LimitStop:
	default:
		f.add("spec.maxPrefixes.action", action, "must be Warn, Restart or Stop")
	}
	f.duration("spec.maxPrefixes.restartAfter", spec.GetRestartAfter(), time.Second, 24*time.Hour)
	if percent := spec.GetWarnPercent(); percent < 0 || percent > 100 {
		f.add("spec.maxPrefixes.warnPercent", percent, "must be 1 to 100, or absent for %d", defaults.warnPercent)
	}
}
