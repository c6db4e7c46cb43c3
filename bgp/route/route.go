// Package route holds the values that the BGP wing passes between its rooms: paths that peers told us, prefixes we
// tell them, and routes for the kernel. Values only: no clock, socket or goroutine.
package route

import "net/netip"

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
type Path struct {
	Prefix  netip.Prefix
	NextHop netip.Addr // global; with a zone when link-local
	Peer    netip.Addr // the session it came by
	PeerASN uint32
	PeerID  netip.Addr // BGP identifier of the peer
	EBGP    bool

	ASPath      []uint32 // leftmost is the neighbour; AS_SETs are flattened, and HasASSet says so
	HasASSet    bool
	ASPathLen   int      // as RFC 4271 section 9.1.2.2 a counts: an AS_SET is one, confederation segments are none
	Origin      uint8    // 0 IGP, 1 EGP, 2 INCOMPLETE
	LocalPref   uint32   // 100 where the path has none (eBGP)
	MED         uint32   // 0 where the path has none
	Communities []uint32 // RFC 1997
	Stale       bool     // kept by graceful restart (RFC 4724)
}

// OriginASN is the AS that originated the path: the rightmost of AS_PATH, or the peer's own when the path is empty.
func (p *Path) OriginASN() uint32 {
	if len(p.ASPath) == 0 {
		return p.PeerASN
	}
	return p.ASPath[len(p.ASPath)-1]
}

// Advertisement is a prefix this node tells its peers, with itself as next hop.
type Advertisement struct {
	Prefix      netip.Prefix
	Communities []uint32
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
