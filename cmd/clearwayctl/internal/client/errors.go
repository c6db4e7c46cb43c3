package client

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
)

// Error is a server's refusal or a failed call, said for a person.
type Error struct {
	Code       codes.Code
	Message    string
	Violations []*clearwayv1.FieldViolation // of an InvalidArgument: each fault of the input
}

// Error writes the message, or the violations, one a line.
func (e *Error) Error() string {
	if len(e.Violations) == 0 {
		return e.Message
	}
	var lines []string
	for _, violation := range e.Violations {
		lines = append(lines, violationText(violation))
	}
	return strings.Join(lines, "\n")
}

// violationText is "IPPool/pods: spec.cidr: "value": message"; parts that are not given are left out.
func violationText(violation *clearwayv1.FieldViolation) string {
	var parts []string
	for _, part := range []string{violation.GetResource(), violation.GetField(), violation.Sentence()} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ": ")
}

// IsCode tells whether an error of this package has a code.
func IsCode(err error, code codes.Code) bool {
	var known *Error
	return errors.As(err, &known) && known.Code == code
}

// describe turns a gRPC error into an Error; one of NotFound ends the program with its own exit code.
func describe(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	answer := status.Convert(err)
	known := &Error{Code: answer.Code(), Message: sentence(ctx, answer)}
	for _, detail := range answer.Details() {
		if violation, ok := detail.(*clearwayv1.FieldViolation); ok {
			known.Violations = append(known.Violations, violation)
		}
	}
	if known.Code == codes.NotFound {
		return daemon.Exit(daemon.ExitNotFound, known)
	}
	return known
}

func sentence(ctx context.Context, answer *status.Status) string {
	message := answer.Message()
	if inner, is := strings.CutPrefix(message, "connection error: desc = "); is {
		message = strings.Trim(inner, `"`)
	}
	switch answer.Code() {
	case codes.DeadlineExceeded:
		return "no answer in time (--timeout)"
	case codes.Canceled:
		if ctx.Err() != nil {
			return "interrupted"
		}
	case codes.Unimplemented:
		return "the server cannot do this: " + message
	case codes.PermissionDenied, codes.Unauthenticated:
		return "the server does not allow this: " + message
	case codes.ResourceExhausted, codes.Internal, codes.Unknown, codes.DataLoss:
		return fmt.Sprintf("%s (%s)", message, answer.Code())
	}
	return message
}

// noServer says that no server gave an answer, and each one's reason.
func noServer(failures []error) error {
	if len(failures) == 1 {
		return failures[0]
	}
	lines := []string{"no server answers:"}
	for _, failure := range failures {
		lines = append(lines, "  "+failure.Error())
	}
	return errors.New(strings.Join(lines, "\n"))
}
