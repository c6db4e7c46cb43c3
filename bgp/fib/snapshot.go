package fib

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"
	"golang.org/x/sys/unix"
)

// dumpTries bounds how often an interrupted dump is begun again.
const dumpTries = 5

// snapshot is the kernel's whole state as dumps told it.
type snapshot struct {
	links  []kernelLink
	addrs  []kernelAddr
	ours   []oursAt             // one for each prefix
	at     map[netip.Prefix]int // index in ours
	others *bart.Table[[]otherRoute]
	groups *interner // of ours and others
	told   []otherAt // others, as they were told

	objects    []objectAt // ours
	objectless bool       // the kernel has no nexthop objects

	// The kernel kept changing while it was dumped. What is listed was there; what is not may be there too.
	partial, linksPartial, objectsPartial bool
}

// oursAt is what the kernel has under our name at a prefix.
type oursAt struct {
	prefix  netip.Prefix
	to      *group
	doubled bool // two IPv4 routes
}

type otherAt struct {
	prefix netip.Prefix
	route  otherRoute
}

// takeSnapshot dumps links, addresses and the routes of our table and of the main one.
func takeSnapshot(s *socket, w who) (*snapshot, error) {
	snap := &snapshot{groups: newInterner()}
	if err := snap.section(s, func() { s.buf.dumpLinks(s.nextSeq()) }, snap.takeLink); err != nil {
		return nil, fmt.Errorf("dump links: %w", err)
	}
	if err := snap.section(s, func() { s.buf.dumpAddrs(s.nextSeq()) }, snap.takeAddr); err != nil {
		return nil, fmt.Errorf("dump addresses: %w", err)
	}
	snap.partial, snap.linksPartial = false, snap.partial
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, table := range tablesOf(w) {
			if err := snap.routes(s, family, table, w); err != nil {
				return nil, fmt.Errorf("dump routes of table %d: %w", table, err)
			}
		}
	}
	if err := snap.takeObjects(s, w); err != nil {
		return nil, fmt.Errorf("dump nexthop objects: %w", err)
	}
	snap.arrange()
	return snap, nil
}

// arrange puts together what was told of one prefix in several messages: IPv6 tells a blackhole and hops of one
// metric apart, and may tell a route twice when the table changes meanwhile.
func (snap *snapshot) arrange() {
	told := snap.ours
	snap.ours, snap.at = snap.ours[:0], make(map[netip.Prefix]int, len(told))
	for _, r := range told {
		i, ok := snap.at[r.prefix]
		if !ok {
			snap.at[r.prefix] = len(snap.ours)
			snap.ours = append(snap.ours, r)
			continue
		}
		had := &snap.ours[i]
		had.to, had.doubled = snap.groups.with(had.to, r.to.reject, r.to.legs), r.prefix.Addr().Is4()
	}
	others := newReach()
	for _, r := range snap.told {
		others.addRoute(r.prefix, r.route, false)
	}
	snap.others, snap.told = others.routes, nil
}

// section does one dump, again from its beginning where it was interrupted, and makes do after dumpTries.
func (snap *snapshot) section(s *socket, request func(), take func(message) error) error {
	links, addrs, ours, others := len(snap.links), len(snap.addrs), len(snap.ours), len(snap.told)
	for try := 1; ; try++ {
		s.buf.reset()
		request()
		err := s.dump(take)
		again := errors.Is(err, errInterrupted) || errors.Is(err, errTruncated)
		if !again {
			return err
		}
		if try == dumpTries {
			snap.partial = true
			return nil
		}
		snap.links, snap.addrs, snap.ours, snap.told = snap.links[:links], snap.addrs[:addrs], snap.ours[:ours], snap.told[:others]
	}
}

// tablesOf are the tables that matter: ours, and the main one, through which next hops may resolve.
func tablesOf(w who) []uint32 {
	if w.table == unix.RT_TABLE_MAIN {
		return []uint32{w.table}
	}
	return []uint32{w.table, unix.RT_TABLE_MAIN}
}

func (snap *snapshot) routes(s *socket, family uint8, table uint32, w who) error {
	var r kernelRoute
	err := snap.section(s, func() { s.buf.dumpRoutes(s.nextSeq(), family, who{table: table}) }, func(m message) error {
		if m.kind != unix.RTM_NEWROUTE {
			return nil
		}
		// A route that can't be read is left out, as one unknown kind of route must not hide the others.
		if ok, err := r.parse(m.body); ok && err == nil {
			snap.takeRoute(&r, table, w)
		}
		return nil
	})
	if errors.Is(err, unix.ENOENT) {
		return nil // the table does not exist yet
	}
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // the kernel has no IPv6
	}
	return err
}

func (snap *snapshot) takeRoute(r *kernelRoute, table uint32, w who) {
	if r.cloned || r.table != table {
		return
	}
	if r.ours(w) {
		snap.ours = append(snap.ours, oursAt{prefix: r.prefix, to: r.group(snap.groups)})
		return
	}
	snap.told = append(snap.told, otherAt{r.prefix, r.other(snap.groups)})
}

func (snap *snapshot) takeLink(m message) error {
	if m.kind != unix.RTM_NEWLINK {
		return nil
	}
	l, ok, err := parseLink(m.body)
	if ok {
		snap.links = append(snap.links, l)
	}
	return err
}

func (snap *snapshot) takeAddr(m message) error {
	if m.kind != unix.RTM_NEWADDR {
		return nil
	}
	a, ok, err := parseAddr(m.body)
	if ok {
		snap.addrs = append(snap.addrs, a)
	}
	return err
}

// group is where the route leads.
func (r *kernelRoute) group(in *interner) *group {
	if reject := r.reject(); reject != 0 {
		return in.intern(reject, nil) // IPv6 tells lo as the interface of such a route
	}
	return in.intern(0, r.legs)
}

func (r *kernelRoute) other(in *interner) otherRoute {
	return otherRoute{
		metric: r.metric, table: r.table, protocol: r.protocol, kind: r.kind, tos: r.tos, sourceLen: r.sourceLen,
		encap: r.encap, object: r.object, source: r.source, to: r.group(in),
	}
}
