package fib

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// attrKindMask leaves out NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const attrKindMask = 1<<14 - 1

// rtaNexthopID is RTA_NH_ID of include/uapi/linux/rtnetlink.h, which golang.org/x/sys does not name.
const rtaNexthopID = 30

var errShort = errors.New("netlink message is shorter than it says")

// A message is one netlink message: the header's fields and the body, which is only valid until the next read.
type message struct {
	kind, flags uint16
	seq, port   uint32
	body        []byte
}

// nextMessage cuts the first message off b.
func nextMessage(b []byte) (message, []byte, error) {
	if len(b) < headerLen {
		return message{}, nil, errShort
	}
	size := int(native.Uint32(b))
	if size < headerLen || size > len(b) {
		return message{}, nil, fmt.Errorf("%w: %d of %d bytes", errShort, len(b), size)
	}
	m := message{
		kind: native.Uint16(b[4:]), flags: native.Uint16(b[6:]),
		seq: native.Uint32(b[8:]), port: native.Uint32(b[12:]), body: b[headerLen:size],
	}
	return m, b[min(align(size), len(b)):], nil
}

func align(n int) int { return (n + 3) &^ 3 }

// nextAttr cuts the first attribute off b. The kind is without its flag bits (NLA_F_NESTED and byte order).
func nextAttr(b []byte) (kind uint16, value, rest []byte, err error) {
	if len(b) < attrLen {
		return 0, nil, nil, errShort
	}
	size := int(native.Uint16(b))
	if size < attrLen || size > len(b) {
		return 0, nil, nil, errShort
	}
	return native.Uint16(b[2:]) & attrKindMask, b[attrLen:size], b[min(align(size), len(b)):], nil
}

// kernelRoute is one route as the kernel tells it. legs is reused from parse to parse.
type kernelRoute struct {
	prefix    netip.Prefix
	table     uint32
	metric    uint32
	protocol  uint8
	kind      uint8 // RTN_*
	tos       uint8
	sourceLen uint8      // IPv6 subtree routes: the length of the source prefix
	source    netip.Addr // RTA_PREFSRC
	encap     bool       // some hop has a lightweight tunnel
	object    bool       // it leads to a nexthop object
	cloned    bool       // a cache entry, not a route
	legs      []leg
}

// ours tells whether the route is one that w names. TOS and source-prefix routes are never ours: we write none.
func (r *kernelRoute) ours(w who) bool {
	return r.protocol == w.protocol && r.samePlace(w)
}

// samePlace tells whether the route stands where a route of ours for its destination would stand.
func (r *kernelRoute) samePlace(w who) bool {
	return r.metric == w.metric && r.table == w.table && r.tos == 0 && r.sourceLen == 0
}

// reject is the group's word for the kind of the route.
func (r *kernelRoute) reject() uint8 {
	if r.kind == unix.RTN_UNICAST {
		return 0
	}
	return r.kind
}

// parse reads the body of an RTM_NEWROUTE or RTM_DELROUTE. It reports false for families other than IP.
func (r *kernelRoute) parse(body []byte) (bool, error) {
	if len(body) < rtmsgLen {
		return false, errShort
	}
	family := body[0]
	if family != unix.AF_INET && family != unix.AF_INET6 {
		return false, nil
	}
	bits, source := int(body[1]), body[2]
	flags := native.Uint32(body[8:])
	*r = kernelRoute{
		table: uint32(body[4]), protocol: body[5], kind: body[7], tos: body[3], sourceLen: source,
		cloned: flags&unix.RTM_F_CLONED != 0, legs: r.legs[:0],
	}
	dst := unspecified(family)
	lone := leg{weight: 1, onlink: flags&unix.RTNH_F_ONLINK != 0}
	for rest := body[rtmsgLen:]; len(rest) >= attrLen; {
		kind, value, next, err := nextAttr(rest)
		if err != nil {
			return false, err
		}
		if err := r.attr(family, kind, value, &dst, &lone); err != nil {
			return false, err
		}
		rest = next
	}
	if len(r.legs) == 0 && lone.ifindex != 0 {
		r.legs = append(r.legs, lone)
	}
	prefix, err := dst.Prefix(bits)
	if err != nil {
		return false, fmt.Errorf("destination %s/%d: %w", dst, bits, err)
	}
	r.prefix = prefix
	return true, nil
}

