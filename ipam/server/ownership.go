package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Limits of the ownership log.
const (
	// tickTime is how long changes are gathered. The first after a quiet time goes out at once.
	tickTime = 200 * time.Millisecond
	// maxPiece is the size that one message is cut at.
	maxPiece = 1 << 20
	// maxTicks and maxLogBytes bound what is kept for those who resume; who is further behind gets the whole.
	maxTicks    = 10000
	maxLogBytes = 32 << 20
)

// ownershipLog is who owns which block, the directory of nodes, and the Services that every node tells of, as a log of ticks. Each message is encoded once and
// its bytes are shared by all streams.
type ownershipLog struct {
	// mu guards all following fields.
	mu          sync.Mutex
	incarnation string
	term        uint64
	// adds: what is told is laid over what a receiver has, which is not emptied: the store recovers.
	adds bool
	// current has the encoded entry of each key; at revision it is the whole.
	current  map[string][]byte
	revision int64
	// pending are the keys' entries that changed since the last tick, deletions too.
	pending map[string][]byte
	ticks   []tick
	bytes   int
	// floor is the lowest revision that can be resumed from.
	floor int64
	// whole is the log's content at revision wholeAt, in messages; nil: never encoded.
	whole      []encoded
	wholeAt    int64
	wholeBytes int
	// wake is closed and replaced at each tick.
	wake chan struct{}
	// due has a token when something is pending.
	due chan struct{}
}

// encoded is a WatchOwnershipResponse in binary.
type encoded []byte

// tick takes a copy from any revision below to, not lower than the tick before, to revision to.
type tick struct {
	to     int64
	pieces []encoded
	bytes  int
}

func newOwnershipLog() *ownershipLog {
	return &ownershipLog{
		current: map[string][]byte{}, pending: map[string][]byte{},
		wake: make(chan struct{}), due: make(chan struct{}, 1),
	}
}

// set notes entries as of a revision. What is no different is left out.
func (l *ownershipLog) set(revision int64, entries []*clearwayv1.OwnershipEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, entry := range entries {
		l.setLocked(entry)
	}
	l.revision = max(l.revision, revision)
	l.notifyLocked()
}

func (l *ownershipLog) setLocked(entry *clearwayv1.OwnershipEntry) {
	key := entryKey(entry)
	bytes := mustMarshal(entry)
	before, known := l.current[key]
	switch {
	case entry.GetDeleted() && !known:
		return
	case entry.GetDeleted():
		delete(l.current, key)
	case known && string(before) == string(bytes):
		return
	default:
		l.current[key] = bytes
	}
	l.pending[key] = bytes
}

func (l *ownershipLog) notifyLocked() {
	if len(l.pending) == 0 {
		return
	}
	select {
	case l.due <- struct{}{}:
	default:
	}
}

// life is the incarnation that is told, and whether it is laid over what receivers have.
func (l *ownershipLog) life() (incarnation string, adds bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.incarnation, l.adds
}

// begin notes the term that all that follows is of.
func (l *ownershipLog) begin(term uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.term = term
}

// reset puts the content of a state that was read anew in the log's place: as changes where it goes on from what was
// and whole is false, else from nothing. With adds receivers keep what they have beside it, until a reset without.
func (l *ownershipLog) reset(
	revision int64, incarnation string, entries []*clearwayv1.OwnershipEntry, whole, adds bool,
) {
	l.mu.Lock()
	defer l.mu.Unlock()
	goesOn := !whole && incarnation == l.incarnation && adds == l.adds && revision >= l.revision && l.floor > 0
	if !goesOn {
		l.incarnation, l.floor, l.adds = incarnation, revision, adds
		l.ticks, l.bytes, l.whole = nil, 0, nil
		l.current = map[string][]byte{}
	}
	l.revision = revision
	l.replaceLocked(entries)
	if !goesOn {
		l.pending = map[string][]byte{} // nobody has a copy to go on from
		l.wakeLocked()
	}
	l.notifyLocked()
}

func (l *ownershipLog) replaceLocked(entries []*clearwayv1.OwnershipEntry) {
	kept := make(map[string]bool, len(entries))
	for _, entry := range entries {
		kept[entryKey(entry)] = true
		l.setLocked(entry)
	}
	for _, key := range slices.Collect(maps.Keys(l.current)) {
		if !kept[key] {
			l.setLocked(deletedEntry(key))
		}
	}
}

func (l *ownershipLog) wakeLocked() {
	close(l.wake)
	l.wake = make(chan struct{})
}

// run makes ticks until ctx ends.
func (l *ownershipLog) run(ctx context.Context) error {
	for {
		select {
		case <-l.due:
		case <-ctx.Done():
			return nil
		}
		l.flush()
		select {
		case <-time.After(tickTime):
		case <-ctx.Done():
			return nil
		}
	}
}

