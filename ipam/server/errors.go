package server

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// maxViolations bounds the details of one refusal: they travel in a trailer.
const maxViolations = 50

// refuse makes an INVALID_ARGUMENT status that carries each violation.
func refuse(violations []*clearwayv1.FieldViolation) error {
	first := violations[0]
	text := fmt.Sprintf("%s: %s", first.GetField(), first.Sentence())
	if first.GetResource() != "" {
		text = first.GetResource() + ": " + text
	}
	if n := len(violations); n > 1 {
		text = fmt.Sprintf("%s (and %d more)", text, n-1)
	}
	answer := status.New(codes.InvalidArgument, text)
	var details []protoadapt.MessageV1
	for _, violation := range violations[:min(len(violations), maxViolations)] {
		details = append(details, protoadapt.MessageV1Of(violation))
	}
	return withDetails(answer, details...)
}

// invalid makes an INVALID_ARGUMENT status for one field of a request that is no resource.
func invalid(field, value, message string) error {
	return refuse([]*clearwayv1.FieldViolation{{Field: field, Value: value, Message: message}})
}

// notLeader makes an UNAVAILABLE status that names the leader, if it is known.
func notLeader(leader string) error {
	text := "this ipamd is not the leader"
	if leader == "" {
		text += "; there is none at present"
	} else {
		text += "; it is at " + leader
	}
	return withDetails(status.New(codes.Unavailable, text),
		protoadapt.MessageV1Of(&clearwayv1.NotLeader{Leader: leader}))
}

func withDetails(answer *status.Status, details ...protoadapt.MessageV1) error {
	detailed, err := answer.WithDetails(details...)
	if err != nil {
		return answer.Err() // only when a detail cannot be marshalled: then without it
	}
	return detailed.Err()
}
