package rib

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
)

// Table is every prefix that a peer tells.
type Table struct {
	judge   Judge
	entries bart.Table[*Entry]
	pending map[netip.Prefix]struct{}
	peers   map[netip.Addr]*Count
	lists   map[netip.Addr][]route.NextHop // of one next hop each
}

// Judge gives the verdict on a path, and the path as it is compared with others: itself, or a changed copy.
type Judge func(*route.Path) (policy.Verdict, *route.Path)

// Entry is one prefix. What it points to is not changed: an entry is replaced.
type Entry struct {
	Paths    []*route.Path    // as told
	Used     []*route.Path    // as judged and compared: of each path itself or a changed copy
	Verdicts []policy.Verdict // of each path
	Route    *route.Kernel    // nil: no path is accepted
}

// Count is what one peer tells.
type Count struct {
	Paths, Accepted, Pending, Rejected int
}

// New makes a table whose verdicts judge gives.
func New(judge Judge) *Table {
	return &Table{judge: judge, pending: map[netip.Prefix]struct{}{}, peers: map[netip.Addr]*Count{},
		lists: map[netip.Addr][]route.NextHop{}}
}

// Set replaces a prefix's paths. The change is what the kernel's route is to be; changed is false when that is what it
// was.
func (t *Table) Set(learned route.Learned) (change route.Change, changed bool) {
	before, _ := t.entries.Get(learned.Prefix)
	t.uncount(before)
	if len(learned.Paths) == 0 {
		if before != nil {
			t.entries.Delete(learned.Prefix)
			delete(t.pending, learned.Prefix)
		}
		return route.Change{Prefix: learned.Prefix}, before != nil && before.Route != nil
	}
	after := t.decide(learned)
	t.count(learned.Prefix, after)
	t.entries.Insert(learned.Prefix, after)
	if before != nil && sameRoute(before.Route, after.Route) {
		after.Route = before.Route
		return route.Change{}, false
	}
	changed = before != nil && before.Route != nil || after.Route != nil
	return route.Change{Prefix: learned.Prefix, Route: after.Route}, changed
}

// Rejudge gives new verdicts on a prefix's present paths.
func (t *Table) Rejudge(prefix netip.Prefix) (change route.Change, changed bool) {
	entry, ok := t.entries.Get(prefix)
	if !ok {
		return route.Change{}, false
	}
	return t.Set(route.Learned{Prefix: prefix, Paths: entry.Paths})
}

func (t *Table) decide(learned route.Learned) *Entry {
	entry := &Entry{Paths: learned.Paths, Used: learned.Paths, Verdicts: make([]policy.Verdict, len(learned.Paths))}
	for i, path := range learned.Paths {
		verdict, used := t.judge(path)
		entry.Verdicts[i] = verdict
		if used != path {
			entry.use(i, used)
		}
	}
	entry.Route = t.kernel(learned.Prefix, entry.Best())
	return entry
}

// use puts a changed copy in a path's place. Most entries have none, and their two lists are one.
func (e *Entry) use(i int, used *route.Path) {
	if &e.Used[0] == &e.Paths[0] {
		e.Used = slices.Clone(e.Paths)
	}
	e.Used[i] = used
}

// Best are the paths that the route is made of, as Used has them: the equally good ones among the accepted.
func (e *Entry) Best() []*route.Path {
	if !slices.ContainsFunc(e.Verdicts, func(v policy.Verdict) bool { return v.Decision != policy.Accept }) {
		return best(e.Used)
	}
	var accepted []*route.Path
	for i, path := range e.Used {
		if e.Verdicts[i].Decision == policy.Accept {
			accepted = append(accepted, path)
		}
	}
	return best(accepted)
}

func sameRoute(a, b *route.Kernel) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Blackhole == b.Blackhole && slices.Equal(a.NextHops, b.NextHops)
}

func (t *Table) count(prefix netip.Prefix, entry *Entry) {
	waiting := false
	for i, path := range entry.Paths {
		count := t.peers[path.Peer]
		if count == nil {
			count = &Count{}
			t.peers[path.Peer] = count
		}
		count.add(entry.Verdicts[i].Decision, 1)
		waiting = waiting || entry.Verdicts[i].Decision == policy.Pending
	}
	if waiting {
		t.pending[prefix] = struct{}{}
	} else {
		delete(t.pending, prefix)
	}
}

func (t *Table) uncount(entry *Entry) {
	if entry == nil {
		return
	}
	for i, path := range entry.Paths {
		count := t.peers[path.Peer]
		count.add(entry.Verdicts[i].Decision, -1)
		if count.Paths == 0 {
			delete(t.peers, path.Peer)
		}
	}
}

func (c *Count) add(decision policy.Decision, by int) {
	c.Paths += by
	switch decision {
	case policy.Accept:
		c.Accepted += by
	case policy.Pending:
		c.Pending += by
	default:
		c.Rejected += by
	}
}

// Peer counts what one peer tells.
func (t *Table) Peer(peer netip.Addr) Count {
	if count := t.peers[peer]; count != nil {
		return *count
	}
	return Count{}
}

// Len is the number of prefixes.
func (t *Table) Len() int { return t.entries.Size() }

// Get is a prefix's entry, nil where there is none.
func (t *Table) Get(prefix netip.Prefix) *Entry {
	entry, _ := t.entries.Get(prefix)
	return entry
}

// All lists the prefixes: IPv4 first, by address.
func (t *Table) All(yield func(netip.Prefix, *Entry) bool) { t.entries.AllSorted()(yield) }

// Holding lists the prefixes that hold an address, the longest last.
func (t *Table) Holding(address netip.Addr) []netip.Prefix {
	var found []netip.Prefix
	for prefix := range t.entries.Supernets(netip.PrefixFrom(address, address.BitLen())) {
		found = append(found, prefix)
	}
	slices.Reverse(found)
	return found
}

// Touching lists the prefixes that share addresses with this one, itself included.
func (t *Table) Touching(prefix netip.Prefix) []netip.Prefix {
	var found []netip.Prefix
	for at := range t.entries.Supernets(prefix) {
		if at != prefix {
			found = append(found, at)
		}
	}
	for at := range t.entries.Subnets(prefix) {
		found = append(found, at)
	}
	return found
}

// Waiting lists the prefixes of which a path is pending.
func (t *Table) Waiting() []netip.Prefix {
	found := make([]netip.Prefix, 0, len(t.pending))
	for prefix := range t.pending {
		found = append(found, prefix)
	}
	return found
}
