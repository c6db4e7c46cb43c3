package plain_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/plain"
	"github.com/clearway/clearway/proto/unary"
)

// agent is a server made of generated code. It keeps what it is asked, and answers as it is told.
type agent struct {
	clearwayv1.UnimplementedAddressServiceServer
	asked  proto.Message
	answer *clearwayv1.AddResponse
	fail   error
}

func (a *agent) Add(_ context.Context, in *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error) {
	a.asked = in
	return a.answer, a.fail
}

func (a *agent) Del(_ context.Context, in *clearwayv1.DelRequest) (*clearwayv1.DelResponse, error) {
	a.asked = in
	return &clearwayv1.DelResponse{}, a.fail
}

func (a *agent) Check(_ context.Context, in *clearwayv1.CheckRequest) (*clearwayv1.CheckResponse, error) {
	a.asked = in
	return &clearwayv1.CheckResponse{}, a.fail
}

func (a *agent) Status(_ context.Context, in *clearwayv1.StatusRequest) (*clearwayv1.StatusResponse, error) {
	a.asked = in
	return &clearwayv1.StatusResponse{}, a.fail
}

func (a *agent) GC(_ context.Context, in *clearwayv1.GCRequest) (*clearwayv1.GCResponse, error) {
	a.asked = in
	return &clearwayv1.GCResponse{Released: 3}, a.fail
}

func start(t *testing.T) (*agent, *plain.Client) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	a, server, served := &agent{}, grpc.NewServer(), make(chan struct{})
	clearwayv1.RegisterAddressServiceServer(server, a)
	go func() { defer close(served); _ = server.Serve(listener) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Stop(); <-served })
	return a, plain.NewClient(conn)
}

func soon() time.Time { return time.Now().Add(20 * time.Second) }

var (
	words       = rapid.OneOf(rapid.String(), rapid.StringN(0, 300, -1), rapid.SampledFrom([]string{"", "eth0", "10.244.3.7/16"}))
	lists       = rapid.SliceOfN(words, 0, 5)
	maps        = rapid.MapOfN(words, words, 0, 3)
	attachments = rapid.Custom(func(t *rapid.T) plain.Attachment {
		return plain.Attachment{Network: words.Draw(t, "network"), ContainerID: words.Draw(t, "container"), Ifname: words.Draw(t, "ifname")}
	})
	pods = rapid.Custom(func(t *rapid.T) *plain.Pod {
		if rapid.Bool().Draw(t, "no pod") {
			return nil
		}
		return &plain.Pod{Namespace: words.Draw(t, "namespace"), Name: words.Draw(t, "name"), UID: words.Draw(t, "uid")}
	})
)

func attachment(a plain.Attachment) *clearwayv1.Attachment {
	return &clearwayv1.Attachment{Network: a.Network, ContainerId: a.ContainerID, Ifname: a.Ifname}
}

func pod(p *plain.Pod) *clearwayv1.Pod {
	if p == nil {
		return nil
	}
	return &clearwayv1.Pod{Namespace: p.Namespace, Name: p.Name, Uid: p.UID}
}

