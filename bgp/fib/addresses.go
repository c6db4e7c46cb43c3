package fib

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Address is an address of this machine.
type Address struct {
	Interface int // the kernel's index
	Address   netip.Addr
	Bits      int // of its subnet
}

// unusable marks addresses that nobody should be told: not yet or no longer in force, or made for privacy (RFC 8981)
// and soon another.
const unusable = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED | unix.IFA_F_TEMPORARY

// Addresses lists the machine's global addresses that are in force. One question to the kernel, whatever the number of
// interfaces; again when they changed meanwhile, since some may be missing then.
func Addresses() (all []Address, err error) {
	for range dumpTries {
		if all, err = listAddresses(); !errors.Is(err, errInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list the machine's addresses: %w", err)
	}
	return all, nil
}

func listAddresses() ([]Address, error) {
	answer, err := syscall.NetlinkRIB(unix.RTM_GETADDR, unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseNetlinkMessage(answer)
	if err != nil {
		return nil, err
	}
	var all []Address
	for i := range messages {
		if messages[i].Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
			return nil, errInterrupted
		}
		if messages[i].Header.Type != unix.RTM_NEWADDR {
			continue
		}
		address, ok, err := parseAddress(&messages[i])
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, address)
		}
	}
	return all, nil
}

func parseAddress(m *syscall.NetlinkMessage) (address Address, ok bool, err error) {
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return Address{}, false, fmt.Errorf("a message of %d bytes", len(m.Data))
	}
	attributes, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return Address{}, false, err
	}
	flags, link := uint32(m.Data[2]), native.Uint32(m.Data[4:]) // struct ifaddrmsg: family, prefixlen, flags, scope, index
	var local, other netip.Addr
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.IFA_LOCAL: // the own end of a point-to-point link
			local, _ = netip.AddrFromSlice(a.Value)
		case unix.IFA_ADDRESS:
			other, _ = netip.AddrFromSlice(a.Value)
		case unix.IFA_FLAGS:
			if len(a.Value) == 4 {
				flags = native.Uint32(a.Value) // all of them; the header has room for eight
			}
		}
	}
	if !local.IsValid() {
		local = other
	}
	ok = local.IsGlobalUnicast() && flags&unusable == 0
	return Address{Interface: int(link), Address: local, Bits: int(m.Data[1])}, ok, nil
}
