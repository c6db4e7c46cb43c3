package tor

import "github.com/clearway/clearway/bgp/route"

func writeNXOS(p *page, r Router) error {
	if err := severalASNs(r, "NX-OS"); err != nil {
		return err
	}
	if err := ownPort(r, "NX-OS"); err != nil {
		return err
	}
	p.head(r, "Cisco NX-OS 9 and later")
	p.vendorNotes(r, "NX-OS")
	p.line("feature bgp")
	nxosBFD(p, r)
	nxosLists(p, r)
	p.line("router bgp %d", r.ASN)
	p.line("  bestpath as-path multipath-relax")
	if anyGroup(r, func(g Group) bool { return g.GracefulRestart }) {
		p.line("  graceful-restart-helper")
	}
	for _, family := range r.families() {
		p.line("  address-family ipv%d unicast", family)
		p.line("    maximum-paths %d", multipath)
		for _, prefix := range r.aggregates(family) {
			p.line("    aggregate-address %s%s", prefix, only(r.SummaryOnly, " summary-only"))
		}
	}
	for _, g := range r.Groups {
		nxosGroup(p, r, g)
	}
	return nil
}

func nxosBFD(p *page, r Router) {
	said := false
	for _, g := range r.Groups {
		if !g.BFD {
			continue
		}
		if !said {
			p.line("feature bfd")
			said = true
		}
		if !g.BFDMultihop {
			p.comment("On each interface to a node: bfd interval %d min_rx %d multiplier %d, and no ip redirects.",
				milliseconds(g.BFDTx), milliseconds(g.BFDRx), g.BFDMultiplier)
		}
	}
}

func nxosLists(p *page, r Router) {
	p.line("ip community-list standard CLEARWAY-GSHUT seq 10 permit 65535:0")
	for _, family := range r.families() {
		ip := ipWord[family]
		prefixList(p, r, family)
		p.comment("Nodes may tell what is inside a pool; what they are about to leave (RFC 8326) is a last resort.")
		p.line("route-map CLEARWAY-IN%d permit 10", family)
		p.line("  match community CLEARWAY-GSHUT")
		p.line("  match %s address prefix-list CLEARWAY-PODS%d", ip, family)
		p.line("  set local-preference 0")
		p.line("route-map CLEARWAY-IN%d permit 20", family)
		p.line("  match %s address prefix-list CLEARWAY-PODS%d", ip, family)
		p.line("route-map CLEARWAY-OUT%d permit 10", family)
		p.line("  match %s address prefix-list CLEARWAY-PODS%d", ip, family)
		if anyGroup(r, func(g Group) bool { return g.Default && g.has(family) }) {
			p.line("route-map CLEARWAY-ALL%d permit 10", family)
		}
	}
}

func nxosGroup(p *page, r Router, g Group) {
	p.line("  template peer %s", g.title())
	if asn := g.asn(); asn != 0 {
		p.line("    remote-as %d", asn)
	}
	p.line("    timers %d %d", seconds(g.Keepalive), seconds(g.Hold))
	p.line("    reconnect-interval %d", min(60, max(1, seconds(g.ConnectRetry))))
	if g.Password {
		p.line("    password 0 %s", Placeholder)
	}
	if g.MultihopTTL > 0 && !g.IBGP {
		p.line("    ebgp-multihop %d", g.MultihopTTL)
	}
	if g.Passive {
		p.line("    transport connection-mode passive")
	}
	if g.BFD {
		p.line("    bfd%s", only(g.BFDMultihop, " multihop"))
		if g.BFDMultihop {
			p.line("    bfd multihop interval %d min_rx %d multiplier %d", milliseconds(g.BFDTx), milliseconds(g.BFDRx), g.BFDMultiplier)
		}
	}
	for _, family := range g.Families() {
		nxosFamily(p, r, g, family)
	}
	for _, n := range g.Neighbors {
		p.line("  neighbor %s", n.Address)
		p.line("    inherit peer %s", g.title())
		if g.asn() == 0 {
			p.line("    remote-as %d", n.ASN)
		}
		p.line("    description %s", n.Node)
	}
	for _, prefix := range g.Ranges {
		p.line("  neighbor %s", prefix)
		p.line("    inherit peer %s", g.title())
	}
}

func nxosFamily(p *page, r Router, g Group, family route.Family) {
	p.line("    address-family ipv%d unicast", family)
	p.line("      route-map CLEARWAY-IN%d in", family)
	p.line("      route-map %s out", g.out(family))
	p.line("      send-community")
	if g.OwnAS {
		p.comment("Nodes of one AS hear of each other by this router.")
		p.line("      disable-peer-as-check")
	}
	if r.MaxPrefixes > 0 {
		p.line("      maximum-prefix %d %d restart %d", r.MaxPrefixes, warnAt, restartAfter)
	}
	if g.IBGP {
		p.line("      route-reflector-client")
		p.line("      next-hop-self")
	}
}
