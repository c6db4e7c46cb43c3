package migrate

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// System is a network that can be moved in from.
type System string

// The systems.
const (
	Calico  System = "calico"
	Flannel System = "flannel"
	Cilium  System = "cilium"
)

// Systems are all of them.
func Systems() []System { return []System{Calico, Flannel, Cilium} }

// Source names objects of the API server that a plan is made of.
type Source struct {
	// Group, Version and Resource as in a path; Group "" is the core's.
	Group, Version, Resource string
	// Namespace and Name: only this object.
	Namespace, Name string
}

// Sources are what a plan is made of. Those that the API server does not know are none.
func Sources(of System) []Source {
	sources := []Source{{Version: "v1", Resource: "nodes"}, {Version: "v1", Resource: "pods"}, {Version: "v1", Resource: "namespaces"},
		{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"}}
	crds := func(group, version string, resources ...string) {
		for _, one := range resources {
			sources = append(sources, Source{Group: group, Version: version, Resource: one})
		}
	}
	switch of {
	case Calico:
		crds("crd.projectcalico.org", "v1", "ippools", "bgpconfigurations", "bgppeers", "bgpfilters", "ipreservations", "blockaffinities",
			"ipamblocks", "globalnetworkpolicies", "networkpolicies")
	case Flannel:
		for _, namespace := range []string{"kube-flannel", "kube-system"} { // the second in releases before 0.20
			sources = append(sources, Source{Version: "v1", Resource: "configmaps", Namespace: namespace, Name: flannelConfig})
		}
	case Cilium:
		sources = append(sources, Source{Version: "v1", Resource: "configmaps", Namespace: "kube-system", Name: ciliumConfig})
		crds("cilium.io", "v2", "ciliumnodes", "ciliumbgpclusterconfigs", "ciliumbgppeerconfigs", "ciliumbgpadvertisements",
			"ciliumloadbalancerippools", "ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies")
		crds("cilium.io", "v2alpha1", "ciliumpodippools", "ciliumbgppeeringpolicies")
	}
	return sources
}

// Weight is how much a finding counts.
type Weight string

// The weights.
const (
	// Stops: nothing is applied before it is put right.
	Stops Weight = "STOPS"
	// Differs: it works in another way, or not by itself; somebody should know before.
	Differs Weight = "DIFFERS"
	// Left: it is not taken over, and nothing breaks by that.
	Left Weight = "LEFT"
)

// Finding is what a plan does not do as it was, and what to do about it.
type Finding struct {
	Weight Weight `json:"weight"`
	Object string `json:"object"`
	Text   string `json:"text"`
}

// Plan is what moving in would do.
type Plan struct {
	// Resources are to be applied, in this order: what others name comes first.
	Resources []clearwayv1.Object
	// Nodes are to be taken in then, by name.
	Nodes    []*clearwayv1.AdoptRequest
	Findings []Finding
}

// Stopped tells whether a finding keeps the plan from being applied.
func (p *Plan) Stopped() bool {
	return slices.ContainsFunc(p.Findings, func(f Finding) bool { return f.Weight == Stops })
}

// Options say what is not in the objects.
type Options struct {
	// Network is the name of the network's configuration (conflist) that Clearway will be installed with: by that and the
	// container's ID runtimes name what they release.
	Network string
}

// Make reads objects, as the API server has them, and plans.
func Make(of System, objects []map[string]any, options Options) (*Plan, error) {
	read, err := sortObjects(objects)
	if err != nil {
		return nil, err
	}
	m := &maker{
		objects: read, options: options, plan: &Plan{}, nodes: map[string]*clearwayv1.AdoptRequest{}, findings: map[Finding]bool{},
	}
	if err := m.readCore(); err != nil {
		return nil, err
	}
	switch of {
	case Calico:
		err = m.calico()
	case Flannel:
		err = m.flannel()
	case Cilium:
		err = m.cilium()
	default:
		return nil, fmt.Errorf("system %q is unknown; it is one of %v", of, Systems())
	}
	if err != nil {
		return nil, err
	}
	m.finish()
	return m.plan, nil
}

// maker makes one plan.
type maker struct {
	objects  objects
	options  Options
	plan     *Plan
	machines map[string]node
	pods     []pod
	pools    []planned
	nodes    map[string]*clearwayv1.AdoptRequest
	findings map[Finding]bool
	unmade   map[string]bool // the BGPFilters of Calico that could not be taken over
}

// planned is a Block pool of the plan.
type planned struct {
	name string
	cidr netip.Prefix
	bits int // of its blocks
}

func (m *maker) find(weight Weight, object, format string, args ...any) {
	one := Finding{weight, object, fmt.Sprintf(format, args...)}
	if !m.findings[one] {
		m.findings[one] = true
		m.plan.Findings = append(m.plan.Findings, one)
	}
}

func (m *maker) add(resource clearwayv1.Object) {
	m.plan.Resources = append(m.plan.Resources, resource)
}

// rank orders resources: what others name comes first.
var rank = []string{"IPPool", "IPReservation", "BGPConfiguration", "BGPFilter", "BGPPeer", "Node"}

func (m *maker) finish() {
	m.gateways()
	slices.SortStableFunc(m.plan.Resources, func(a, b clearwayv1.Object) int {
		return cmp.Or(cmp.Compare(slices.Index(rank, kindOf(a)), slices.Index(rank, kindOf(b))),
			cmp.Compare(a.GetMetadata().GetName(), b.GetMetadata().GetName()))
	})
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		node := m.nodes[name]
		if len(node.GetBlocks()) == 0 {
			continue
		}
		slices.SortFunc(node.Blocks, func(a, b *clearwayv1.BlockSpec) int { return comparePrefixes(a.GetCidr(), b.GetCidr()) })
		slices.SortFunc(node.Assignments, func(a, b *clearwayv1.AssignmentSpec) int {
			return netip.MustParseAddr(a.GetAddress()).Compare(netip.MustParseAddr(b.GetAddress()))
		})
		m.plan.Nodes = append(m.plan.Nodes, node)
	}
	if len(m.pools) == 0 {
		m.find(Stops, "IPPool", "no pool of Pods' addresses was found: is this the cluster, and the network that it has?")
	}
	order := []Weight{Stops, Differs, Left}
	slices.SortStableFunc(m.plan.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Weight), slices.Index(order, b.Weight)), cmp.Compare(a.Object, b.Object))
	})
}

func kindOf(object clearwayv1.Object) string {
	return string(object.ProtoReflect().Descriptor().Name())
}

func comparePrefixes(a, b string) int {
	return netip.MustParsePrefix(a).Compare(netip.MustParsePrefix(b))
}

// join lists a few names, and counts the rest.
func join(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

func meta(name string) *clearwayv1.ObjectMeta { return &clearwayv1.ObjectMeta{Name: name} }
