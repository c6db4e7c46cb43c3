package speaker

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/clearway/clearway/bgp/route"
)

// Table holds what every peer tells (their Adj-RIBs-In) and which prefixes changed since they were last taken. It is
// safe for concurrent use; nothing under its mutex waits.
//
// Its memory is bounded by what the peers tell: an update of a prefix that is already marked adds nothing.
type Table struct {
	mu      sync.Mutex
	entries map[netip.Prefix]*entry
	dirty   []netip.Prefix // in the order in which they became dirty
	peers   map[netip.Addr]*peerState
	changed chan struct{}
}

type entry struct {
	paths []*route.Path // by peer; replaced, never changed: takers keep it
	dirty bool
}

type peerState struct {
	paths int64
	stale bool      // some paths are stale
	until time.Time // when the stale ones go
}

// NewTable makes an empty table.
func NewTable() *Table {
	return &Table{
		entries: map[netip.Prefix]*entry{}, peers: map[netip.Addr]*peerState{}, changed: make(chan struct{}, 1),
	}
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

// Update is one path that a peer told, or took back.
type Update struct {
	Prefix netip.Prefix
	Path   *route.Path // nil: withdrawn
}

// Apply takes updates of one peer over, in order.
func (t *Table) Apply(peer netip.Addr, updates []Update) {
	t.mu.Lock()
	defer t.mu.Unlock()
	state := t.peers[peer]
	if state == nil {
		return
	}
	for _, update := range updates {
		t.put(peer, state, update.Prefix, update.Path)
	}
	t.signal()
}

func (t *Table) put(peer netip.Addr, state *peerState, prefix netip.Prefix, path *route.Path) {
	at := t.entries[prefix]
	if at == nil {
		if path == nil {
			return
		}
		at = &entry{}
		t.entries[prefix] = at
	}
	i, found := slices.BinarySearchFunc(at.paths, peer, func(p *route.Path, peer netip.Addr) int { return p.Peer.Compare(peer) })
	after := make([]*route.Path, 0, len(at.paths)+1)
	after = append(after, at.paths[:i]...)
	if path != nil {
		after = append(after, path)
		state.paths++
	}
	if found {
		state.paths--
		i++
	} else if path == nil {
		return
	}
	at.paths = append(after, at.paths[i:]...)
	t.mark(prefix, at)
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
		at := t.entries[prefix]
		at.dirty = false
		taken[i] = route.Learned{Prefix: prefix, Paths: at.paths}
		if len(at.paths) == 0 {
			delete(t.entries, prefix)
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
// (RFC 4724 section 4.2).
func (t *Table) Stale(peer netip.Addr, until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	state := t.peers[peer]
	if state == nil || state.paths == 0 {
		return
	}
	state.stale, state.until = true, until
	t.each(peer, func(prefix netip.Prefix, at *entry, i int) {
		if at.paths[i].Stale {
			return
		}
		stale := *at.paths[i]
		stale.Stale = true
		at.paths = slices.Clone(at.paths)
		at.paths[i] = &stale
		t.mark(prefix, at)
	})
	t.signal()
}

// Extend moves the time at which a peer's stale paths go.
func (t *Table) Extend(peer netip.Addr, until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if state := t.peers[peer]; state != nil && state.stale {
		state.until = until
	}
}

// Sweep removes a peer's stale paths of one family: it has told all it knows, or can keep nothing.
func (t *Table) Sweep(peer netip.Addr, family route.Family) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if state := t.peers[peer]; state == nil || !state.stale {
		return
	}
	t.drop(peer, func(p *route.Path) bool { return p.Stale && route.FamilyOf(p.Prefix) == family })
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
		state.stale = false
		t.drop(peer, func(p *route.Path) bool { return p.Stale })
		t.signal()
	}
	return next
}

func (t *Table) drop(peer netip.Addr, which func(*route.Path) bool) {
	state := t.peers[peer]
	if state == nil || state.paths == 0 {
		return
	}
	t.each(peer, func(prefix netip.Prefix, at *entry, i int) {
		if which(at.paths[i]) {
			at.paths = slices.Delete(slices.Clone(at.paths), i, i+1)
			state.paths--
			t.mark(prefix, at)
		}
	})
}

// each visits all paths of one peer. It looks at every prefix: sessions go down far more seldom than routes change.
func (t *Table) each(peer netip.Addr, visit func(netip.Prefix, *entry, int)) {
	for prefix, at := range t.entries {
		i := slices.IndexFunc(at.paths, func(p *route.Path) bool { return p.Peer == peer })
		if i >= 0 {
			visit(prefix, at, i)
		}
	}
}
