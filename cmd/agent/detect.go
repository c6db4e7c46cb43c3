package main

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/clearway/clearway/bgp/config"
)

// addressRule finds the node's addresses among those of its interfaces, where --node-ip names none. At most one of its
// fields is set; none: the addresses from which the server is reached.
type addressRule struct {
	interfaces []string // names, with * and ? as in file names
	within     []netip.Prefix
	reaches    netip.Addr
}

// parseAddressRule reads --node-ip-from.
func parseAddressRule(text string) (rule addressRule, err error) {
	if text == "" {
		return rule, nil
	}
	kind, value, _ := strings.Cut(text, "=")
	parts := strings.Split(value, ",")
	switch kind {
	case "interface":
		for _, name := range parts {
			if _, err := path.Match(name, ""); name == "" || err != nil {
				return rule, fmt.Errorf("%q: %q is no interface's name; write interface=eth0, or interface=eth*,bond0", text, name)
			}
		}
		rule.interfaces = parts
	case "cidr":
		for _, one := range parts {
			prefix, err := netip.ParsePrefix(one)
			if err != nil || prefix.Addr().Is4In6() || prefix != prefix.Masked() {
				return rule, fmt.Errorf("%q: %q is no prefix, or has host bits; write cidr=192.0.2.0/24,2001:db8::/64", text, one)
			}
			rule.within = append(rule.within, prefix)
		}
	case "can-reach":
		if rule.reaches, err = netip.ParseAddr(value); err != nil || rule.reaches.Zone() != "" {
			return addressRule{}, fmt.Errorf("%q: %q is no address; write can-reach=192.0.2.1", text, value)
		}
	default:
		return rule, fmt.Errorf("%q is no rule; write interface=NAME,..., cidr=PREFIX,... or can-reach=ADDRESS", text)
	}
	return rule, nil
}

// link is an address of an interface with its name and number, by which interfaces are ordered.
type link struct {
	name   string
	number int
	prefix netip.Prefix
}

// choose finds one address of each family: of the interface with the lowest number, the lowest, so that it is the same at
// each look.
func (r addressRule) choose(links []link) []netip.Prefix {
	links = slices.Clone(links)
	slices.SortFunc(links, func(a, b link) int {
		if a.number != b.number {
			return a.number - b.number
		}
		return a.prefix.Addr().Compare(b.prefix.Addr())
	})
	var found []netip.Prefix
	for _, one := range links {
		taken := slices.ContainsFunc(found, func(p netip.Prefix) bool { return p.Addr().Is4() == one.prefix.Addr().Is4() })
		if !taken && r.takes(one) {
			found = append(found, one.prefix)
		}
	}
	return found
}

func (r addressRule) takes(one link) bool {
	return slices.ContainsFunc(r.within, func(p netip.Prefix) bool { return p.Contains(one.prefix.Addr()) }) ||
		slices.ContainsFunc(r.interfaces, func(pattern string) bool {
			matches, err := path.Match(pattern, one.name)
			return err == nil && matches
		})
}

// find looks for the addresses that the rule means, or, without one, for those from which the servers are reached.
func (r addressRule) find(servers []string, local map[netip.Addr]netip.Prefix) ([]netip.Prefix, error) {
	addresses, err := linkAddresses()
	if err != nil {
		return nil, err
	}
	if r.reaches.IsValid() {
		const discard = "9" // nothing is sent: a port is needed all the same
		servers = []string{net.JoinHostPort(r.reaches.String(), discard)}
	}
	if len(r.interfaces) == 0 && len(r.within) == 0 {
		return beside(addressesToward(servers, local), addresses, local), nil
	}
	links, err := named(addresses, local)
	return r.choose(links), err
}

// named gives addresses the names of their interfaces. One that has gone meanwhile is left out.
func named(addresses []config.LocalAddress, local map[netip.Addr]netip.Prefix) ([]link, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, one := range interfaces {
		names[one.Index] = one.Name
	}
	var links []link
	for _, one := range addresses {
		prefix, known := local[one.Address]
		if name, there := names[one.Interface]; known && there {
			links = append(links, link{name, one.Interface, prefix})
		}
	}
	return links, nil
}
