package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/clearway/clearway/proto/plain"
	"github.com/clearway/clearway/proto/unary"
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
func call(socket string, wait patience, do func(agent *plain.Client, deadline time.Time) error) error {
	began := time.Now()
	until, deadline := began.Add(wait.connect), began.Add(wait.whole)
	for {
		conn, err := dial(socket, until)
		if err != nil {
			return err
		}
		err = do(plain.NewClient(conn), deadline)
		conn.close()
		if now := time.Now(); !unreachable(err) || now.After(deadline) || now.After(until) {
			return err
		}
		time.Sleep(minPause)
	}
}

const (
	minPause = 10 * time.Millisecond
	maxPause = 200 * time.Millisecond
)

// dial connects to the agent's socket. While nobody listens there, it tries until the given time.
func dial(path string, until time.Time) (*socket, error) {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		conn, err := connect(path, until)
		if err == nil {
			return conn, nil
		}
		if !comesUp(err) {
			return nil, types.NewError(types.ErrIOFailure, "agent's socket "+path+" cannot be used", err.Error())
		}
		if time.Now().Add(pause).After(until) {
			return nil, &plain.Status{Code: unary.Unavailable, Message: fmt.Sprintf("nobody listens on %s: %v; is clearway-agent running?", path, err)}
		}
		time.Sleep(pause)
	}
}

// comesUp tells whether an agent that starts, or that has a full backlog (EAGAIN), ends this error.
func comesUp(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN)
}

// unreachable tells whether an error means that the agent gave no answer, as against a refusal.
func unreachable(err error) bool {
	var status *plain.Status
	if !errors.As(err, &status) || status.CNIError != nil {
		return false
	}
	return status.Code == unary.Unavailable || status.Code == unary.DeadlineExceeded
}

// failure makes a call's error one of CNI's. When the agent gave no answer it has the given code.
func failure(err error, whenUnreachable uint) error {
	var status *plain.Status
	if !errors.As(err, &status) {
		return err // none, or CNI's already
	}
	if fault := status.CNIError; fault != nil {
		return types.NewError(codeOf(fault), fault.Msg, fault.Details)
	}
	switch {
	case unreachable(err):
		return types.NewError(whenUnreachable, "agent gives no answer", status.Message)
	case status.Code == unary.ResourceExhausted:
		return types.NewError(types.ErrTryAgainLater, status.Message, "")
	case status.Code == unary.InvalidArgument:
		return types.NewError(types.ErrInvalidNetworkConfig, status.Message, "")
	}
	return types.NewError(types.ErrInternal, fmt.Sprintf("agent: %s: %s", status.Code, status.Message), "")
}

// codeOf is never 0, which CNI does not have.
func codeOf(fault *plain.CNIError) uint {
	if fault.Code == 0 {
		return types.ErrInternal
	}
	return uint(fault.Code)
}