// flush makes a tick of what is pending.
func (l *ownershipLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) == 0 {
		return
	}
	made := tick{to: l.revision, pieces: l.encodeLocked(l.pending, false)}
	for _, piece := range made.pieces {
		made.bytes += len(piece)
	}
	l.pending = map[string][]byte{}
	l.ticks = append(l.ticks, made)
	l.bytes += made.bytes
	for len(l.ticks) > maxTicks || (l.bytes > maxLogBytes && len(l.ticks) > 1) {
		l.floor, l.bytes = l.ticks[0].to, l.bytes-l.ticks[0].bytes
		l.ticks = l.ticks[1:]
	}
	l.wakeLocked()
}

// since returns the messages that take a copy from a revision to the newest tick, the revision it then has, and what
// is closed when there is more. A copy of another incarnation, or too old to go on from, gets the whole. A copy that
// is ahead of this log (a follower's log, which lags) has all that is older.
func (l *ownershipLog) since(incarnation string, revision int64) (position, []encoded, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var messages []encoded
	if incarnation != l.incarnation || revision < l.floor {
		messages, revision = l.wholeLocked()
	}
	for _, one := range l.ticks {
		if one.to > revision {
			messages = append(messages, one.pieces...)
		}
	}
	if n := len(l.ticks); n > 0 {
		revision = max(revision, l.ticks[n-1].to)
	}
	return position{l.incarnation, l.term, revision}, messages, l.wake
}

// position is where a copy stands.
type position struct {
	incarnation string
	term        uint64
	revision    int64
}

// wholeLocked is everything in messages, as of the revision it returns: encoded once, and again when going on from it
// by ticks would cost more than it saves. It has what is pending; to be told that again with a tick is harmless.
func (l *ownershipLog) wholeLocked() ([]encoded, int64) {
	behind := 0
	for _, one := range l.ticks {
		if one.to > l.wholeAt {
			behind += one.bytes
		}
	}
	if l.whole == nil || l.wholeAt < l.floor || behind > l.wholeBytes/4 {
		l.whole, l.wholeAt, l.wholeBytes = l.encodeLocked(l.current, !l.adds), l.revision, 0
		for _, piece := range l.whole {
			l.wholeBytes += len(piece)
		}
	}
	return l.whole, l.wholeAt
}

// complete is an empty message that says where a copy stands.
func (p position) complete() encoded {
	return mustMarshal(&clearwayv1.WatchOwnershipResponse{
		Incarnation: p.incarnation, Term: p.term, Revision: p.revision, Complete: true,
	})
}

// encodeLocked cuts entries into messages, in the order of keys.
func (l *ownershipLog) encodeLocked(entries map[string][]byte, reset bool) []encoded {
	var pieces []encoded
	var body []byte
	head := &clearwayv1.WatchOwnershipResponse{
		Incarnation: l.incarnation, Term: l.term, Revision: l.revision, Reset_: reset,
	}
	cut := func() {
		pieces = append(pieces, append(mustMarshal(head), body...))
		head.Reset_, body = false, nil
	}
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		if len(body) > 0 && len(body)+len(entries[key]) > maxPiece {
			cut()
		}
		body = protowire.AppendTag(body, entriesField, protowire.BytesType)
		body = protowire.AppendBytes(body, entries[key])
	}
	head.Complete = true
	cut()
	return pieces
}

// entriesField is the number of WatchOwnershipResponse.entries.
var entriesField = (*clearwayv1.WatchOwnershipResponse)(nil).ProtoReflect().Descriptor().Fields().ByName("entries").Number()

func mustMarshal(message proto.Message) []byte {
	bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", message, err)) // only text that is no UTF-8: refused at the door
	}
	return bytes
}

func entryKey(entry *clearwayv1.OwnershipEntry) string {
	switch {
	case entry.GetBlock() != nil:
		return "b" + entry.GetBlock().GetCidr()
	case entry.GetService() != nil:
		return "s" + entry.GetService().GetName()
	}
	return "n" + entry.GetNode().GetName()
}

func deletedEntry(key string) *clearwayv1.OwnershipEntry {
	switch key[0] {
	case 'b':
		return deletedBlock(key[1:])
	case 's':
		return deletedService(key[1:])
	}
	return deletedNode(key[1:])
}

func deletedService(name string) *clearwayv1.OwnershipEntry {
	return &clearwayv1.OwnershipEntry{
		Entry: &clearwayv1.OwnershipEntry_Service{Service: &clearwayv1.ServiceEntry{Name: name}}, Deleted: true,
	}
}

func deletedBlock(cidr string) *clearwayv1.OwnershipEntry {
	return &clearwayv1.OwnershipEntry{
		Entry: &clearwayv1.OwnershipEntry_Block{Block: &clearwayv1.BlockOwner{Cidr: cidr}}, Deleted: true,
	}
}

func deletedNode(name string) *clearwayv1.OwnershipEntry {
	return &clearwayv1.OwnershipEntry{
		Entry: &clearwayv1.OwnershipEntry_Node{Node: &clearwayv1.NodeEntry{Name: name}}, Deleted: true,
	}
}
