package server

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that ours leans on
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// Limits of the gRPC server.
const (
	// maxRequest is a mirror's largest piece, or an Apply, with room.
	maxRequest = 4 << 20
	// maxStreams is a connection's: an agent has two streams, a few calls and up to 64 answers, clearwayctl one.
	maxStreams = 256
	// longestCall bounds a unary call of a client that named no deadline.
	longestCall = 30 * time.Second
)

// ServerOptions are what the gRPC server must be made with, beside its credentials.
func (s *Server) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2("proto")}),
		grpc.StatsHandler(connections{}),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(10 * time.Second),
		// A machine that lost power is found within 15 s; agents may ask every 5 s.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 4 * time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(s.metrics.unary, s.recoverUnary, s.admitUnary, boundUnary),
		grpc.ChainStreamInterceptor(s.metrics.stream, s.recoverStream, s.admitStream),
	}
}

// codec sends messages that are encoded already as they are, so that one encoding serves thousands of streams.
type codec struct{ encoding.CodecV2 }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(message any) (mem.BufferSlice, error) {
	if raw, ok := message.(encoded); ok {
		return mem.BufferSlice{mem.SliceBuffer(raw)}, nil
	}
	return c.CodecV2.Marshal(message)
}

func boundUnary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, longestCall)
	defer cancel()
	return handle(ctx, request)
}

func (s *Server) recoverUnary(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
) (answer any, err error) {
	defer s.recovered(info.FullMethod, &err)
	return handle(ctx, request)
}

func (s *Server) recoverStream(
	service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler,
) (err error) {
	defer s.recovered(info.FullMethod, &err)
	return handle(service, stream)
}

// recovered turns a panic into INTERNAL: one bad request must not stop the claims of all.
func (s *Server) recovered(method string, err *error) {
	if cause := recover(); cause != nil {
		s.metrics.panics.Inc()
		s.log.Error("a call panicked", "method", method, "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "this call met a fault in ipamd, which is in its log")
	}
}
