package node

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/ipamtest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// FuzzRPC calls each method of the agent's socket with anything: there is an answer, or a status that says what was
// wrong, never a panic; and a Pod that has an address keeps it, but for a DEL or GC that says otherwise.
func FuzzRPC(f *testing.F) {
	methods := ipamtest.Methods(clearwayv1.File_clearway_v1_address_service_proto)
	texts, numbers := ipamtest.Seeds()
	for i, method := range methods {
		for j, text := range texts {
			input := method.Input.New()
			ipamtest.Fill(input, text, numbers[j%len(numbers)], 4)
			if raw, err := proto.Marshal(input.Interface()); err == nil { // else no client can send it
				f.Add(uint8(i), raw)
			}
		}
	}
	a := run(f, dualStack(f), f.TempDir())
	conn := serveAddresses(f, a)
	f.Fuzz(func(t *testing.T, which uint8, raw []byte) {
		method := methods[int(which)%len(methods)]
		input := method.Input.New().Interface()
		if proto.Unmarshal(raw, input) != nil {
			return
		}
		held, err := a.add("kept")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if code := status.Code(method.Call(ctx, conn, input)); code == codes.Unknown || code == codes.Internal {
			t.Fatalf("%s answers %s", method.Name, code)
		}
		switch input.(type) {
		case *clearwayv1.DelRequest, *clearwayv1.GCRequest:
		default:
			if err := a.checkHolds("kept", held...); err != nil {
				t.Fatalf("%s: %v", method.Name, err)
			}
		}
	})
}

// serveAddresses serves the agent's socket in memory.
func serveAddresses(t testing.TB, a *agent) *grpc.ClientConn {
	t.Helper()
	listener, server := bufconn.Listen(1<<18), grpc.NewServer()
	clearwayv1.RegisterAddressServiceServer(server, a.api)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		<-ended
	})
	return conn
}
