package node

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// The codes of the CNI specification (section "Error") that are used here, and our own from 100 on.
const (
	cniBadEnvironment = 4
	cniIO             = 5
	cniBadConfig      = 7
	cniTryLater       = 11
	cniUnavailable    = 50
	// cniUnavailableLimited: besides, containers that run may have limited connectivity.
	cniUnavailableLimited = 51
	cniNotHeld            = 100
	cniPoolNotAllowed     = 101
)

// cniError is an error that the plugin gives to the runtime as it is.
type cniError struct {
	code uint32
	msg  string
	err  error // nil: msg says all
}

func (e *cniError) Error() string {
	if e.err == nil {
		return e.msg
	}
	return e.msg + ": " + e.err.Error()
}

func (e *cniError) Unwrap() error { return e.err }

// refuse makes a cniError.
func refuse(code uint32, format string, args ...any) *cniError {
	return &cniError{code: code, msg: fmt.Sprintf(format, args...)}
}

// errDeleted answers an ADD that a DEL of the same attachment overtook.
var errDeleted = &cniError{code: cniTryLater, msg: "the attachment was deleted while it was being added"}

// grpcCode is the status code that goes with a CNI code, for clients that look at no details.
func grpcCode(code uint32) codes.Code {
	switch code {
	case cniBadEnvironment, cniBadConfig:
		return codes.InvalidArgument
	case cniTryLater:
		return codes.ResourceExhausted
	case cniNotHeld:
		return codes.NotFound
	case cniPoolNotAllowed:
		return codes.PermissionDenied
	case cniIO:
		return codes.Internal
	}
	return codes.Unavailable
}

// statusOf makes the answer of a failed call. Any error that is no cniError is told as "try again later": retrying is
// what helps against it.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	var failed *cniError
	if !errors.As(err, &failed) {
		failed = &cniError{code: cniTryLater, msg: err.Error()}
	}
	detail := &clearwayv1.CNIError{Code: failed.code, Msg: failed.msg}
	if failed.err != nil {
		detail.Details = failed.err.Error()
	}
	answer := status.New(grpcCode(failed.code), failed.Error())
	if detailed, err := answer.WithDetails(detail); err == nil {
		answer = detailed
	}
	return answer.Err()
}
