package fib

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Sizes of the fixed parts of netlink messages.
const (
	headerLen    = unix.SizeofNlMsghdr
	rtmsgLen     = unix.SizeofRtMsg
	attrLen      = unix.SizeofRtAttr
	nexthopLen   = unix.SizeofRtNexthop
	maxWeight    = 256
	scopeNowhere = unix.RT_SCOPE_NOWHERE
)

var native = binary.NativeEndian

// who is what makes a route ours.
type who struct {
	protocol uint8
	metric   uint32
	table    uint32
}

// buffer holds netlink messages one after another. Its methods append; nothing is allocated once it has grown.
type buffer struct {
	b     []byte
	start int // of the message being written
}

func (m *buffer) reset() { m.b = m.b[:0] }

// begin starts a message. end must follow.
func (m *buffer) begin(kind, flags uint16, seq uint32) {
	m.start = len(m.b)
	m.b = native.AppendUint32(m.b, 0) // length, by end
	m.b = native.AppendUint16(m.b, kind)
	m.b = native.AppendUint16(m.b, flags|unix.NLM_F_REQUEST)
	m.b = native.AppendUint32(m.b, seq)
	m.b = native.AppendUint32(m.b, 0)
}

func (m *buffer) end() { native.PutUint32(m.b[m.start:], uint32(len(m.b)-m.start)) }

// wantAck asks the kernel to acknowledge the message last written. Errors are told in any case.
func (m *buffer) wantAck() {
	at := m.start + 6
	native.PutUint16(m.b[at:], native.Uint16(m.b[at:])|unix.NLM_F_ACK)
}

func (m *buffer) attr(kind uint16, size int) {
	m.b = native.AppendUint16(m.b, uint16(attrLen+size))
	m.b = native.AppendUint16(m.b, kind)
}

func (m *buffer) attr32(kind uint16, value uint32) {
	m.attr(kind, 4)
	m.b = native.AppendUint32(m.b, value)
}

func (m *buffer) attrAddr(kind uint16, addr netip.Addr) {
	m.attr(kind, addr.BitLen()/8)
	m.addr(addr)
}

func (m *buffer) addr(addr netip.Addr) {
	if addr.Is4() {
		a := addr.As4()
		m.b = append(m.b, a[:]...)
		return
	}
	a := addr.As16()
	m.b = append(m.b, a[:]...)
}

// gateway writes RTA_GATEWAY, or RTA_VIA for an IPv6 gateway of an IPv4 route (RFC 8950).
func (m *buffer) gateway(dst, gateway netip.Addr) {
	switch {
	case !gateway.IsValid():
	case gateway.Is4() == dst.Is4():
		m.attrAddr(unix.RTA_GATEWAY, gateway)
	default:
		m.attr(unix.RTA_VIA, 2+gateway.BitLen()/8)
		m.b = native.AppendUint16(m.b, uint16(familyOf(gateway)))
		m.addr(gateway)
		for len(m.b)%4 != 0 {
			m.b = append(m.b, 0)
		}
	}
}

// route writes the fixed part and what names a route of ours: destination, metric, table, protocol.
func (m *buffer) route(prefix netip.Prefix, w who, scope, kind uint8, flags uint32) {
	addr := prefix.Addr()
	table := uint8(unix.RT_TABLE_UNSPEC)
	if w.table < 256 {
		table = uint8(w.table)
	}
	m.b = append(m.b, familyOf(addr), uint8(prefix.Bits()), 0, 0, table, w.protocol, scope, kind)
	m.b = native.AppendUint32(m.b, flags)
	m.attrAddr(unix.RTA_DST, addr)
	m.attr32(unix.RTA_PRIORITY, w.metric)
	m.attr32(unix.RTA_TABLE, w.table)
}

// plain tells whether a route's hops can be written without RTA_MULTIPATH. A weight can't: it counts where a hop is
// added to others.
func plain(legs []leg) bool { return len(legs) == 1 && legs[0].weight == 1 }

