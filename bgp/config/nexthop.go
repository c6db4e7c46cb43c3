package config

import (
	"net/netip"

	"github.com/clearway/clearway/bgp/route"
)

// LocalAddress is an address of this machine that others may send to: global, usable now, not a privacy address.
type LocalAddress struct {
	Interface int // the kernel's index
	Address   netip.Addr
	Bits      int // of its subnet
}

// SetNextHops computes what the neighbour is told to be the next hop of what the node advertises: an address of the link
// that the session runs over. An eBGP peer on the same link takes no other (RFC 4271 section 5.1.3), and may know no road to the
// node's own address, which is on a loopback where a node has several links.
//
// A link-local session has none here: its own end is the next hop of both families.
func (n *Neighbor) SetNextHops(global Global, local []LocalAddress) {
	if n.LinkLocal() {
		return
	}
	for _, family := range n.Families {
		next := n.nextHop(family, global, local)
		if family == route.IPv4 {
			n.NextHop4 = next
		} else {
			n.NextHop6 = next
		}
	}
}

func (n *Neighbor) nextHop(family route.Family, global Global, local []LocalAddress) netip.Addr {
	own := global.NextHop(family)
	if family == route.FamilyOf(netip.PrefixFrom(n.Address, 0)) {
		if n.SourceAddress.IsValid() {
			return n.SourceAddress
		}
		return own
	}
	if n.MultihopTTL > 0 || !n.EBGP() && n.MeshNode == "" && !n.onLink(local) {
		return own // the peer is on no link of ours, and any address that it has a road to will do
	}
	return Beside(n.SourceAddress, family, own, local)
}

// onLink tells whether the neighbour is in the subnet of the session's own address.
func (n *Neighbor) onLink(local []LocalAddress) bool {
	for _, l := range local {
		if subnet, err := l.Address.Prefix(l.Bits); err == nil && l.Address == n.SourceAddress && subnet.Contains(n.Address) {
			return true
		}
	}
	return false
}

// Beside is the address of a family on the interface that has another address: the node's own if it is there, else the
// lowest, so that it is the same at each look. Where there is none, it is the node's own, which may be invalid.
func Beside(other netip.Addr, family route.Family, own netip.Addr, local []LocalAddress) netip.Addr {
	on := map[int]bool{}
	for _, l := range local {
		if l.Address == other {
			on[l.Interface] = true
		}
	}
	var lowest netip.Addr
	for _, l := range local {
		switch {
		case !on[l.Interface] || l.Address.Is4() != (family == route.IPv4):
		case l.Address == own:
			return own
		case !lowest.IsValid() || l.Address.Less(lowest):
			lowest = l.Address
		}
	}
	if lowest.IsValid() {
		return lowest
	}
	return own
}
