package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/reflect/protoreflect"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
)

// fake is an ipamd in memory: it keeps what is applied and says what a real one would say of the same mistakes.
type fake struct {
	clearwayv1.UnimplementedResourceServiceServer
	clearwayv1.UnimplementedIPAMServiceServer

	// mu guards all following fields.
	mu       sync.Mutex
	objects  map[string]clearwayv1.Object // by "Kind/name", and "@node" where there is one
	order    []string
	revision int
	warnings []string
	failure  error  // of every call, when set
	leader   string // set: this is a follower

	leaderless int // calls that a follower answers without knowing a leader
	calls      []string
}

func newFake() *fake { return &fake{objects: map[string]clearwayv1.Object{}} }

// serve listens on a network address and returns where.
func (f *fake) serve(network, address string, withIPAM bool) (string, func(), error) {
	listener, err := net.Listen(network, address)
	if err != nil {
		return "", nil, err
	}
	server := grpc.NewServer(daemon.ServerOptions(insecure.NewCredentials())...)
	clearwayv1.RegisterResourceServiceServer(server, f)
	if withIPAM {
		clearwayv1.RegisterIPAMServiceServer(server, f)
	}
	go server.Serve(listener)
	return listener.Addr().String(), server.Stop, nil
}

func key(object clearwayv1.Object) string {
	if route, ok := object.(*clearwayv1.Route); ok {
		return clearwayv1.KeyOf(object) + "@" + route.GetSpec().GetNode() + route.GetSpec().GetDirection()
	}
	return clearwayv1.KeyOf(object)
}

// seed stores objects as they are.
func (f *fake) seed(objects ...clearwayv1.Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, object := range objects {
		f.store(object)
	}
}

func (f *fake) store(object clearwayv1.Object) {
	if f.objects[key(object)] == nil {
		f.order = append(f.order, key(object))
	}
	f.objects[key(object)] = object
}

// begin notes a call and tells why it fails, if it does.
func (f *fake) begin(call string) error {
	f.calls = append(f.calls, call)
	if f.leader != "" {
		detail := &clearwayv1.NotLeader{Leader: f.leader}
		if f.leaderless > 0 {
			f.leaderless--
			detail.Leader = ""
		}
		answer, _ := status.New(codes.Unavailable, "this ipamd is not the leader").WithDetails(protoadapt.MessageV1Of(detail))
		return answer.Err()
	}
	return f.failure
}

func (f *fake) Apply(_ context.Context, request *clearwayv1.ApplyRequest) (*clearwayv1.ApplyResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("Apply"); err != nil {
		return nil, err
	}
	if request.RequestKey == "" {
		return nil, status.Error(codes.InvalidArgument, "no request key")
	}
	if err := f.validate(request); err != nil {
		return nil, err
	}
	response := &clearwayv1.ApplyResponse{}
	for _, resource := range request.Resources {
		result := f.apply(resource.Object(), request.DryRun)
		response.Results = append(response.Results, result)
	}
	return response, nil
}

func (f *fake) validate(request *clearwayv1.ApplyRequest) error {
	answer := status.New(codes.InvalidArgument, "refused")
	for i, resource := range request.Resources {
		object := resource.Object()
		have := f.objects[key(object)]
		if version := object.GetMetadata().GetResourceVersion(); version != "" && version != have.GetMetadata().GetResourceVersion() {
			return status.Errorf(codes.Aborted, "%s has changed since it was read", clearwayv1.KeyOf(object))
		}
		pool, ok := object.(*clearwayv1.IPPool)
		if !ok {
			continue
		}
		prefix, err := netip.ParsePrefix(pool.GetSpec().GetCidr())
		if err == nil && prefix == prefix.Masked() {
			continue
		}
		message := "host bits are set; " + prefix.Masked().String() + " is meant?"
		if err != nil {
			message = "wants a prefix like 10.244.0.0/16"
		}
		answer, _ = answer.WithDetails(protoadapt.MessageV1Of(&clearwayv1.FieldViolation{
			Index: int32(i), Resource: clearwayv1.KeyOf(object), Field: "spec.cidr", Value: pool.GetSpec().GetCidr(), Message: message,
		}))
	}
	if len(answer.Details()) > 0 {
		return answer.Err()
	}
	return nil
}

