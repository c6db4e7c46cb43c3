package client

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
)

// busy refuses calls for a time, and says when to come again.
type busy struct {
	clearwayv1.UnimplementedIPAMServiceServer
	refuse atomic.Int64
	again  time.Duration
}

func (b *busy) ShowStore(context.Context, *clearwayv1.ShowStoreRequest) (*clearwayv1.ShowStoreResponse, error) {
	if b.refuse.Add(-1) < 0 {
		return &clearwayv1.ShowStoreResponse{}, nil
	}
	answer, err := status.New(codes.ResourceExhausted, "too many calls").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(b.again)})
	if err != nil {
		return nil, err
	}
	return nil, answer.Err()
}

// TestRefusedForItsRate: a call that a server has no time for is made again when the server says, if there is time for it.
func TestRefusedForItsRate(t *testing.T) {
	for name, test := range map[string]struct {
		refuse int64
		again  time.Duration
		code   codes.Code
	}{
		"is made again":              {3, time.Millisecond, codes.OK},
		"not beyond the time it has": {1 << 40, time.Hour, codes.ResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server, service := grpc.NewServer(), &busy{again: test.again}
			service.refuse.Store(test.refuse)
			clearwayv1.RegisterIPAMServiceServer(server, service)
			go func() { _ = server.Serve(listener) }()
			defer server.Stop()
			client, err := Open(Options{Servers: []string{listener.Addr().String()}, TLS: daemon.TLS{Insecure: true}, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err = client.ShowStore(ctx)
			if test.code == codes.OK && err != nil || test.code != codes.OK && !IsCode(err, test.code) {
				t.Errorf("told %v, want %s", err, test.code)
			}
		})
	}
}
