package tor

import (
	"fmt"
	"iter"

	"github.com/clearway/clearway/bgp/route"
)

var inet = map[route.Family]string{route.IPv4: "inet", route.IPv6: "inet6"}

func writeJunos(p *page, r Router) error {
	if err := severalASNs(r, "Junos"); err != nil {
		return err
	}
	if err := ownPort(r, "Junos"); err != nil {
		return err
	}
	p.head(r, "Junos 18 and later")
	p.comment("Load it with: load set FILE")
	p.vendorNotes(r, "Junos")
	p.line("set routing-options autonomous-system %d", r.ASN)
	junosPolicies(p, r)
	for _, family := range r.families() {
		rib := ""
		if family == route.IPv6 {
			rib = "rib inet6.0 "
		}
		for _, prefix := range r.aggregates(family) {
			p.line("set routing-options %saggregate route %s discard", rib, prefix)
		}
	}
	if len(r.Aggregates) > 0 {
		p.comment("Export the aggregates to other peers in their own policies%s.", only(r.SummaryOnly, ", and keep the parts back there"))
	}
	for _, g := range r.Groups {
		junosGroup(p, r, g)
	}
	return nil
}

func junosPolicies(p *page, r Router) {
	p.line("set policy-options community CLEARWAY-GSHUT members 65535:0")
	p.line("set policy-options policy-statement CLEARWAY-ECMP then load-balance per-packet")
	p.line("set routing-options forwarding-table export CLEARWAY-ECMP")
	const statement = "set policy-options policy-statement "
	p.comment("Nodes may tell what is inside a pool; what they are about to leave (RFC 8326) is a last resort.")
	for family := range r.pooled() {
		leaving, pods := fmt.Sprintf("CLEARWAY-IN term leaving%d", family), fmt.Sprintf("CLEARWAY-IN term pods%d", family)
		p.line(statement+"%s from family %s", leaving, inet[family])
		p.line(statement+"%s from community CLEARWAY-GSHUT", leaving)
		p.line(statement+"%s from family %s", pods, inet[family])
		for _, term := range []string{leaving, pods} {
			for _, pool := range r.Pools[family] {
				p.line(statement+"%s from route-filter %s orlonger", term, pool)
			}
		}
		p.line(statement+"%s then local-preference 0", leaving)
		p.line(statement+"%s then accept", leaving)
		p.line(statement+"%s then accept", pods)
	}
	p.line(statement + "CLEARWAY-IN then reject")
	for family := range r.pooled() {
		for _, protocol := range []string{"bgp", "aggregate"} {
			term := fmt.Sprintf("CLEARWAY-OUT term %s%d", protocol, family)
			p.line(statement+"%s from protocol %s", term, protocol)
			for _, pool := range r.Pools[family] {
				p.line(statement+"%s from route-filter %s orlonger", term, pool)
			}
			p.line(statement+"%s then accept", term)
		}
	}
	p.line(statement + "CLEARWAY-OUT then reject")
	if anyGroup(r, func(g Group) bool { return g.Default }) {
		p.line(statement + "CLEARWAY-ALL then accept")
	}
}

// pooled are the families that have pools: to Junos a term without a prefix would match every one.
func (r Router) pooled() iter.Seq[route.Family] {
	return func(yield func(route.Family) bool) {
		for _, family := range r.families() {
			if len(r.Pools[family]) > 0 && !yield(family) {
				return
			}
		}
	}
}

func junosGroup(p *page, r Router, g Group) {
	say := func(format string, args ...any) { p.line("set protocols bgp group "+g.title()+" "+format, args...) }
	say("type %s", map[bool]string{true: "internal", false: "external"}[g.IBGP])
	if asn := g.asn(); asn != 0 && !g.IBGP {
		say("peer-as %d", asn)
	}
	say("hold-time %d", seconds(g.Hold))
	if g.Password {
		say("authentication-key %q", Placeholder)
	}
	if g.MultihopTTL > 0 && !g.IBGP {
		say("multihop ttl %d", g.MultihopTTL)
	}
	if g.Passive {
		say("passive")
	}
	if !g.GracefulRestart {
		say("graceful-restart disable")
	}
	say("multipath multiple-as")
	if g.OwnAS {
		say("advertise-peer-as")
	}
	if g.BFD {
		say("bfd-liveness-detection transmit-interval minimum-interval %d", milliseconds(g.BFDTx))
		say("bfd-liveness-detection minimum-receive-interval %d", milliseconds(g.BFDRx))
		say("bfd-liveness-detection multiplier %d", g.BFDMultiplier)
	}
	if g.IBGP {
		p.comment("An internal group needs a cluster id to pass routes on: set protocols bgp group %s cluster ROUTER-ID", g.title())
	}
	for _, family := range g.Families() {
		say("family %s unicast", inet[family])
		if r.MaxPrefixes > 0 {
			say("family %s unicast prefix-limit maximum %d teardown %d idle-timeout %d", inet[family], r.MaxPrefixes, warnAt, restartAfter)
		}
	}
	say("import CLEARWAY-IN")
	say("export %s", map[bool]string{true: "CLEARWAY-ALL", false: "CLEARWAY-OUT"}[g.Default])
	for _, n := range g.Neighbors {
		say("neighbor %s description %s", n.Address, n.Node)
		if g.asn() == 0 {
			say("neighbor %s peer-as %d", n.Address, n.ASN)
		}
	}
	for _, prefix := range g.Ranges {
		say("allow %s", prefix)
	}
}
