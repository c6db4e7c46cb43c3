package bgptest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/clearway/clearway/bgp/route"
)

// Liveness is a fake of bgp/bfd's client: it keeps what is wanted, and tells what the test lets happen.
type Liveness struct {
	mu       sync.Mutex // guards all below
	wanted   []route.Watch
	sessions map[netip.Addr]*route.Liveness
	fault    string
	changed  chan struct{}
}

// NewLiveness makes a Liveness without sessions.
func NewLiveness() *Liveness {
	return &Liveness{sessions: map[netip.Addr]*route.Liveness{}, changed: make(chan struct{}, 1)}
}

// Set keeps what is wanted.
func (l *Liveness) Set(wanted []route.Watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted = wanted
}

// Changed gets a value when Sessions has something new.
func (l *Liveness) Changed() <-chan struct{} { return l.changed }

// Sessions are the sessions that the test made.
func (l *Liveness) Sessions() ([]route.Liveness, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault != "" {
		return nil, l.fault
	}
	var list []route.Liveness
	for _, s := range l.sessions {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b route.Liveness) int { return a.Peer.Compare(b.Peer) })
	return list, ""
}

// Change changes a peer's session, which is made when it is not there, or lets the process go away with a fault.
func (l *Liveness) Change(peer netip.Addr, how func(*route.Liveness), fault string) {
	l.mu.Lock()
	if l.sessions[peer] == nil {
		l.sessions[peer] = &route.Liveness{Peer: peer, State: route.BFDDown, Instance: 1}
	}
	how(l.sessions[peer])
	l.fault = fault
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// String lists what is wanted.
func (l *Liveness) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var text strings.Builder
	for _, w := range l.wanted {
		fmt.Fprintf(&text, "bfd %s from %s tx %s rx %s x%d", w.Peer, w.Local, w.MinTx, w.MinRx, w.Multiplier)
		if w.Multihop {
			fmt.Fprintf(&text, " multihop ttl %d", w.MinTTL)
		}
		text.WriteByte('\n')
	}
	return text.String()
}
