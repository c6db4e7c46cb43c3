package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

const (
	// queriesAtOnce bounds the operators' questions that are answered at once; more are turned away.
	queriesAtOnce = 8
	// longestQuery bounds one whose asker gave no deadline.
	longestQuery = 30 * time.Second
	// queryPiece is how many resources one message of an answer has.
	queryPiece = 500
)

// watchNode takes the node's snapshots and the operators' questions.
func (l *link) watchNode(ctx context.Context, s *session) error {
	// Always from nothing: the first message then says that ipamd has spoken, and it is small.
	stream, err := s.client.WatchNode(ctx, &clearwayv1.WatchNodeRequest{Node: l.options.Node, SessionId: s.id})
	if err != nil {
		return fmt.Errorf("watch node: %w", err)
	}
	var queries errgroup.Group
	queries.SetLimit(queriesAtOnce)
	defer func() { _ = queries.Wait() }() // they end with ctx; each logs its own failure
	for {
		message, err := stream.Recv()
		if err != nil {
			return streamError("watch node", err)
		}
		if snapshot := message.GetSnapshot(); snapshot != nil {
			if err := l.takeSnapshot(s, snapshot); err != nil {
				return err
			}
		}
		if query := message.GetQuery(); query != nil && !queries.TryGo(func() error { l.answerQuery(ctx, s, query); return nil }) {
			l.log.Warn("operator's question was turned away: too many at once", "kind", query.GetList().GetKind())
		}
	}
}

// streamError names the end of a stream: one that ipamd ends without an error is over all the same.
func streamError(what string, err error) error {
	if errors.Is(err, io.EOF) {
		err = status.Error(codes.Unavailable, "the stream was ended")
	}
	return fmt.Errorf("%s: %w", what, err)
}

// takeSnapshot applies a snapshot that is newer than what holds, after it was made durable.
func (l *link) takeSnapshot(s *session, snapshot *clearwayv1.NodeSnapshot) error {
	if snapshot.GetIncarnation() != s.incarnation {
		return fmt.Errorf("snapshot of incarnation %q in a session of %q: %w", snapshot.GetIncarnation(), s.incarnation, errRenew)
	}
	held := l.snapshot()
	older := held.GetIncarnation() == snapshot.GetIncarnation() && held.GetRevision() > snapshot.GetRevision()
	if !older {
		if err := l.disk.saveSnapshot(snapshot); err != nil {
			l.log.Error("snapshot could not be kept for the next start", "error", err)
		}
		l.configure(snapshot, false)
	}
	l.reach(positionOf(snapshot))
	l.settle()
	if !older {
		if err := l.takeSplits(context.Background(), snapshot.GetBlocks(), nil); err != nil {
			return err
		}
		l.hearCalls(snapshot)
		if err := l.takeAllowances(context.Background(), snapshot.GetAllowances(), snapshot.GetRevision()); err != nil {
			return err
		}
	}
	if missing := l.book.missing(snapshot.GetBlocks(), snapshot.GetRevision()); len(missing) > 0 && snapshot.GetRevision() > s.revision {
		return fmt.Errorf("%w: %v", errOwnership, missing)
	}
	return nil
}

// answerQuery answers one question of an operator.
func (l *link) answerQuery(ctx context.Context, s *session, query *clearwayv1.Query) {
	ctx, cancel := context.WithTimeout(ctx, longestQuery)
	defer cancel()
	if deadline := query.GetDeadline(); deadline != nil {
		ctx, cancel = context.WithDeadline(ctx, deadline.AsTime())
		defer cancel()
	}
	resources, verified, failed := l.answer(ctx, query)
	stream, err := s.client.AnswerQuery(ctx)
	if err != nil {
		l.log.Info("operator's question could not be answered", "error", err)
		return
	}
	piece := func(answer *clearwayv1.AnswerQueryRequest) error {
		answer.Node, answer.SessionId, answer.QueryId = l.options.Node, s.id, query.GetId()
		return stream.Send(answer)
	}
	if failed != nil {
		err = piece(&clearwayv1.AnswerQueryRequest{Error: failed.Error()})
	} else if len(resources) == 0 {
		err = piece(&clearwayv1.AnswerQueryRequest{Answer: &clearwayv1.ListResponse{}, Verify: verified})
	}
	for part := range slices.Chunk(resources, queryPiece) {
		if failed == nil && err == nil {
			err = piece(&clearwayv1.AnswerQueryRequest{Answer: &clearwayv1.ListResponse{Resources: part}})
		}
	}
	if _, closeErr := stream.CloseAndRecv(); closeErr != nil {
		l.log.Info("operator's question could not be answered", "error", closeErr)
	}
}

// answer answers either kind of question.
func (n *Node) answer(ctx context.Context, query *clearwayv1.Query) ([]*clearwayv1.Resource, *clearwayv1.VerifyAnswer, error) {
	if query.GetVerify() == nil {
		resources, err := n.list(ctx, query.GetList())
		return resources, nil, err
	}
	if n.options.Verify == nil {
		return nil, nil, errors.New("this agent does not compare routes")
	}
	verified, err := n.options.Verify(ctx, query.GetVerify())
	return nil, verified, err
}

// list answers for every kind: by itself, or by whoever knows.
func (n *Node) list(ctx context.Context, request *clearwayv1.ListRequest) ([]*clearwayv1.Resource, error) {
	switch request.GetKind() {
	case "Block", "Assignment":
		return n.List(ctx, request)
	}
	if n.options.Query == nil {
		return nil, fmt.Errorf("kind %q is not known on a node", request.GetKind())
	}
	return n.options.Query(ctx, request)
}