// TestRequests: generated code reads what was meant, and no field is missing that it knows.
func TestRequests(t *testing.T) {
	a, client := start(t)
	a.answer = &clearwayv1.AddResponse{}
	check := func(t *rapid.T, err error, want proto.Message) {
		if err != nil || !proto.Equal(a.asked, want) {
			t.Fatalf("%v\n got %v\nwant %v", err, a.asked, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		in := &plain.AddRequest{
			Attachment: attachments.Draw(t, "attachment"), Pod: pods.Draw(t, "pod"), Netns: words.Draw(t, "netns"),
			Pools: lists.Draw(t, "pools"), Addresses: lists.Draw(t, "addresses"),
			Annotations: maps.Draw(t, "annotations"), PodLabels: maps.Draw(t, "Pod's labels"),
			NamespaceLabels: maps.Draw(t, "namespace's labels"), NamespaceAnnotations: maps.Draw(t, "namespace's annotations"),
			Started: time.Duration(rapid.Int64().Draw(t, "started")),
		}
		_, err := client.Add(in, soon())
		check(t, err, &clearwayv1.AddRequest{
			Attachment: attachment(in.Attachment), Pod: pod(in.Pod), Netns: in.Netns,
			Pools: in.Pools, Addresses: in.Addresses, Annotations: in.Annotations, PodLabels: in.PodLabels,
			NamespaceLabels: in.NamespaceLabels, NamespaceAnnotations: in.NamespaceAnnotations,
			Started: int64(in.Started),
		})
		check(t, client.Del(&plain.DelRequest{Attachment: in.Attachment, Pod: in.Pod}, soon()),
			&clearwayv1.DelRequest{Attachment: attachment(in.Attachment), Pod: pod(in.Pod)})
		check(t, client.Check(&plain.CheckRequest{Attachment: in.Attachment, Addresses: in.Addresses}, soon()),
			&clearwayv1.CheckRequest{Attachment: attachment(in.Attachment), Addresses: in.Addresses})
		check(t, client.Status(&plain.StatusRequest{Network: in.Netns, Pools: in.Pools}, soon()),
			&clearwayv1.StatusRequest{Network: in.Netns, Pools: in.Pools})
		valid := rapid.SliceOfN(attachments, 0, 5).Draw(t, "valid")
		want := &clearwayv1.GCRequest{Network: in.Netns}
		for _, one := range valid {
			want.ValidAttachments = append(want.ValidAttachments, attachment(one))
		}
		check(t, client.GC(&plain.GCRequest{Network: in.Netns, ValidAttachments: valid}, soon()), want)
	})
	for message, fields := range map[proto.Message]int{
		&clearwayv1.AddRequest{}: reflect.TypeFor[plain.AddRequest]().NumField(), &clearwayv1.DelRequest{}: reflect.TypeFor[plain.DelRequest]().NumField(),
		&clearwayv1.CheckRequest{}: reflect.TypeFor[plain.CheckRequest]().NumField(), &clearwayv1.StatusRequest{}: reflect.TypeFor[plain.StatusRequest]().NumField(),
		&clearwayv1.GCRequest{}: reflect.TypeFor[plain.GCRequest]().NumField(), &clearwayv1.Attachment{}: reflect.TypeFor[plain.Attachment]().NumField(),
		&clearwayv1.Pod{}: reflect.TypeFor[plain.Pod]().NumField(), &clearwayv1.AddResponse{}: reflect.TypeFor[plain.AddResponse]().NumField(),
		&clearwayv1.AddressConfig{}: reflect.TypeFor[plain.AddressConfig]().NumField(), &clearwayv1.RouteConfig{}: reflect.TypeFor[plain.RouteConfig]().NumField(),
		&clearwayv1.CNIError{}: reflect.TypeFor[plain.CNIError]().NumField(),
	} {
		if known := message.ProtoReflect().Descriptor().Fields().Len(); known != fields {
			t.Errorf("%s has %d fields here, and %d in the API", message.ProtoReflect().Descriptor().Name(), fields, known)
		}
	}
}

// stranger adds fields that only a later version knows.
func stranger(t *rapid.T, message proto.Message) {
	unknown := []byte(nil)
	for range rapid.IntRange(0, 3).Draw(t, "unknown fields") {
		unknown = append(unknown, rapid.SampledFrom([]string{
			"\xa0\x06\x2a", "\xa1\x0612345678", "\xa2\x06\x03new", "\xa5\x061234", "\x08\x01", "\x1d1234",
		}).Draw(t, "unknown")...)
	}
	message.ProtoReflect().SetUnknown(unknown)
}

// TestAnswers: what generated code writes is read as it was meant, and what is not known is skipped. (Field 1 as a
// number is not known either, nor is field 3.)
func TestAnswers(t *testing.T) {
	a, client := start(t)
	rapid.Check(t, func(t *rapid.T) {
		a.answer = &clearwayv1.AddResponse{}
		want := &plain.AddResponse{}
		stranger(t, a.answer)
		for range rapid.IntRange(0, 3).Draw(t, "addresses") {
			one := &clearwayv1.AddressConfig{Address: words.Draw(t, "address"), Gateway: words.Draw(t, "gateway")}
			stranger(t, one)
			a.answer.Addresses = append(a.answer.Addresses, one)
			want.Addresses = append(want.Addresses, plain.AddressConfig{Address: one.Address, Gateway: one.Gateway})
		}
		for range rapid.IntRange(0, 3).Draw(t, "routes") {
			one := &clearwayv1.RouteConfig{Destination: words.Draw(t, "destination"), Gateway: words.Draw(t, "gateway")}
			a.answer.Routes = append(a.answer.Routes, one)
			want.Routes = append(want.Routes, plain.RouteConfig{Destination: one.Destination, Gateway: one.Gateway})
		}
		if got, err := client.Add(&plain.AddRequest{}, soon()); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v\n got %+v\nwant %+v", err, got, want)
		}
	})
}

// TestFaults: the agent's CNIError arrives, wherever it stands among the details.
func TestFaults(t *testing.T) {
	a, client := start(t)
	rapid.Check(t, func(t *rapid.T) {
		code := codes.Code(rapid.Uint32Range(1, 16).Draw(t, "code"))
		text := words.Draw(t, "text")
		fault := &clearwayv1.CNIError{Code: rapid.Uint32().Draw(t, "CNI code"), Msg: words.Draw(t, "msg"), Details: words.Draw(t, "details")}
		other := durationpb.New(time.Second)
		all := [][]protoadapt.MessageV1{nil, {other}, {fault}, {other, fault, &clearwayv1.CNIError{Msg: "second"}}}
		with := rapid.SampledFrom(all).Draw(t, "all")
		state := status.New(code, text)
		for _, one := range with {
			var err error
			if state, err = state.WithDetails(one); err != nil {
				t.Fatal(err)
			}
		}
		a.fail = state.Err()
		want := plain.Status{Code: unary.Code(code), Message: text}
		if len(with) > 0 && with[len(with)-1] != protoadapt.MessageV1(other) {
			want.CNIError = &plain.CNIError{Code: fault.Code, Msg: fault.Msg, Details: fault.Details}
		}
		var got *plain.Status
		if err := client.Del(&plain.DelRequest{}, soon()); !errors.As(err, &got) || !reflect.DeepEqual(*got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

// TestNotUTF8: what protobuf does not take is not sent.
func TestNotUTF8(t *testing.T) {
	a, client := start(t)
	for _, request := range []*plain.AddRequest{
		{Netns: "\xff"}, {Attachment: plain.Attachment{Ifname: "\xff"}}, {Pod: &plain.Pod{Name: "\xff"}},
		{Pools: []string{"\xff"}}, {Annotations: map[string]string{"a": "\xff"}},
	} {
		var failed *plain.Status
		if _, err := client.Add(request, soon()); !errors.As(err, &failed) || failed.Code != unary.Internal || a.asked != nil {
			t.Errorf("%+v: %v, and the agent got %v", request, err, a.asked)
		}
	}
}
