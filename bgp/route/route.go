// Package route holds the values that the BGP wing passes between its rooms: paths that peers told us, prefixes we
// tell them, and routes for the kernel. Values only: no clock, socket or goroutine.
package route

import (
	"net/netip"
	"slices"
)

// Family is an address family: 4 or 6.
type Family int

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf tells a prefix's family.
func FamilyOf(prefix netip.Prefix) Family {
	if prefix.Addr().Is4() {
		return IPv4
	}
	return IPv6
}

// Path is one path to a prefix as a peer told it (RFC 4271 section 5). It is immutable once made: sharing is free.
// There are hundreds of thousands of them, so fields are in order of size.
type Path struct {
	Prefix  netip.Prefix
	NextHop netip.Addr // global; with a zone when link-local
	Peer    netip.Addr // the session it came by
	PeerID  netip.Addr // BGP identifier of the peer

	ASPath      []uint32 // leftmost is the neighbour; AS_SETs are flattened, and HasASSet says so
	Communities []uint32 // RFC 1997
	Extra       *Extra   // nil: none of what it holds
	ASPathLen   int      // as RFC 4271 section 9.1.2.2 a counts: an AS_SET is one, confederation segments are none

	PathID    uint32 // which of the peer's paths to the prefix (RFC 7911); 0 where it tells one
	PeerASN   uint32
	LocalPref uint32 // 100 where the path has none (eBGP)
	MED       uint32 // 0 where the path has none
	Origin    uint8  // 0 IGP, 1 EGP, 2 INCOMPLETE
	EBGP      bool
	HasASSet  bool
	Stale     bool // kept by graceful restart (RFC 4724)
	LongLived bool // stale beyond the restart time, here or at one who passed it on (RFC 9494): the last choice
}

// OriginASN is the AS that originated the path: the rightmost of AS_PATH, or the peer's own when the path is empty.
func (p *Path) OriginASN() uint32 {
	if len(p.ASPath) == 0 {
		return p.PeerASN
	}
	return p.ASPath[len(p.ASPath)-1]
}

// Extra is what few paths have. It is immutable, and paths share it.
type Extra struct {
	LargeCommunities []LargeCommunity
	// OriginatorID and ClusterList are a route reflector's marks (RFC 4456 section 8): who told the path first within the AS,
	// and the clusters that it came through, the last one first.
	OriginatorID netip.Addr
	ClusterList  []netip.Addr
}

// Equal tells whether two are the same.
func (e *Extra) Equal(other *Extra) bool {
	return e.OriginatorID == other.OriginatorID && slices.Equal(e.LargeCommunities, other.LargeCommunities) &&
		slices.Equal(e.ClusterList, other.ClusterList)
}

// Large are the path's large communities (RFC 8092).
func (p *Path) Large() []LargeCommunity {
	if p.Extra == nil {
		return nil
	}
	return p.Extra.LargeCommunities
}

// HasCommunity tells whether the path carries a standard community.
func (p *Path) HasCommunity(community uint32) bool { return slices.Contains(p.Communities, community) }

// Source is where a path is from.
type Source uint8

// The sources.
const (
	SourceLearned   Source = iota // from a peer
	SourceOwn                     // a block of this node
	SourceVIP                     // a Service's address
	SourceFloating                // an address that moves between nodes
	SourceAggregate               // a declared aggregate that this node originates
)

var sourceNames = [...]string{"Learned", "Own", "VIP", "Floating", "Aggregate"}

func (s Source) String() string { return sourceNames[s] }

// SourceOf is the source of a name, as String gives it.
func SourceOf(name string) (source Source, ok bool) {
	i := slices.Index(sourceNames[:], name)
	return Source(max(i, 0)), i >= 0
}

// SourceNames lists the sources' names.
func SourceNames() []string { return slices.Clone(sourceNames[:]) }

// Advertisement is a prefix this node tells its peers, with itself as next hop, before export filters.
type Advertisement struct {
	Prefix           netip.Prefix
	Source           Source
	Communities      []uint32
	LargeCommunities []LargeCommunity
	// CoveredBy is the aggregate that routers are told in its place; invalid: none.
	CoveredBy netip.Prefix
}

// NextHop is one way out of a kernel route. Addr is the BGP next hop, on-link or not: the route writer resolves it.
type NextHop struct {
	Addr   netip.Addr
	Weight uint8 // 0 and 1 are the same: one share
}

// Kernel is a route as the kernel is to have it. Exactly one holds: Blackhole, or at least one next hop.
type Kernel struct {
	Prefix    netip.Prefix
	Blackhole bool
	NextHops  []NextHop // in ascending order of Addr, without repeats
}

// Change is one prefix's new desired state; a nil Route means none.
type Change struct {
	Prefix netip.Prefix
	Route  *Kernel
}

// InstallState is what became of a desired kernel route.
type InstallState int

// The states.
const (
	// Pending: not written yet.
	Pending InstallState = iota
	// Installed: the kernel has it as desired.
	Installed
	// Unresolved: no next hop can be reached by routes that are not ours.
	Unresolved
	// Conflict: a route that is not ours has the same destination and metric.
	Conflict
	// Failed: the kernel refused it; it is tried again.
	Failed
)

func (s InstallState) String() string {
	return [...]string{"Pending", "Installed", "Unresolved", "Conflict", "Failed"}[s]
}

// InstallStatus is an InstallState and, where it is not Installed, why, in words.
type InstallStatus struct {
	State  InstallState
	Reason string
}
