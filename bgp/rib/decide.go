package rib

import (
	"net/netip"
	"slices"

	"github.com/clearway/clearway/bgp/route"
)

// The decision process of RFC 4271 section 9.1, as far as it can tell paths apart before tie-breaking by identity. A
// step removes the paths that are worse than the best of those still there; what is left is equally good, and all of
// it is used ("multipath relax": equal length is asked of AS paths, not equal content, for two ToRs have two ASNs).
//
//  0. A path that is not stale goes before a stale one (RFC 4724 keeps them; nothing says to prefer them), and any before
//     a long-lived stale one (RFC 9494 section 4.3).
//  1. The highest LOCAL_PREF (9.1.1).
//  2. The shortest AS_PATH; an AS_SET counts as one (9.1.2.2 a).
//  3. The lowest ORIGIN: IGP, EGP, INCOMPLETE (9.1.2.2 b).
//  4. The lowest MED among paths of the same neighbouring AS (9.1.2.2 c).
//  5. eBGP before iBGP (9.1.2.2 d).
//  6. The IGP cost of the next hop (9.1.2.2 e) is the kernel's to know, so all are equal here.
//
// Steps f and g choose one by router ID and address. Nothing is to be chosen here: equal paths share the traffic.
func best(paths []*route.Path) []*route.Path {
	if len(paths) < 2 {
		return paths
	}
	paths = lowest(paths, staleRank)
	paths = lowest(paths, func(p *route.Path) uint64 { return ^uint64(p.LocalPref) })
	paths = lowest(paths, func(p *route.Path) uint64 { return uint64(p.ASPathLen) })
	paths = lowest(paths, func(p *route.Path) uint64 { return uint64(p.Origin) })
	paths = lowestMED(paths)
	return lowest(paths, ibgpRank)
}

func staleRank(p *route.Path) uint64 { return rank(p.Stale) + 2*rank(p.LongLived) }

func ibgpRank(p *route.Path) uint64 { return rank(!p.EBGP) }

func rank(worse bool) uint64 {
	if worse {
		return 1
	}
	return 0
}

func lowest(paths []*route.Path, cost func(*route.Path) uint64) []*route.Path {
	least := cost(paths[0])
	differ := false
	for _, path := range paths[1:] {
		c := cost(path)
		differ = differ || c != least
		least = min(least, c)
	}
	if !differ {
		return paths
	}
	return slices.DeleteFunc(slices.Clone(paths), func(p *route.Path) bool { return cost(p) > least })
}

// lowestMED removes each path that another path of the same neighbouring AS beats. A missing MED is the lowest.
func lowestMED(paths []*route.Path) []*route.Path {
	if !slices.ContainsFunc(paths, func(p *route.Path) bool { return p.MED != paths[0].MED }) {
		return paths
	}
	return slices.DeleteFunc(slices.Clone(paths), func(p *route.Path) bool {
		return slices.ContainsFunc(paths, func(q *route.Path) bool {
			return neighborAS(q) == neighborAS(p) && q.MED < p.MED
		})
	})
}

// neighborAS is the AS that a path came through last; the own one where it was made within the AS.
func neighborAS(p *route.Path) uint32 {
	if len(p.ASPath) == 0 {
		return 0
	}
	return p.ASPath[0]
}

// kernel is the route that uses all the paths; nil where there is none. Routes by one next hop share it.
func (t *Table) kernel(prefix netip.Prefix, paths []*route.Path) *route.Kernel {
	switch len(paths) {
	case 0:
		return nil
	case 1:
		return &route.Kernel{Prefix: prefix, NextHops: t.alone(paths[0].NextHop)}
	}
	hops := make([]route.NextHop, 0, len(paths))
	for _, path := range paths {
		hops = append(hops, route.NextHop{Addr: path.NextHop})
	}
	slices.SortFunc(hops, func(a, b route.NextHop) int { return a.Addr.Compare(b.Addr) })
	hops = slices.Compact(hops)
	return &route.Kernel{Prefix: prefix, NextHops: hops}
}

// maxAlone bounds the next hops that are remembered. A cluster has some thousands; with more, some routes share less.
const maxAlone = 1 << 14

// alone is a list of one next hop, the same for all routes.
func (t *Table) alone(next netip.Addr) []route.NextHop {
	hops, ok := t.lists[next]
	if !ok {
		if len(t.lists) >= maxAlone {
			clear(t.lists)
		}
		hops = []route.NextHop{{Addr: next}}
		t.lists[next] = hops
	}
	return hops
}
