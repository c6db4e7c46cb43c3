package unary

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/plain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	maxMessage = 1 << 20
	testLimit  = 20 * time.Second
)

// desk is an AddressService that does what a test wants.
type desk struct {
	clearwayv1.UnimplementedAddressServiceServer
	add func(context.Context, *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error)
}

func (d *desk) Add(ctx context.Context, in *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error) {
	return d.add(ctx, in)
}

// echo answers with what it was asked.
func echo(_ context.Context, in *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error) {
	answer := &clearwayv1.AddResponse{}
	for _, name := range in.GetPools() {
		answer.Addresses = append(answer.Addresses, &clearwayv1.AddressConfig{Address: name})
	}
	return answer, nil
}

// shelf is a ResourceService with one stream.
type shelf struct {
	clearwayv1.UnimplementedResourceServiceServer
}

func (shelf) List(in *clearwayv1.ListRequest, to clearwayv1.ResourceService_ListServer) error {
	for range 3 {
		if err := to.Send(&clearwayv1.ListResponse{Resources: make([]*clearwayv1.Resource, len(in.GetKind()))}); err != nil {
			return err
		}
	}
	return nil
}

// open serves, and tells the socket's path.
func open(t testing.TB, d *desk, change ...func(*Options)) (*Server, string) {
	t.Helper()
	options := Options{Credentials: insecure.NewCredentials(), MaxMessage: maxMessage, MaxIdle: time.Hour}
	for _, each := range change {
		each(&options)
	}
	rest := []grpc.ServerOption{grpc.MaxRecvMsgSize(maxMessage)}
	if options.Intercept != nil {
		rest = append(rest, grpc.UnaryInterceptor(options.Intercept))
	}
	server := New(options, rest...)
	clearwayv1.RegisterAddressServiceServer(server, d)
	clearwayv1.RegisterResourceServiceServer(server, shelf{})
	status := health.NewServer()
	status.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(server, status)
	reflection.Register(server)
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return server, path
}

func dial(t testing.TB, path string, more ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, append(more, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testLimit)
	t.Cleanup(cancel)
	return ctx
}

func named(names ...string) *clearwayv1.AddRequest { return &clearwayv1.AddRequest{Pools: names} }

func TestAnswersAsGRPCDoes(t *testing.T) {
	long := strings.Repeat("a long reason, ", 1000)
	detail := &clearwayv1.CNIError{Code: 11, Msg: "later", Details: "50% of größe\n"}
	detailed, err := status.New(codes.ResourceExhausted, "50% of größe\n").WithDetails(detail)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		answer *clearwayv1.AddResponse
		err    error
		want   *status.Status // nil: as err says
	}{
		"empty":        {answer: &clearwayv1.AddResponse{}},
		"message":      {answer: &clearwayv1.AddResponse{Addresses: []*clearwayv1.AddressConfig{{Address: "10.0.0.1/8"}}}},
		"status":       {err: status.Error(codes.NotFound, "not there")},
		"no message":   {err: status.Error(codes.Aborted, "")},
		"details":      {err: detailed.Err()},
		"plain error":  {err: errors.New("plain"), want: status.New(codes.Unknown, "plain")},
		"deadline":     {err: context.DeadlineExceeded, want: status.New(codes.DeadlineExceeded, "context deadline exceeded")},
		"long message": {err: status.Error(codes.Internal, long), want: status.New(codes.Internal, long[:maxStatusBytes])},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, path := open(t, &desk{add: func(context.Context, *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error) { return c.answer, c.err }})
			answer, err := clearwayv1.NewAddressServiceClient(dial(t, path)).Add(limited(t), named())
			want := c.want
			if want == nil {
				want = status.Convert(c.err)
			}
			if !proto.Equal(status.Convert(err).Proto(), want.Proto()) {
				t.Fatalf("%v, not %v", status.Convert(err).Proto(), want.Proto())
			}
			if err == nil && !proto.Equal(answer, c.answer) {
				t.Fatalf("%v, not %v", answer, c.answer)
			}
		})
	}
}

