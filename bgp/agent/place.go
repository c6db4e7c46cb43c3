package agent

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/clearway/clearway/bgp/config"
)

// lingering are the default gateways, each for a while longer than its route: one that is taken away and put back, as when a
// lease is renewed, is to cost no session.
type lingering struct {
	list func() []netip.Addr
	seen map[netip.Addr]time.Time
}

func newLingering(list func() []netip.Addr) lingering {
	if list == nil {
		list = func() []netip.Addr { return nil }
	}
	return lingering{list: list, seen: map[netip.Addr]time.Time{}}
}

// at lists the gateways in order.
func (l lingering) at(now time.Time) []netip.Addr {
	for _, gateway := range l.list() {
		l.seen[gateway] = now
	}
	maps.DeleteFunc(l.seen, func(_ netip.Addr, seen time.Time) bool { return now.Sub(seen) > limits.linger })
	return slices.SortedFunc(maps.Keys(l.seen), netip.Addr.Compare)
}

// surroundings are what peers are found by now.
func (c *core) surroundings(now time.Time) config.Surroundings {
	place := config.Surroundings{Gateways: c.gateways.at(now), Local: c.local}
	if c.routers != nil {
		place.Links = c.routers.Links()
	}
	return place
}

// place notes what the neighbours are made by, and says where routers are to be looked for.
func (c *core) place(now time.Time) config.Surroundings {
	if c.routers != nil {
		c.routers.Set(config.Interfaces(c.snapshot))
	}
	c.placed = c.surroundings(now)
	return c.placed
}

// moved tells whether the neighbours are to be made anew, for what they were made by is another.
func (c *core) moved(now time.Time) bool {
	return c.snapshot != nil && !reflect.DeepEqual(c.placed, c.surroundings(now))
}
