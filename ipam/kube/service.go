package kube

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/service"
)

// Annotations of a Service.
const (
	// servicePoolsAnnotation names the pools that its addresses may come from, with commas.
	servicePoolsAnnotation = ownPrefix + "pools"
	// serviceIPsAnnotation asks for addresses, with commas, one a family.
	serviceIPsAnnotation = ownPrefix + "load-balancer-ips"
	// sharingAnnotation is the same on Services of a namespace that may share an address.
	sharingAnnotation = ownPrefix + "sharing-key"
	// communitiesAnnotation are the communities that its addresses are told with, with commas.
	communitiesAnnotation = ownPrefix + "communities"
)

// maxServicePools is the most pools that one Service may name. What it may say of communities the Keeper judges, as it does
// those of pools.
const maxServicePools = 16

// serviceOf reads a Service, without its endpoints.
func serviceOf(object *corev1.Service) *service.Service {
	s := &service.Service{
		Namespace: object.Namespace, Name: object.Name, UID: string(object.UID), Created: object.CreationTimestamp.Time,
		Labels:        maps.Clone(object.Labels),
		LoadBalancer:  object.Spec.Type == corev1.ServiceTypeLoadBalancer && object.DeletionTimestamp == nil,
		ExternalLocal: object.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		Selector:      labels.Set(object.Spec.Selector).String(),
		SharingKey:    object.Annotations[sharingAnnotation],
	}
	if object.Spec.LoadBalancerClass != nil {
		s.Class = *object.Spec.LoadBalancerClass
	}
	if policy := object.Spec.InternalTrafficPolicy; policy != nil {
		s.InternalLocal = *policy == corev1.ServiceInternalTrafficPolicyLocal
	}
	if policy := object.Spec.IPFamilyPolicy; policy != nil {
		s.AllFamilies = *policy == corev1.IPFamilyPolicyRequireDualStack
	}
	for _, family := range object.Spec.IPFamilies {
		switch family {
		case corev1.IPv4Protocol:
			s.Families = append(s.Families, service.IPv4)
		case corev1.IPv6Protocol:
			s.Families = append(s.Families, service.IPv6)
		}
	}
	for _, port := range object.Spec.Ports {
		s.Ports = append(s.Ports, service.Port{Protocol: string(cmp.Or(port.Protocol, corev1.ProtocolTCP)), Number: port.Port})
	}
	s.ClusterIPs, s.ExternalIPs = addrsOf(object.Spec.ClusterIPs), addrsOf(object.Spec.ExternalIPs)
	for _, ingress := range object.Status.LoadBalancer.Ingress {
		s.Ingress = append(s.Ingress, addrsOf([]string{ingress.IP})...)
	}
	readServiceAnnotations(s, object)
	return s
}

// addrsOf are the addresses among texts; None and empty ones are none.
func addrsOf(texts []string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			list = append(list, addr.Unmap())
		}
	}
	return list
}

// readServiceAnnotations reads what a Service asks for. spec.loadBalancerIP, which is deprecated, asks as the annotation does.
func readServiceAnnotations(s *service.Service, object *corev1.Service) {
	fault := func(name, text, format string, values ...any) {
		s.Fault = cmp.Or(s.Fault, fmt.Sprintf("%s %q: %s", name, text, fmt.Sprintf(format, values...)))
	}
	asked := splitList(object.Annotations[serviceIPsAnnotation])
	name := "annotation " + serviceIPsAnnotation
	if len(asked) == 0 && object.Spec.LoadBalancerIP != "" {
		asked, name = []string{object.Spec.LoadBalancerIP}, "spec.loadBalancerIP"
	}
	for _, text := range asked {
		addr, err := cidr.ParseAddress(text)
		switch {
		case err != nil:
			fault(name, text, "%s", cidr.Reason(err))
		case slices.ContainsFunc(s.Asked, func(other netip.Addr) bool { return other.Is4() == addr.Is4() }):
			fault(name, text, "is the second of its family; name one a family")
		case s.LoadBalancer && !slices.Contains(s.Families, service.FamilyOf(addr)):
			fault(name, text, "is %s, which is not among the Service's ipFamilies", service.FamilyOf(addr))
		default:
			s.Asked = append(s.Asked, addr)
		}
	}
	if s.Pools = splitList(object.Annotations[servicePoolsAnnotation]); len(s.Pools) > maxServicePools {
		fault("annotation "+servicePoolsAnnotation, fmt.Sprint(len(s.Pools)), "are more than %d pools", maxServicePools)
	}
	s.Communities = splitList(object.Annotations[communitiesAnnotation])
}

func splitList(text string) []string {
	var list []string
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

// slice is an EndpointSlice as far as it counts: whose it is, and the best endpoint that it has on each node.
type slice struct {
	service string // NAMESPACE/NAME; empty: of none
	nodes   map[string]service.Readiness
}

func sliceOf(object *discoveryv1.EndpointSlice) slice {
	one := slice{nodes: map[string]service.Readiness{}}
	if name := object.Labels[discoveryv1.LabelServiceName]; name != "" {
		one.service = object.Namespace + "/" + name
	}
	for _, endpoint := range object.Endpoints {
		node := ""
		if endpoint.NodeName != nil {
			node = *endpoint.NodeName
		}
		if readiness := readinessOf(endpoint.Conditions); readiness > one.nodes[node] {
			one.nodes[node] = readiness
		}
	}
	return one
}

// readinessOf reads an endpoint's conditions as the API has them: what is not said is ready, and serving when it is ready.
func readinessOf(conditions discoveryv1.EndpointConditions) service.Readiness {
	ready := conditions.Ready == nil || *conditions.Ready
	serving := ready
	if conditions.Serving != nil {
		serving = *conditions.Serving
	}
	switch {
	case ready:
		return service.Ready
	case serving && conditions.Terminating != nil && *conditions.Terminating:
		return service.Terminating
	}
	return service.Unready
}

func sameSlice(a, b slice) bool { return a.service == b.service && maps.Equal(a.nodes, b.nodes) }

// withEndpoints joins Services and EndpointSlices. The Services given are not changed.
func withEndpoints(services map[string]*service.Service, parts map[string]slice) map[string]*service.Service {
	joined := make(map[string]*service.Service, len(services))
	for name, one := range services {
		made := *one
		made.Endpoints = map[string]service.Readiness{}
		joined[name] = &made
	}
	for _, part := range parts {
		one := joined[part.service]
		if one == nil {
			continue
		}
		for node, readiness := range part.nodes {
			one.Endpoints[node] = max(one.Endpoints[node], readiness)
		}
	}
	return joined
}