// legs writes where the route leads: one hop plainly, several as RTA_MULTIPATH.
func (m *buffer) legs(dst netip.Addr, legs []leg) {
	if plain(legs) {
		m.attr32(unix.RTA_OIF, uint32(legs[0].ifindex))
		m.gateway(dst, legs[0].gateway)
		return
	}
	start := len(m.b)
	m.attr(unix.RTA_MULTIPATH, 0)
	for _, l := range legs {
		at := len(m.b)
		m.b = native.AppendUint16(m.b, 0)
		m.b = append(m.b, uint8(nexthopFlags(l)), uint8(l.weight-1))
		m.b = native.AppendUint32(m.b, uint32(l.ifindex))
		m.gateway(dst, l.gateway)
		native.PutUint16(m.b[at:], uint16(len(m.b)-at))
	}
	native.PutUint16(m.b[start:], uint16(len(m.b)-start))
}

// newRoute writes RTM_NEWROUTE for a whole group. The flags say how: see plan.go.
func (m *buffer) newRoute(seq uint32, flags uint16, prefix netip.Prefix, w who, reject uint8, legs []leg) {
	m.begin(unix.RTM_NEWROUTE, flags, seq)
	switch {
	case reject != 0:
		m.route(prefix, w, unix.RT_SCOPE_UNIVERSE, reject, 0)
	case plain(legs):
		m.route(prefix, w, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, nexthopFlags(legs[0]))
		m.legs(prefix.Addr(), legs)
	default:
		m.route(prefix, w, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0)
		m.legs(prefix.Addr(), legs)
	}
	m.end()
}

// newRouteTo writes RTM_NEWROUTE for a route that leads to a nexthop object.
func (m *buffer) newRouteTo(seq uint32, flags uint16, prefix netip.Prefix, w who, object uint32) {
	m.begin(unix.RTM_NEWROUTE, flags, seq)
	m.route(prefix, w, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0)
	m.attr32(rtaNexthopID, object)
	m.end()
}

// deleteRoute writes RTM_DELROUTE for our IPv4 route at prefix: the kernel takes the first one that has our protocol,
// metric and table, and no other.
func (m *buffer) deleteRoute(seq uint32, prefix netip.Prefix, w who) {
	m.begin(unix.RTM_DELROUTE, 0, seq)
	m.route(prefix, w, scopeNowhere, unix.RTN_UNSPEC, 0)
	m.end()
}

// deleteLeg writes RTM_DELROUTE for one hop of our IPv6 route. Without a gateway the kernel would take all hops of
// that metric at once, another's among them; with it, exactly one, and only if it has our protocol.
func (m *buffer) deleteLeg(seq uint32, prefix netip.Prefix, w who, l leg) {
	m.begin(unix.RTM_DELROUTE, 0, seq)
	m.route(prefix, w, scopeNowhere, unix.RTN_UNSPEC, 0)
	m.attr32(unix.RTA_OIF, uint32(l.ifindex))
	m.gateway(prefix.Addr(), l.gateway)
	m.end()
}

// dumpRoutes writes a request for all routes of a family and table, to be answered in many messages. The kernel
// applies the filter when the socket has NETLINK_GET_STRICT_CHK.
func (m *buffer) dumpRoutes(seq uint32, family uint8, w who) {
	m.begin(unix.RTM_GETROUTE, unix.NLM_F_DUMP, seq)
	table := uint8(unix.RT_TABLE_UNSPEC)
	if w.table < 256 {
		table = uint8(w.table)
	}
	m.b = append(m.b, family, 0, 0, 0, table, w.protocol, 0, 0)
	m.b = native.AppendUint32(m.b, 0)
	m.attr32(unix.RTA_TABLE, w.table)
	m.end()
}

func (m *buffer) dumpLinks(seq uint32) {
	m.begin(unix.RTM_GETLINK, unix.NLM_F_DUMP, seq)
	m.b = append(m.b, make([]byte, unix.SizeofIfInfomsg)...)
	m.end()
}

func (m *buffer) dumpAddrs(seq uint32) {
	m.begin(unix.RTM_GETADDR, unix.NLM_F_DUMP, seq)
	m.b = append(m.b, make([]byte, unix.SizeofIfAddrmsg)...)
	m.end()
}

func nexthopFlags(l leg) uint32 {
	if l.onlink {
		return unix.RTNH_F_ONLINK
	}
	return 0
}

func familyOf(addr netip.Addr) uint8 {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
