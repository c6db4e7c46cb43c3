package server

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Limits of a listing's messages, and of what is gathered from nodes before it is sorted.
const (
	maxListed    = 500
	maxListBytes = 1 << 20
	maxGathered  = 1_000_000
	askAtOnce    = 64
)

// filter is a ListRequest, read.
type filter struct {
	*clearwayv1.ListRequest
	kind     string
	address  netip.Addr   // of address or prefix: one of them is valid, or neither
	prefix   netip.Prefix //
	selector labels.Selector
}

func parseFilter(request *clearwayv1.ListRequest) (filter, error) {
	object, err := clearwayv1.New(request.GetKind())
	if err != nil {
		return filter{}, invalid("kind", request.GetKind(), err.Error())
	}
	f := filter{ListRequest: request, kind: kindOf(object), selector: labels.Everything()}
	if text := request.GetAddress(); text != "" {
		if f.prefix, err = netip.ParsePrefix(text); err != nil {
			if f.address, err = netip.ParseAddr(text); err != nil {
				return filter{}, invalid("address", text, "must be an address or a prefix")
			}
		}
	}
	if text := request.GetLabelSelector(); text != "" {
		if f.selector, err = labels.Parse(text); err != nil {
			return filter{}, invalid("label_selector", text, err.Error())
		}
	}
	return f, nil
}

// takes tells whether a resource of this name and these labels is asked for. A Block's name may be written as its CIDR.
func (f filter) takes(name string, set map[string]string) bool {
	return (f.GetName() == "" || f.GetName() == name || clearwayv1.PrefixName(f.GetName()) == name) &&
		f.selector.Matches(labels.Set(set))
}

func (f filter) of(node, pool string) bool {
	return (f.GetNode() == "" || f.GetNode() == node) && (f.GetPool() == "" || f.GetPool() == pool)
}

// covers tells whether a prefix holds the address asked for, or is the prefix asked for.
func (f filter) covers(prefix netip.Prefix) bool {
	switch {
	case f.address.IsValid():
		return prefix.Contains(f.address)
	case f.prefix.IsValid():
		return prefix == f.prefix
	}
	return true
}

// List implements ResourceService.
func (r *resourceService) List(
	request *clearwayv1.ListRequest, stream grpc.ServerStreamingServer[clearwayv1.ListResponse],
) error {
	f, err := parseFilter(request)
	if err != nil {
		return err
	}
	switch f.kind {
	case kindNode, kindPeer, kindSession, kindRoute: // what agents report is the leader's memory
		if err := r.s.mustLead(); err != nil {
			return err
		}
	}
	to := &chunks{stream: stream}
	switch f.kind {
	case kindRoute:
		err = r.s.listRoutes(stream.Context(), f, to)
	case kindEvent:
		err = r.s.listEvents(stream.Context(), f, to)
	default:
		err = r.s.listState(f, to)
	}
	if err != nil {
		return err
	}
	return to.flush()
}

// chunks sends resources in messages of bounded size.
type chunks struct {
	stream grpc.ServerStreamingServer[clearwayv1.ListResponse]
	next   clearwayv1.ListResponse
	bytes  int
}

func (c *chunks) add(resources ...*clearwayv1.Resource) error {
	for _, resource := range resources {
		size := proto.Size(resource)
		if len(c.next.GetResources()) >= maxListed || (c.bytes > 0 && c.bytes+size > maxListBytes) {
			if err := c.flush(); err != nil {
				return err
			}
		}
		c.next.Resources = append(c.next.Resources, resource)
		c.bytes += size
	}
	return nil
}

func (c *chunks) flush() error {
	if len(c.next.GetResources()) == 0 && len(c.next.GetWarnings()) == 0 {
		return nil
	}
	err := c.stream.Send(&clearwayv1.ListResponse{Resources: c.next.GetResources(), Warnings: c.next.GetWarnings()})
	c.next.Resources, c.next.Warnings, c.bytes = nil, nil, 0
	return err
}

