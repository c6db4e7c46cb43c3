package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Packet is an IP packet as it was on a wire: its outermost IP header, and the rest.
type Packet struct {
	Source, Destination netip.Addr
	// Protocol of what the IP header carries: 17 is UDP, 4 IPv4 in IP, 41 IPv6 in IP, 47 GRE.
	Protocol byte
	// Payload is all behind the IP header.
	Payload []byte
}

// Probe tells whether the packet is a probe's own datagram, directly in UDP in IP.
func (p Packet) Probe() bool {
	const udpHeader = 8
	return p.Protocol == unix.IPPROTO_UDP && len(p.Payload) > udpHeader &&
		bytes.HasPrefix(p.Payload[udpHeader:], []byte(probeMark))
}

// CarriesProbe tells whether a probe's datagram is anywhere inside the packet, wrapped in whatever.
func (p Packet) CarriesProbe() bool { return bytes.Contains(p.Payload, []byte(probeMark)) }

// Capture records the IP packets on a device, both ways.
type Capture struct {
	socket *os.File
	done   sync.WaitGroup

	mu      sync.Mutex
	packets []Packet // at most maxPackets; guarded by mu
}

const maxPackets = 100_000

// StartCapture records the packets on one of the node's devices.
func (n *Node) StartCapture(device string) (*Capture, error) {
	c := &Capture{}
	err := n.Do(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL)
		wire := all<<8 | all>>8 // network byte order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(wire))
		if err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		c.socket = os.NewFile(uintptr(fd), "packets")
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: wire, Ifindex: link.Attrs().Index})
	})
	if err != nil {
		return nil, fmt.Errorf("capture on %s:%s: %w", n, device, err)
	}
	c.done.Go(c.read)
	return c, nil
}

func (c *Capture) read() {
	buffer := make([]byte, 65536)
	for {
		size, err := c.socket.Read(buffer)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			continue // the device went down, and may come back
		}
		packet, ok := parseFrame(bytes.Clone(buffer[:size]))
		if !ok {
			continue
		}
		c.mu.Lock()
		if len(c.packets) < maxPackets {
			c.packets = append(c.packets, packet)
		}
		c.mu.Unlock()
	}
}

// Packets are those recorded so far.
func (c *Capture) Packets() []Packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Packet(nil), c.packets...)
}

// Stop ends the capture.
func (c *Capture) Stop() []Packet {
	// A read that is under way sees the deadline, then the closed file.
	_ = c.socket.SetReadDeadline(time.Now())
	c.socket.Close()
	c.done.Wait()
	return c.Packets()
}

// parseFrame reads an Ethernet frame's IP header; false for anything else. Options and extension headers stay in the
// payload.
func parseFrame(frame []byte) (Packet, bool) {
	const ethernet, v4, v6 = 14, 20, 40
	if len(frame) < ethernet {
		return Packet{}, false
	}
	body := frame[ethernet:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		if len(body) < v4 {
			return Packet{}, false
		}
		header := int(body[0]&0xf) * 4
		if header < v4 || len(body) < header {
			return Packet{}, false
		}
		return Packet{
			Source: netip.AddrFrom4([4]byte(body[12:16])), Destination: netip.AddrFrom4([4]byte(body[16:20])),
			Protocol: body[9], Payload: body[header:],
		}, true
	case unix.ETH_P_IPV6:
		if len(body) < v6 {
			return Packet{}, false
		}
		return Packet{
			Source: netip.AddrFrom16([16]byte(body[8:24])), Destination: netip.AddrFrom16([16]byte(body[24:40])),
			Protocol: body[6], Payload: body[v6:],
		}, true
	}
	return Packet{}, false
}