// TestSizes goes over every border of frames, windows and buffers.
func TestSizes(t *testing.T) {
	_, path := open(t, &desk{add: echo})
	client := clearwayv1.NewAddressServiceClient(dial(t, path))
	for _, size := range []int{0, 1, 100, 4 << 10, 16<<10 - 20, 16 << 10, 16<<10 + 1, 32 << 10, 64<<10 - 1, 64 << 10, 200_000, 1_000_000} {
		name := strings.Repeat("x", size)
		answer, err := client.Add(limited(t), named(name))
		if err != nil || answer.GetAddresses()[0].GetAddress() != name {
			t.Fatalf("%d bytes: %v", size, err)
		}
	}
	for range 3 { // the connection is as good as before
		if _, err := client.Add(limited(t), named(strings.Repeat("x", maxMessage))); status.Code(err) != codes.ResourceExhausted {
			t.Fatal(err)
		}
	}
	if _, err := client.Add(limited(t), named("x")); err != nil {
		t.Fatal(err)
	}
}

func TestTooLongAnswerIsRefused(t *testing.T) {
	_, path := open(t, &desk{add: func(ctx context.Context, _ *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error) {
		return echo(ctx, named(strings.Repeat("x", maxMessage)))
	}})
	if _, err := clearwayv1.NewAddressServiceClient(dial(t, path)).Add(limited(t), named()); status.Code(err) != codes.ResourceExhausted {
		t.Fatal(err)
	}
}

