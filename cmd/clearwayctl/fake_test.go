package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
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

	recovering string

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
	if node, ok := stored.(*clearwayv1.Node); ok && have != nil {
		node.Metadata.Generation = have.GetMetadata().GetGeneration() + 1
		node.Status = proto.CloneOf(have.(*clearwayv1.Node).GetStatus())
	}
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
	if made, ok := f.objects[name].(*clearwayv1.IPPool); ok && f.blocksOf(request.Name) != nil {
		made.Metadata.DeletionTimestamp = timestamppb.Now()
		made.Status = &clearwayv1.IPPoolStatus{Phase: "Draining", Conditions: []*clearwayv1.Condition{
			{Type: "Drained", Status: "False", Message: fmt.Sprintf("%d blocks", len(f.blocksOf(request.Name)))},
		}}
		return &clearwayv1.DeleteResponse{Remaining: clearwayv1.Wrap(made)}, nil
	}
	for other, object := range f.objects {
		if pool, ok := object.(*clearwayv1.IPPool); ok && pool.GetSpec().GetDrainTo() == request.Name && request.Kind == "IPPool" {
			return nil, status.Errorf(codes.FailedPrecondition, "%s is drained to it", other)
		}
	}
	delete(f.objects, name)
	return &clearwayv1.DeleteResponse{}, nil
}

// blocksOf are the names of the blocks of a pool.
func (f *fake) blocksOf(pool string) (names []string) {
	for name, object := range f.objects {
		if block, ok := object.(*clearwayv1.Block); ok && block.GetSpec().GetPool() == pool {
			names = append(names, name)
		}
	}
	return names
}

// goOn lets a block of each pool that is being deleted come back, and the pool go with its last.
func (f *fake) goOn() {
	for name, object := range f.objects {
		pool, ok := object.(*clearwayv1.IPPool)
		if ok && pool.GetSpec().GetDrain() {
			pool.Status.Blocks++ // how often it was looked at, here
		}
		if ok && pool.GetSpec().GetDrain() && pool.GetStatus().GetBlocks() > 2 {
			for other, held := range f.objects {
				if held, ok := held.(*clearwayv1.Assignment); ok && held.GetSpec().GetPool() == pool.GetMetadata().GetName() {
					f.drop(other)
				}
			}
			for _, block := range f.blocksOf(pool.GetMetadata().GetName()) {
				f.drop(block)
			}
		}
		if object.GetMetadata().GetDeletionTimestamp() == nil {
			continue
		}
		if blocks := f.blocksOf(object.GetMetadata().GetName()); len(blocks) > 0 {
			f.drop(blocks[0])
		} else {
			f.drop(name)
		}
	}
}

// drainOn lets the agents of nodes go on with their drains, a step each time somebody looks. A busy node forwards for ever.
func (f *fake) drainOn() {
	for _, object := range f.objects {
		node, ok := object.(*clearwayv1.Node)
		if !ok || node.GetStatus() == nil {
			continue
		}
		status := node.GetStatus()
		switch {
		case node.GetSpec().GetDrain() == nil:
			status.Drain, status.DrainReason = "", ""
		case node.GetSpec().GetDrain().GetWithdraw(), status.GetDrain() == "Draining" && node.GetMetadata().GetLabels()["busy"] == "":
			status.Drain, status.DrainReason = "Drained", "nothing is forwarded"
		default:
			status.Drain, status.DrainReason = "Draining", "500 packets a second are forwarded"
		}
		status.DrainGeneration = node.GetMetadata().GetGeneration()
	}
}

func (f *fake) drop(name string) {
	delete(f.objects, name)
	f.order = slices.DeleteFunc(f.order, func(other string) bool { return other == name })
}

