package server

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/pool"
	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// maxApplyBytes bounds one Apply, beside clearwayv1.MaxApply: a transaction has 1.5 MiB by etcd's default, and the
// resources are in it twice, by themselves and in the answer that is kept for a repeated request.
const maxApplyBytes = 400 << 10

// Apply implements ResourceService.
func (r *resourceService) Apply(
	ctx context.Context, request *clearwayv1.ApplyRequest,
) (*clearwayv1.ApplyResponse, error) {
	if err := r.checkApply(request); err != nil {
		return nil, err
	}
	if err := r.s.mustLead(); err != nil {
		return nil, err
	}
	key := request.GetRequestKey()
	if key != "" {
		before, err := r.answered(ctx, "apply:"+key)
		if err != nil || before != nil {
			return before, err
		}
	}
	for _, resource := range request.GetResources() {
		resource.Object().GetMetadata().Source = nil // that is for us to say
	}
	if r.s.options.Source != nil && !request.GetDryRun() {
		return r.s.applyThrough(ctx, request.GetResources(), key)
	}
	return r.s.apply(ctx, request.GetResources(), key, request.GetDryRun())
}

// apply writes resources into the store, all or none.
func (s *Server) apply(
	ctx context.Context, resources []*clearwayv1.Resource, key string, dry bool,
) (*clearwayv1.ApplyResponse, error) {
	var applied *application
	err := s.claims.do(ctx, true, func(p *plan) error {
		applied = &application{plan: p, dry: dry}
		return applied.run(resources, key)
	})
	if err != nil {
		return nil, err
	}
	return applied.answer, nil
}

// checkApply refuses what can be refused without the state: all faults of all resources at once.
func (r *resourceService) checkApply(request *clearwayv1.ApplyRequest) error {
	resources := request.GetResources()
	if n := len(resources); n == 0 || n > clearwayv1.MaxApply {
		return invalid("resources", fmt.Sprint(n), fmt.Sprintf("must be 1 to %d in one call, which applies all or none, "+
			"not %d; split them into several", clearwayv1.MaxApply, n))
	}
	if size := proto.Size(request); size > maxApplyBytes {
		return invalid("resources", fmt.Sprintf("%d bytes", size), fmt.Sprintf("must be at most %d bytes in one call, "+
			"which applies all or none, not %d; split them into several", maxApplyBytes, size))
	}
	if key := request.GetRequestKey(); key != "" {
		if err := checkRequestKey(key); err != nil {
			return err
		}
	}
	var all []*clearwayv1.FieldViolation
	seen := map[string]int{}
	for i, resource := range resources {
		faults := r.s.faultsOf(resource)
		if object := resource.Object(); object != nil {
			key := clearwayv1.KeyOf(object)
			if first, twice := seen[key]; twice {
				faults = append(faults, &clearwayv1.FieldViolation{Field: "metadata.name", Value: object.GetMetadata().GetName(),
					Message: fmt.Sprintf("is in this call already, as number %d", first+1)})
			}
			seen[key] = i
		}
		all = append(all, at(i, resource, faults)...)
	}
	if len(all) > 0 {
		return refuse(all)
	}
	return nil
}

// at fills in which resource faults are of. The first fault of a field is enough.
func at(index int, resource *clearwayv1.Resource, faults []*clearwayv1.FieldViolation) []*clearwayv1.FieldViolation {
	var told []*clearwayv1.FieldViolation
	fields := map[string]bool{}
	for _, fault := range faults {
		if fields[fault.GetField()] {
			continue
		}
		fields[fault.GetField()] = true
		fault.Index = int32(index)
		if object := resource.Object(); object != nil {
			fault.Resource = clearwayv1.KeyOf(object)
		}
		told = append(told, fault)
	}
	return told
}

// answered is the answer that a request key got before; nil: none.
func (r *resourceService) answered(ctx context.Context, key string) (*clearwayv1.ApplyResponse, error) {
	one, ok, err := r.s.store.Get(ctx, record.RequestKey(key))
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "the store does not answer: %v", err)
	}
	if !ok {
		return nil, nil
	}
	answer := &clearwayv1.ApplyResponse{}
	if err := proto.Unmarshal(one.Value, answer); err != nil {
		return nil, status.Errorf(codes.Internal, "the answer kept for this request cannot be read: %v", err)
	}
	for _, result := range answer.GetResults() {
		if metadata := result.GetResource().Object().GetMetadata(); metadata.GetResourceVersion() == "" {
			metadata.ResourceVersion = fmt.Sprint(one.ModRevision) // it was not known when the answer was written
		}
	}
	return answer, nil
}

// application is one Apply against the state.
type application struct {
	*plan
	dry    bool
	answer *clearwayv1.ApplyResponse
}

func (a *application) run(resources []*clearwayv1.Resource, key string) error {
	a.answer = &clearwayv1.ApplyResponse{}
	resources = a.settled(resources)
	if faults := a.crossFaults(resources); len(faults) > 0 {
		return refuse(faults)
	}
	var fresh []*clearwayv1.ObjectMeta
	for _, resource := range resources {
		result, err := a.one(resource.Object())
		if err != nil {
			return err
		}
		a.answer.Results = append(a.answer.Results, result)
		if result.GetAction() != clearwayv1.ApplyResult_ACTION_UNCHANGED {
			fresh = append(fresh, result.GetResource().Object().GetMetadata())
		}
	}
	if a.dry {
		a.ops = nil
		return nil
	}
	if key != "" {
		a.guard(record.Guard{Key: record.RequestKey("apply:" + key)})
		a.write(record.Op{Key: record.RequestKey("apply:" + key), Value: mustMarshal(a.answer), Expires: true})
	}
	a.done(func(revision int64) {
		for _, metadata := range fresh {
			metadata.ResourceVersion = fmt.Sprint(revision)
		}
	})
	return nil
}

