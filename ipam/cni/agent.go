package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// patience is how long a verb waits.
type patience struct {
	// connect is for an agent that is not there: a restart takes about a second.
	connect time.Duration
	// whole is for the verb in all.
	whole time.Duration
}

var (
	// An ADD may wait for a block, and the block for a new leader. The kubelet gives a sandbox up after minutes, and
	// tries anew: half a minute leaves it several tries.
	addPatience = patience{3 * time.Second, 30 * time.Second}
	// A DEL that the agent does not take goes to the spool, so there is little to wait for.
	delPatience = patience{300 * time.Millisecond, 10 * time.Second}
	// A CHECK is answered from memory.
	checkPatience = patience{3 * time.Second, 10 * time.Second}
	// A STATUS that fails makes the node NotReady: an agent that restarts must not. Runtimes ask every few seconds.
	statusPatience = patience{3 * time.Second, 8 * time.Second}
	// A GC may release hundreds.
	gcPatience = patience{3 * time.Second, 30 * time.Second}
)

// call connects to the agent and does one call. The agent answers the same attachment the same, so a call whose
// connection broke is made again, as long as patience.connect lasts.
func call(socket string, wait patience, do func(context.Context, clearwayv1.AddressServiceClient) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), wait.whole)
	defer cancel()
	until := time.Now().Add(wait.connect)
	for {
		raw, err := dial(ctx, socket, until)
		if err != nil {
			return err
		}
		err = callOn(ctx, raw, do)
		if !unreachable(err) || ctx.Err() != nil || time.Now().After(until) {
			return err
		}
		time.Sleep(minPause)
	}
}

func callOn(ctx context.Context, raw net.Conn, do func(context.Context, clearwayv1.AddressServiceClient) error) error {
	conn, err := newClient(raw)
	if err != nil {
		_ = raw.Close()
		return err
	}
	defer func() { _ = conn.Close() }()
	return do(ctx, clearwayv1.NewAddressServiceClient(conn))
}

// newClient makes a client of one connection, which it never makes anew: when it breaks the call fails at once. What
// costs time or round trips and is of no use here is off.
func newClient(raw net.Conn) (*grpc.ClientConn, error) {
	first := make(chan net.Conn, 1)
	first <- raw
	return grpc.NewClient("passthrough:///agent",
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case conn := <-first:
				return conn, nil
			default:
				return nil, errors.New("the connection to the agent broke")
			}
		}),
		// The socket is the node's own and closed to all but root; its peer is known by its credentials.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithDisableHealthCheck(), grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0),
	)
}

const (
	minPause = 10 * time.Millisecond
	maxPause = 200 * time.Millisecond
)

// dial connects to the agent's socket. While nobody listens there, it tries until the given time.
func dial(ctx context.Context, socket string, until time.Time) (net.Conn, error) {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			return conn, nil
		}
		if !comesUp(err) {
			return nil, types.NewError(types.ErrIOFailure, "agent's socket "+socket+" cannot be used", err.Error())
		}
		if time.Now().Add(pause).After(until) || ctx.Err() != nil {
			return nil, status.Errorf(codes.Unavailable, "nobody listens on %s: %v; is clearway-agent running?", socket, err)
		}
		time.Sleep(pause)
	}
}

// comesUp tells whether an agent that starts, or that has a full backlog (EAGAIN), ends this error.
func comesUp(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN) ||
		errors.Is(err, context.DeadlineExceeded)
}

// unreachable tells whether an error means that the agent gave no answer, as against a refusal.
func unreachable(err error) bool {
	state, ok := status.FromError(err)
	if !ok || err == nil || detail(state) != nil {
		return false
	}
	return state.Code() == codes.Unavailable || state.Code() == codes.DeadlineExceeded
}

func detail(state *status.Status) *clearwayv1.CNIError {
	for _, one := range state.Details() {
		if fault, ok := one.(*clearwayv1.CNIError); ok {
			return fault
		}
	}
	return nil
}

// failure makes a call's error one of CNI's. When the agent gave no answer it has the given code.
func failure(err error, whenUnreachable uint) error {
	var ready *types.Error
	if err == nil || errors.As(err, &ready) {
		return err
	}
	state := status.Convert(err)
	if fault := detail(state); fault != nil {
		return types.NewError(codeOf(fault), fault.GetMsg(), fault.GetDetails())
	}
	switch {
	case unreachable(err):
		return types.NewError(whenUnreachable, "agent gives no answer", state.Message())
	case state.Code() == codes.ResourceExhausted:
		return types.NewError(types.ErrTryAgainLater, state.Message(), "")
	case state.Code() == codes.InvalidArgument:
		return types.NewError(types.ErrInvalidNetworkConfig, state.Message(), "")
	}
	return types.NewError(types.ErrInternal, fmt.Sprintf("agent: %s: %s", state.Code(), state.Message()), "")
}

// codeOf is never 0, which CNI does not have.
func codeOf(fault *clearwayv1.CNIError) uint {
	if fault.GetCode() == 0 {
		return types.ErrInternal
	}
	return uint(fault.GetCode())
}
