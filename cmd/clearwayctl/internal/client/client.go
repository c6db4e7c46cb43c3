package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
)

const (
	// connectTime is how long one server may take to answer at all, before the next is tried.
	connectTime = 3 * time.Second
	// electionPause is how long to wait before asking again while no server knows a leader.
	electionPause = 250 * time.Millisecond
	// maxAttempts bounds the servers asked for one call: more are not tried even when each names another leader.
	maxAttempts = 64
)

// Options tell whom to call.
type Options struct {
	Servers []string // ADDR:PORT, tried in this order
	Socket  string   // path of an agent's socket; goes before Servers
	TLS     daemon.TLS
	Logger  *slog.Logger
}

// Client makes calls. It is for one goroutine.
type Client struct {
	targets []string
	local   bool
	creds   credentials.TransportCredentials
	conns   map[string]*grpc.ClientConn
}

// Open makes a client; nothing is connected before the first call. An agent's socket needs no TLS: its mode is 0600.
func Open(options Options) (*Client, error) {
	client := &Client{targets: options.Servers, conns: map[string]*grpc.ClientConn{}}
	if options.Socket != "" {
		client.targets, client.local, client.creds = []string{"unix:" + options.Socket}, true, insecure.NewCredentials()
		return client, nil
	}
	creds, err := options.TLS.ClientCredentials(options.Logger)
	client.creds = creds
	return client, err
}

// Local tells whether it calls one node's agent.
func (c *Client) Local() bool { return c.local }

// Close ends the connections.
func (c *Client) Close() {
	for _, conn := range c.conns {
		conn.Close()
	}
}

// Apply applies all the resources or none.
func (c *Client) Apply(ctx context.Context, request *clearwayv1.ApplyRequest) ([]*clearwayv1.ApplyResult, error) {
	var results []*clearwayv1.ApplyResult
	err := c.do(ctx, func(conn *grpc.ClientConn) error {
		response, err := clearwayv1.NewResourceServiceClient(conn).Apply(ctx, request)
		results = response.GetResults()
		return err
	})
	if err == nil && len(results) != len(request.Resources) {
		err = fmt.Errorf("the server answered with %d results for %d resources", len(results), len(request.Resources))
	}
	return results, err
}

// Delete deletes one resource. What it returns is still there, and is drained; nil: it is gone.
func (c *Client) Delete(ctx context.Context, request *clearwayv1.DeleteRequest) (clearwayv1.Object, error) {
	var answer *clearwayv1.DeleteResponse
	err := c.do(ctx, func(conn *grpc.ClientConn) (err error) {
		answer, err = clearwayv1.NewResourceServiceClient(conn).Delete(ctx, request)
		return err
	})
	if answer.GetRemaining() == nil {
		return nil, err
	}
	return answer.GetRemaining().Object(), err
}