// one decides on one resource.
func (a *application) one(given clearwayv1.Object) (*clearwayv1.ApplyResult, error) {
	kind, name := kindOf(given), given.GetMetadata().GetName()
	before, exists := a.config[kind][name]
	if err := a.checkVersion(kind, name, given.GetMetadata().GetResourceVersion()); err != nil {
		return nil, err
	}
	next := forStore(given)
	setText(next, "api_version", clearwayv1.APIVersion)
	setText(next, "kind", kind)
	if made, ok := next.(*clearwayv1.IPPool); ok {
		a.keepFormer(made)
	}
	action := clearwayv1.ApplyResult_ACTION_CREATED
	if exists {
		action = clearwayv1.ApplyResult_ACTION_CONFIGURED
		a.carryOver(before.object, next)
		keepDeleting(before.object, next)
		if unchanged(before.object, next) {
			return &clearwayv1.ApplyResult{
				Action: clearwayv1.ApplyResult_ACTION_UNCHANGED, Resource: clearwayv1.Wrap(before.object),
			}, nil
		}
	} else {
		next.GetMetadata().DeletionTimestamp = nil
		a.bear(next)
	}
	a.write(record.Op{Key: record.ConfigKey(kind, name), Value: mustMarshal(next)})
	result := &clearwayv1.ApplyResult{Action: action, Resource: clearwayv1.Wrap(next)}
	if made, ok := next.(*clearwayv1.IPReservation); ok {
		result.Warnings = a.reservationWarnings(made, a.now)
	}
	return result, nil
}

// checkVersion compares a stated resourceVersion with the one that holds: of a node without configuration, its
// registration's.
func (s *state) checkVersion(kind, name, stated string) error {
	if stated == "" {
		return nil
	}
	now := s.config[kind][name].object
	if now == nil && kind == kindNode {
		if node := s.nodes[name]; node != nil {
			now = node
		}
	}
	if now == nil {
		return status.Errorf(codes.Aborted, "%s/%s: resourceVersion is %s, and there is no such resource any more", kind, name, stated)
	}
	if held := now.GetMetadata().GetResourceVersion(); held != stated {
		return status.Errorf(codes.Aborted, "%s/%s was changed meanwhile: its resourceVersion is %s, not %s; "+
			"read it again and repeat the change", kind, name, held, stated)
	}
	return nil
}

func unchanged(before, next clearwayv1.Object) bool {
	return sameSpec(before, next) && sameText(before.GetMetadata().GetLabels(), next.GetMetadata().GetLabels()) &&
		sameText(before.GetMetadata().GetAnnotations(), next.GetMetadata().GetAnnotations()) &&
		proto.Equal(before.GetMetadata().GetDeletionTimestamp(), next.GetMetadata().GetDeletionTimestamp()) &&
		sameSource(before.GetMetadata().GetSource(), next.GetMetadata().GetSource())
}

// carryOver keeps what creation gave.
func (a *application) carryOver(before, next clearwayv1.Object) {
	was, metadata := before.GetMetadata(), next.GetMetadata()
	metadata.Uid, metadata.CreationTimestamp, metadata.Generation = was.GetUid(), was.GetCreationTimestamp(), was.GetGeneration()
	if metadata.GetSource() == nil {
		metadata.Source = was.GetSource()
	}
	if !sameSpec(before, next) {
		metadata.Generation++
	}
}

// bear gives what a new resource has for life. A node that is registered has its UID already.
func (a *application) bear(next clearwayv1.Object) {
	metadata := next.GetMetadata()
	metadata.Uid, metadata.Generation, metadata.CreationTimestamp = uuid.NewString(), 1, timestamppb.New(a.now)
	if kindOf(next) != kindNode {
		return
	}
	if registered := a.nodes[metadata.GetName()].GetMetadata(); registered != nil {
		metadata.Uid, metadata.CreationTimestamp = registered.GetUid(), registered.GetCreationTimestamp()
	}
}

// crossFaults tells the faults that lie between resources: of pools.
func (a *application) crossFaults(resources []*clearwayv1.Resource) []*clearwayv1.FieldViolation {
	after := map[string]pool.Pool{}
	for name, one := range a.pools {
		after[name] = one.Pool
	}
	for _, resource := range resources {
		if made := resource.GetIpPool(); made != nil {
			parsed, _ := pool.Parse(made) // its own faults have been told
			parsed.Deleted = parsed.Deleted && after[parsed.Name].Deleted
			after[parsed.Name] = parsed
		}
	}
	all := make([]pool.Pool, 0, len(after))
	for _, one := range after {
		all = append(all, one)
	}
	var faults []*clearwayv1.FieldViolation
	for i, resource := range resources {
		if made := resource.GetIpPool(); made != nil {
			next := after[made.GetMetadata().GetName()]
			own := slices.Concat(pool.CheckOverlap(all, next), a.poolFaults(next), drainFaults(after, next)) // the first of a field is told
			faults = append(faults, at(i, resource, own)...)
		}
	}
	return faults
}
