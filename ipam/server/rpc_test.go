package server_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/clearway/clearway/ipam/ipamtest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// everyMethod is each RPC that ipamd serves.
func everyMethod() []ipamtest.Method {
	return slices.Concat(ipamtest.Methods(clearwayv1.File_clearway_v1_resource_service_proto), ipamtest.Methods(clearwayv1.File_clearway_v1_node_service_proto))
}

// FuzzRPC calls each method of ipamd with anything, from a registered node where that is wanted: there is an answer or a
// status that says what was wrong, never a panic, and ipamd goes on.
func FuzzRPC(f *testing.F) {
	methods := everyMethod()
	texts, numbers := ipamtest.Seeds()
	for i, method := range methods {
		for j, text := range texts {
			input := method.Input.New()
			ipamtest.Fill(input, text, numbers[j%len(numbers)], 4)
			if raw, err := proto.Marshal(input.Interface()); err == nil { // else no client can send it
				f.Add(uint8(i), raw, j%2 == 0)
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, raw []byte, own bool) {
		method := methods[int(which)%len(methods)]
		input := method.Input.New()
		if proto.Unmarshal(raw, input.Interface()) != nil {
			return
		}
		d := start(t, newFake())
		defer d.stop()
		d.apply(ipPool("pods", "10.244.0.0/24"))
		a := d.agent("n1")
		a.mustClaim("pods", "k")
		if own {
			speakAs(input, "n1", a.registered.GetSessionId())
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // some streams tell nothing at first
		err := method.Call(ctx, a.conn, input.Interface())
		cancel()
		if code := status.Code(err); !errors.Is(err, io.EOF) && (code == codes.Unknown || code == codes.Internal) {
			t.Fatalf("%s: %v", method.Name, err)
		}
		if len(d.blocks()) == 0 {
			t.Fatalf("%s took the node's block away", method.Name)
		}
	})
}

// speakAs makes a message come from a node in its session.
func speakAs(input protoreflect.Message, node, session string) {
	for name, text := range map[protoreflect.Name]string{"node": node, "session_id": session} {
		if field := input.Descriptor().Fields().ByName(name); field != nil && field.Kind() == protoreflect.StringKind {
			input.Set(field, protoreflect.ValueOfString(text))
		}
	}
}
