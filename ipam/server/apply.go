package server

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/cidr"
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
	if err := r.s.mayChange(ctx); err != nil {
		return nil, err
	}
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
	var applied *application
	err := r.s.claims.do(ctx, true, func(p *plan) error {
		applied = &application{plan: p, dry: request.GetDryRun()}
		return applied.run(request.GetResources(), key)
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
	action := clearwayv1.ApplyResult_ACTION_CREATED
	if exists {
		action = clearwayv1.ApplyResult_ACTION_CONFIGURED
		a.carryOver(before.object, next)
		if unchanged(before.object, next) {
			return &clearwayv1.ApplyResult{
				Action: clearwayv1.ApplyResult_ACTION_UNCHANGED, Resource: clearwayv1.Wrap(before.object),
			}, nil
		}
	} else {
		a.bear(next)
	}
	a.write(record.Op{Key: record.ConfigKey(kind, name), Value: mustMarshal(next)})
	return &clearwayv1.ApplyResult{Action: action, Resource: clearwayv1.Wrap(next)}, nil
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
		sameText(before.GetMetadata().GetAnnotations(), next.GetMetadata().GetAnnotations())
}

// carryOver keeps what creation gave.
func (a *application) carryOver(before, next clearwayv1.Object) {
	was, metadata := before.GetMetadata(), next.GetMetadata()
	metadata.Uid, metadata.CreationTimestamp, metadata.Generation = was.GetUid(), was.GetCreationTimestamp(), was.GetGeneration()
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
			own := append(a.poolFaults(next), pool.CheckOverlap(all, next)...)
			faults = append(faults, at(i, resource, own)...)
		}
	}
	return faults
}

// poolFaults compares a pool with its former self and with the blocks there are.
func (s *state) poolFaults(next pool.Pool) []*clearwayv1.FieldViolation {
	before, exists := s.pools[next.Name]
	if !exists {
		return s.strangers(next)
	}
	var faults []*clearwayv1.FieldViolation
	if before.CIDR != next.CIDR {
		faults = append(faults, &clearwayv1.FieldViolation{Field: "spec.cidr", Value: next.CIDR.String(),
			Message: fmt.Sprintf("is %s and cannot be changed; make another pool beside it", before.CIDR)})
	}
	if before.Kind != next.Kind {
		faults = append(faults, &clearwayv1.FieldViolation{Field: "spec.kind", Value: string(next.Kind),
			Message: fmt.Sprintf("is %s and cannot be changed; make another pool", before.Kind)})
	}
	if len(faults) > 0 || before.space == nil {
		return faults
	}
	for prefix := range before.space.All() { // one block in use is enough
		return append(faults, pool.CheckChange(before.Pool, next, []netip.Prefix{prefix})...)
	}
	return faults
}

// strangers tells of blocks of other pools, deleted ones, that a new pool would lie over (rule NoOverlap).
func (s *state) strangers(next pool.Pool) []*clearwayv1.FieldViolation {
	for prefix, block := range s.blocks {
		if !next.CIDR.Overlaps(prefix) || (block.GetPool() == next.Name && next.Kind == pool.Block && cidr.Contains(next.CIDR, prefix)) {
			continue
		}
		return []*clearwayv1.FieldViolation{{Field: "spec.cidr", Value: next.CIDR.String(), Message: fmt.Sprintf(
			"overlaps block %s of the deleted pool %q, which is still %s", prefix, block.GetPool(), stateName(block.GetState()))}}
	}
	return nil
}
