package discover

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/clearway/clearway/bgp/config"
)

// limits are how long what was heard is believed, and how much of it is kept.
var limits = struct {
	silence  time.Duration
	down     time.Duration
	returned time.Duration
	routers  int
	links    int
}{
	silence:  time.Hour,        // routers repeat themselves within 30 minutes (RFC 4861 section 6.2.1), and are asked each minute
	down:     30 * time.Second, // a link that is down for a moment costs no session
	returned: 30 * time.Second, // after a link is back: another router may be at its end
	routers:  8,                // a link; a stranger's inventions are no memory leak
	links:    64,
}

// heard is what was heard on each link. It is told the time.
type heard struct{ links map[string]*link }

type link struct {
	up       bool
	changed  time.Time // when it came up or went down
	routers  map[netip.Addr]time.Time
	reported bool // why it cannot be listened on
}

func newHeard() heard { return heard{links: map[string]*link{}} }

// present takes which of the wanted links are up.
func (h heard) present(names []string, now time.Time) {
	for _, name := range names {
		at := h.links[name]
		if at == nil {
			if len(h.links) >= limits.links {
				continue
			}
			at = &link{routers: map[netip.Addr]time.Time{}}
			h.links[name] = at
		}
		if !at.up {
			at.up, at.changed = true, now
		}
	}
	for name, at := range h.links {
		if !slices.Contains(names, name) {
			if at.up {
				at.up, at.changed = false, now
			}
			if now.Sub(at.changed) >= limits.down {
				delete(h.links, name)
			}
		}
	}
}

// router takes an advertisement.
func (h heard) router(name string, address netip.Addr, now time.Time) {
	at := h.links[name]
	if at == nil {
		return
	}
	if _, known := at.routers[address]; known || len(at.routers) < limits.routers {
		at.routers[address] = now
	}
}

// expire forgets who was silent for too long.
func (h heard) expire(now time.Time) {
	for _, at := range h.links {
		for address, last := range at.routers {
			back := at.up && now.Sub(at.changed) >= limits.returned && last.Before(at.changed)
			if back || now.Sub(last) >= limits.silence {
				delete(at.routers, address)
			}
		}
	}
}

// list is what is known, in order.
func (h heard) list() []config.Link {
	list := make([]config.Link, 0, len(h.links))
	for name, at := range h.links {
		one := config.Link{Name: name}
		for address := range at.routers {
			one.Routers = append(one.Routers, address.WithZone(name))
		}
		slices.SortFunc(one.Routers, netip.Addr.Compare)
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b config.Link) int { return strings.Compare(a.Name, b.Name) })
	return list
}
