package route

import (
	"fmt"
	"net/netip"
)

// Look is what one look at the kernel found. It is not changed afterwards.
type Look struct {
	// Ours are the routes that are ours, the sentinel left out.
	Ours map[netip.Prefix]Seen
	// OnLink are the prefixes that the machine's interfaces are in.
	OnLink []netip.Prefix
	// HiddenBy tells which route of somebody else packets to a prefix follow in place of ours: all of them, or, by a
	// longer prefix, a part; empty: none.
	HiddenBy func(netip.Prefix) string
	// Partial: the kernel kept changing while it told. What is listed is there; what is not may be there too.
	Partial bool
}

// Seen is a route of ours as the kernel has it.
type Seen struct {
	Blackhole bool
	Hops      []SeenHop
}

// SeenHop is one way out, resolved: the gateway is on the interface's link.
type SeenHop struct {
	Gateway   netip.Addr // invalid: the destination itself is on-link
	Interface string
	Weight    int
}

// String writes the hop as ip(8) does.
func (h SeenHop) String() string {
	text := "dev " + h.Interface
	if h.Gateway.IsValid() {
		text = fmt.Sprintf("via %s %s", h.Gateway, text)
	}
	if h.Weight > 1 {
		text += fmt.Sprintf(" weight %d", h.Weight)
	}
	return text
}
