package speaker

import (
	"net/netip"
	"slices"

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
	extra         *route.Extra
}

type asPath struct {
	numbers []uint32
	length  int
	set     bool
}

func (p asPath) equal(q asPath) bool {
	return p.length == q.length && p.set == q.set && slices.Equal(p.numbers, q.numbers)
}

// read converts one path; ok is false for what is no unicast prefix.
func (r *reader) read(p *apiutil.Path, localASN uint32) (update Update, ok bool) {
	nlri, ok := p.Nlri.(*bgp.IPAddrPrefix)
	if !ok {
		return Update{}, false
	}
	update.Prefix, update.ID = nlri.Prefix.Masked(), p.RemoteID
	if p.Withdrawal {
		return update, true
	}
	path := &route.Path{
		Prefix: update.Prefix, PathID: update.ID, Peer: p.PeerAddress, PeerASN: p.PeerASN, PeerID: p.PeerID,
		EBGP: p.PeerASN != localASN, LocalPref: 100,
	}
	for _, attribute := range p.Attrs {
		if malformed(attribute) {
			return update, true // RFC 7606 section 2: treated as withdrawn
		}
		r.readAttribute(path, attribute)
	}
	if slices.Contains(path.ASPath, 0) { // RFC 7607 section 2
		return update, true
	}
	r.readExtra(path, p.Attrs)
	if !path.NextHop.IsValid() {
		// RFC 7606 section 7.1 and 7.11: without a usable next hop the path is withdrawn.
		return update, true
	}
	update.Path = path
	return update, true
}

// malformed are attributes that withdraw their paths, and that GoBGP lets pass: a list of communities is not empty
// (RFC 7606 sections 7.8 and 7.14, RFC 8092 section 5).
func malformed(attribute bgp.PathAttributeInterface) bool {
	switch a := attribute.(type) {
	case *bgp.PathAttributeCommunities:
		return len(a.Value) == 0
	case *bgp.PathAttributeExtendedCommunities:
		return len(a.Value) == 0
	case *bgp.PathAttributeLargeCommunities:
		return len(a.Values) == 0
	}
	return false
}

func (r *reader) readAttribute(path *route.Path, attribute bgp.PathAttributeInterface) {
	switch a := attribute.(type) {
	case *bgp.PathAttributeAsPath:
		if r.asPathOf != a {
			r.asPathOf = a
			if read := readASPath(a); !read.equal(r.asPath) {
				r.asPath = read
			}
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
		path.LongLived = slices.Contains(a.Value, llgrStale)
	}
}

// readExtra reads what few paths have. One that has what the one before it had shares it.
func (r *reader) readExtra(path *route.Path, attributes []bgp.PathAttributeInterface) {
	var extra route.Extra
	there := false
	for _, attribute := range attributes {
		switch a := attribute.(type) {
		case *bgp.PathAttributeLargeCommunities:
			for _, c := range a.Values {
				extra.LargeCommunities = append(extra.LargeCommunities, route.LargeCommunity{Global: c.ASN, Local1: c.LocalData1, Local2: c.LocalData2})
			}
			there = true
		case *bgp.PathAttributeOriginatorId:
			extra.OriginatorID = a.Value
			there = true
		case *bgp.PathAttributeClusterList:
			extra.ClusterList = a.Value
			there = true
		}
	}
	switch {
	case !there:
		return
	case r.extra == nil || !r.extra.Equal(&extra):
		r.extra = &extra
	}
	path.Extra = r.extra
}

// llgrStale is the community LLGR_STALE: who passed the path on keeps it for a router that is away (RFC 9494 section 4.3).
const llgrStale = 65535<<16 | 6

// mpNextHop is the global next hop (RFC 2545 section 3); a link-local one is one only on the peer's link. On a session
// between link-local addresses it is the link-local one, as the link may have no other, and where both are told it is the
// peer's: GoBGP drops the second half, and who has two on one link tells of itself.
func mpNextHop(a *bgp.PathAttributeMpReachNLRI, peer netip.Addr) netip.Addr {
	next := usable(a.Nexthop)
	onLink := peer.Zone() != ""
	switch {
	case next.Is4() || next.IsValid() && !next.IsLinkLocalUnicast() && !onLink:
		return next
	case !onLink:
		return netip.Addr{}
	case next.IsLinkLocalUnicast():
		return next.WithZone(peer.Zone())
	case next.IsValid() || a.Nexthop.Is6() && a.Nexthop.IsUnspecified(): // BIRD has :: for no global one
		return peer
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

// pathOf is an advertised prefix as GoBGP takes it, the node as next hop. lastChoice: with a local preference of 0.
func pathOf(prefix netip.Prefix, nextHop netip.Addr, lastChoice bool) (*apiutil.Path, error) {
	nlri, err := bgp.NewIPAddrPrefix(prefix)
	if err != nil {
		return nil, err
	}
	family := wireFamily(route.FamilyOf(prefix))
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
	if lastChoice {
		attributes = append(attributes, bgp.NewPathAttributeLocalPref(0))
	}
	return &apiutil.Path{Family: family, Nlri: nlri, Attrs: attributes}, nil
}
