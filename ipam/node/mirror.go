package node

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/types/known/timestamppb"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

const (
	// mirrorDelay is how long changes are gathered before they are sent, and the least time between two pieces: a node
	// that makes more than some hundred changes a second is behind with its mirror for a while, and takes no more than
	// its share of ipamd and etcd. What it has undone by then is never sent.
	mirrorDelay = 250 * time.Millisecond
	// mirrorPiece bounds the addresses in one call, so that it takes few of etcd's transactions; mirrorTimeout the call.
	mirrorPiece   = 200
	mirrorTimeout = 10 * time.Second
	// mirrorYield is what a piece waits besides while more than busyChanges are made in mirrorDelay: whoever waits for an
	// address goes before the copy, which could not keep up anyway and shares the processors and the disk with it.
	mirrorYield = 3 * mirrorDelay
	busyChanges = mirrorPiece
	// mirrorPause is the wait after ipamd said that it has something else than we thought.
	mirrorPause = time.Second
)

// mirror copies the journal's changes to ipamd, within about a second.
func (l *link) mirror(ctx context.Context, s *session) error {
	s.mirrorPace = rate.NewLimiter(rate.Every(mirrorDelay), 1)
	s.turnNumber, s.turnTime = l.book.number(), l.now()
	have := s.mirrored
	for gather := mirrorDelay; ; {
		if have == l.book.number() {
			select {
			case <-l.mirrorDue:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		select {
		case <-time.After(gather):
		case <-ctx.Done():
			return ctx.Err()
		}
		if have == l.book.number() {
			continue // it was due for what has been sent already
		}
		got, err := l.mirrorOnce(ctx, s, have)
		if err != nil {
			return fmt.Errorf("mirror assignments: %w", err)
		}
		gather = mirrorDelay
		if got == have { // no way on: not at full speed, at least
			gather = mirrorPause
		}
		have = got
	}
}

// mirrorOnce sends the next piece, or the whole where pieces do not lead on, and tells what the mirror has then.
func (l *link) mirrorOnce(ctx context.Context, s *session, have uint64) (uint64, error) {
	if err := l.mirrorTurn(ctx, s); err != nil {
		return 0, err
	}
	piece, ok := l.book.mirrorPiece(have)
	if !ok || have == 0 { // a mirror of nothing may still have the assignments of another journal
		return l.mirrorAll(ctx, s)
	}
	got, err := l.sendMirror(ctx, s, piece)
	if err == nil && got != uint64(piece.GetThroughNumber()) && got == have {
		return l.mirrorAll(ctx, s)
	}
	return got, err
}

// mirrorAll replaces what the mirror has, in pieces by journal number: after each piece the mirror is complete up to the
// number it is told, and has of the rest what it had: a break between two leaves nothing wrong.
func (l *link) mirrorAll(ctx context.Context, s *session) (uint64, error) {
	all, through := l.book.assignments()
	request := &clearwayv1.MirrorAssignmentsRequest{Replace: true, Ranged: true}
	after := uint64(0)
	for i, a := range all {
		request.Assigned = append(request.Assigned, a.specs(l.options.Node)...)
		if len(request.GetAssigned()) < mirrorPiece || i+1 == len(all) {
			continue
		}
		request.AfterNumber, request.ThroughNumber = int64(after), int64(a.number)
		got, err := l.sendMirror(ctx, s, request)
		if err == nil {
			err = l.mirrorTurn(ctx, s)
		}
		if err != nil || got != a.number {
			return got, err
		}
		after, request = a.number, &clearwayv1.MirrorAssignmentsRequest{Ranged: true}
	}
	request.AfterNumber, request.ThroughNumber, request.Last = int64(after), int64(through), true
	return l.sendMirror(ctx, s, request)
}

func (l *link) sendMirror(ctx context.Context, s *session, request *clearwayv1.MirrorAssignmentsRequest) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout)
	defer cancel()
	request.Node, request.SessionId, request.JournalId = l.options.Node, s.id, l.journal.ID().String()
	for _, spec := range request.GetAssigned() {
		spec.Node = l.options.Node
	}
	for _, tenure := range request.GetEnded() {
		tenure.Assignment.Node = l.options.Node
	}
	answer, err := s.client.MirrorAssignments(ctx, request)
	if err != nil {
		return 0, err
	}
	return uint64(max(answer.GetThroughNumber(), 0)), nil
}

// mirrorTurn waits until the next piece may be sent.
func (l *link) mirrorTurn(ctx context.Context, s *session) error {
	if err := s.mirrorPace.Wait(ctx); err != nil {
		return err
	}
	number, now := l.book.number(), l.now()
	made, took := number-min(number, s.turnNumber), now.Sub(s.turnTime)
	s.turnNumber, s.turnTime = number, now
	if took <= 0 || float64(made)*float64(mirrorDelay) <= busyChanges*float64(took) {
		return nil
	}
	select {
	case <-time.After(mirrorYield):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// mirrorPiece is the next changes after a number, the last of each address alone. False: they are not all known.
func (b *book) mirrorPiece(after uint64) (*clearwayv1.MirrorAssignmentsRequest, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	const perChange = 2 // addresses, one a family
	changes, ok := b.changes.since(after, mirrorPiece/perChange)
	if !ok || after > b.last {
		return nil, false
	}
	through := b.last
	if len(changes) == mirrorPiece/perChange {
		through = changes[len(changes)-1].number
	}
	request := &clearwayv1.MirrorAssignmentsRequest{AfterNumber: int64(after), ThroughNumber: int64(through)}
	last := map[netip.Addr]int{}
	for i, c := range changes {
		for _, h := range c.assignment().addrs {
			last[h.Addr] = i
		}
	}
	for i, c := range changes {
		for _, h := range c.assignment().addrs {
			if c.released != nil && (last[h.Addr] != i || c.released.number > after) {
				request.Ended = append(request.Ended, &clearwayv1.Tenure{
					Assignment: c.released.spec(h), ReleasedTime: timestamppb.New(c.at),
				})
			}
			switch {
			case last[h.Addr] != i:
			case c.assigned != nil:
				request.Assigned = append(request.Assigned, c.assigned.spec(h))
			default:
				request.Released = append(request.Released, &clearwayv1.ReleasedAddress{
					Address: h.Addr.String(), JournalNumber: int64(c.released.number), ReleasedTime: timestamppb.New(c.at),
				})
			}
		}
	}
	return request, true
}

func (c change) assignment() *assignment {
	if c.assigned != nil {
		return c.assigned
	}
	return c.released
}

// spec puts one address of an assignment into the words of the API, all but the node.
func (a *assignment) spec(h held) *clearwayv1.AssignmentSpec {
	spec := &clearwayv1.AssignmentSpec{
		Address: h.Addr.String(), Pool: h.Pool, Attachment: a.key.proto(), Pod: a.pod.proto(),
		AssignedTime: timestamppb.New(a.time), JournalNumber: int64(a.number),
	}
	if h.Block.IsValid() {
		spec.Block = h.Block.String()
	}
	return spec
}

func (a *assignment) specs(node string) []*clearwayv1.AssignmentSpec {
	specs := make([]*clearwayv1.AssignmentSpec, 0, len(a.addrs))
	for _, h := range a.addrs {
		spec := a.spec(h)
		spec.Node = node
		specs = append(specs, spec)
	}
	return specs
}