func (r *kernelRoute) attr(family uint8, kind uint16, value []byte, dst *netip.Addr, lone *leg) (err error) {
	switch kind {
	case unix.RTA_DST:
		*dst, err = addrOf(family, value)
	case unix.RTA_TABLE:
		r.table, err = uint32Of(value)
	case unix.RTA_PRIORITY:
		r.metric, err = uint32Of(value)
	case unix.RTA_OIF:
		var index uint32
		index, err = uint32Of(value)
		lone.ifindex = int(index)
	case unix.RTA_PREFSRC:
		r.source, err = addrOf(family, value)
	case rtaNexthopID:
		r.object = true
	case unix.RTA_MULTIPATH:
		err = r.multipath(family, value)
	default:
		err = r.hopAttr(family, kind, value, lone)
	}
	return err
}

// hopAttr reads what may stand in the route itself or in a hop of RTA_MULTIPATH.
func (r *kernelRoute) hopAttr(family uint8, kind uint16, value []byte, l *leg) (err error) {
	switch kind {
	case unix.RTA_GATEWAY:
		l.gateway, err = addrOf(family, value)
	case unix.RTA_VIA:
		l.gateway, err = viaOf(value)
	case unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE:
		r.encap = true
	}
	return err
}

func (r *kernelRoute) multipath(family uint8, b []byte) error {
	for len(b) >= nexthopLen {
		size := int(native.Uint16(b))
		if size < nexthopLen || size > len(b) {
			return errShort
		}
		l := leg{weight: int(b[3]) + 1, ifindex: int(int32(native.Uint32(b[4:]))), onlink: b[2]&unix.RTNH_F_ONLINK != 0}
		for rest := b[nexthopLen:size]; len(rest) >= attrLen; {
			kind, value, next, err := nextAttr(rest)
			if err != nil {
				return err
			}
			if err := r.hopAttr(family, kind, value, &l); err != nil {
				return err
			}
			rest = next
		}
		r.legs = append(r.legs, l)
		b = b[min(align(size), len(b)):]
	}
	return nil
}

// kernelLink is an interface as the kernel tells it.
type kernelLink struct {
	index    int
	name     string
	up       bool // administratively
	running  bool // up, and with carrier
	carrier  bool // what the kernel goes by when it removes nexthop objects: even less than running
	loopback bool
}

// parseLink reads the body of an RTM_NEWLINK or RTM_DELLINK. It reports false for those of a bridge, which are about
// a link's being a port of it.
func parseLink(body []byte) (kernelLink, bool, error) {
	if len(body) < unix.SizeofIfInfomsg {
		return kernelLink{}, false, errShort
	}
	if body[0] != unix.AF_UNSPEC {
		return kernelLink{}, false, nil
	}
	flags := native.Uint32(body[8:])
	l := kernelLink{
		index:    int(int32(native.Uint32(body[4:]))),
		up:       flags&unix.IFF_UP != 0,
		running:  flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING != 0,
		carrier:  flags&(unix.IFF_RUNNING|unix.IFF_LOWER_UP) != 0,
		loopback: flags&unix.IFF_LOOPBACK != 0,
	}
	for rest := body[unix.SizeofIfInfomsg:]; len(rest) >= attrLen; {
		kind, value, next, err := nextAttr(rest)
		if err != nil {
			return kernelLink{}, false, err
		}
		if kind == unix.IFLA_IFNAME {
			l.name = unix.ByteSliceToString(value)
		}
		rest = next
	}
	return l, true, nil
}

