package speaker

import (
	"net/netip"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/clearway/clearway/bgp/route"
)

func wireFamily(family route.Family) bgp.Family {
	if family == route.IPv4 {
		return bgp.RF_IPv4_UC
	}
	return bgp.RF_IPv6_UC
}

func familyOf(family bgp.Family) (route.Family, bool) {
	switch family {
	case bgp.RF_IPv4_UC:
		return route.IPv4, true
	case bgp.RF_IPv6_UC:
		return route.IPv6, true
	}
	return 0, false
}

// reader turns GoBGP's paths into ours. Paths of one UPDATE share their attributes; the reader remembers the last ones
// it read, so that ours share them as well. It belongs to one goroutine.
type reader struct {
	asPathOf      *bgp.PathAttributeAsPath
	asPath        asPath
	communitiesOf *bgp.PathAttributeCommunities
	communities   []uint32
}

type asPath struct {
	numbers []uint32
	length  int
	set     bool
}

// read converts one path; ok is false for what is no unicast prefix.
func (r *reader) read(p *apiutil.Path, localASN uint32) (update Update, ok bool) {
	nlri, ok := p.Nlri.(*bgp.IPAddrPrefix)
	if !ok {
		return Update{}, false
	}
	update.Prefix = nlri.Prefix.Masked()
	if p.Withdrawal {
		return update, true
	}
	path := &route.Path{
		Prefix: update.Prefix, Peer: p.PeerAddress, PeerASN: p.PeerASN, PeerID: p.PeerID,
		EBGP: p.PeerASN != localASN, LocalPref: 100,
	}
	for _, attribute := range p.Attrs {
		r.readAttribute(path, attribute)
	}
	if !path.NextHop.IsValid() {
		// RFC 7606 section 7.1 and 7.11: without a usable next hop the path is withdrawn.
		return update, true
	}
	update.Path = path
	return update, true
}

func (r *reader) readAttribute(path *route.Path, attribute bgp.PathAttributeInterface) {
	switch a := attribute.(type) {
	case *bgp.PathAttributeAsPath:
		if r.asPathOf != a {
			r.asPathOf, r.asPath = a, readASPath(a)
		}
		path.ASPath, path.ASPathLen, path.HasASSet = r.asPath.numbers, r.asPath.length, r.asPath.set
	case *bgp.PathAttributeNextHop:
		path.NextHop = usable(a.Value)
	case *bgp.PathAttributeMpReachNLRI:
		path.NextHop = mpNextHop(a, path.Peer)
	case *bgp.PathAttributeOrigin:
		path.Origin = a.Value
	case *bgp.PathAttributeLocalPref:
		if !path.EBGP { // RFC 4271 section 5.1.5: ignored from an external peer
			path.LocalPref = a.Value
		}
	case *bgp.PathAttributeMultiExitDisc:
		path.MED = a.Value
	case *bgp.PathAttributeCommunities:
		if r.communitiesOf != a {
			r.communitiesOf, r.communities = a, a.Value
		}
		path.Communities = r.communities
	}
}

// mpNextHop prefers the global next hop (RFC 2545 section 3); a link-local one is one only on the peer's link.
func mpNextHop(a *bgp.PathAttributeMpReachNLRI, peer netip.Addr) netip.Addr {
	next := usable(a.Nexthop)
	if next.IsValid() && !next.IsLinkLocalUnicast() {
		return next
	}
	if !next.IsValid() {
		next = usable(a.LinkLocalNexthop)
	}
	if next.IsValid() && peer.Zone() != "" {
		return next.WithZone(peer.Zone())
	}
	return netip.Addr{}
}

// usable is the address, as a next hop, in its own form; invalid for what is none.
func usable(address netip.Addr) netip.Addr {
	address = address.Unmap()
	if !address.IsValid() || address.IsUnspecified() || address.IsMulticast() || address.IsLoopback() {
		return netip.Addr{}
	}
	return address
}

func readASPath(a *bgp.PathAttributeAsPath) asPath {
	var path asPath
	for _, segment := range a.Value {
		numbers := segment.GetAS()
		path.numbers = append(path.numbers, numbers...)
		switch segment.GetType() {
		case bgp.BGP_ASPATH_ATTR_TYPE_SET:
			path.set = true
			path.length++
		case bgp.BGP_ASPATH_ATTR_TYPE_SEQ:
			path.length += len(numbers)
		case bgp.BGP_ASPATH_ATTR_TYPE_CONFED_SET:
			path.set = true
		}
	}
	return path
}

// pathOf is an advertisement as GoBGP takes it, the node as next hop.
func pathOf(a route.Advertisement, nextHop netip.Addr) (*apiutil.Path, error) {
	nlri, err := bgp.NewIPAddrPrefix(a.Prefix)
	if err != nil {
		return nil, err
	}
	family := wireFamily(route.FamilyOf(a.Prefix))
	attributes := []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP)}
	if family == bgp.RF_IPv4_UC {
		next, err := bgp.NewPathAttributeNextHop(nextHop)
		if err != nil {
			return nil, err
		}
		attributes = append(attributes, next)
	} else {
		reach, err := bgp.NewPathAttributeMpReachNLRI(family, []bgp.PathNLRI{{NLRI: nlri}}, nextHop)
		if err != nil {
			return nil, err
		}
		attributes = append(attributes, reach)
	}
	if len(a.Communities) > 0 {
		attributes = append(attributes, bgp.NewPathAttributeCommunities(a.Communities))
	}
	return &apiutil.Path{Family: family, Nlri: nlri, Attrs: attributes}, nil
}
