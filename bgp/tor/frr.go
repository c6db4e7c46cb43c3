package tor

import (
	"fmt"

	"github.com/clearway/clearway/bgp/route"
)

func writeFRR(p *page, r Router) error {
	p.head(r, "FRR 8 and later")
	p.comment("Load it with: vtysh -f FILE")
	return writeFRRBody(p, r)
}

// writeSONiC is FRR's, which is what SONiC runs: its own tables have no place for prefix lists of a peer group.
func writeSONiC(p *page, r Router) error {
	p.head(r, "SONiC")
	p.comment(`SONiC must leave FRR's configuration to you: "docker_routing_config_mode": "split" in DEVICE_METADATA|localhost.`)
	p.comment("Load it in the bgp container with: vtysh -f FILE; then: vtysh -c 'write memory'")
	return writeFRRBody(p, r)
}

func writeFRRBody(p *page, r Router) error {
	p.foreignPort(r, "start bgpd with -p PORT")
	if anyGroup(r, func(g Group) bool { return g.BFD }) {
		p.comment("bfdd must run (bfdd=yes in the file daemons).")
	}
	frrLists(p, r)
	frrProfiles(p, r)
	p.line("router bgp %d", r.ASN)
	p.line(" no bgp default ipv4-unicast")
	p.line(" bgp bestpath as-path multipath-relax")
	if anyGroup(r, func(g Group) bool { return len(g.Ranges) > 0 }) {
		p.line(" bgp listen limit 1000")
	}
	for _, g := range r.Groups {
		frrGroup(p, r, g)
	}
	for _, family := range r.families() {
		frrFamily(p, r, family)
	}
	p.line("exit")
	return nil
}

var ipWord = map[route.Family]string{route.IPv4: "ip", route.IPv6: "ipv6"}

// prefixList is what nodes may tell of a family, a line an entry, as FRR and NX-OS have it.
func prefixList(p *page, r Router, family route.Family) {
	ip := ipWord[family]
	for i, pool := range r.Pools[family] {
		p.line("%s prefix-list CLEARWAY-PODS%d seq %d permit %s le %d", ip, family, 5*(i+1), pool, longest(family))
	}
	if len(r.Pools[family]) == 0 {
		p.line("%s prefix-list CLEARWAY-PODS%d seq 5 deny %s le %d", ip, family, everything(family), longest(family))
	}
}

// frrLists are what nodes may tell and are told, in the words that FRR and EOS have learnt from one teacher.
func frrLists(p *page, r Router) {
	p.line("bgp community-list standard CLEARWAY-GSHUT seq 5 permit graceful-shutdown")
	for _, family := range r.families() {
		ip := ipWord[family]
		prefixList(p, r, family)
		p.comment("Nodes may tell what is inside a pool; what they are about to leave (RFC 8326) is a last resort.")
		p.line("route-map CLEARWAY-IN%d permit 10", family)
		p.line(" match community CLEARWAY-GSHUT")
		p.line(" match %s address prefix-list CLEARWAY-PODS%d", ip, family)
		p.line(" set local-preference 0")
		p.line("exit")
		p.line("route-map CLEARWAY-IN%d permit 20", family)
		p.line(" match %s address prefix-list CLEARWAY-PODS%d", ip, family)
		p.line("exit")
		p.line("route-map CLEARWAY-OUT%d permit 10", family)
		p.line(" match %s address prefix-list CLEARWAY-PODS%d", ip, family)
		p.line("exit")
		if anyGroup(r, func(g Group) bool { return g.Default && g.has(family) }) {
			p.line("route-map CLEARWAY-ALL%d permit 10", family)
			p.line("exit")
		}
	}
}

func frrProfiles(p *page, r Router) {
	if !anyGroup(r, func(g Group) bool { return g.BFD }) {
		return
	}
	p.line("bfd")
	for _, g := range r.Groups {
		if !g.BFD {
			continue
		}
		p.line(" profile %s", g.title())
		p.line("  detect-multiplier %d", g.BFDMultiplier)
		p.line("  receive-interval %d", milliseconds(g.BFDRx))
		p.line("  transmit-interval %d", milliseconds(g.BFDTx))
		p.line(" exit")
	}
	p.line("exit")
}

func frrGroup(p *page, r Router, g Group) {
	name := g.title()
	say := func(format string, args ...any) { p.line(" neighbor "+name+" "+format, args...) }
	say("peer-group")
	if asn := g.asn(); asn != 0 {
		say("remote-as %d", asn)
	} else if len(g.Ranges) > 0 {
		say("remote-as external")
	}
	say("timers %d %d", seconds(g.Keepalive), seconds(g.Hold))
	say("timers connect %d", seconds(g.ConnectRetry))
	if g.Password {
		say("password %s", Placeholder)
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
		say("graceful-restart-disable")
	}
	if g.BFD {
		say("bfd")
		say("bfd profile %s", name)
	}
	for _, n := range g.Neighbors {
		if g.asn() == 0 {
			p.line(" neighbor %s remote-as %d", n.Address, n.ASN)
		}
		p.line(" neighbor %s peer-group %s", n.Address, name)
		p.line(" neighbor %s description %s", n.Address, n.Node)
		if port := n.port(); port != 0 {
			p.line(" neighbor %s port %d", n.Address, port)
		}
	}
	for _, prefix := range g.Ranges {
		p.line(" bgp listen range %s peer-group %s", prefix, name)
	}
}

func frrFamily(p *page, r Router, family route.Family) {
	p.line(" address-family ipv%d unicast", family)
	p.line("  maximum-paths %d", multipath)
	for _, prefix := range r.aggregates(family) {
		p.line("  aggregate-address %s%s", prefix, only(r.SummaryOnly, " summary-only"))
	}
	for _, g := range r.Groups {
		if !g.has(family) {
			continue
		}
		say := func(format string, args ...any) { p.line("  neighbor "+g.title()+" "+format, args...) }
		say("activate")
		say("route-map CLEARWAY-IN%d in", family)
		say("route-map %s out", g.out(family))
		if r.MaxPrefixes > 0 {
			say("maximum-prefix %d %d restart %d", r.MaxPrefixes, warnAt, restartAfter)
		}
		if g.IBGP {
			say("route-reflector-client")
			say("next-hop-self")
		}
	}
	p.line(" exit-address-family")
}

func (s sides) has(family route.Family) bool {
	return family == route.IPv4 && s.IPv4 || family == route.IPv6 && s.IPv6
}

func only(is bool, text string) string {
	if is {
		return text
	}
	return ""
}

// severalASNs refuses ranges of nodes with several AS numbers, for those who take one.
func severalASNs(r Router, vendor string) error {
	for _, g := range r.Groups {
		if len(g.Ranges) > 0 && g.asn() == 0 {
			return fmt.Errorf("nodes of BGPPeer %s have AS numbers %v, and a range on %s is written here with one: leave --range out",
				g.Name, g.ASNs, vendor)
		}
	}
	return nil
}