// TestManyCallsOnOneConnection: more than streams are allowed, of all sizes, at once.
func TestManyCallsOnOneConnection(t *testing.T) {
	_, path := open(t, &desk{add: echo})
	client := clearwayv1.NewAddressServiceClient(dial(t, path))
	ctx := limited(t)
	var all sync.WaitGroup
	for i := range 2 * maxStreams {
		all.Go(func() {
			for round := range 5 {
				name := fmt.Sprintf("%d-%d-%s", i, round, strings.Repeat("y", i*i%20_000))
				answer, err := client.Add(ctx, named(name))
				if err != nil || answer.GetAddresses()[0].GetAddress() != name {
					t.Errorf("%d: %v", i, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// TestOneSlowCallDoesNotHoldUpOthers on its connection.
func TestOneSlowCallDoesNotHoldUpOthers(t *testing.T) {
	free := make(chan struct{})
	_, path := open(t, &desk{add: func(ctx context.Context, in *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error) {
		if len(in.GetPools()) == 0 {
			<-free
		}
		return echo(ctx, in)
	}})
	client := clearwayv1.NewAddressServiceClient(dial(t, path))
	slow := make(chan error, 1)
	ctx := limited(t)
	go func() {
		_, err := client.Add(ctx, named())
		slow <- err
	}()
	for range 10 {
		if _, err := client.Add(ctx, named("x")); err != nil {
			t.Fatal(err)
		}
	}
	close(free)
	if err := <-slow; err != nil {
		t.Fatal(err)
	}
}

func TestContextsEnd(t *testing.T) {
	cases := map[string]struct {
		ctx  func(context.Context) (context.Context, context.CancelFunc)
		end  func(cancel context.CancelFunc, conn *grpc.ClientConn, server *Server)
		want []error
	}{
		"deadline": {
			ctx: func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, 50*time.Millisecond)
			},
			want: []error{context.DeadlineExceeded, context.Canceled}, // the client gives up then as well
		},
		"cancel":  {end: func(cancel context.CancelFunc, _ *grpc.ClientConn, _ *Server) { cancel() }},
		"hang up": {end: func(_ context.CancelFunc, conn *grpc.ClientConn, _ *Server) { conn.Close() }},
		"stop":    {end: func(_ context.CancelFunc, _ *grpc.ClientConn, server *Server) { server.Stop() }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			entered, ended := make(chan struct{}), make(chan error, 1)
			server, path := open(t, &desk{add: func(ctx context.Context, _ *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error) {
				close(entered)
				<-ctx.Done()
				ended <- context.Cause(ctx)
				return nil, ctx.Err()
			}})
			if c.ctx == nil {
				c.ctx, c.want = context.WithCancel, []error{context.Canceled}
			}
			ctx, cancel := c.ctx(limited(t))
			defer cancel()
			conn := dial(t, path)
			called := make(chan error, 1)
			go func() {
				_, err := clearwayv1.NewAddressServiceClient(conn).Add(ctx, named())
				called <- err
			}()
			<-entered
			if c.end != nil {
				c.end(cancel, conn, server)
			}
			if err := <-ended; !slices.Contains(c.want, err) {
				t.Errorf("the handler's context ended by %v, not %v", err, c.want)
			}
			if err := <-called; err == nil {
				t.Error("the call succeeded")
			}
		})
	}
}

// TestRestServesWhatIsNotUnary, each on a connection of its own.
func TestRestServesWhatIsNotUnary(t *testing.T) {
	_, path := open(t, &desk{add: echo})
	for name, ask := range foreign() {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, path)
			for range 2 {
				if err := ask(limited(t), conn); err != nil {
					t.Fatal(err)
				}
			}
			// And unary calls beside it, on the connection that is the rest's now.
			if _, err := clearwayv1.NewAddressServiceClient(conn).Add(limited(t), named("x")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestConnectionIsChangedForWhatIsNotUnary: a client that began with unary calls takes another one, and notices nothing.
func TestConnectionIsChangedForWhatIsNotUnary(t *testing.T) {
	_, path := open(t, &desk{add: echo})
	for name, ask := range foreign() {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, path)
			for i := range 10 {
				if _, err := clearwayv1.NewAddressServiceClient(conn).Add(limited(t), named("x")); err != nil {
					t.Fatal(i, err)
				}
			}
			if err := ask(limited(t), conn); err != nil {
				t.Fatal(err)
			}
			if _, err := clearwayv1.NewAddressServiceClient(conn).Add(limited(t), named("x")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// foreign are calls that the rest serves.
func foreign() map[string]func(context.Context, *grpc.ClientConn) error {
	return map[string]func(context.Context, *grpc.ClientConn) error{
		"stream": func(ctx context.Context, conn *grpc.ClientConn) error {
			list, err := clearwayv1.NewResourceServiceClient(conn).List(ctx, &clearwayv1.ListRequest{Kind: "Pool"})
			if err != nil {
				return err
			}
			for pieces := 0; ; pieces++ {
				switch _, err := list.Recv(); {
				case errors.Is(err, io.EOF) && pieces == 3:
					return nil
				case err != nil:
					return fmt.Errorf("after %d pieces: %w", pieces, err)
				}
			}
		},
		"reflection": func(ctx context.Context, conn *grpc.ClientConn) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
			if err != nil {
				return err
			}
			if err := stream.Send(&reflectionv1.ServerReflectionRequest{
				MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
			}); err != nil {
				return err
			}
			answer, err := stream.Recv()
			if err == nil && len(answer.GetListServicesResponse().GetService()) < 3 {
				err = fmt.Errorf("services are missing: %v", answer)
			}
			return err
		},
		"health watch": func(ctx context.Context, conn *grpc.ClientConn) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			watch, err := healthv1.NewHealthClient(conn).Watch(ctx, &healthv1.HealthCheckRequest{})
			if err != nil {
				return err
			}
			_, err = watch.Recv()
			return err
		},
		"compression": func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := clearwayv1.NewAddressServiceClient(conn).Add(ctx, named("x"), grpc.UseCompressor(gzip.Name))
			return err
		},
		"unknown method": func(ctx context.Context, conn *grpc.ClientConn) error {
			err := conn.Invoke(ctx, "/clearway.v1.AddressService/Nothing", named(), &clearwayv1.AddResponse{})
			if status.Code(err) != codes.Unimplemented {
				return fmt.Errorf("not Unimplemented: %w", err)
			}
			return nil
		},
		"content subtype": func(ctx context.Context, conn *grpc.ClientConn) error {
			err := conn.Invoke(ctx, "/clearway.v1.AddressService/Add", named(), &clearwayv1.AddResponse{}, grpc.ForceCodec(odd{}))
			if status.Code(err) != codes.Unimplemented && err != nil { // the rest falls back to its default
				return err
			}
			return nil
		},
	}
}

// odd is protobuf by another name.
type odd struct{}

func (odd) Marshal(v any) ([]byte, error)         { return proto.Marshal(v.(proto.Message)) }
func (odd) Unmarshal(data []byte, into any) error { return proto.Unmarshal(data, into.(proto.Message)) }
func (odd) Name() string                          { return "odd" }

// TestPluginsClient is the other small end: proto/unary.
func TestPluginsClient(t *testing.T) {
	refused := status.Error(codes.NotFound, "not held: größe")
	_, path := open(t, &desk{add: func(ctx context.Context, in *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error) {
		if len(in.GetPools()) == 0 {
			return nil, refused
		}
		return echo(ctx, in)
	}})
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := plain.NewClient(conn)
	for _, size := range []int{1, 1000, 100_000} {
		name := strings.Repeat("x", size)
		for range 20 {
			answer, err := client.Add(&plain.AddRequest{Pools: []string{name}}, time.Now().Add(testLimit))
			if err != nil || answer.Addresses[0].Address != name {
				t.Fatal(err)
			}
		}
		failed := &plain.Status{}
		_, err := client.Add(&plain.AddRequest{}, time.Now().Add(testLimit))
		if !errors.As(err, &failed) || failed.Message != "not held: größe" || uint32(failed.Code) != uint32(codes.NotFound) {
			t.Fatal(err)
		}
	}
}

func TestUnaryHealthAndMetadata(t *testing.T) {
	_, path := open(t, &desk{add: echo})
	conn := dial(t, path)
	ctx := metadata.AppendToOutgoingContext(limited(t), "some", "thing", "blob-bin", "\x00\xff")
	for range 100 { // its headers come from the client's table after the first
		if _, err := clearwayv1.NewAddressServiceClient(conn).Add(ctx, named("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "much", strings.Repeat("z", 20_000)) // CONTINUATION
	if _, err := clearwayv1.NewAddressServiceClient(conn).Add(ctx, named("x")); err != nil {
		t.Fatal(err)
	}
}

func TestStopIsForGood(t *testing.T) {
	server, path := open(t, &desk{add: echo})
	conn := dial(t, path)
	if _, err := clearwayv1.NewAddressServiceClient(conn).Add(limited(t), named()); err != nil {
		t.Fatal(err)
	}
	server.Stop()
	server.Stop()
	if _, err := clearwayv1.NewAddressServiceClient(conn).Add(limited(t), named()); status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "again"))
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(listener); !errors.Is(err, grpc.ErrServerStopped) {
		t.Fatal(err)
	}
}

// TestStopWaitsForHandlers: what they use may be closed after it.
func TestStopWaitsForHandlers(t *testing.T) {
	var done atomic.Bool
	entered := make(chan struct{})
	server, path := open(t, &desk{add: func(ctx context.Context, in *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error) {
		close(entered)
		<-ctx.Done()
		done.Store(true)
		return nil, ctx.Err()
	}})
	client := clearwayv1.NewAddressServiceClient(dial(t, path))
	ctx := limited(t)
	go func() { _, _ = client.Add(ctx, named()) }()
	<-entered
	server.Stop()
	if !done.Load() {
		t.Fatal("a handler was still at work")
	}
}

// knowing are credentials that know who the client is.
type knowing struct {
	credentials.TransportCredentials
}

type identity struct{ credentials.CommonAuthInfo }

func (identity) AuthType() string { return "test" }

func (knowing) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if _, ok := c.(*net.UnixConn); !ok {
		return nil, nil, errors.New("it is not the connection that was accepted")
	}
	return c, identity{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
}

// TestGuards: whoever serves a call, its context has the client's identity, and the interceptor is asked.
func TestGuards(t *testing.T) {
	refused := status.Error(codes.PermissionDenied, "not you")
	_, path := open(t, &desk{add: echo}, func(o *Options) {
		o.Credentials = knowing{o.Credentials}
		o.Intercept = func(ctx context.Context, in any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			from, _ := peer.FromContext(ctx)
			if _, ok := from.AuthInfo.(identity); !ok || info.FullMethod != clearwayv1.AddressService_Add_FullMethodName {
				return nil, fmt.Errorf("%v calls %s", from, info.FullMethod)
			}
			if len(in.(*clearwayv1.AddRequest).GetPools()) == 0 {
				return nil, refused
			}
			return handle(ctx, in)
		}
	})
	for name, more := range map[string][]grpc.CallOption{"here": nil, "the rest": {grpc.UseCompressor(gzip.Name)}} {
		client := clearwayv1.NewAddressServiceClient(dial(t, path))
		if _, err := client.Add(limited(t), named("x"), more...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := client.Add(limited(t), named(), more...); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestIdleConnectionsEnd, and those with a call under way do not.
func TestIdleConnectionsEnd(t *testing.T) {
	free := make(chan struct{})
	_, path := open(t, &desk{add: func(ctx context.Context, in *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error) {
		<-free
		return echo(ctx, in)
	}}, func(o *Options) { o.MaxIdle = time.Millisecond })
	w := connectWire(t, path)
	w.bytes(whole(t))
	idle := connectWire(t, path)
	idle.bytes([]byte(http2.ClientPreface))
	if got := idle.ended(); got != http2.ErrCodeNo {
		t.Error(got)
	}
	close(free)
	if _, status := w.answered(1); status != "0" {
		t.Fatal(status)
	}
	w.ended()
}