func (f *fake) apply(object clearwayv1.Object, dry bool) *clearwayv1.ApplyResult {
	have := f.objects[key(object)]
	action := clearwayv1.ApplyResult_ACTION_CREATED
	if have != nil {
		action = clearwayv1.ApplyResult_ACTION_CONFIGURED
		if proto.Equal(spec(have), spec(object)) {
			return &clearwayv1.ApplyResult{Action: clearwayv1.ApplyResult_ACTION_UNCHANGED, Resource: clearwayv1.Wrap(have)}
		}
	}
	stored := proto.Clone(object).(clearwayv1.Object)
	stored.GetMetadata().ResourceVersion = strconv.Itoa(f.revision + 1)
	if !dry {
		f.revision++
		f.store(stored)
	}
	return &clearwayv1.ApplyResult{Action: action, Resource: clearwayv1.Wrap(stored)}
}

func spec(object clearwayv1.Object) proto.Message {
	message := object.ProtoReflect()
	return message.Get(message.Descriptor().Fields().ByName("spec")).Message().Interface()
}

func (f *fake) Delete(_ context.Context, request *clearwayv1.DeleteRequest) (*clearwayv1.DeleteResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(fmt.Sprintf("Delete %s/%s poweredOff=%v", request.Kind, request.Name, request.PoweredOff)); err != nil {
		return nil, err
	}
	name := request.Kind + "/" + request.Name
	if f.objects[name] == nil {
		return nil, status.Errorf(codes.NotFound, "there is no %s %q", request.Kind, request.Name)
	}
	for _, object := range f.objects {
		if block, ok := object.(*clearwayv1.Block); ok && request.Kind == "IPPool" && block.GetSpec().GetPool() == request.Name {
			return nil, status.Errorf(codes.FailedPrecondition, "%s still has blocks", name)
		}
	}
	delete(f.objects, name)
	return &clearwayv1.DeleteResponse{}, nil
}

func (f *fake) List(request *clearwayv1.ListRequest, stream grpc.ServerStreamingServer[clearwayv1.ListResponse]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("List " + request.Kind); err != nil {
		return err
	}
	selector, err := labels.Parse(request.LabelSelector)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	for _, name := range f.order { // one resource a piece: the client puts them together
		object := f.objects[name]
		if object != nil && matches(object, request) && selector.Matches(labels.Set(object.GetMetadata().GetLabels())) {
			if err := stream.Send(&clearwayv1.ListResponse{Resources: []*clearwayv1.Resource{clearwayv1.Wrap(object)}}); err != nil {
				return err
			}
		}
	}
	return stream.Send(&clearwayv1.ListResponse{Warnings: f.warnings})
}

func matches(object clearwayv1.Object, request *clearwayv1.ListRequest) bool {
	if object.GetKind() != request.Kind || request.Name != "" && object.GetMetadata().GetName() != request.Name {
		return false
	}
	for field, wanted := range map[protoreflect.Name]string{"node": request.Node, "pool": request.Pool} {
		if descriptor := spec(object).ProtoReflect().Descriptor().Fields().ByName(field); wanted != "" && descriptor != nil &&
			spec(object).ProtoReflect().Get(descriptor).String() != wanted {
			return false
		}
	}
	return request.Address == "" || holds(object, request.Address)
}

func holds(object clearwayv1.Object, address string) bool {
	var text string
	switch typed := object.(type) {
	case *clearwayv1.Block:
		text = typed.GetSpec().GetCidr()
	case *clearwayv1.Assignment:
		return typed.GetSpec().GetAddress() == address
	case *clearwayv1.Route:
		text = typed.GetSpec().GetPrefix()
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return false
	}
	if addr, err := netip.ParseAddr(address); err == nil {
		return prefix.Contains(addr)
	}
	return text == address
}

func (f *fake) ShowAddress(_ context.Context, request *clearwayv1.ShowAddressRequest) (*clearwayv1.ShowAddressResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("ShowAddress"); err != nil {
		return nil, err
	}
	answer := &clearwayv1.ShowAddressResponse{State: "Outside", Summary: request.Address + " is in no pool"}
	for _, name := range f.order {
		switch object := f.objects[name].(type) {
		case *clearwayv1.Block:
			if holds(object, request.Address) {
				answer.Block, answer.State, answer.Summary = object, "Free", request.Address+" is free in block "+object.GetSpec().GetCidr()
			}
		case *clearwayv1.Assignment:
			if holds(object, request.Address) {
				answer.Assignment, answer.State = object, "Assigned"
				answer.Summary = request.Address + " is held by Pod " + object.GetSpec().GetPod().GetName()
				return answer, nil
			}
		}
	}
	return answer, nil
}
