package tor

import (
	"fmt"
	"strings"

	"github.com/clearway/clearway/bgp/route"
)

func writeBIRD(p *page, r Router) error {
	p.head(r, "BIRD 2")
	p.comment("Include it from bird.conf, which has the router id, protocol device and the kernel protocols; those need")
	p.comment(`"merge paths on" to use several roads at once, and an export filter that takes RTS_BGP and RTS_STATIC.`)
	for _, family := range r.families() {
		birdFilters(p, r, family)
	}
	if anyGroup(r, func(g Group) bool { return g.BFD }) {
		p.comment("One protocol bfd serves all: leave this out where there is one.")
		p.line("protocol bfd clearway_bfd {")
		p.line("}")
	}
	for _, g := range r.Groups {
		birdTemplate(p, r, g)
		birdNeighbors(p, g)
	}
	return nil
}

func birdFilters(p *page, r Router, family route.Family) {
	var pods []string
	for _, pool := range r.Pools[family] {
		pods = append(pods, fmt.Sprintf("%s{%d,%d}", pool, pool.Bits(), longest(family)))
	}
	inside := "false"
	if len(pods) > 0 {
		inside = "net ~ [ " + strings.Join(pods, ", ") + " ]"
	}
	p.comment("Nodes may tell what is inside a pool; what they are about to leave (RFC 8326) is a last resort.")
	p.line("filter clearway_in%d {", family)
	p.line("  if !(%s) then reject;", inside)
	p.line("  if (65535, 0) ~ bgp_community then bgp_local_pref = 0;")
	p.line("  accept;")
	p.line("}")
	p.line("filter clearway_out%d {", family)
	p.line("  if %s then accept;", inside)
	p.line("  reject;")
	p.line("}")
	if aggregates := r.aggregates(family); len(aggregates) > 0 {
		p.comment("Aggregates. BIRD tells them whether it has a part of them or not.")
		p.line("protocol static clearway_aggregates%d {", family)
		p.line("  ipv%d;", family)
		for _, prefix := range aggregates {
			p.line("  route %s unreachable;", prefix)
		}
		p.line("}")
		if r.SummaryOnly {
			p.comment("Keep the parts back from other peers in their own export filters.")
		}
	}
}

func birdTemplate(p *page, r Router, g Group) {
	p.line("template bgp %s {", lower("clearway_"+g.Name))
	if g.Port != bgpPort {
		p.line("  local port %d as %d;", g.Port, r.ASN)
	} else {
		p.line("  local as %d;", r.ASN)
	}
	p.line("  hold time %d;", seconds(g.Hold))
	p.line("  keepalive time %d;", seconds(g.Keepalive))
	p.line("  connect retry time %d;", seconds(g.ConnectRetry))
	p.line("  error wait time 2, 60;")
	if g.Password {
		p.line("  password %q;", Placeholder)
	}
	switch {
	case g.MultihopTTL > 0:
		p.line("  multihop %d;", g.MultihopTTL)
	case g.IBGP:
		p.line("  direct;")
	}
	if g.Passive {
		p.line("  passive on;")
	}
	if g.IBGP {
		p.line("  rr client;")
	}
	p.line("  graceful restart %s;", map[bool]string{true: "aware", false: "off"}[g.GracefulRestart])
	if g.BFD {
		p.line("  bfd {")
		p.line("    min rx interval %d ms;", milliseconds(g.BFDRx))
		p.line("    min tx interval %d ms;", milliseconds(g.BFDTx))
		p.line("    multiplier %d;", g.BFDMultiplier)
		p.line("  };")
	}
	for _, family := range g.Families() {
		birdChannel(p, r, g, family)
	}
	p.line("}")
}

func birdChannel(p *page, r Router, g Group, family route.Family) {
	p.line("  ipv%d {", family)
	p.line("    import filter clearway_in%d;", family)
	if g.Default {
		p.line("    export all;")
	} else {
		p.line("    export filter clearway_out%d;", family)
	}
	p.line("    next hop self;")
	if r.MaxPrefixes > 0 {
		p.line("    import limit %d action restart;", r.MaxPrefixes)
	}
	p.line("  };")
}

func birdNeighbors(p *page, g Group) {
	template := lower("clearway_" + g.Name)
	for _, n := range g.Neighbors {
		p.line("protocol bgp %s_%s from %s {", template, lower(n.Node), template)
		p.line("  neighbor %s%s as %d;", n.Address, portWord(n.port()), n.ASN)
		p.line("}")
	}
	for i, prefix := range g.Ranges {
		as := fmt.Sprintf("as %d", g.asn())
		if g.asn() == 0 {
			as = "external"
		}
		p.line("protocol bgp %s_range%d from %s {", template, i+1, template)
		p.line("  neighbor range %s %s;", prefix, as)
		p.line("  dynamic name %q;", fmt.Sprintf("%s_r%d_", template, i+1))
		p.line("}")
	}
}

func portWord(port int) string {
	if port == 0 {
		return ""
	}
	return fmt.Sprintf(" port %d", port)
}
