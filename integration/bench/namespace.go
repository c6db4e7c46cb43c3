package bench

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace without a name: it goes when its handle is closed and its last process has ended,
// however the run ends.
type namespace struct{ handle netns.NsHandle }

func newNamespace() (*namespace, error) {
	made := &namespace{handle: netns.None()}
	err := onOwnThread(func() error {
		handle, err := netns.New()
		if err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		made.handle = handle
		return setUp("lo")
	})
	if err != nil {
		made.close()
		return nil, err
	}
	return made, nil
}

func (n *namespace) close() {
	if n.handle.IsOpen() {
		_ = n.handle.Close() // nothing can be done about it
	}
}

// path names the namespace to other processes, while it is open here.
func (n *namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(n.handle)) }

// do calls f on a thread that is inside the namespace. Sockets that f opens and processes that it starts stay there.
func (n *namespace) do(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// onOwnThread calls f on a thread that may change its network namespace, and puts it back. A thread that can't be put
// back is given up. It is never ended otherwise: a child's parent-death signal comes when its thread ends.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("own network namespace: %w", err)
			return
		}
		err = f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- errors.Join(err, home.Close())
	}()
	return <-done
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("interface %s up: %w", name, err)
	}
	return nil
}

// end is one end of a veth pair.
type end struct {
	in      *namespace
	name    string
	address netip.Prefix
}

// connect makes a veth pair between two namespaces.
func connect(a, b end) error {
	err := a.in.do(func() error {
		pair := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: a.name},
			PeerName:      b.name,
			PeerNamespace: netlink.NsFd(int(b.in.handle)),
		}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("veth pair %s and %s: %w", a.name, b.name, err)
		}
		return a.raise()
	})
	if err != nil {
		return err
	}
	return b.in.do(b.raise)
}

func (e end) raise() error {
	link, err := netlink.LinkByName(e.name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", e.name, err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{
		IP:   e.address.Addr().AsSlice(),
		Mask: net.CIDRMask(e.address.Bits(), e.address.Addr().BitLen()),
	}}
	if err := netlink.AddrAdd(link, address); err != nil {
		return fmt.Errorf("address %s of %s: %w", e.address, e.name, err)
	}
	return setUp(e.name)
}

// countRoutes counts the fed prefixes among the namespace's routes, by a dump.
func (n *namespace) countRoutes() (int, error) {
	count := 0
	err := n.do(func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("netlink handle: %w", err)
		}
		defer handle.Close()
		return handle.RouteListFilteredIter(netlink.FAMILY_V4, &netlink.Route{}, 0, func(route netlink.Route) bool {
			if route.Dst != nil {
				bits, _ := route.Dst.Mask.Size()
				if _, ours := feedIndex(route.Dst.IP.To4(), byte(bits)); ours {
					count++
				}
			}
			return true
		})
	})
	return count, err
}
