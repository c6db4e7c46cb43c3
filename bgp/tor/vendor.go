package tor

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/clearway/clearway/bgp/route"
)

// vendors write a Router, each in its own language.
var vendors = map[string]func(*page, Router) error{
	"frr":   writeFRR,
	"sonic": writeSONiC,
	"bird":  writeBIRD,
	"eos":   writeEOS,
	"nxos":  writeNXOS,
	"junos": writeJunos,
}

// Vendors are the names that Write knows.
func Vendors() []string { return slices.Sorted(maps.Keys(vendors)) }

// Write puts a router's side into a vendor's language. The error says what that vendor cannot do.
func Write(vendor string, r Router) (string, error) {
	write, known := vendors[vendor]
	if !known {
		return "", fmt.Errorf("vendor %q is unknown; it is one of %s", vendor, strings.Join(Vendors(), ", "))
	}
	p := &page{remark: "!"}
	if vendor == "bird" || vendor == "junos" {
		p.remark = "#"
	}
	if err := write(p, r); err != nil {
		return "", err
	}
	return p.text.String(), nil
}

// page is a configuration as it is written.
type page struct {
	text   strings.Builder
	remark string
}

func (p *page) line(format string, args ...any) {
	fmt.Fprintf(&p.text, format, args...)
	p.text.WriteByte('\n')
}

func (p *page) comment(format string, args ...any) { p.line(p.remark+" "+format, args...) }

// head says what the page is.
func (p *page) head(r Router, system string) {
	p.comment("Written by clearwayctl tor-config for %s: AS %d's side of BGPPeer %s.", system, r.ASN, strings.Join(r.Peers, ", "))
	if len(r.Nodes) > 0 {
		p.comment("Nodes: %s.", strings.Join(r.Nodes, ", "))
	}
	if slices.ContainsFunc(r.Groups, func(g Group) bool { return g.Password }) {
		p.comment("Put the TCP-MD5 password where it says %s.", Placeholder)
	}
	for _, note := range r.Notes {
		p.comment("Note: %s.", note)
	}
}

// foreignPort says, once, that the router must listen where BGP does not by default.
func (p *page) foreignPort(r Router, how string) {
	for _, g := range r.Groups {
		if g.Port != bgpPort {
			p.comment("Nodes call port %d: %s.", g.Port, how)
			return
		}
	}
}

// ownPort refuses a router's port that is not BGP's own, for those whose port is fixed or not known to be otherwise.
func ownPort(r Router, vendor string) error {
	for _, g := range r.Groups {
		if g.Port != bgpPort {
			return fmt.Errorf("BGPPeer %s has peerPort %d, and for %s only port %d is written", g.Name, g.Port, vendor, bgpPort)
		}
	}
	return nil
}

// vendorNotes says what is left to the reader where a vendor has no words for it.
func (p *page) vendorNotes(r Router, vendor string) {
	for _, g := range r.Groups {
		if other := route.IPv4 + route.IPv6 - g.Over; g.has(other) {
			p.comment("BGPPeer %s carries IPv%d over IPv%d: see to the next hop of IPv%d on %s, or have a BGPPeer for each family.",
				g.Name, other, g.Over, other, vendor)
		}
		for _, n := range g.Neighbors {
			if port := n.port(); port != 0 {
				p.comment("Node %s listens on port %d, which %s does not call: the node calls.", n.Node, port, vendor)
			}
		}
	}
}

// upper and lower write a name as vendors take it: letters, digits and one kind of dash.
func upper(text string) string { return strings.ToUpper(clean(text, '-')) }

func lower(text string) string { return strings.ToLower(clean(text, '_')) }

func clean(text string, dash rune) string {
	return strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return dash
		}
		return r
	}, text)
}

func (g Group) title() string { return upper("CLEARWAY-" + g.Name) }

// out names what the group's nodes are told: what is in pools, or, where they take a default route, everything.
func (g Group) out(family route.Family) string {
	if g.Default {
		return fmt.Sprintf("CLEARWAY-ALL%d", family)
	}
	return fmt.Sprintf("CLEARWAY-OUT%d", family)
}

func anyGroup(r Router, is func(Group) bool) bool { return slices.ContainsFunc(r.Groups, is) }

// restartAfter is how many minutes a session rests that told too many prefixes.
const restartAfter = 5

// warnAt is the share, in per cent, of the most prefixes at which the router says that it is near.
const warnAt = 80

// multipath is how many roads to one prefix the router is told to use at once.
const multipath = 64
