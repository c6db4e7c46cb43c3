package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

const (
	// keepOwnershipEvery is how often the copy on disk is renewed while the log moves. An older copy costs nothing but
	// the catching up: the log is resumed by revision.
	keepOwnershipEvery = 5 * time.Second
	// ownershipQueue is how many groups may wait for OnOwnership; then the stream from ipamd waits.
	ownershipQueue = 16
	// maxGroup bounds a group that is not complete yet: far above the whole log of the largest cluster.
	maxGroup = 10_000_000
)

// ownership is the node's copy of the ownership log. One goroutine at a time changes it: first the start, then the
// watch of the session there is; the mutex is for those that write it to disk.
type ownership struct {
	incarnation string
	revision    int64
	term        uint64
	entries     map[string]*clearwayv1.OwnershipEntry
	told        bool // OnOwnership has been given this copy
	dirty       bool // the disk has an older one
}

func entryKey(entry *clearwayv1.OwnershipEntry) string {
	switch {
	case entry.GetBlock() != nil:
		return "block/" + entry.GetBlock().GetCidr()
	case entry.GetService() != nil:
		return "service/" + entry.GetService().GetName()
	}
	return "node/" + entry.GetNode().GetName()
}

// apply takes a group of pieces, of which the last is complete.
func (o *ownership) apply(group []*clearwayv1.WatchOwnershipResponse) {
	for _, piece := range group {
		if piece.GetReset_() || o.entries == nil {
			o.entries = map[string]*clearwayv1.OwnershipEntry{}
		}
		for _, entry := range piece.GetEntries() {
			if entry.GetDeleted() {
				delete(o.entries, entryKey(entry))
			} else {
				o.entries[entryKey(entry)] = entry
			}
		}
		o.incarnation, o.revision, o.term = piece.GetIncarnation(), piece.GetRevision(), piece.GetTerm()
	}
	o.told, o.dirty = true, true
}

// orphans are the blocks whose owners have gone without a word.
func (o *ownership) orphans() []clearwayv1.Orphan {
	var found []clearwayv1.Orphan
	for _, entry := range o.entries {
		if b := entry.GetBlock(); b.GetState() == clearwayv1.BlockState_BLOCK_STATE_ORPHANED {
			found = append(found, clearwayv1.Orphan{CIDR: b.GetCidr(), Generation: b.GetGeneration()})
		}
	}
	return found
}

// whole is the copy as one piece.
func (o *ownership) whole() *clearwayv1.WatchOwnershipResponse {
	piece := &clearwayv1.WatchOwnershipResponse{
		Incarnation: o.incarnation, Revision: o.revision, Term: o.term, Reset_: true, Complete: true,
	}
	for _, k := range slices.Sorted(maps.Keys(o.entries)) {
		piece.Entries = append(piece.Entries, o.entries[k])
	}
	return piece
}

// watchOwnership follows the ownership log. Pieces are handed on in whole groups, so that a stream that breaks in the
// middle of one leaves the receivers where they were.
func (l *link) watchOwnership(ctx context.Context, s *session) error {
	select {
	case <-l.settled: // the copy from disk was told by now, or never will be
	case <-ctx.Done():
		return ctx.Err()
	}
	request := &clearwayv1.WatchOwnershipRequest{Node: l.options.Node, SessionId: s.id}
	l.mu.Lock()
	if l.owners.told {
		request.Incarnation, request.Revision = l.owners.incarnation, l.owners.revision
	}
	l.mu.Unlock()
	stream, err := s.client.WatchOwnership(ctx, request)
	if err != nil {
		return fmt.Errorf("watch ownership: %w", err)
	}
	var group []*clearwayv1.WatchOwnershipResponse
	size := 0
	for {
		piece, err := stream.Recv()
		if err != nil {
			return streamError("watch ownership", err)
		}
		if group, size = append(group, piece), size+len(piece.GetEntries()); size > maxGroup {
			return fmt.Errorf("watch ownership: %d entries and no end", size)
		}
		if !piece.GetComplete() {
			continue
		}
		if err := l.tellOwnership(ctx, group); err != nil {
			return err
		}
		l.mu.Lock()
		l.owners.apply(group) // after it is queued: the copy is never ahead of what is told
		l.mu.Unlock()
		if at := end(group); at.incarnation == s.incarnation {
			l.reach(at)
		}
		group, size = nil, 0
	}
}

// tellOwnership queues a group for OnOwnership.
func (n *Node) tellOwnership(ctx context.Context, group []*clearwayv1.WatchOwnershipResponse) error {
	select {
	case n.groups <- group:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tellOldOwnership queues the copy from disk. It comes before any of ipamd's: the watch waits until it is settled.
func (n *Node) tellOldOwnership(ctx context.Context) error {
	n.mu.Lock()
	old := n.owners.entries != nil && !n.owners.told
	var whole *clearwayv1.WatchOwnershipResponse
	if old {
		n.owners.told = true
		whole = n.owners.whole()
	}
	n.mu.Unlock()
	if !old {
		return nil
	}
	return n.tellOwnership(ctx, []*clearwayv1.WatchOwnershipResponse{whole})
}

// deliverOwnership calls OnOwnership, in order.
func (n *Node) deliverOwnership(ctx context.Context) error {
	for {
		select {
		case group := <-n.groups:
			for _, piece := range group {
				if n.options.OnOwnership != nil {
					n.options.OnOwnership(piece)
				}
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// keepOwnership writes the copy to disk while it changes, and once more at the end.
func (n *Node) keepOwnership(ctx context.Context) error {
	tick := time.NewTicker(keepOwnershipEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.saveOwnership()
		case <-ctx.Done():
			n.saveOwnership()
			return nil
		}
	}
}

func (n *Node) saveOwnership() {
	n.mu.Lock()
	dirty := n.owners.dirty
	n.owners.dirty = false
	var whole *clearwayv1.WatchOwnershipResponse
	if dirty {
		whole = n.owners.whole() // its entries are never changed, only replaced
	}
	n.mu.Unlock()
	if !dirty {
		return
	}
	if err := n.disk.saveOwnership(whole); err != nil {
		n.log.Error("ownership log could not be kept for the next start", "error", err)
		n.mu.Lock()
		n.owners.dirty = true
		n.mu.Unlock()
	}
}

func newOwnership(kept *clearwayv1.WatchOwnershipResponse) ownership {
	o := ownership{}
	if kept != nil {
		o.apply([]*clearwayv1.WatchOwnershipResponse{proto.CloneOf(kept)})
		o.told, o.dirty = false, false
	}
	return o
}
