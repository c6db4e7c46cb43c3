package service

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Class is the spec.loadBalancerClass of Services that get their addresses here.
const Class = "clearway.io/bgp"

// Family is an IP family, as Services have it in spec.ipFamilies.
type Family int

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf is the family of an address.
func FamilyOf(addr netip.Addr) Family {
	if addr.Is4() {
		return IPv4
	}
	return IPv6
}

func (f Family) String() string {
	if f == IPv4 {
		return "IPv4"
	}
	return "IPv6"
}

// Service is a Service as far as it counts here.
type Service struct {
	Namespace, Name, UID string
	Created              time.Time
	Labels               map[string]string
	// LoadBalancer: it is of that type, and Class its loadBalancerClass; empty: it has none.
	LoadBalancer bool
	Class        string
	Families     []Family
	// AllFamilies: it wants an address of each or none (ipFamilyPolicy RequireDualStack).
	AllFamilies             bool
	ClusterIPs, ExternalIPs []netip.Addr
	// Ingress are the addresses in its status.
	Ingress []netip.Addr
	Ports   []Port
	// ExternalLocal and InternalLocal: only endpoints on the node itself serve (externalTrafficPolicy, internalTrafficPolicy).
	ExternalLocal, InternalLocal bool
	// Selector is its spec.selector, written in order: Services with the same one have the same endpoints.
	Selector string
	// What its annotations say. With a Fault it is given nothing new.
	Asked       []netip.Addr
	Pools       []string
	SharingKey  string
	Communities []string
	Fault       string
	// Endpoints are the nodes with endpoints of it, and the best of these on each; "" is the node of those without one.
	Endpoints map[string]Readiness
}

// Port is one port of a Service.
type Port struct {
	Protocol string
	Number   int32
}

// Readiness is how far an endpoint can serve. The greater the better.
type Readiness int

// What an endpoint may be: of no use, about to go and serving still, or ready.
const (
	Unready Readiness = iota
	Terminating
	Ready
)

// Key is the Service's namespace and name.
func (s *Service) Key() string { return s.Namespace + "/" + s.Name }

// Ours tells whether the Service gets its addresses here.
func (s *Service) Ours(defaultClass bool) bool {
	return s.LoadBalancer && (s.Class == Class || s.Class == "" && defaultClass)
}

// Allowed are the allow-lists of BGPConfiguration: no address beside them is told.
type Allowed struct {
	LoadBalancer, External, Cluster []netip.Prefix
}

// Route is addresses of a Service and the nodes that tell them.
type Route struct {
	Addresses []netip.Addr
	// EveryNode: whichever node a packet comes to, it is passed on to an endpoint. Else Nodes, in order, have endpoints.
	EveryNode bool
	Nodes     []string
}

// Routes are what is told of a Service. given are the addresses that it was given here; those of its status and of
// spec.externalIPs that lie in a pool (inPool) are others' business, and are left out.
func (s *Service) Routes(given []netip.Addr, allowed Allowed, inPool func(netip.Addr) bool) []Route {
	var outside, inside []netip.Addr
	for _, addr := range given {
		outside = appendWithin(outside, addr, allowed.LoadBalancer)
	}
	if len(given) == 0 && s.LoadBalancer {
		for _, addr := range s.Ingress {
			if !inPool(addr) {
				outside = appendWithin(outside, addr, allowed.LoadBalancer)
			}
		}
	}
	for _, addr := range s.ExternalIPs {
		if !inPool(addr) {
			outside = appendWithin(outside, addr, allowed.External)
		}
	}
	for _, addr := range s.ClusterIPs {
		inside = appendWithin(inside, addr, allowed.Cluster)
	}
	var routes []Route
	if route, some := s.tellers(s.ExternalLocal); some && len(outside) > 0 {
		route.Addresses = outside
		routes = append(routes, route)
	}
	if route, some := s.tellers(s.InternalLocal); some && len(inside) > 0 {
		route.Addresses = inside
		routes = append(routes, route)
	}
	return routes
}

func appendWithin(list []netip.Addr, addr netip.Addr, allowed []netip.Prefix) []netip.Addr {
	if slices.Contains(list, addr) || !slices.ContainsFunc(allowed, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return list
	}
	return append(list, addr)
}

// tellers are the nodes that have something to pass packets on to. Endpoints that are about to go count when there is no
// ready one at all: they serve to the end, as kube-proxy has it (KEP-1669).
func (s *Service) tellers(local bool) (route Route, some bool) {
	best := Unready
	for _, readiness := range s.Endpoints {
		best = max(best, readiness)
	}
	if best == Unready {
		return Route{}, false
	}
	if !local {
		return Route{EveryNode: true}, true
	}
	for node, readiness := range s.Endpoints {
		if node != "" && readiness == best {
			route.Nodes = append(route.Nodes, node)
		}
	}
	slices.Sort(route.Nodes)
	return route, len(route.Nodes) > 0
}

// labelsFor are what a pool's serviceSelector sees.
func (s *Service) labelsFor(namespaceLabel string) map[string]string {
	seen := make(map[string]string, len(s.Labels)+1)
	for key, value := range s.Labels {
		seen[key] = value
	}
	seen[namespaceLabel] = s.Namespace
	return seen
}

// shares tells why two Services cannot have the same address; "": they can.
func (s *Service) shares(other *Service) string {
	switch {
	case s.SharingKey == "" || s.SharingKey != other.SharingKey || s.Namespace != other.Namespace:
		return "has it; Services of one namespace share an address when all have the same annotation clearway.io/sharing-key"
	case (s.ExternalLocal || other.ExternalLocal) && s.Selector != other.Selector:
		return "has it, with other endpoints; with externalTrafficPolicy Local those that share an address must have the same selector"
	}
	for _, port := range s.Ports {
		if slices.Contains(other.Ports, port) {
			return "has its port " + port.String()
		}
	}
	return ""
}

func (p Port) String() string { return fmt.Sprintf("%s %d", p.Protocol, p.Number) }