func (f *fake) List(request *clearwayv1.ListRequest, stream grpc.ServerStreamingServer[clearwayv1.ListResponse]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("List " + request.Kind); err != nil {
		return err
	}
	if request.Kind == "IPPool" {
		defer f.goOn()
	}
	if request.Kind == "Node" {
		defer f.drainOn()
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

// History knows of one address that was given on, and of nothing before the record's beginning.
func (f *fake) History(_ context.Context, request *clearwayv1.HistoryRequest) (*clearwayv1.HistoryResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("History"); err != nil {
		return nil, err
	}
	at := func(hour int) *timestamppb.Timestamp {
		return timestamppb.New(time.Date(2026, 3, 1, hour, 0, 0, 0, time.UTC))
	}
	answer := &clearwayv1.HistoryResponse{ReachesBackTo: at(1), AsOf: at(20)}
	all := []*clearwayv1.Tenure{
		{Assignment: past("10.244.0.9", "cart-0", 7, at(8)), ReleasedTime: at(9)},
		{Assignment: past("10.244.0.9", "cart-1", 12, at(10)), ReleasedTime: at(12), ReleasedBefore: true},
		{Assignment: past("10.244.0.9", "cart-0", 19, at(13))},
	}
	for _, tenure := range all {
		spec := tenure.GetAssignment()
		asked := spec.GetAddress() == request.GetAddress() ||
			spec.GetPod().GetNamespace() == request.GetNamespace() && spec.GetPod().GetName() == request.GetPod()
		early := request.GetUntil() != nil && spec.GetAssignedTime().AsTime().After(request.GetUntil().AsTime())
		late := tenure.GetReleasedTime() != nil && !tenure.GetReleasedTime().AsTime().After(request.GetSince().AsTime())
		if asked && !early && !late {
			answer.Tenures = append(answer.Tenures, tenure)
		}
	}
	answer.Summary = fmt.Sprintf("%d assignments.", len(answer.GetTenures()))
	if request.GetSince() != nil && request.GetSince().AsTime().Before(at(1).AsTime()) {
		answer.Notes = []string{"the record reaches back to 2026-03-01T01:00:00Z"}
	}
	return answer, nil
}

func past(address, pod string, number int64, at *timestamppb.Timestamp) *clearwayv1.AssignmentSpec {
	return &clearwayv1.AssignmentSpec{
		Address: address, Node: "node2", AssignedTime: at, Pool: "pods", JournalNumber: number,
		Attachment: &clearwayv1.Attachment{Network: "net", ContainerId: fmt.Sprint("c", number), Ifname: "eth0"},
		Pod:        &clearwayv1.Pod{Namespace: "shop", Name: pod, Uid: fmt.Sprint("uid-", number)},
	}
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

func (f *fake) ShowStore(context.Context, *clearwayv1.ShowStoreRequest) (*clearwayv1.ShowStoreResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("ShowStore"); err != nil {
		return nil, err
	}
	answer := &clearwayv1.ShowStoreResponse{
		Incarnation: "11aa", Revision: 7, Leader: "192.0.2.10:7470",
		Health: &clearwayv1.StoreHealth{Size: 3 << 20, SizeInUse: 1 << 20, Quota: 4 << 30, MembersAnswering: 1, Members: 1, Version: "3.7.3"},
	}
	if f.recovering != "" {
		answer.Recovery = &clearwayv1.RecoveryStatus{
			Reason: f.recovering, Awaited: []string{"node7"}, StartedTime: timestamppb.New(time.Unix(0, 0)),
			Earliest: timestamppb.New(time.Unix(30, 0)),
		}
	}
	return answer, nil
}

func (f *fake) CheckBooks(request *clearwayv1.CheckBooksRequest, stream clearwayv1.IPAMService_CheckBooksServer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(fmt.Sprintf("CheckBooks node=%s repair=%v dry=%v", request.GetNode(), request.GetRepair(), request.GetDryRun())); err != nil {
		return err
	}
	answer := &clearwayv1.CheckBooksResponse{Nodes: 2, Blocks: 3, Assignments: 1, Warnings: f.warnings}
	if request.GetNode() != "good" {
		answer.Differences = []*clearwayv1.Difference{{
			Reason: "OnlyInMirror", Node: "node1", Subject: "10.244.0.7", Detail: "nobody by the node's journal", Repair: "the node mirrors",
			Repaired: request.GetRepair() && !request.GetDryRun(),
		}}
	}
	return stream.Send(answer)
}

// VerifyRoutes finds one mismatch, but on node "good"; with probes a second one.
func (f *fake) VerifyRoutes(request *clearwayv1.VerifyRoutesRequest, stream clearwayv1.IPAMService_VerifyRoutesServer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(fmt.Sprintf("VerifyRoutes node=%s probe=%v", request.GetNode(), request.GetProbe())); err != nil {
		return err
	}
	answer := &clearwayv1.VerifyRoutesResponse{Nodes: 2, Routes: 7, Blocks: 8, Warnings: f.warnings}
	if request.GetNode() != "good" {
		answer.Mismatches = append(answer.Mismatches, &clearwayv1.RouteMismatch{
			Reason: "NotInKernel", Node: "n2", Prefix: "10.244.0.0/26", Detail: "the kernel does not have it",
		})
	}
	if request.GetProbe() {
		answer.Probed, answer.Reached, answer.Omitted = 9, 8, 3
		answer.Mismatches = append(answer.Mismatches, &clearwayv1.RouteMismatch{Reason: "NoAnswer", Node: "n2", Prefix: "10.244.9.0/26"})
	}
	return stream.Send(answer)
}

func (f *fake) Export(_ *clearwayv1.ExportRequest, stream clearwayv1.IPAMService_ExportServer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("Export"); err != nil {
		return err
	}
	header := &clearwayv1.ExportHeader{Version: 1, Incarnation: "11aa", Revision: 7, CreatedTime: timestamppb.New(time.Unix(0, 0))}
	if err := stream.Send(&clearwayv1.ExportResponse{Header: header}); err != nil {
		return err
	}
	answer := &clearwayv1.ExportResponse{}
	for _, name := range f.order {
		answer.Resources = append(answer.Resources, clearwayv1.Wrap(f.objects[name]))
	}
	return stream.Send(answer)
}

func (f *fake) Import(stream clearwayv1.IPAMService_ImportServer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := &clearwayv1.ImportResponse{}
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if header := request.GetHeader(); header != nil {
			if err := f.begin(fmt.Sprintf("Import %s %d dry=%v", header.GetIncarnation(), header.GetRevision(), request.GetDryRun())); err != nil {
				return err
			}
		}
		for _, resource := range request.GetResources() {
			if resource.GetBlock() != nil {
				answer.Blocks++
			} else {
				answer.Resources++
			}
		}
	}
	return stream.SendAndClose(answer)
}

func (f *fake) Recover(_ context.Context, request *clearwayv1.RecoverRequest) (*clearwayv1.RecoverResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("Recover"); err != nil {
		return nil, err
	}
	if f.recovering != "" {
		return nil, status.Error(codes.FailedPrecondition, "the store is recovering already")
	}
	f.recovering = "an operator said so: " + request.GetReason()
	return &clearwayv1.RecoverResponse{Incarnation: "22bb"}, nil
}

func (f *fake) Adopt(_ context.Context, request *clearwayv1.AdoptRequest) (*clearwayv1.AdoptResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(fmt.Sprintf("Adopt %s blocks=%d assignments=%d dry=%v", request.GetNode(), len(request.GetBlocks()),
		len(request.GetAssignments()), request.GetDryRun())); err != nil {
		return nil, err
	}
	return &clearwayv1.AdoptResponse{Blocks: int64(len(request.GetBlocks())), Assignments: int64(len(request.GetAssignments()))}, nil
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