// listState lists what is in memory. The lock is held while the answer is made, and not while it is sent.
func (s *Server) listState(f filter, to *chunks) error {
	var found []*clearwayv1.Resource
	err := s.view(func(st *state) {
		switch f.kind {
		case kindBlock:
			found = s.listBlocks(st, f)
		case kindAssignment:
			found = st.listAssignments(f)
		case kindNode:
			found = s.listNodes(st, f)
		case kindSession:
			found = s.listSessions(f)
		default:
			found = s.listConfig(st, f)
		}
	})
	if err != nil {
		return err
	}
	return to.add(found...)
}

func (s *Server) listConfig(st *state, f filter) []*clearwayv1.Resource {
	var found []*clearwayv1.Resource
	status := s.statusOf(st, f.kind)
	for _, name := range sortedNames(st.config[f.kind]) {
		object := st.config[f.kind][name].object
		if f.takes(name, object.GetMetadata().GetLabels()) {
			found = append(found, clearwayv1.Wrap(status(object)))
		}
	}
	return found
}

func (s *Server) listBlocks(st *state, f filter) []*clearwayv1.Resource {
	var prefixes []netip.Prefix
	for prefix, block := range st.blocks {
		if f.covers(prefix) && f.of(block.GetNode(), block.GetPool()) && f.takes(clearwayv1.PrefixName(block.GetCidr()), nil) {
			prefixes = append(prefixes, prefix)
		}
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	use := s.blockUse(st)
	found := make([]*clearwayv1.Resource, 0, len(prefixes))
	for _, prefix := range prefixes {
		found = append(found, clearwayv1.Wrap(blockResource(prefix, st.blocks[prefix], use(prefix))))
	}
	return found
}

func (s *state) listAssignments(f filter) []*clearwayv1.Resource {
	type held struct {
		address netip.Addr
		spec    *clearwayv1.AssignmentSpec
	}
	var all []held
	for node, of := range s.assignments {
		for address, spec := range of {
			whole := netip.PrefixFrom(address, address.BitLen())
			inside := f.covers(whole) || (f.prefix.IsValid() && f.prefix.Contains(address))
			if inside && f.of(node, spec.GetPool()) && f.takes(clearwayv1.PrefixName(address.String()), nil) {
				all = append(all, held{address, spec})
			}
		}
	}
	slices.SortFunc(all, func(a, b held) int { return a.address.Compare(b.address) })
	found := make([]*clearwayv1.Resource, 0, len(all))
	for _, one := range all {
		found = append(found, clearwayv1.Wrap(assignmentResource(one.spec)))
	}
	return found
}

func assignmentResource(spec *clearwayv1.AssignmentSpec) *clearwayv1.Assignment {
	return &clearwayv1.Assignment{
		ApiVersion: clearwayv1.APIVersion, Kind: kindAssignment,
		Metadata: &clearwayv1.ObjectMeta{
			Name: clearwayv1.PrefixName(spec.GetAddress()), CreationTimestamp: spec.GetAssignedTime(),
		},
		Spec: spec,
	}
}

func (s *Server) listNodes(st *state, f filter) []*clearwayv1.Resource {
	names := map[string]bool{}
	for name := range st.nodes {
		names[name] = true
	}
	for name := range st.config[kindNode] {
		names[name] = true
	}
	var found []*clearwayv1.Resource
	for _, name := range sortedNames(names) {
		node := s.nodeResource(st, name)
		if f.of(name, "") && f.takes(name, node.GetStatus().GetLabels()) { // what selectors of pools and peers see
			found = append(found, clearwayv1.Wrap(node))
		}
	}
	return found
}

func (s *Server) listSessions(f filter) []*clearwayv1.Resource {
	var all []*clearwayv1.BGPSession
	for _, session := range s.sessions.all() {
		phase, _, report := session.status()
		if phase == phaseLost || (f.GetNode() != "" && f.GetNode() != session.node) {
			continue
		}
		for _, one := range report.GetSessions() {
			if one.GetMetadata() != nil && f.takes(one.GetMetadata().GetName(), one.GetMetadata().GetLabels()) {
				all = append(all, one)
			}
		}
	}
	slices.SortFunc(all, func(a, b *clearwayv1.BGPSession) int {
		return strings.Compare(a.GetMetadata().GetName(), b.GetMetadata().GetName())
	})
	found := make([]*clearwayv1.Resource, 0, len(all))
	for _, one := range all {
		found = append(found, clearwayv1.Wrap(one))
	}
	return found
}

// listEvents reads the store: events are not kept in memory.
func (s *Server) listEvents(ctx context.Context, f filter, to *chunks) error {
	err := s.store.List(ctx, record.Key(record.Events+"/"), func(one record.Record) error {
		spec := &clearwayv1.EventSpec{}
		if err := proto.Unmarshal(one.Value, spec); err != nil {
			return fmt.Errorf("record %s: %w", one.Key, err)
		}
		name := one.Key.Rest()
		if !f.of(spec.GetNode(), "") || !f.takes(name, nil) {
			return nil
		}
		return to.add(clearwayv1.Wrap(&clearwayv1.Event{
			ApiVersion: clearwayv1.APIVersion, Kind: kindEvent,
			Metadata: &clearwayv1.ObjectMeta{Name: name, CreationTimestamp: spec.GetTime()}, Spec: spec,
		}))
	})
	if err != nil {
		return status.Errorf(codes.Unavailable, "list events: %v", err)
	}
	return nil
}

// listRoutes asks the nodes: routes are nowhere else. One that does not answer is a warning.
func (s *Server) listRoutes(ctx context.Context, f filter, to *chunks) error {
	var nodes []string
	if err := s.view(func(st *state) { nodes = sortedNames(st.nodes) }); err != nil {
		return err
	}
	if f.GetNode() != "" {
		if !slices.Contains(nodes, f.GetNode()) {
			return errNotFound(kindNode, f.GetNode())
		}
		nodes = []string{f.GetNode()}
	}
	gathered := &gathering{}
	group := &errgroup.Group{}
	group.SetLimit(askAtOnce)
	for _, node := range nodes {
		group.Go(func() error {
			if err := s.ask(ctx, node, f.ListRequest, gathered.add); err != nil {
				gathered.warn(fmt.Sprintf("node %s: %v", node, err))
			}
			return nil
		})
	}
	_ = group.Wait() // what failed is a warning
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	to.next.Warnings = gathered.warnings
	return to.add(gathered.sorted()...)
}

// gathering collects what nodes answer.
type gathering struct {
	// mu guards all following fields.
	mu        sync.Mutex
	resources []*clearwayv1.Resource
	warnings  []string
}

func (g *gathering) add(resources []*clearwayv1.Resource) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.resources)+len(resources) > maxGathered {
		return fmt.Errorf("more than %d routes in all: ask for one node, or one address", maxGathered)
	}
	g.resources = append(g.resources, resources...)
	return nil
}

func (g *gathering) warn(text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.warnings = append(g.warnings, text)
}

// sorted is in the order of prefixes, then nodes.
func (g *gathering) sorted() []*clearwayv1.Resource {
	slices.Sort(g.warnings)
	type keyed struct {
		prefix   netip.Prefix
		resource *clearwayv1.Resource
	}
	all := make([]keyed, 0, len(g.resources))
	for _, resource := range g.resources {
		prefix, _ := netip.ParsePrefix(resource.GetRoute().GetSpec().GetPrefix()) // an invalid one goes first
		all = append(all, keyed{prefix, resource})
	}
	slices.SortStableFunc(all, func(a, b keyed) int {
		if order := a.prefix.Compare(b.prefix); order != 0 {
			return order
		}
		return strings.Compare(a.resource.GetRoute().GetSpec().GetNode(), b.resource.GetRoute().GetSpec().GetNode())
	})
	for i, one := range all {
		g.resources[i] = one.resource
	}
	return g.resources
}
