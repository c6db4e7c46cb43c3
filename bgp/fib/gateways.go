package fib

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Gateways are the gateways of the default routes that are not ours, of both families and whatever their metric, by
// interfaces that are up. A link-local one has its interface as zone.
func (w *Writer) Gateways() []netip.Addr {
	if list := w.gateways.Load(); list != nil {
		return slices.Clone(*list)
	}
	return nil
}

var defaultRoutes = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// noteGateways keeps them for Gateways.
func (w *Writer) noteGateways() {
	var list []netip.Addr
	for _, prefix := range defaultRoutes {
		others, _ := w.core.reach.routes.Get(prefix)
		for _, o := range others {
			if o.kind != unix.RTN_UNICAST || o.tos != 0 || o.sourceLen != 0 || o.encap || o.to == nil {
				continue
			}
			for _, l := range o.to.legs {
				link, known := w.core.reach.links[l.ifindex]
				if !l.gateway.IsValid() || !known || !link.up {
					continue
				}
				gateway := l.gateway
				if gateway.Is6() && gateway.IsLinkLocalUnicast() {
					gateway = gateway.WithZone(link.name)
				}
				list = append(list, gateway)
			}
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	list = slices.Compact(list)
	w.gateways.Store(&list)
}
