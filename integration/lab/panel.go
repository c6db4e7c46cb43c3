package lab

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// panel is the patch panel: a network namespace of the lab's own in which every link is a bridge of two ports. The
// namespace has no name and no process; it goes with the lab's file descriptor.
type panel struct {
	network *os.File
	handle  *netlink.Handle
}

func newPanel() (*panel, error) {
	network, err := newNetwork()
	if err != nil {
		return nil, err
	}
	p := &panel{network: network}
	err = inNetwork(network, func() error {
		// Frames pass through; the panel itself takes no part.
		for _, key := range []string{"net.ipv6.conf.default.disable_ipv6", "net.ipv6.conf.all.disable_ipv6"} {
			if err := os.WriteFile(sysctlPath(key), []byte("1"), 0); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
		p.handle, err = netlink.NewHandle()
		return err
	})
	if err != nil {
		network.Close()
		return nil, fmt.Errorf("patch panel: %w", err)
	}
	return p, nil
}

func (p *panel) close() {
	p.handle.Close()
	p.network.Close()
}

// Link is a cable between two nodes.
type Link struct {
	Spec LinkSpec
	// ports are the panel's ends, named after their place; bridge joins them.
	ports  [2]string
	bridge string
	panel  *panel

	mu  sync.Mutex // serializes the operations below
	cut bool       // the ports are down; guarded by mu
}

// newLink makes the link's bridge; its ends are plugged in when their nodes start.
func (p *panel) newLink(number int, spec LinkSpec) (*Link, error) {
	l := &Link{
		Spec:   spec,
		ports:  [2]string{fmt.Sprintf("lab%da", number), fmt.Sprintf("lab%db", number)},
		bridge: fmt.Sprintf("lab%d", number),
		panel:  p,
	}
	snooping, age := false, uint32(0)
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &snooping, AgeingTime: &age}
	bridge.Name = l.bridge
	if spec.MTU != 0 {
		bridge.MTU = spec.MTU
	}
	if err := p.handle.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("link %s: %w", l, err)
	}
	if err := p.handle.LinkSetUp(bridge); err != nil {
		return nil, fmt.Errorf("link %s: %w", l, err)
	}
	return l, nil
}

// String names the link by its ends.
func (l *Link) String() string { return l.Spec.A.String() + " - " + l.Spec.B.String() }

// plug makes one end of the link in its node: a device of the name the file gives, up, and its port in the panel.
func (l *Link) plug(end Endpoint, c *child) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	port := l.ports[slices.Index([]Endpoint{l.Spec.A, l.Spec.B}, end)]
	bridge, err := l.panel.handle.LinkByName(l.bridge)
	if err != nil {
		return fmt.Errorf("plug %s: %w", end, err)
	}
	err = c.inside(nil, func() error {
		veth := &netlink.Veth{
			LinkAttrs: netlink.NewLinkAttrs(), PeerName: port, PeerNamespace: netlink.NsFd(l.panel.network.Fd()),
		}
		veth.Name = end.Interface
		veth.MTU = l.Spec.MTU
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return netlink.LinkSetUp(veth)
	})
	if err != nil {
		return fmt.Errorf("plug %s: %w", end, err)
	}
	device, err := l.panel.handle.LinkByName(port)
	if err != nil {
		return fmt.Errorf("plug %s: %w", end, err)
	}
	if err := l.panel.handle.LinkSetMaster(device, bridge); err != nil {
		return fmt.Errorf("plug %s: %w", end, err)
	}
	if l.cut {
		return nil
	}
	return l.setPorts(true)
}

// setPorts sets both ports up, or both down. A port alone, whose far end has no node at the moment, stays down, so
// that the end that is there has no carrier.
func (l *Link) setPorts(up bool) error {
	var devices []netlink.Link
	for _, port := range l.ports {
		if device, err := l.panel.handle.LinkByName(port); err == nil {
			devices = append(devices, device)
		}
	}
	for _, device := range devices {
		set := l.panel.handle.LinkSetDown
		if up && len(devices) == 2 {
			set = l.panel.handle.LinkSetUp
		}
		if err := set(device); err != nil {
			return fmt.Errorf("link %s: %w", l, err)
		}
	}
	return nil
}

// Down cuts the cable: both ends lose their carrier.
func (l *Link) Down() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	return l.setPorts(false)
}

// Up mends the cable, however it was cut.
func (l *Link) Up() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
	bridge, err := l.panel.handle.LinkByName(l.bridge)
	if err != nil {
		return fmt.Errorf("link %s: %w", l, err)
	}
	for _, port := range l.ports {
		if device, err := l.panel.handle.LinkByName(port); err == nil {
			if err := l.panel.handle.LinkSetMaster(device, bridge); err != nil {
				return fmt.Errorf("link %s: %w", l, err)
			}
		}
	}
	return l.setPorts(true)
}

// Blackhole loses every frame while both ends keep their carrier, as a broken switch in between would.
func (l *Link) Blackhole() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, port := range l.ports {
		device, err := l.panel.handle.LinkByName(port)
		if err != nil {
			return fmt.Errorf("link %s: %w", l, err)
		}
		if err := l.panel.handle.LinkSetNoMaster(device); err != nil {
			return fmt.Errorf("link %s: %w", l, err)
		}
	}
	return nil
}

// vanish takes one end's port out, as its node has lost power. The kernel would, but in its own time.
func (l *Link) vanish(end Endpoint) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	port := l.ports[slices.Index([]Endpoint{l.Spec.A, l.Spec.B}, end)]
	device, err := l.panel.handle.LinkByName(port)
	if err == nil {
		err = l.panel.handle.LinkDel(device)
	}
	if missing := (netlink.LinkNotFoundError{}); err != nil && !errors.As(err, &missing) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("unplug %s: %w", end, err)
	}
	return l.setPorts(false)
}
