package config

import (
	"net/netip"
	"slices"
	"time"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
)

// Desired is all that a speaker is to be. Absence is removal.
type Desired struct {
	Global    Global
	Neighbors []Neighbor            // by address, each address once
	Ranges    []Range               // by prefix, each prefix once
	Awaited   []Awaited             // by origin and place
	Advertise []route.Advertisement // by prefix, each prefix once
	Reflect   []Reflection          // by prefix, each prefix once; none of Advertise's
}

// Reflection is a path of one node that others of the mesh are told (RFC 4456). Two of the same pointer are the same.
type Reflection struct {
	// Path as it is told, with ORIGINATOR_ID, and CLUSTER_LIST as it was before us.
	Path *route.Path
	// ClientsOnly: it came from another reflector, so that only clients are told.
	ClientsOnly bool
}

// Reflecting tells whether the node tells its neighbours of each other.
func (d Desired) Reflecting() bool {
	return slices.ContainsFunc(d.Neighbors, func(n Neighbor) bool { return n.Client })
}

// Global is what all sessions of a node share. A change of it restarts every session.
type Global struct {
	ASN        uint32
	RouterID   netip.Addr // an IPv4 address by form (RFC 6286: any 32 bits but zero)
	ListenPort int        // -1: do not listen
	// NextHop4 and NextHop6 are the node's addresses, the next hops of what it advertises. Invalid where it has none.
	// A change of these alone restarts nothing.
	NextHop4, NextHop6 netip.Addr
	// BMP are the collectors that hear what peers tell (RFC 7854). A change of these alone restarts nothing.
	BMP []netip.AddrPort
}

// NextHop is the node's address of a family, invalid where it has none.
func (g Global) NextHop(family route.Family) netip.Addr {
	if family == route.IPv4 {
		return g.NextHop4
	}
	return g.NextHop6
}

// Range is where neighbours may call from that are named nowhere (dynamic neighbours).
type Range struct {
	Prefix netip.Prefix // the key
	Limit  int          // sessions at once
	// Session is what each of them has; its Address is invalid.
	Session Neighbor
}

// Neighbor is the session with one that called.
func (r Range) Neighbor(address netip.Addr) Neighbor {
	n := r.Session
	n.Address, n.Passive = address, true
	return n
}

// Awaited is where a neighbour is wanted and none is known yet.
type Awaited struct {
	Origin string // "BGPPeer/<name>"
	Place  string // "eth1", "default gateway"
	Why    string // in a sentence
}

// Neighbor is one session as it is wanted.
type Neighbor struct {
	Address  netip.Addr // the key; with the interface as zone when link-local
	Port     uint16
	PeerASN  uint32 // 0: any but LocalASN
	LocalASN uint32
	Origin   string // "BGPPeer/<name>" or "nodeMesh/<node>"
	MeshNode string // the node at the other end, of a session of the node mesh
	// ClusterID is ours, towards nodes of the mesh in our AS, whether we reflect or not; else invalid.
	ClusterID netip.Addr
	// Client: the node at the other end is told all that we reflect (RFC 4456); another of the mesh what clients tell alone.
	Client bool
	// Reflects: the node at the other end tells others' routes.
	Reflects bool

	Families         []route.Family // ascending, at least one
	HoldTime         time.Duration
	KeepaliveTime    time.Duration
	ConnectRetryTime time.Duration
	GracefulRestart  GracefulRestart

	SourceAddress netip.Addr
	// NextHop4 and NextHop6 are what this peer is told as next hops; SetNextHops computes them.
	NextHop4, NextHop6 netip.Addr

	BFD *route.Watch // nil: none

	MultihopTTL  uint8 // 0: the peer is on-link
	TTLSecurity  uint8 // GTSM (RFC 5082): the hops there may be between; 0: no check
	Passive      bool
	PasswordFile string // its first line is the TCP-MD5 password; never its content

	MaxPrefixes    MaxPrefixes
	AddPathReceive bool // RFC 7911

	Scope      policy.Scope
	AllowOwnAS int
	Import     policy.Chain
	Export     policy.Chain
	// Leaving: traffic is to move away from the session. nil: not.
	Leaving *Leaving
	// Withdrawn: it has moved; nothing is told any more.
	Withdrawn bool
	// Withhold are those of Advertise that Export keeps from this peer, ascending.
	Withhold []netip.Prefix
	// Told are what the peer is told otherwise than by default, each with its prefixes; see SetExports.
	Told []Told
}

