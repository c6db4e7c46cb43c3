package speaker

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/gaissmai/bart"

	"github.com/clearway/clearway/bgp/route"
)

// Table holds what every peer tells (their Adj-RIBs-In) and which prefixes changed since they were last taken. It is
// safe for concurrent use; nothing under its mutex waits.
//
// Its memory is bounded by what the peers tell: an update of a prefix that is already marked adds nothing.
type Table struct {
	mu      sync.Mutex         // guards all below
	entries bart.Table[*entry] // half the memory of a map
	dirty   []netip.Prefix     // in the order in which they became dirty
	peers   map[netip.Addr]*peerState
	changed chan struct{}
}

type entry struct {
	paths []*route.Path // by peer; replaced, never changed: takers keep it
	dirty bool
}

type peerState struct {
	paths  int64
	count  [2]int64  // of them, IPv4 and IPv6
	limit  int64     // of each family; 0: none
	stale  bool      // some paths are stale
	until  time.Time // when the stale ones go, or are long-lived from
	longer [2]time.Duration
	long   bool // the stale ones are long-lived (RFC 9494)
}

func at(family route.Family) int {
	if family == route.IPv4 {
		return 0
	}
	return 1
}

// add counts a path in or out.
func (p *peerState) add(prefix netip.Prefix, n int64) {
	p.paths += n
	p.count[at(route.FamilyOf(prefix))] += n
}

// full tells whether a further path of the family is one too many.
func (p *peerState) full(prefix netip.Prefix) bool {
	return p.limit > 0 && p.count[at(route.FamilyOf(prefix))] >= p.limit
}

// NewTable makes an empty table.
func NewTable() *Table {
	return &Table{peers: map[netip.Addr]*peerState{}, changed: make(chan struct{}, 1)}
}

// Changed gets a value when there is something to take, or a session changed.
func (t *Table) Changed() <-chan struct{} { return t.changed }

func (t *Table) signal() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// AddPeer makes room for a peer: updates of peers that were not added are ignored.
func (t *Table) AddPeer(peer netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.peers[peer] == nil {
		t.peers[peer] = &peerState{}
	}
}

// RemovePeer forgets a peer and all it told.
func (t *Table) RemovePeer(peer netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(peer, func(*route.Path) bool { return true })
	delete(t.peers, peer)
	t.signal()
}

// Flush forgets all that a peer told, and keeps the room for it.
func (t *Table) Flush(peer netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(peer, func(*route.Path) bool { return true })
	t.signal()
}

// Update is one path that a peer told, or took back.
type Update struct {
	Prefix netip.Prefix
	ID     uint32      // which of the peer's paths to the prefix (RFC 7911); 0 where it tells one
	Path   *route.Path // nil: withdrawn
}

// Limit sets how many paths of each family are taken of a peer; 0: any number.
func (t *Table) Limit(peer netip.Addr, limit int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if state := t.peers[peer]; state != nil {
		state.limit = limit
	}
}

// Counts are the paths of each family that a peer tells, IPv4 first.
func (t *Table) Counts(peer netip.Addr) [2]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if state := t.peers[peer]; state != nil {
		return state.count
	}
	return [2]int64{}
}

// Apply takes updates of one peer over, in order. It tells whether there was one too many, by family: what is beyond
// the limit is left out.
func (t *Table) Apply(peer netip.Addr, updates []Update) (over [2]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	state := t.peers[peer]
	if state == nil {
		return over
	}
	for _, update := range updates {
		if !t.put(peer, state, update) {
			over[at(route.FamilyOf(update.Prefix))] = true
		}
	}
	t.signal()
	return over
}

// put tells whether there was room.
func (t *Table) put(peer netip.Addr, state *peerState, update Update) bool {
	prefix, path := update.Prefix, update.Path
	at, _ := t.entries.Get(prefix)
	if at == nil {
		switch {
		case path == nil:
			return true
		case state.full(prefix):
			return false
		}
		at = &entry{}
		t.entries.Insert(prefix, at)
	}
	i, found := slices.BinarySearchFunc(at.paths, peer, func(p *route.Path, peer netip.Addr) int {
		return cmp.Or(p.Peer.Compare(peer), cmp.Compare(p.PathID, update.ID))
	})
	switch {
	case !found && path == nil:
		return true
	case !found && state.full(prefix):
		return false
	}
	after := make([]*route.Path, 0, len(at.paths)+1)
	after = append(after, at.paths[:i]...)
	if path != nil {
		after = append(after, path)
		state.add(prefix, 1)
	}
	if found {
		state.add(prefix, -1)
		i++
	}
	at.paths = append(after, at.paths[i:]...)
	t.mark(prefix, at)
	return true
}

func (t *Table) mark(prefix netip.Prefix, at *entry) {
	if !at.dirty {
		at.dirty = true
		t.dirty = append(t.dirty, prefix)
	}
}

// Take returns up to max changed prefixes with all their present paths, oldest change first.
func (t *Table) Take(max int) []route.Learned {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(max, len(t.dirty))
	if n == 0 {
		return nil
	}
	taken := make([]route.Learned, n)
	for i, prefix := range t.dirty[:n] {
		at, _ := t.entries.Get(prefix)
		at.dirty = false
		taken[i] = route.Learned{Prefix: prefix, Paths: at.paths}
		if len(at.paths) == 0 {
			t.entries.Delete(prefix)
		}
	}
	t.dirty = t.dirty[n:]
	if len(t.dirty) == 0 {
		t.dirty = nil // so that the backing array goes
	} else {
		t.signal()
	}
	return taken
}

