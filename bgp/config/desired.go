package config

import (
	"net/netip"
	"time"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
)

// Desired is all that a speaker is to be. Absence is removal.
type Desired struct {
	Global    Global
	Neighbors []Neighbor            // by address, each address once
	Advertise []route.Advertisement // by prefix, each prefix once
}

// Global is what all sessions of a node share. A change of it restarts every session.
type Global struct {
	ASN        uint32
	RouterID   netip.Addr // an IPv4 address by form (RFC 6286: any 32 bits but zero)
	ListenPort int        // -1: do not listen
	// NextHop4 and NextHop6 are the node's addresses, the next hops of what it advertises. Invalid where it has none.
	// A change of these alone restarts nothing.
	NextHop4, NextHop6 netip.Addr
}

// NextHop is the node's address of a family, invalid where it has none.
func (g Global) NextHop(family route.Family) netip.Addr {
	if family == route.IPv4 {
		return g.NextHop4
	}
	return g.NextHop6
}

// Neighbor is one session as it is wanted.
type Neighbor struct {
	Address  netip.Addr // the key
	Port     uint16
	PeerASN  uint32
	LocalASN uint32
	Origin   string // "BGPPeer/<name>" or "nodeMesh/<node>"
	MeshNode string // the node at the other end, of a session of the node mesh

	Families         []route.Family // ascending, at least one
	HoldTime         time.Duration
	KeepaliveTime    time.Duration
	ConnectRetryTime time.Duration
	GracefulRestart  GracefulRestart

	SourceAddress netip.Addr
	// NextHop4 and NextHop6 are what this peer is told as next hops; SetNextHops computes them.
	NextHop4, NextHop6 netip.Addr

	MultihopTTL  uint8 // 0: the peer is on-link
	Passive      bool
	PasswordFile string // its first line is the TCP-MD5 password; never its content

	Scope      policy.Scope
	AllowOwnAS int
	Import     policy.Chain
	Export     policy.Chain
	// Withhold are those of Advertise that Export keeps from this peer, ascending.
	Withhold []netip.Prefix
}

// NextHop is what the peer is told as next hop of a family's prefixes, invalid where there is none.
func (n Neighbor) NextHop(family route.Family) netip.Addr {
	if family == route.IPv4 {
		return n.NextHop4
	}
	return n.NextHop6
}

// GracefulRestart is RFC 4724 on one session.
type GracefulRestart struct {
	Enabled      bool
	RestartTime  time.Duration // how long the peer is asked to keep our routes
	DeferralTime time.Duration // how long we wait for its End-of-RIB after our restart
}

// EBGP tells whether the session is between two autonomous systems.
func (n Neighbor) EBGP() bool { return n.PeerASN != n.LocalASN }

// Peer is the neighbour as the import policy sees it.
func (n Neighbor) Peer() policy.Peer {
	return policy.Peer{
		Origin: n.Origin, MeshNode: n.MeshNode, LocalASN: n.LocalASN,
		Scope: n.Scope, AllowOwnAS: n.AllowOwnAS, Import: n.Import,
	}
}

// Problem is something of the configuration that could not be done as it was written. The rest is done.
type Problem struct {
	Regarding string // "BGPPeer/tor"
	Reason    string // one CamelCase word
	Message   string
}
