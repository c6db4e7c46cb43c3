package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// maxCollectors bounds them: each is a copy of all that peers tell, from every node.
const maxCollectors = 4

// collectors reads those that Validate has passed, ascending.
func collectors(texts []string) []netip.AddrPort {
	var list []netip.AddrPort
	for _, text := range texts {
		if at, err := netip.ParseAddrPort(text); err == nil {
			list = append(list, at)
		}
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return slices.Compact(list)
}

// collectors lists what is wrong with BMP collectors.
func (f *faults) collectors(texts []string) {
	if len(texts) > maxCollectors {
		f.add("spec.bmpCollectors", len(texts), "are more than %d: each is a copy of all that peers tell, from every node", maxCollectors)
	}
	seen := map[netip.AddrPort]bool{}
	for i, text := range texts {
		field := fmt.Sprintf("spec.bmpCollectors[%d]", i)
		at, err := netip.ParseAddrPort(text)
		switch {
		case err != nil || at.Port() == 0 || at.Addr().Is4In6() || !isHost(at.Addr()):
			f.add(field, text, "must be the address and port of a collector, such as 192.0.2.50:11019 or [2001:db8::50]:11019")
		case seen[at]:
			f.add(field, text, "is there twice")
		}
		seen[at] = true
	}
}
