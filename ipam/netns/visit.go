package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/ipam/proof"
)

// places are the namespaces of each address.
type places map[netip.Addr][]proof.Place

// visit enters a namespace by one of its paths and notes its addresses. One that nothing leads to any more has gone
// meanwhile; one that cannot be entered although it is there is an error.
func (p places) visit(self proof.File, paths []string) error {
	var fault error
	for _, path := range paths {
		entered, err := enter(self, path)
		if err != nil {
			fault = fmt.Errorf("network namespace %s cannot be entered: %w", path, err)
			continue
		}
		if !entered {
			continue
		}
		addresses, err := addresses()
		if err != nil {
			return fmt.Errorf("the addresses in network namespace %s cannot be read: %w", path, err)
		}
		for _, address := range addresses {
			p[address] = append(p[address], proof.Place{Self: self, Path: path})
		}
		return nil
	}
	return fault
}

// enter moves this thread into a namespace; false: the path no longer leads to it.
func enter(self proof.File, path string) (bool, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if missing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return false, err
	}
	if (proof.File{Device: info.Dev, Inode: info.Ino}) != self {
		return false, nil
	}
	return true, unix.Setns(fd, unix.CLONE_NEWNET)
}

// addresses are those of all interfaces in this thread's namespace that mean something beyond their link.
func addresses() ([]netip.Addr, error) {
	var found []netip.Addr
	err := dump(unix.RTM_GETADDR, func(m *syscall.NetlinkMessage) error {
		if m.Header.Type != unix.RTM_NEWADDR {
			return nil
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			return err
		}
		for _, a := range attributes {
			// Of a point-to-point interface IFA_ADDRESS is the other end: that is somebody's too.
			if a.Attr.Type == unix.IFA_ADDRESS || a.Attr.Type == unix.IFA_LOCAL {
				if address, ok := global(a.Value); ok && !slices.Contains(found, address) {
					found = append(found, address)
				}
			}
		}
		return nil
	})
	return found, err
}

func global(raw []byte) (netip.Addr, bool) {
	address, ok := netip.AddrFromSlice(raw)
	return address, ok && address.IsGlobalUnicast()
}

// reached are the addresses that routes of this thread's namespace lead to one by one, and neighbours that answer.
func reached() (map[netip.Addr]string, error) {
	found := map[netip.Addr]string{}
	if err := dump(unix.RTM_GETROUTE, func(m *syscall.NetlinkMessage) error { return readRoute(m, found) }); err != nil {
		return nil, fmt.Errorf("the kernel's routes cannot be read: %w", err)
	}
	if err := dump(unix.RTM_GETNEIGH, func(m *syscall.NetlinkMessage) error { return readNeighbour(m, found) }); err != nil {
		return nil, fmt.Errorf("the kernel's neighbours cannot be read: %w", err)
	}
	return found, nil
}

func readRoute(m *syscall.NetlinkMessage, into map[netip.Addr]string) error {
	const familyAt, lengthAt, typeAt = 0, 1, 7 // rtmsg of linux/rtnetlink.h: family, dst_len, type
	if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg || leadsNowhere(m.Data[typeAt]) {
		return nil
	}
	if family, length := m.Data[familyAt], m.Data[lengthAt]; length != 32 && family == unix.AF_INET || length != 128 && family == unix.AF_INET6 {
		return nil // of many addresses; nearly all routes are
	}
	attributes, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return err
	}
	for _, a := range attributes {
		if a.Attr.Type != unix.RTA_DST {
			continue
		}
		if address, ok := global(a.Value); ok {
			into[address] = "a route for it alone"
		}
	}
	return nil
}

func leadsNowhere(kind byte) bool {
	switch kind {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return true
	}
	return false
}

// answers are the states of a neighbour that somebody said or that was heard lately; one that was heard long ago stays
// in the kernel's table (NUD_STALE) for as long as there is room.
const answers = unix.NUD_REACHABLE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT | unix.NUD_NOARP

func readNeighbour(m *syscall.NetlinkMessage, into map[netip.Addr]string) error {
	const stateAt, size = 8, 12 // ndmsg of linux/neighbour.h
	if m.Header.Type != unix.RTM_NEWNEIGH || len(m.Data) < size ||
		binary.NativeEndian.Uint16(m.Data[stateAt:])&answers == 0 {
		return nil
	}
	for rest := m.Data[size:]; len(rest) >= unix.SizeofRtAttr; {
		length, kind := int(binary.NativeEndian.Uint16(rest)), binary.NativeEndian.Uint16(rest[2:])
		if length < unix.SizeofRtAttr || length > len(rest) {
			return errors.New("a neighbour's attributes are cut off")
		}
		if kind == unix.NDA_DST {
			if address, ok := global(rest[unix.SizeofRtAttr:length]); ok {
				into[address] = "a neighbour that answers"
			}
		}
		rest = rest[min((length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(rest)):]
	}
	return nil
}

// dumpTries is how often a dump that the kernel's changes broke into is made anew.
const dumpTries = 5

var errInterrupted = errors.New("the kernel's table changed while it was read, again and again")

// dump asks the kernel, in this thread's namespace, for all of a kind.
func dump(request int, each func(*syscall.NetlinkMessage) error) error {
	err := errInterrupted
	for range dumpTries {
		if err = dumpOnce(request, each); !errors.Is(err, errInterrupted) {
			return err
		}
	}
	return err
}

func dumpOnce(request int, each func(*syscall.NetlinkMessage) error) error {
	raw, err := syscall.NetlinkRIB(request, unix.AF_UNSPEC)
	if err != nil {
		return err
	}
	messages, err := syscall.ParseNetlinkMessage(raw)
	if err != nil {
		return err
	}
	interrupted := false
	for i := range messages {
		m := &messages[i]
		interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
		if err := each(m); err != nil {
			return err
		}
	}
	if interrupted {
		return errInterrupted
	}
	return nil
}