// List lists resources, with the server's warnings of what is missing from them.
func (c *Client) List(ctx context.Context, request *clearwayv1.ListRequest) ([]clearwayv1.Object, []string, error) {
	var objects []clearwayv1.Object
	var warnings []string
	err := c.do(ctx, func(conn *grpc.ClientConn) error {
		objects, warnings = nil, nil // of a server that broke off
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := clearwayv1.NewResourceServiceClient(conn).List(ctx, request)
		for err == nil {
			var response *clearwayv1.ListResponse
			if response, err = stream.Recv(); err != nil {
				break
			}
			for _, resource := range response.Resources {
				if object := resource.Object(); object != nil {
					objects = append(objects, object)
				}
			}
			warnings = append(warnings, response.Warnings...)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	})
	return objects, warnings, err
}

// ShowAddress asks what an address belongs to.
func (c *Client) ShowAddress(ctx context.Context, address string) (*clearwayv1.ShowAddressResponse, error) {
	var answer *clearwayv1.ShowAddressResponse
	err := c.do(ctx, func(conn *grpc.ClientConn) (err error) {
		answer, err = clearwayv1.NewIPAMServiceClient(conn).ShowAddress(ctx, &clearwayv1.ShowAddressRequest{Address: address})
		return err
	})
	return answer, err
}

// History asks who held an address, or what a Pod held.
func (c *Client) History(ctx context.Context, request *clearwayv1.HistoryRequest) (*clearwayv1.HistoryResponse, error) {
	var answer *clearwayv1.HistoryResponse
	err := c.do(ctx, func(conn *grpc.ClientConn) (err error) {
		answer, err = clearwayv1.NewIPAMServiceClient(conn).History(ctx, request)
		return err
	})
	return answer, err
}

// ShowStore asks how the store is.
func (c *Client) ShowStore(ctx context.Context) (*clearwayv1.ShowStoreResponse, error) {
	var answer *clearwayv1.ShowStoreResponse
	err := c.do(ctx, func(conn *grpc.ClientConn) (err error) {
		answer, err = clearwayv1.NewIPAMServiceClient(conn).ShowStore(ctx, &clearwayv1.ShowStoreRequest{})
		return err
	})
	return answer, err
}

// Recover tells that the store was restored. It returns the new incarnation.
func (c *Client) Recover(ctx context.Context, reason string) (string, error) {
	var answer *clearwayv1.RecoverResponse
	err := c.do(ctx, func(conn *grpc.ClientConn) (err error) {
		answer, err = clearwayv1.NewIPAMServiceClient(conn).Recover(ctx, &clearwayv1.RecoverRequest{Reason: reason})
		return err
	})
	return answer.GetIncarnation(), err
}

// Adopt takes a node of another network in.
func (c *Client) Adopt(ctx context.Context, request *clearwayv1.AdoptRequest) (answer *clearwayv1.AdoptResponse, err error) {
	err = c.do(ctx, func(conn *grpc.ClientConn) error {
		answer, err = clearwayv1.NewIPAMServiceClient(conn).Adopt(ctx, request)
		return err
	})
	return answer, err
}

// CheckBooks compares the books of ipamd and the nodes.
func (c *Client) CheckBooks(ctx context.Context, request *clearwayv1.CheckBooksRequest) (*clearwayv1.CheckBooksResponse, error) {
	return gather(ctx, c, func(conn *grpc.ClientConn) (grpc.ServerStreamingClient[clearwayv1.CheckBooksResponse], error) {
		return clearwayv1.NewIPAMServiceClient(conn).CheckBooks(ctx, request)
	})
}

// VerifyRoutes has the nodes compare their routes.
func (c *Client) VerifyRoutes(ctx context.Context, request *clearwayv1.VerifyRoutesRequest) (*clearwayv1.VerifyRoutesResponse, error) {
	return gather(ctx, c, func(conn *grpc.ClientConn) (grpc.ServerStreamingClient[clearwayv1.VerifyRoutesResponse], error) {
		return clearwayv1.NewIPAMServiceClient(conn).VerifyRoutes(ctx, request)
	})
}

// gather makes one answer of the parts of a stream.
func gather[T any, M interface {
	*T
	proto.Message
}](ctx context.Context, c *Client, open func(*grpc.ClientConn) (grpc.ServerStreamingClient[T], error)) (M, error) {
	var all M
	err := c.do(ctx, func(conn *grpc.ClientConn) error {
		all = new(T)
		stream, err := open(conn)
		for err == nil {
			var part *T
			if part, err = stream.Recv(); err == nil {
				proto.Merge(all, M(part))
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	})
	return all, err
}

// Export hands over all that lasts: the header first, with no resources.
func (c *Client) Export(ctx context.Context, each func(*clearwayv1.ExportHeader, []*clearwayv1.Resource) error) error {
	return c.do(ctx, func(conn *grpc.ClientConn) error {
		stream, err := clearwayv1.NewIPAMServiceClient(conn).Export(ctx, &clearwayv1.ExportRequest{})
		for err == nil {
			var part *clearwayv1.ExportResponse
			if part, err = stream.Recv(); err == nil {
				err = each(part.GetHeader(), part.GetResources())
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	})
}

// Import brings an export into a store.
func (c *Client) Import(
	ctx context.Context, header *clearwayv1.ExportHeader, all []*clearwayv1.Resource, dryRun bool,
) (*clearwayv1.ImportResponse, error) {
	var answer *clearwayv1.ImportResponse
	err := c.do(ctx, func(conn *grpc.ClientConn) error {
		stream, err := clearwayv1.NewIPAMServiceClient(conn).Import(ctx)
		if err != nil {
			return err
		}
		err = stream.Send(&clearwayv1.ImportRequest{Header: header, DryRun: dryRun})
		for part := range slices.Chunk(all, importPiece) {
			if err == nil {
				err = stream.Send(&clearwayv1.ImportRequest{Resources: part})
			}
		}
		if err != nil && !errors.Is(err, io.EOF) { // after EOF the answer tells why
			return err
		}
		answer, err = stream.CloseAndRecv()
		return err
	})
	return answer, err
}

// importPiece is how many resources one message of an import has.
const importPiece = 500

// do makes one call: on each server in order until one gives an answer, on the leader where one is named, and again
// after a pause while the servers say that there is none. Calls are idempotent: mutations carry a request key.
func (c *Client) do(ctx context.Context, call func(*grpc.ClientConn) error) error {
	queue, tried := c.targets, map[string]bool{}
	var failures []error
	leaderless := false
	for range maxAttempts {
		if len(queue) == 0 {
			if !leaderless || !pause(ctx, electionPause) {
				break
			}
			queue, tried, failures, leaderless = c.targets, map[string]bool{}, nil, false
		}
		target := queue[0]
		queue = queue[1:]
		if tried[target] {
			continue
		}
		tried[target] = true
		err := c.ask(ctx, target, call)
		if status.Code(err) != codes.Unavailable {
			return describe(ctx, err)
		}
		leader, follower := leaderOf(err)
		if follower && leader != "" && !tried[leader] {
			queue = append([]string{leader}, queue...)
		}
		leaderless = leaderless || follower
		failures = append(failures, fmt.Errorf("%s: %w", target, describe(ctx, err)))
	}
	return noServer(failures)
}

// ask connects to one server and calls it.
func (c *Client) ask(ctx context.Context, target string, call func(*grpc.ClientConn) error) error {
	conn := c.conns[target]
	if conn == nil {
		made, err := daemon.Dial(target, c.creds)
		if err != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
		conn, c.conns[target] = made, made
	}
	if err := connected(ctx, conn); err != nil {
		return err
	}
	for {
		err := call(conn)
		if wait, asked := retryAfter(err); !asked || !pause(ctx, wait) {
			return err
		}
	}
}

// retryAfter reads how long a server that has too many calls wants to be left alone. It has not looked at this one.
func retryAfter(err error) (wait time.Duration, asked bool) {
	if status.Code(err) != codes.ResourceExhausted {
		return 0, false
	}
	for _, detail := range status.Convert(err).Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return max(retry.GetRetryDelay().AsDuration(), time.Millisecond), true
		}
	}
	return 0, false
}

// connected waits until the server has answered, or has refused: the call itself then tells why.
func connected(ctx context.Context, conn *grpc.ClientConn) error {
	limited, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	conn.Connect()
	for {
		state := conn.GetState()
		if state == connectivity.Ready || state == connectivity.TransientFailure {
			return nil
		}
		if !conn.WaitForStateChange(limited, state) {
			if ctx.Err() != nil {
				return status.FromContextError(ctx.Err()).Err()
			}
			return status.Errorf(codes.Unavailable, "no connection within %s", connectTime)
		}
	}
}

// pause waits; false when there is not so much time left.
func pause(ctx context.Context, wait time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// leaderOf reads a follower's answer: it is one, and where its leader is, if it knows.
func leaderOf(err error) (leader string, follower bool) {
	for _, detail := range status.Convert(err).Details() {
		if answer, ok := detail.(*clearwayv1.NotLeader); ok {
			return answer.GetLeader(), true
		}
	}
	return "", false
}
