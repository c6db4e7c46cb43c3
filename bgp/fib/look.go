package fib

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/route"
)

// Look reads from the kernel what it has now, on a socket of its own: it does not go by what the writer believes. It costs
// a dump (about a tenth of a second at 100,000 routes), and may be called from any goroutine, in the network namespace
// that is to be looked at.
func (w *Writer) Look() (route.Look, error) {
	s, err := openSocket()
	if err != nil {
		return route.Look{}, err
	}
	defer func() { _ = s.close() }() // nothing was written
	snap, err := takeSnapshot(s, w.who)
	if err != nil {
		return route.Look{}, fmt.Errorf("look into the kernel: %w", err)
	}
	names := make(map[int]string, len(snap.links))
	for _, link := range snap.links {
		names[link.index] = link.name
	}
	look := route.Look{
		Ours: make(map[netip.Prefix]route.Seen, len(snap.ours)), Partial: snap.partial || snap.linksPartial,
		HiddenBy: func(prefix netip.Prefix) string { return snap.hiddenBy(prefix, w.who, names) },
	}
	for _, one := range snap.ours {
		if one.prefix != sentinelPrefix {
			look.Ours[one.prefix] = one.to.seen(names)
		}
	}
	for _, one := range snap.addrs {
		look.OnLink = append(look.OnLink, one.prefix.Masked())
	}
	return look, nil
}

func (g *group) seen(names map[int]string) route.Seen {
	seen := route.Seen{Blackhole: g.reject != 0}
	for _, l := range g.legs {
		seen.Hops = append(seen.Hops, route.SeenHop{Gateway: l.gateway, Interface: names[l.ifindex], Weight: l.weight})
	}
	return seen
}

// hiddenBy finds a route of somebody else in our table that goes before ours at the prefix, or takes a part of it.
func (snap *snapshot) hiddenBy(prefix netip.Prefix, w who, names map[int]string) string {
	for at, others := range snap.others.Subnets(prefix) {
		for _, other := range others {
			_, oursToo := snap.at[at]
			if other.table != w.table || other.tos != 0 || other.sourceLen != 0 || oursToo && other.metric >= w.metric || oursToo && at != prefix {
				continue
			}
			if at != prefix && at.IsSingleIP() && other.onLink() {
				continue // a Pod of this machine in a wider prefix, or the gateway that Pods of every node see
			}
			return fmt.Sprintf("%s %s proto %d metric %d", at, other.text(names), other.protocol, other.metric)
		}
	}
	return ""
}

// onLink tells whether the route leads to interfaces, without a gateway.
func (o otherRoute) onLink() bool {
	return !o.object && len(o.to.hops()) > 0 && !slices.ContainsFunc(o.to.hops(), func(l leg) bool { return l.gateway.IsValid() })
}

func (o otherRoute) text(names map[int]string) string {
	if o.kind != unix.RTN_UNICAST {
		return rejectName(o.kind)
	}
	hops := o.to.hops()
	switch {
	case len(hops) == 0:
		return "by a nexthop object"
	case !hops[0].gateway.IsValid():
		return "dev " + names[hops[0].ifindex]
	}
	return fmt.Sprintf("via %s dev %s", hops[0].gateway, names[hops[0].ifindex])
}
