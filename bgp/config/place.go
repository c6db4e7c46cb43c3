package config

import (
	"cmp"
	"net/netip"
	"path"
	"slices"
	"strings"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Surroundings are what peers are found by that have no address in the configuration.
type Surroundings struct {
	Links    []Link
	Gateways []netip.Addr   // of the default routes that are not ours; with a zone when link-local
	Local    []LocalAddress // this machine's
}

// Link is an interface that is up, and who on it sends router advertisements (RFC 4861).
type Link struct {
	Name    string
	Routers []netip.Addr // link-local, with the interface as zone
}

// The values of peerType and of defaultGateways.
const (
	TypeExternal = "External"
	TypeInternal = "Internal"

	gatewaysBoth = "Both"
)

// Interfaces are the names and patterns of interfaces on which peers are to be looked for.
func Interfaces(snapshot *clearwayv1.NodeSnapshot) []string {
	var patterns []string
	for _, peer := range snapshot.GetPeers() {
		if spec := peer.GetSpec(); spec.GetPeerInterface() != "" && !spec.GetDisabled() && len(Validate(peer)) == 0 {
			patterns = append(patterns, spec.GetPeerInterface())
		}
	}
	slices.Sort(patterns)
	return slices.Compact(patterns)
}

func (b *builder) await(key, place, why string) {
	b.awaited = append(b.awaited, Awaited{Origin: key, Place: place, Why: why})
}

// addByInterface makes a session with each router on the interfaces that match.
func (b *builder) addByInterface(key string, spec *clearwayv1.BGPPeerSpec) {
	pattern := spec.GetPeerInterface()
	found := false
	for _, link := range b.place.Links {
		if matches, err := path.Match(pattern, link.Name); err != nil || !matches {
			continue
		}
		found = true
		if len(link.Routers) == 0 {
			b.await(key, link.Name, "nobody on "+link.Name+" sends router advertisements: is BGP configured for the interface at the other end?")
		}
		for _, router := range link.Routers {
			b.addAt(key, spec, router)
		}
	}
	if !found && !strings.ContainsAny(pattern, "*?") {
		b.await(key, pattern, "there is no interface "+pattern+", or it is down")
	}
}

// addByGateway makes a session with each default gateway.
func (b *builder) addByGateway(key string, spec *clearwayv1.BGPPeerSpec) {
	found := false
	for _, gateway := range b.place.Gateways {
		family := "IPv6"
		if gateway.Is4() {
			family = "IPv4"
		}
		if spec.GetDefaultGateways() == gatewaysBoth || spec.GetDefaultGateways() == family {
			found = true
			b.addAt(key, spec, gateway)
		}
	}
	if !found {
		b.await(key, "default gateway", "the node has no default route by a gateway of the wanted family, but for those of BGP")
	}
}

// addRanges lets whoever calls from the prefixes be a neighbour.
func (b *builder) addRanges(key string, spec *clearwayv1.BGPPeerSpec) {
	for _, text := range spec.GetListenRanges() {
		prefix := netip.MustParsePrefix(text)
		if other, taken := b.ranges[prefix]; taken {
			b.problem(key, "DuplicateRange", "%s has the same listenRange %s and goes first", other.Session.Origin, prefix)
			continue
		}
		// The first address stands for all; it says no more than the family.
		session, ok := b.neighbor(key, spec, prefix.Addr())
		if !ok {
			continue
		}
		session.Address, session.Passive = netip.Addr{}, true
		if spec.GetSourceAddress() == "" {
			session.SourceAddress = netip.Addr{} // whichever was called
		}
		b.ranges[prefix] = Range{Prefix: prefix, Limit: cmp.Or(int(spec.GetListenLimit()), defaults.listenLimit), Session: session}
	}
}

// source is the local end of the session with an address: what is written; on a default gateway's link the address of its
// subnet, since the node's own may be on another; else the node's own. A link-local session has that of its interface, which
// is left to the kernel.
func (b *builder) source(spec *clearwayv1.BGPPeerSpec, peer netip.Addr) netip.Addr {
	switch {
	case spec.GetSourceAddress() != "":
		return netip.MustParseAddr(spec.GetSourceAddress())
	case peer.Is6() && peer.IsLinkLocalUnicast():
		return netip.Addr{}
	case spec.GetDefaultGateways() == "":
		return b.self.Address(peer.Is4())
	}
	own := b.self.Address(peer.Is4())
	var onLink netip.Addr
	for _, local := range b.place.Local {
		if !netip.PrefixFrom(local.Address, local.Bits).Masked().Contains(peer) {
			continue
		}
		if local.Address == own {
			return own
		}
		if !onLink.IsValid() || local.Address.Less(onLink) {
			onLink = local.Address
		}
	}
	if onLink.IsValid() {
		return onLink
	}
	return own
}