// Received counts the paths a peer tells.
func (t *Table) Received(peer netip.Addr) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if state := t.peers[peer]; state != nil {
		return state.paths
	}
	return 0
}

// Stale marks all that a peer told: they are kept until the peer tells them again, or at the latest until then
// (RFC 4724 section 4.2). Those of a family that has a longer time after that are kept as long-lived stale for it
// (RFC 9494 section 4.2). A peer that fails again before it has told all gets no more time.
func (t *Table) Stale(peer netip.Addr, until time.Time, longer [2]time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	state := t.peers[peer]
	if state == nil || state.paths == 0 {
		return
	}
	if !state.long {
		state.until, state.longer = until, longer
	}
	state.stale = true
	t.each(peer, func(prefix netip.Prefix, at *entry, i int) {
		if !at.paths[i].Stale {
			t.change(prefix, at, i, func(p *route.Path) { p.Stale = true })
		}
	})
	t.signal()
}

// change puts a changed copy in the place of a path.
func (t *Table) change(prefix netip.Prefix, at *entry, i int, how func(*route.Path)) {
	changed := *at.paths[i]
	how(&changed)
	at.paths = slices.Clone(at.paths)
	at.paths[i] = &changed
	t.mark(prefix, at)
}

// HasStale tells whether some of a peer's paths are stale.
func (t *Table) HasStale(peer netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	state := t.peers[peer]
	return state != nil && state.stale
}

// Extend moves the time at which a peer's stale paths go.
func (t *Table) Extend(peer netip.Addr, until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if state := t.peers[peer]; state != nil && state.stale {
		state.until, state.longer = until, [2]time.Duration{}
	}
}

// LongLived tells whether a peer's stale paths are kept beyond its restart time.
func (t *Table) LongLived(peer netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	state := t.peers[peer]
	return state != nil && state.stale && state.long
}

// Sweep removes a peer's stale paths of one family: it has told all it knows, or can keep nothing.
func (t *Table) Sweep(peer netip.Addr, family route.Family) {
	t.mu.Lock()
	defer t.mu.Unlock()
	state := t.peers[peer]
	if state == nil || !state.stale {
		return
	}
	t.drop(peer, func(p *route.Path) bool { return p.Stale && route.FamilyOf(p.Prefix) == family })
	left := false
	t.each(peer, func(_ netip.Prefix, at *entry, i int) { left = left || at.paths[i].Stale })
	if !left {
		state.stale, state.long = false, false
	}
	t.signal()
}

// Expire removes stale paths whose time has come, and tells when the next one's does (zero: none).
func (t *Table) Expire(now time.Time) (next time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for peer, state := range t.peers {
		if !state.stale {
			continue
		}
		if state.until.After(now) {
			if next.IsZero() || state.until.Before(next) {
				next = state.until
			}
			continue
		}
		if state.lengthen(now) {
			t.long(peer, state)
			continue
		}
		state.stale, state.long = false, false
		t.drop(peer, func(p *route.Path) bool { return p.Stale })
		t.signal()
	}
	return next
}

// lengthen begins the time after the restart time, where a family has one.
func (p *peerState) lengthen(now time.Time) bool {
	least := max(p.longer[0], p.longer[1])
	for _, longer := range p.longer {
		if longer > 0 {
			least = min(least, longer)
		}
	}
	if p.long || least == 0 {
		return false
	}
	p.long, p.until = true, now.Add(least)
	return true
}

// noLLGR is the community NO_LLGR: such a path is not kept for long (RFC 9494 section 4.2).
const noLLGR = 65535<<16 | 7

// long makes a peer's stale paths long-lived, the last choice. Families end together, at the shorter of their times.
func (t *Table) long(peer netip.Addr, state *peerState) {
	t.drop(peer, func(p *route.Path) bool {
		return p.Stale && (state.longer[at(route.FamilyOf(p.Prefix))] == 0 || slices.Contains(p.Communities, noLLGR))
	})
	t.each(peer, func(prefix netip.Prefix, entry *entry, i int) {
		if p := entry.paths[i]; p.Stale && !p.LongLived {
			t.change(prefix, entry, i, func(p *route.Path) { p.LongLived = true })
		}
	})
	t.signal()
}

func (t *Table) drop(peer netip.Addr, which func(*route.Path) bool) {
	state := t.peers[peer]
	if state == nil || state.paths == 0 {
		return
	}
	for prefix, at := range t.entries.All() {
		gone := func(p *route.Path) bool { return p.Peer == peer && which(p) }
		if !slices.ContainsFunc(at.paths, gone) {
			continue
		}
		before := len(at.paths)
		at.paths = slices.DeleteFunc(slices.Clone(at.paths), gone)
		state.add(prefix, int64(len(at.paths)-before))
		t.mark(prefix, at)
	}
}

// each visits all paths of one peer. It looks at every prefix: sessions go down far more seldom than routes change.
func (t *Table) each(peer netip.Addr, visit func(netip.Prefix, *entry, int)) {
	for prefix, at := range t.entries.All() {
		for i := range at.paths {
			if at.paths[i].Peer == peer {
				visit(prefix, at, i)
			}
		}
	}
}
