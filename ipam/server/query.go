package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// queryTime is how long a node has to answer.
const queryTime = 5 * time.Second

// queries are the questions that wait for nodes' answers.
type queries struct {
	// mu guards all following fields.
	mu   sync.Mutex
	open map[string]*query
}

// query is one question to one node. Its pieces go to whoever asked; the last closes it.
type query struct {
	node   string
	pieces chan piece
	// gone is closed when nobody waits for the answer any more.
	gone chan struct{}
}

// piece is a part of an answer; last ends it.
type piece struct {
	resources []*clearwayv1.Resource
	verified  *clearwayv1.VerifyAnswer
	err       error
	last      bool
}

func newQueries() *queries { return &queries{open: map[string]*query{}} }

func (q *queries) add(node string) (string, *query) {
	id := uuid.NewString()
	made := &query{node: node, pieces: make(chan piece), gone: make(chan struct{})}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open[id] = made
	return id, made
}

func (q *queries) remove(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if one := q.open[id]; one != nil {
		close(one.gone)
		delete(q.open, id)
	}
}

func (q *queries) find(id, node string) *query {
	q.mu.Lock()
	defer q.mu.Unlock()
	if one := q.open[id]; one != nil && one.node == node {
		return one
	}
	return nil
}

// ask puts a question for resources to a node and hands over the pieces of its answer.
func (s *Server) ask(
	ctx context.Context, node string, list *clearwayv1.ListRequest, each func([]*clearwayv1.Resource) error,
) error {
	return s.question(ctx, node, &clearwayv1.Query{List: list}, queryTime, func(got piece) error { return each(got.resources) })
}

// question puts a question to a node, which has so long to answer, and hands over the pieces of its answer.
func (s *Server) question(
	ctx context.Context, node string, query *clearwayv1.Query, patience time.Duration, each func(piece) error,
) error {
	session := s.sessions.of(node)
	if session == nil {
		return errors.New("its agent is not connected")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	id, waiting := s.queries.add(node)
	defer s.queries.remove(id)
	deadline, _ := ctx.Deadline()
	query.Id, query.Deadline = id, timestamppb.New(deadline)
	if err := session.ask(query); err != nil {
		return err
	}
	for {
		select {
		case got := <-waiting.pieces:
			if got.err != nil {
				return got.err
			}
			if err := each(got); err != nil {
				return err
			}
			if got.last {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("no answer within %s", patience)
		}
	}
}

// AnswerQuery implements NodeService.
func (n *nodeService) AnswerQuery(
	stream grpc.ClientStreamingServer[clearwayv1.AnswerQueryRequest, clearwayv1.AnswerQueryResponse],
) error {
	var to *query
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if to != nil {
				to.give(stream.Context(), piece{last: true})
			}
			return stream.SendAndClose(&clearwayv1.AnswerQueryResponse{})
		}
		if err != nil {
			return err
		}
		if to == nil {
			if _, err := n.enter(stream.Context(), request.GetNode(), request.GetSessionId()); err != nil {
				return err
			}
			if to = n.s.queries.find(request.GetQueryId(), request.GetNode()); to == nil {
				return status.Errorf(codes.NotFound, "question %q is no longer asked", request.GetQueryId())
			}
		}
		next := piece{resources: request.GetAnswer().GetResources(), verified: request.GetVerify()}
		if request.GetError() != "" {
			next.err = errors.New(request.GetError())
		}
		if !to.give(stream.Context(), next) {
			return status.Errorf(codes.NotFound, "question %q is no longer asked", request.GetQueryId())
		}
	}
}

// give hands a piece to who asked; false when nobody waits.
func (q *query) give(ctx context.Context, next piece) bool {
	select {
	case q.pieces <- next:
		return true
	case <-q.gone:
		return false
	case <-ctx.Done():
		return false
	}
}
