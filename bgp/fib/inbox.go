package fib

import (
	"net/netip"
	"sync"

	"github.com/clearway/clearway/bgp/route"
)

// inbox holds changes of the desired set until Run takes them: the latest for each prefix. Its size is bounded by the
// number of prefixes.
type inbox struct {
	wake chan struct{}

	mu      sync.Mutex // guards all following fields
	changes map[netip.Prefix]*route.Kernel
	taken   map[netip.Prefix]*route.Kernel // by Run, and not merged yet; not changed any more
	settled bool
}

func newInbox() *inbox {
	return &inbox{wake: make(chan struct{}, 1), changes: make(map[netip.Prefix]*route.Kernel)}
}

func (b *inbox) put(changes []route.Change) {
	b.mu.Lock()
	for _, c := range changes {
		b.changes[c.Prefix] = c.Route
	}
	b.mu.Unlock()
	poke(b.wake)
}

func (b *inbox) settle() {
	b.mu.Lock()
	b.settled = true
	b.mu.Unlock()
	poke(b.wake)
}

// take empties the inbox. merged must follow.
func (b *inbox) take() (changes map[netip.Prefix]*route.Kernel, settled bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.changes) == 0 {
		return nil, b.settled
	}
	b.taken, b.changes = b.changes, make(map[netip.Prefix]*route.Kernel)
	return b.taken, b.settled
}

// merged says that the entries show what was taken.
func (b *inbox) merged() {
	b.mu.Lock()
	b.taken = nil
	b.mu.Unlock()
}

func (b *inbox) has(prefix netip.Prefix) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.changes[prefix]; ok {
		return true
	}
	_, ok := b.taken[prefix]
	return ok
}

// poke leaves one token in a channel of capacity one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
