package tor

func writeEOS(p *page, r Router) error {
	if err := ownPort(r, "EOS"); err != nil {
		return err
	}
	p.head(r, "Arista EOS 4.23 and later")
	p.vendorNotes(r, "EOS")
	eosLists(p, r)
	for _, g := range r.Groups {
		if len(g.Ranges) > 0 && g.asn() == 0 {
			p.line("peer-filter %s", g.title())
			for i, asn := range g.ASNs {
				p.line("   %d match as-range %d result accept", 10*(i+1), asn)
			}
		}
	}
	p.line("router bgp %d", r.ASN)
	p.line("   no bgp default ipv4-unicast")
	p.line("   bgp bestpath as-path multipath-relax")
	p.line("   maximum-paths %d ecmp %d", multipath, multipath)
	for _, g := range r.Groups {
		eosGroup(p, r, g)
	}
	for _, prefix := range r.Aggregates {
		p.line("   aggregate-address %s%s", prefix, only(r.SummaryOnly, " summary-only"))
	}
	for _, family := range r.families() {
		p.line("   address-family ipv%d", family)
		for _, g := range r.Groups {
			if !g.has(family) {
				continue
			}
			p.line("      neighbor %s activate", g.title())
			p.line("      neighbor %s route-map CLEARWAY-IN%d in", g.title(), family)
			p.line("      neighbor %s route-map %s out", g.title(), g.out(family))
		}
	}
	return nil
}

func eosLists(p *page, r Router) {
	p.line("ip community-list CLEARWAY-GSHUT permit 65535:0")
	for _, family := range r.families() {
		ip := ipWord[family]
		p.line("%s prefix-list CLEARWAY-PODS%d", ip, family)
		for i, pool := range r.Pools[family] {
			p.line("   seq %d permit %s le %d", 10*(i+1), pool, longest(family))
		}
		if len(r.Pools[family]) == 0 {
			p.line("   seq 10 deny %s le %d", everything(family), longest(family))
		}
		p.comment("Nodes may tell what is inside a pool; what they are about to leave (RFC 8326) is a last resort.")
		p.line("route-map CLEARWAY-IN%d permit 10", family)
		p.line("   match community CLEARWAY-GSHUT")
		p.line("   match %s address prefix-list CLEARWAY-PODS%d", ip, family)
		p.line("   set local-preference 0")
		p.line("route-map CLEARWAY-IN%d permit 20", family)
		p.line("   match %s address prefix-list CLEARWAY-PODS%d", ip, family)
		p.line("route-map CLEARWAY-OUT%d permit 10", family)
		p.line("   match %s address prefix-list CLEARWAY-PODS%d", ip, family)
		if anyGroup(r, func(g Group) bool { return g.Default && g.has(family) }) {
			p.line("route-map CLEARWAY-ALL%d permit 10", family)
		}
	}
}

func eosGroup(p *page, r Router, g Group) {
	name := g.title()
	say := func(format string, args ...any) { p.line("   neighbor "+name+" "+format, args...) }
	say("peer group")
	if asn := g.asn(); asn != 0 {
		say("remote-as %d", asn)
	}
	say("timers %d %d", seconds(g.Keepalive), seconds(g.Hold))
	if g.Password {
		say("password 0 %s", Placeholder)
	}
	if g.MultihopTTL > 0 && !g.IBGP {
		say("ebgp-multihop %d", g.MultihopTTL)
	}
	if g.Passive {
		say("passive")
	}
	if g.GracefulRestart {
		say("graceful-restart-helper")
	} else {
		p.line("   no neighbor %s graceful-restart-helper", name)
	}
	if g.BFD {
		say("bfd")
		say("bfd interval %d min-rx %d multiplier %d", milliseconds(g.BFDTx), milliseconds(g.BFDRx), g.BFDMultiplier)
	}
	say("send-community")
	if r.MaxPrefixes > 0 {
		say("maximum-routes %d warning-limit %d percent", r.MaxPrefixes, warnAt)
	}
	if g.IBGP {
		say("route-reflector-client")
		say("next-hop-self")
	}
	for _, n := range g.Neighbors {
		p.line("   neighbor %s peer group %s", n.Address, name)
		if g.asn() == 0 {
			p.line("   neighbor %s remote-as %d", n.Address, n.ASN)
		}
		p.line("   neighbor %s description %s", n.Address, n.Node)
	}
	for _, prefix := range g.Ranges {
		if asn := g.asn(); asn != 0 {
			p.line("   bgp listen range %s peer-group %s remote-as %d", prefix, name, asn)
		} else {
			p.line("   bgp listen range %s peer-group %s peer-filter %s", prefix, name, name)
		}
	}
}
