package node

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// A pool without a block is a refusal; to be told to call less often is none, whatever the code is.
func TestRefusals(t *testing.T) {
	full := status.New(codes.ResourceExhausted, "the pool has none")
	tooMany, err := status.New(codes.ResourceExhausted, "more than 100 calls a second").
		WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{full.Err(), true}, {tooMany.Err(), false},
		{status.Error(codes.PermissionDenied, "not this node's"), true}, {status.Error(codes.Unavailable, "away"), false},
		{errors.New("broken"), false},
	} {
		if got := isRefusal(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}
