package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/clearway/clearway/integration/lab"
)

// Protocol is the number of Clearway's routes in the kernel.
const Protocol = "73"

// KernelRoute is a route as "ip -json route" writes it.
type KernelRoute struct {
	Dst, Gateway, Dev, Type, Protocol string
	Metric                            int
	Nexthops                          []struct {
		Gateway, Dev string
		Flags        []string
	}
}

// Routes lists a node's routes of both families with one protocol ("73", "bgp", "bird"), by prefix.
func Routes(ctx context.Context, n *lab.Node, protocol string) (map[netip.Prefix]KernelRoute, error) {
	all := map[netip.Prefix]KernelRoute{}
	for _, family := range []string{"-4", "-6"} {
		text, err := n.Exec(ctx, "ip", "-json", family, "route", "show", "proto", protocol)
		if err != nil {
			return nil, err
		}
		var routes []KernelRoute
		if err := json.Unmarshal([]byte(text), &routes); err != nil {
			return nil, fmt.Errorf("%s: ip -json route: %w", n, err)
		}
		for _, route := range routes {
			prefix, err := ParsePrefix(route.Dst, family == "-6")
			if err != nil {
				return nil, fmt.Errorf("%s: route %q: %w", n, route.Dst, err)
			}
			all[prefix] = route
		}
	}
	return all, nil
}

// ParsePrefix reads a destination as ip(8) writes it: a prefix, a single address, or "default".
func ParsePrefix(text string, six bool) (netip.Prefix, error) {
	switch {
	case text == "default" && six:
		return netip.MustParsePrefix("::/0"), nil
	case text == "default":
		return netip.MustParsePrefix("0.0.0.0/0"), nil
	case !strings.Contains(text, "/"):
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return netip.Prefix{}, err
		}
		return addr.Prefix(addr.BitLen())
	}
	return netip.ParsePrefix(text)
}

// RouterPrefixes lists the routes that a router's BGP has below the given prefixes, whichever daemon it runs. A path
// that the router only remembers (its next hop is gone, and graceful restart keeps it for a while) is no route.
func RouterPrefixes(ctx context.Context, n *lab.Node, within ...netip.Prefix) ([]netip.Prefix, error) {
	table := frrTable
	if n.Process("bird") != nil {
		table = birdTable
	}
	all, err := table(ctx, n)
	if err != nil {
		return nil, err
	}
	inside := func(p netip.Prefix) bool {
		return slices.ContainsFunc(within, func(w netip.Prefix) bool { return w.Bits() <= p.Bits() && w.Contains(p.Addr()) })
	}
	all = slices.DeleteFunc(all, func(p netip.Prefix) bool { return !inside(p) })
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all), nil
}

func frrTable(ctx context.Context, n *lab.Node) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, family := range []string{"ipv4", "ipv6"} {
		text, err := n.Exec(ctx, "vtysh", "-c", "show bgp "+family+" unicast json")
		if err != nil {
			return nil, err
		}
		var table struct {
			Routes map[string][]struct{ BestPath bool }
		}
		if err := json.Unmarshal([]byte(text), &table); err != nil {
			return nil, fmt.Errorf("%s: show bgp json: %w", n, err)
		}
		for text, paths := range table.Routes {
			if !slices.ContainsFunc(paths, func(path struct{ BestPath bool }) bool { return path.BestPath }) {
				continue
			}
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("%s: show bgp json: %w", n, err)
			}
			all = append(all, prefix)
		}
	}
	return all, nil
}

func birdTable(ctx context.Context, n *lab.Node) ([]netip.Prefix, error) {
	text, err := n.Exec(ctx, "birdc", "show", "route")
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for line := range strings.Lines(text) {
		// A route's first line starts with its prefix; further paths and headings do not.
		word, _, _ := strings.Cut(line, " ")
		if prefix, err := netip.ParsePrefix(word); err == nil {
			all = append(all, prefix)
		}
	}
	return all, nil
}
