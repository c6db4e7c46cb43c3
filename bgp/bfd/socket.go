package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/route"
)

// The UDP ports (RFC 5881 section 4, RFC 5883 section 5).
const (
	singleHopPort = 3784
	multihopPort  = 4784
	// Packets are sent from a port of this range (RFC 5881 section 4), one for each session.
	firstSource, lastSource = 49152, 65535
	// Network control (RFC 4594): CS6.
	trafficClass = 0xc0
	priority     = 6 // TC_PRIO_INTERACTIVE: before the rest in the machine's own queue
	sentTTL      = 255
)

// kind is what sessions share a listening socket by.
type kind struct {
	ip6, multihop bool
}

func kindOf(w route.Watch) kind { return kind{w.Peer.Is6(), w.Multihop} }

func (k kind) port() int {
	if k.multihop {
		return multihopPort
	}
	return singleHopPort
}

// listener is a socket that receives.
type listener struct {
	fd   int
	data [256]byte // more than the longest control packet (RFC 5880 section 4.1: the length is one byte)
	oob  [128]byte
}

// datagram is what arrived; data is good until the next one is received.
type datagram struct {
	data []byte
	from netip.Addr
	ttl  int // -1: not told
}

// option is one socket option to be set.
type option struct{ level, name, value int }

func socket(ip6 bool, options []option) (int, error) {
	family := unix.AF_INET
	if ip6 {
		family = unix.AF_INET6
		options = append(options, option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1})
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

func listen(at kind) (*listener, error) {
	options := []option{{unix.IPPROTO_IP, unix.IP_RECVTTL, 1}}
	address := unix.Sockaddr(&unix.SockaddrInet4{Port: at.port()})
	if at.ip6 {
		options = []option{{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1}}
		address = &unix.SockaddrInet6{Port: at.port()}
	}
	fd, err := socket(at.ip6, options)
	if err == nil {
		if err = unix.Bind(fd, address); err != nil {
			unix.Close(fd)
		}
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("UDP port %d is taken: another BFD runs on this machine", at.port())
	}
	if err != nil {
		return nil, fmt.Errorf("listen on UDP port %d: %w", at.port(), err)
	}
	return &listener{fd: fd}, nil
}

// dial opens a session's own socket, which only sends.
func dial(w route.Watch) (int, unix.Sockaddr, error) {
	to, err := sockaddr(w.Peer, kindOf(w).port())
	if err != nil {
		return -1, nil, err
	}
	options := []option{
		{unix.IPPROTO_IP, unix.IP_TTL, sentTTL}, {unix.IPPROTO_IP, unix.IP_TOS, trafficClass},
		{unix.SOL_SOCKET, unix.SO_PRIORITY, priority},
	}
	if w.Peer.Is6() {
		options = []option{
			{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, sentTTL}, {unix.IPPROTO_IPV6, unix.IPV6_TCLASS, trafficClass},
			{unix.SOL_SOCKET, unix.SO_PRIORITY, priority},
		}
	}
	fd, err := socket(w.Peer.Is6(), options)
	if err != nil {
		return -1, nil, fmt.Errorf("open a socket for BFD with %s: %w", w.Peer, err)
	}
	if err := bindSource(fd, w); err != nil {
		unix.Close(fd)
		return -1, nil, fmt.Errorf("send BFD packets from %s: %w", w.Local, err)
	}
	return fd, to, nil
}

// bindSource takes a free port of the range, from a random one on.
func bindSource(fd int, w route.Watch) error {
	local := w.Local
	if !local.IsValid() {
		local = netip.IPv4Unspecified()
		if w.Peer.Is6() {
			local = netip.IPv6Unspecified()
		}
	}
	const size = lastSource - firstSource + 1
	var err error
	for range 64 {
		var address unix.Sockaddr
		if address, err = sockaddr(local, firstSource+rand.IntN(size)); err != nil {
			return err
		}
		if err = unix.Bind(fd, address); !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
	}
	return err
}

func sockaddr(address netip.Addr, port int) (unix.Sockaddr, error) {
	if address.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: address.As4()}, nil
	}
	to := &unix.SockaddrInet6{Port: port, Addr: address.As16()}
	if zone := address.Zone(); zone != "" {
		link, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, fmt.Errorf("interface of %s: %w", address, err)
		}
		to.ZoneId = uint32(link.Index)
	}
	return to, nil
}

// receive takes one datagram; ok is false when there is none.
func (l *listener) receive() (datagram, bool) {
	n, oob, _, from, err := unix.Recvmsg(l.fd, l.data[:], l.oob[:], unix.MSG_DONTWAIT)
	if err != nil {
		return datagram{}, false
	}
	return datagram{data: l.data[:n], from: addressOf(from), ttl: ttlOf(l.oob[:oob])}, true
}

func addressOf(from unix.Sockaddr) netip.Addr {
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(from.Addr)
	case *unix.SockaddrInet6:
		address := netip.AddrFrom16(from.Addr)
		if from.ZoneId == 0 {
			return address
		}
		link, err := net.InterfaceByIndex(int(from.ZoneId))
		if err != nil {
			return address.WithZone(strconv.Itoa(int(from.ZoneId)))
		}
		return address.WithZone(link.Name)
	}
	return netip.Addr{}
}

func ttlOf(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1
	}
	for _, m := range messages {
		ip4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TTL
		ip6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT
		if (ip4 || ip6) && len(m.Data) >= 4 {
			return int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return -1
}
