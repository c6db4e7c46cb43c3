package policy

import (
	"errors"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Log receives the ownership log in pieces and applies each tick as a whole, so that no verdict is given on half a
// change (a block that has left its old owner and not yet reached its new one). Its zero value is empty and ready.
type Log struct {
	owners      *Owners
	pieces      []*clearwayv1.WatchOwnershipResponse
	incarnation string
	revision    int64
	complete    bool
}

// Owners is the copy as it stands after the last whole tick. It is replaced, not changed, by a reset.
func (l *Log) Owners() *Owners {
	if l.owners == nil {
		l.owners = &Owners{}
	}
	return l.owners
}

// Complete tells whether the whole log has been received once.
func (l *Log) Complete() bool { return l.complete }

// Revision is where the copy stands.
func (l *Log) Revision() (incarnation string, revision int64) { return l.incarnation, l.revision }

// Receive takes one piece. Nothing happens before a complete one; then all since the last take effect at once. Entries
// that cannot be read are left out and named in the error; the rest takes effect.
func (l *Log) Receive(piece *clearwayv1.WatchOwnershipResponse) (Effect, error) {
	if piece.GetReset_() {
		l.pieces = nil
	}
	l.pieces = append(l.pieces, piece)
	if !piece.GetComplete() {
		return Effect{}, nil
	}
	pieces := l.pieces
	l.pieces = nil
	if l.outdated(pieces[0], piece) {
		return Effect{}, nil
	}
	l.incarnation, l.revision, l.complete = piece.GetIncarnation(), piece.GetRevision(), true
	if !pieces[0].GetReset_() {
		return apply(l.Owners(), pieces)
	}
	whole := &Owners{}
	_, err := apply(whole, pieces)
	effect := l.Owners().diff(whole)
	l.owners = whole
	return effect, err
}

// outdated tells whether a tick does not follow from what the copy has: an older revision, or another incarnation's
// delta.
func (l *Log) outdated(first, last *clearwayv1.WatchOwnershipResponse) bool {
	if first.GetReset_() {
		return false
	}
	return l.complete && (last.GetIncarnation() != l.incarnation || last.GetRevision() < l.revision)
}

func apply(owners *Owners, pieces []*clearwayv1.WatchOwnershipResponse) (Effect, error) {
	var total Effect
	var faults []error
	for _, piece := range pieces {
		for _, entry := range piece.GetEntries() {
			effect, err := owners.Apply(entry)
			if err != nil {
				faults = append(faults, err)
			}
			total.merge(effect)
		}
	}
	return total, errors.Join(faults...)
}
