package node

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/clearway/clearway/ipam/cidr"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// List answers for the kinds Block and Assignment, the node's own ones, in the order of addresses.
func (n *Node) List(_ context.Context, request *clearwayv1.ListRequest) ([]*clearwayv1.Resource, error) {
	within, err := listFilter(request)
	if err != nil {
		return nil, err
	}
	taken, err := selects(request)
	if err != nil {
		return nil, err
	}
	if !taken || request.GetNode() != "" && request.GetNode() != n.options.Node {
		return nil, nil
	}
	switch request.GetKind() {
	case "Block":
		return n.book.listBlocks(n.options.Node, request, within), nil
	case "Assignment":
		return n.book.listAssignments(n.options.Node, request, within), nil
	}
	return nil, fmt.Errorf("kind %q: a node's addresses are of the kinds Block and Assignment", request.GetKind())
}

// selects tells whether a request's label selector takes what has no labels.
func selects(request *clearwayv1.ListRequest) (bool, error) {
	selector, err := labels.Parse(request.GetLabelSelector())
	if err != nil {
		return false, fmt.Errorf("labelSelector %q: %w", request.GetLabelSelector(), err)
	}
	return selector.Matches(labels.Set{}), nil
}

// listFilter reads the address that a request narrows the list to; an invalid prefix: none.
func listFilter(request *clearwayv1.ListRequest) (netip.Prefix, error) {
	text := request.GetAddress()
	if text == "" {
		return netip.Prefix{}, nil
	}
	if addr, err := cidr.ParseAddress(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := cidr.Parse(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("address %q must be an address or a prefix: %w", text, err)
	}
	return prefix, nil
}

func (b *book) listBlocks(node string, request *clearwayv1.ListRequest, within netip.Prefix) []*clearwayv1.Resource {
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []*clearwayv1.Resource
	for _, o := range b.blocks {
		name := clearwayv1.PrefixName(o.CIDR.String())
		if !matches(request, name, o.Pool) || within.IsValid() && !holds(o.CIDR, within) {
			continue
		}
		found = append(found, clearwayv1.Wrap(b.blockResource(node, name, o)))
	}
	return found
}

// holds tells whether a block holds the address asked for, or is the prefix asked for.
func holds(block, asked netip.Prefix) bool {
	return block == asked || asked.IsSingleIP() && block.Contains(asked.Addr())
}

func (b *book) blockResource(node, name string, o *ownBlock) *clearwayv1.Block {
	c := o.Count(b.now())
	spec := o.spec()
	spec.Node = node
	return &clearwayv1.Block{
		ApiVersion: clearwayv1.APIVersion, Kind: "Block",
		Metadata: &clearwayv1.ObjectMeta{Name: name},
		Spec:     spec,
		Status: &clearwayv1.BlockStatus{
			Addresses: int64(c.Size), Assigned: int64(c.Assigned), Cooling: int64(c.Cooling), Sealed: o.Block.Sealed(),
		},
	}
}

func matches(request *clearwayv1.ListRequest, name, pool string) bool {
	return (request.GetName() == "" || request.GetName() == name) && (request.GetPool() == "" || request.GetPool() == pool)
}

func (b *book) listAssignments(node string, request *clearwayv1.ListRequest, within netip.Prefix) []*clearwayv1.Resource {
	all, _ := b.assignments()
	type one struct {
		addr netip.Addr
		spec *clearwayv1.AssignmentSpec
	}
	var found []one
	for _, a := range all {
		for _, h := range a.addrs {
			name := clearwayv1.PrefixName(h.Addr.String())
			if !matches(request, name, h.Pool) || within.IsValid() && !(within.IsSingleIP() && within.Addr() == h.Addr) {
				continue
			}
			spec := a.spec(h)
			spec.Node = node
			found = append(found, one{h.Addr, spec})
		}
	}
	slices.SortFunc(found, func(x, y one) int { return x.addr.Compare(y.addr) })
	resources := make([]*clearwayv1.Resource, 0, len(found))
	for _, f := range found {
		resources = append(resources, clearwayv1.Wrap(&clearwayv1.Assignment{
			ApiVersion: clearwayv1.APIVersion, Kind: "Assignment",
			Metadata: &clearwayv1.ObjectMeta{
				Name:              clearwayv1.PrefixName(f.addr.String()),
				CreationTimestamp: timestamppb.New(f.spec.GetAssignedTime().AsTime()),
			},
			Spec: f.spec,
		}))
	}
	return resources
}
