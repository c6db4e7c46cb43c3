package agent

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/rib"
	"github.com/clearway/clearway/bgp/route"
)

// reflector is what the node tells its neighbours of each other (RFC 4456). What is told on has been accepted before, so
// that a reflector passes on nothing that it would not use itself.
type reflector struct {
	on      bool
	clients map[netip.Addr]bool
	from    map[netip.Addr]bool // nodes of the mesh
	// told are the reflections by prefix, of what each was made.
	told  map[netip.Prefix]reflected
	list  []config.Reflection // of told, by prefix; not changed once made
	dirty bool
}

type reflected struct {
	of   *route.Path
	told config.Reflection
}

// reroute takes the neighbours' roles over, and tells whether all is to be looked at anew.
func (r *reflector) reroute(desired config.Desired) (changed bool) {
	clients, from := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, n := range desired.Neighbors {
		if n.MeshNode != "" {
			clients[n.Address], from[n.Address] = n.Client, true
		}
	}
	on := desired.Reflecting()
	changed = on != r.on || on && !(sameRoles(clients, r.clients))
	r.on, r.clients, r.from = on, clients, from
	if changed && !on {
		r.told, r.dirty = nil, true
	}
	return changed && on
}

func sameRoles(a, b map[netip.Addr]bool) bool {
	if len(a) != len(b) {
		return false
	}
	for address, client := range a {
		if was, known := b[address]; !known || was != client {
			return false
		}
	}
	return true
}

// look decides anew what is told on of one prefix.
func (r *reflector) look(prefix netip.Prefix, entry *rib.Entry) {
	if !r.on {
		return
	}
	best := r.choose(entry)
	there, known := r.told[prefix]
	switch {
	case best == nil && !known:
		return
	case best == nil:
		delete(r.told, prefix)
	case known && there.of == best && there.told.ClientsOnly == !r.clients[best.Peer]:
		return
	default:
		if r.told == nil {
			r.told = map[netip.Prefix]reflected{}
		}
		r.told[prefix] = reflected{best, config.Reflection{Path: onward(best), ClientsOnly: !r.clients[best.Peer]}}
	}
	r.dirty = true
}

// choose is the one of the paths in use that is told on: a client's own word before another reflector's, then the shorter
// CLUSTER_LIST (RFC 4456 section 9), then by the peer's address.
func (r *reflector) choose(entry *rib.Entry) *route.Path {
	if entry == nil {
		return nil
	}
	var chosen *route.Path
	for _, used := range entry.Best() {
		if r.from[used.Peer] && !used.EBGP && (chosen == nil || r.before(used, chosen)) {
			chosen = used
		}
	}
	if chosen == nil {
		return nil
	}
	for i, used := range entry.Used { // as it was told, without what we think of it
		if used == chosen {
			return entry.Paths[i]
		}
	}
	return chosen
}

func (r *reflector) before(a, b *route.Path) bool {
	return cmp.Or(
		cmp.Compare(rank(!r.clients[a.Peer]), rank(!r.clients[b.Peer])),
		cmp.Compare(clusters(a), clusters(b)),
		a.Peer.Compare(b.Peer),
	) < 0
}

func rank(later bool) int {
	if later {
		return 1
	}
	return 0
}

func clusters(p *route.Path) int {
	if p.Extra == nil {
		return 0
	}
	return len(p.Extra.ClusterList)
}

// onward is a path as others are told it: by whom it was told first, and whether it is kept for one that is away for long
// (RFC 9494 section 4.3). Nothing else is changed.
func onward(path *route.Path) *route.Path {
	told := *path
	extra := route.Extra{}
	if path.Extra != nil {
		extra = *path.Extra
	}
	if !extra.OriginatorID.IsValid() {
		extra.OriginatorID = path.PeerID
	}
	told.Extra = &extra
	if told.LongLived && !told.HasCommunity(route.LLGRStale) {
		told.Communities = append(slices.Clone(told.Communities), route.LLGRStale)
		slices.Sort(told.Communities)
	}
	return &told
}

// all lists the reflections by prefix. The list is the same one until something changes.
func (r *reflector) all() []config.Reflection {
	if r.dirty {
		r.dirty = false
		r.list = make([]config.Reflection, 0, len(r.told))
		for _, one := range r.told {
			r.list = append(r.list, one.told)
		}
		slices.SortFunc(r.list, func(a, b config.Reflection) int { return a.Path.Prefix.Compare(b.Path.Prefix) })
	}
	return r.list
}

// tellOnEvery bounds how often a burst of routes is told on while it comes in; its end is told within a tick.
const tellOnEvery = 50 * time.Millisecond

// tellOn tells what changed of the reflections.
func (c *core) tellOn(now time.Time) {
	if c.reflector.dirty && now.Sub(c.toldOn) >= tellOnEvery {
		c.toldOn = now
		c.tell(now)
	}
}

// Make before break: a session of the mesh that the topology wants no more stays while others come up in its place.
var handover = struct{ least, most time.Duration }{least: 30 * time.Second, most: 2 * time.Minute}

// leftover is a session of the mesh that is kept for a while.
type leftover struct {
	neighbor config.Neighbor
	since    time.Time
}

// handOver adds sessions of before that are still to be kept: of nodes that are there yet, at the same address, that the
// topology of reflectors has moved away from. A mesh that an operator ended, or a node that is gone, keeps none.
func (c *core) handOver(built *config.Desired, now time.Time) {
	taken := map[netip.Addr]bool{}
	for _, n := range built.Neighbors {
		taken[n.Address] = true
	}
	for _, n := range c.built.Neighbors {
		if _, known := c.leftovers[n.Address]; n.MeshNode != "" && !taken[n.Address] && !known {
			c.leftovers[n.Address] = leftover{n, now}
		}
	}
	waiting := c.waitsForMesh(built.Neighbors)
	for address, one := range c.leftovers {
		node, there := c.ownership.Owners().Node(one.neighbor.MeshNode)
		age := now.Sub(one.since)
		if taken[address] || !there || !hasAddress(node, address) || !config.HandsOver(c.snapshot) || age >= handover.most || age >= handover.least && !waiting {
			delete(c.leftovers, address)
			continue
		}
		built.Neighbors = append(built.Neighbors, one.neighbor)
	}
	slices.SortFunc(built.Neighbors, func(a, b config.Neighbor) int { return a.Address.Compare(b.Address) })
}

// waitsForMesh tells whether a session of the mesh has not told everything yet.
func (c *core) waitsForMesh(neighbors []config.Neighbor) bool {
	ended := map[netip.Addr]bool{}
	for _, s := range c.speaker.Sessions() {
		ended[s.Peer] = s.EndOfRIB && s.State == route.Established
	}
	return slices.ContainsFunc(neighbors, func(n config.Neighbor) bool { return n.MeshNode != "" && !ended[n.Address] })
}

func hasAddress(node policy.Node, address netip.Addr) bool {
	return slices.ContainsFunc(node.Addresses, func(p netip.Prefix) bool { return p.Addr() == address })
}
