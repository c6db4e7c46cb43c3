package node

import clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"

// position is the newest that ipamd has told of its store. The store tells by it whether it went back in time.
type position struct {
	incarnation string
	term        uint64
	revision    int64
}

// reach notes a position. One of another incarnation begins anew: only a registration brings it. One without a term is a
// follower's, and counts for nothing once a leader has spoken.
func (n *Node) reach(at position) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if at.incarnation == n.reached.incarnation && at.term == 0 && n.reached.term != 0 {
		return
	}
	if at.incarnation != n.reached.incarnation || at.revision >= n.reached.revision {
		n.reached = at
	}
}

// position is what registration tells: what was reached, of the incarnation that the journal has the blocks of.
func (n *Node) position() position {
	incarnation := n.book.storeOf()
	n.mu.Lock()
	defer n.mu.Unlock()
	if incarnation == "" { // a journal of before it was kept there
		incarnation = n.reached.incarnation
	}
	if n.reached.incarnation != incarnation {
		return position{incarnation: incarnation}
	}
	return n.reached
}

// storeOf is the incarnation of the store that the blocks are of; empty: it is not known.
func (b *book) storeOf() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.incarnation
}

// positionOf is that of a snapshot.
func positionOf(snapshot *clearwayv1.NodeSnapshot) position {
	return position{snapshot.GetIncarnation(), snapshot.GetTerm(), snapshot.GetRevision()}
}

// end is where a group of pieces of the ownership log leads.
func end(group []*clearwayv1.WatchOwnershipResponse) position {
	last := group[len(group)-1]
	return position{last.GetIncarnation(), last.GetTerm(), last.GetRevision()}
}