// Told is how a peer is told some of the prefixes. Its zero value but for LocalPref 100 is the default.
type Told struct {
	Prefixes         []netip.Prefix // ascending
	Communities      []uint32
	LargeCommunities []route.LargeCommunity
	LocalPref        uint32 // iBGP only
	MED              uint32
	Prepend          int        // our AS number stands so many times more on the AS path
	NextHop          netip.Addr // invalid: NextHop4 or NextHop6
}

// NextHop is what the peer is told as next hop of a family's prefixes, invalid where there is none.
func (n Neighbor) NextHop(family route.Family) netip.Addr {
	if family == route.IPv4 {
		return n.NextHop4
	}
	return n.NextHop6
}

// Leaving is how a session is drained (RFC 8326).
type Leaving struct {
	Prepend int
	// Both ways: what the peer tells is the last choice, too. Where a whole node leaves it is not: its Pods' packets go out.
	Both bool
}

// GracefulRestart is RFC 4724 on one session.
type GracefulRestart struct {
	Enabled      bool
	RestartTime  time.Duration // how long the peer is asked to keep our routes
	DeferralTime time.Duration // how long we wait for its End-of-RIB after our restart
	LongLived    time.Duration // RFC 9494: how much longer routes are kept, as the last choice; 0: not at all
}

// MaxPrefixes is how much a neighbour may tell.
type MaxPrefixes struct {
	Limit        int64 // of each family; 0: no limit
	Action       LimitAction
	RestartAfter time.Duration
	WarnAt       int64 // from so many on, it is told
}

// Taken is how many paths of each family are taken at most; 0: any number.
func (m MaxPrefixes) Taken() int64 {
	if m.Action == LimitWarn {
		return 0
	}
	return m.Limit
}

// LimitAction is what is done with a neighbour that tells too much.
type LimitAction string

// The actions.
const (
	LimitWarn    LimitAction = "Warn"
	LimitRestart LimitAction = "Restart" // the session ends, and begins again after a time
	LimitStop    LimitAction = "Stop"    // the session ends until it is configured anew
)

// EBGP tells whether the session is between two autonomous systems.
func (n Neighbor) EBGP() bool { return n.PeerASN != n.LocalASN }

// LinkLocal tells whether the session runs between link-local IPv6 addresses, where both families have the link's own as
// their next hop (RFC 8950).
func (n Neighbor) LinkLocal() bool { return n.Address.Is6() && n.Address.IsLinkLocalUnicast() }

// Peer is the neighbour as the import policy sees it.
func (n Neighbor) Peer() policy.Peer {
	return policy.Peer{
		Session: n.Session(), MeshNode: n.MeshNode,
		Scope: n.Scope, AllowOwnAS: n.AllowOwnAS, Import: n.Import,
		Reflects: n.Reflects, LastChoice: n.Leaving != nil && n.Leaving.Both,
	}
}

// Session is the neighbour as filters see it.
func (n Neighbor) Session() policy.Session {
	return policy.Session{Address: n.Address, Origin: n.Origin, EBGP: n.EBGP(), LocalASN: n.LocalASN, PeerASN: n.PeerASN}
}

// Problem is something of the configuration that could not be done as it was written. The rest is done.
type Problem struct {
	Regarding string // "BGPPeer/tor"
	Reason    string // one CamelCase word
	Message   string
}