// kernelAddr is an address of an interface.
type kernelAddr struct {
	ifindex int
	addr    netip.Addr
	prefix  netip.Prefix // what it makes on-link: the peer's prefix on a point-to-point link
}

// parseAddr reads the body of an RTM_NEWADDR or RTM_DELADDR. It reports false for families other than IP.
func parseAddr(body []byte) (kernelAddr, bool, error) {
	if len(body) < unix.SizeofIfAddrmsg {
		return kernelAddr{}, false, errShort
	}
	family, bits := body[0], int(body[1])
	if family != unix.AF_INET && family != unix.AF_INET6 {
		return kernelAddr{}, false, nil
	}
	var local, address netip.Addr
	for rest := body[unix.SizeofIfAddrmsg:]; len(rest) >= attrLen; {
		kind, value, next, err := nextAttr(rest)
		if err != nil {
			return kernelAddr{}, false, err
		}
		switch kind {
		case unix.IFA_LOCAL:
			local, err = addrOf(family, value)
		case unix.IFA_ADDRESS:
			address, err = addrOf(family, value)
		}
		if err != nil {
			return kernelAddr{}, false, err
		}
		rest = next
	}
	if !local.IsValid() {
		local = address // IPv6 tells IFA_LOCAL only on point-to-point links
	}
	if !address.IsValid() {
		address = local
	}
	prefix, err := address.Prefix(bits)
	if err != nil || !address.IsValid() {
		return kernelAddr{}, false, fmt.Errorf("interface address %s/%d: not an address", address, bits)
	}
	return kernelAddr{ifindex: int(native.Uint32(body[4:])), addr: local, prefix: prefix}, true, nil
}

// parseError reads the body of an NLMSG_ERROR (or NLMSG_DONE): the kernel's errno, 0 for an acknowledgement, and its
// sentence if it gave one (NETLINK_EXT_ACK; with NETLINK_CAP_ACK only the header of the request is repeated).
func parseError(m message) (unix.Errno, string) {
	if len(m.body) < 4 {
		return 0, ""
	}
	errno := unix.Errno(-int32(native.Uint32(m.body)))
	if m.flags&unix.NLM_F_ACK_TLVS == 0 {
		return errno, ""
	}
	rest := m.body[4:]
	if m.kind == unix.NLMSG_ERROR {
		if len(rest) < headerLen {
			return errno, ""
		}
		echoed := headerLen
		if m.flags&unix.NLM_F_CAPPED == 0 {
			echoed = align(int(native.Uint32(rest)))
		}
		if echoed < headerLen || echoed > len(rest) {
			return errno, ""
		}
		rest = rest[echoed:]
	}
	for len(rest) >= attrLen {
		kind, value, next, err := nextAttr(rest)
		if err != nil {
			break
		}
		if kind == unix.NLMSGERR_ATTR_MSG {
			return errno, unix.ByteSliceToString(value)
		}
		rest = next
	}
	return errno, ""
}

func addrOf(family uint8, b []byte) (netip.Addr, error) {
	addr, ok := netip.AddrFromSlice(b)
	if !ok || familyOf(addr) != family {
		return netip.Addr{}, fmt.Errorf("address of %d bytes in a message of family %d", len(b), family)
	}
	return addr, nil
}

// viaOf reads struct rtvia: family, then address.
func viaOf(b []byte) (netip.Addr, error) {
	if len(b) < 2 {
		return netip.Addr{}, errShort
	}
	size := 4
	if native.Uint16(b) == unix.AF_INET6 {
		size = 16
	}
	if len(b) < 2+size {
		return netip.Addr{}, errShort
	}
	return addrOf(uint8(native.Uint16(b)), b[2:2+size])
}

func uint32Of(b []byte) (uint32, error) {
	if len(b) < 4 {
		return 0, errShort
	}
	return native.Uint32(b), nil
}

func unspecified(family uint8) netip.Addr {
	if family == unix.AF_INET {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
