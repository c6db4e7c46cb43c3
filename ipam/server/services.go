package server

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/pool"
	"github.com/clearway/clearway/ipam/service"
	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// services is what is kept of Kubernetes' Services, by NAMESPACE/NAME, with the indices that questions need.
type services struct {
	records    map[string]*clearwayv1.KubernetesService
	byAddress  map[netip.Addr][]string        // who was given an address, ascending
	everywhere map[string]struct{}            // those that every node tells of
	on         map[string]map[string]struct{} // those that one node tells of, by its name
}

func newServices() services {
	return services{
		records: map[string]*clearwayv1.KubernetesService{}, byAddress: map[netip.Addr][]string{},
		everywhere: map[string]struct{}{}, on: map[string]map[string]struct{}{},
	}
}

// apply brings one record in, or, without a value, out.
func (s *services) apply(name string, value []byte, touched *change) error {
	var next *clearwayv1.KubernetesService
	if value != nil {
		next = &clearwayv1.KubernetesService{}
		if err := proto.Unmarshal(value, next); err != nil {
			return err
		}
	}
	before := s.records[name]
	s.index(name, before, false)
	delete(s.records, name)
	if next != nil {
		s.records[name] = next
		s.index(name, next, true)
	}
	if slices.EqualFunc(before.GetRoutes(), next.GetRoutes(), func(a, b *clearwayv1.ServiceRoute) bool { return proto.Equal(a, b) }) {
		return nil
	}
	for _, route := range slices.Concat(before.GetRoutes(), next.GetRoutes()) {
		if route.GetEveryNode() {
			touched.services[name] = struct{}{}
		}
		for _, node := range route.GetNodes() {
			touched.tellers[node] = struct{}{}
		}
	}
	return nil
}

// index puts a record's names into the indices, or takes them out.
func (s *services) index(name string, one *clearwayv1.KubernetesService, in bool) {
	for _, addr := range addressesOfService(one) {
		names := slices.DeleteFunc(slices.Clone(s.byAddress[addr.Addr]), func(other string) bool { return other == name })
		if in {
			names = append(names, name)
			slices.Sort(names)
		}
		if s.byAddress[addr.Addr] = names; len(names) == 0 {
			delete(s.byAddress, addr.Addr)
		}
	}
	delete(s.everywhere, name)
	for _, route := range one.GetRoutes() {
		if route.GetEveryNode() && in {
			s.everywhere[name] = struct{}{}
		}
		for _, node := range route.GetNodes() {
			if s.on[node] == nil {
				s.on[node] = map[string]struct{}{}
			}
			if delete(s.on[node], name); in {
				s.on[node][name] = struct{}{}
			}
			if len(s.on[node]) == 0 {
				delete(s.on, node)
			}
		}
	}
}

// addressesOfService reads what a Service was given.
func addressesOfService(one *clearwayv1.KubernetesService) []service.Address {
	var all []service.Address
	for _, given := range one.GetAddresses() {
		if addr, err := netip.ParseAddr(given.GetAddress()); err == nil {
			all = append(all, service.Address{Addr: addr, Pool: given.GetPool()})
		}
	}
	return all
}

// maxNamedUsers is how many Services a refusal names.
const maxNamedUsers = 3

// usersOf names Services with addresses of a pool, those that match; "": there are none.
func (s *services) usersOf(ofPool string, match func(netip.Addr) bool) string {
	var users []string
	for name, one := range s.records {
		for _, addr := range addressesOfService(one) {
			if addr.Pool == ofPool && match(addr.Addr) {
				users = append(users, name)
				break
			}
		}
	}
	return namedServices(users)
}

func namedServices(names []string) string {
	slices.Sort(names)
	switch {
	case len(names) == 0:
		return ""
	case len(names) == 1:
		return "Service " + names[0]
	case len(names) > maxNamedUsers:
		return fmt.Sprintf("Services %s and %d more", strings.Join(names[:maxNamedUsers], ", "), len(names)-maxNamedUsers)
	}
	return "Services " + strings.Join(names, ", ")
}

// namesAt names the Services that have an address; "": none has.
func (s *services) namesAt(addr netip.Addr) string {
	return namedServices(slices.Clone(s.byAddress[addr]))
}

// pools are the pools of the addresses that Services have, by address.
func (s *services) pools() map[netip.Addr]string {
	of := map[netip.Addr]string{}
	for _, one := range s.records {
		for _, addr := range addressesOfService(one) {
			of[addr.Addr] = addr.Pool
		}
	}
	return of
}

// toldAt says who tells of an address.
func (s *services) toldAt(addr netip.Addr) string {
	nodes := map[string]struct{}{}
	for _, name := range s.byAddress[addr] {
		for _, route := range s.records[name].GetRoutes() {
			if !slices.Contains(route.GetAddresses(), addr.String()) {
				continue
			}
			if route.GetEveryNode() {
				return "every node tells it that tells of Services"
			}
			for _, node := range route.GetNodes() {
				nodes[node] = struct{}{}
			}
		}
	}
	switch names := slices.Sorted(maps.Keys(nodes)); {
	case len(names) == 0:
		return "no node tells it: it has no endpoint that serves, or BGPConfiguration's services.loadBalancerIPs does not allow it"
	case len(names) > maxNamedUsers:
		return fmt.Sprintf("%s and %d more nodes tell it", strings.Join(names[:maxNamedUsers], ", "), len(names)-maxNamedUsers)
	default:
		return "told by " + strings.Join(names, ", ")
	}
}

// entry is what all nodes see of a Service: the addresses that every one of them tells.
func (s *services) entry(name string) *clearwayv1.OwnershipEntry {
	entry := entryOf(name, s.records[name], (*clearwayv1.ServiceRoute).GetEveryNode)
	if len(entry.GetAddresses()) == 0 {
		return deletedService(name)
	}
	return &clearwayv1.OwnershipEntry{Entry: &clearwayv1.OwnershipEntry_Service{Service: entry}}
}

// entryOf joins the routes of a Service that match, each address with the pool that it was given of.
func entryOf(name string, one *clearwayv1.KubernetesService, match func(*clearwayv1.ServiceRoute) bool) *clearwayv1.ServiceEntry {
	pools := map[string]string{}
	for _, given := range one.GetAddresses() {
		pools[given.GetAddress()] = given.GetPool()
	}
	entry := &clearwayv1.ServiceEntry{Name: name}
	for _, route := range one.GetRoutes() {
		if !match(route) {
			continue
		}
		for _, text := range route.GetAddresses() {
			entry.Addresses = append(entry.Addresses, &clearwayv1.ServiceAddress{Address: text, Pool: pools[text]})
		}
		entry.Communities = route.GetCommunities()
	}
	return entry
}

// servicesFor are the Services with endpoints on a node, of which it tells beside those that every node tells, by name.
func (s *state) servicesFor(node string) []*clearwayv1.ServiceEntry {
	var list []*clearwayv1.ServiceEntry
	for _, name := range sortedNames(s.kube.services.on[node]) {
		list = append(list, entryOf(name, s.kube.services.records[name], func(route *clearwayv1.ServiceRoute) bool {
			_, here := slices.BinarySearch(route.GetNodes(), node)
			return here
		}))
	}
	return list
}

// SeeServices takes all Services that there are in Kubernetes, by NAMESPACE/NAME, gives them addresses, and says who tells of
// them. It is called by one goroutine: nobody else changes what Services have.
func (s *Server) SeeServices(ctx context.Context, all map[string]*service.Service) (map[string]service.Answer, error) {
	in := service.Input{Services: all, Held: map[string]service.Held{}, Now: s.now()}
	var allowed service.Allowed
	var records map[string]*clearwayv1.KubernetesService
	err := s.view(func(st *state) {
		for _, one := range st.pools {
			in.Pools = append(in.Pools, one.Pool)
		}
		in.Reservations = slices.Clone(st.reserved)
		cluster, _ := st.config[kindBGPConfiguration][defaultName].object.(*clearwayv1.BGPConfiguration)
		in.DefaultClass, allowed = cluster.GetSpec().GetServices().GetDefaultClass(), allowedOf(cluster.GetSpec().GetServices())
		records = maps.Clone(st.kube.services.records) // the messages in it are never changed
	})
	if err != nil {
		return nil, err
	}
	for name, one := range records {
		if held := addressesOfService(one); len(held) > 0 {
			in.Held[name] = service.Held{UID: one.GetUid(), Addresses: held, Since: one.GetGivenTime().AsTime()}
		}
	}
	faults := s.communityFaults(all)
	given, refused := service.Give(in)
	wanted := wantedServices(in, given, allowed)
	for name, fault := range faults {
		refused[name] = strings.TrimPrefix(refused[name]+"; "+fault, "; ")
	}
	for name := range faults {
		if wanted[name] != nil {
			wanted[name] = asBefore(wanted[name], records[name])
		}
	}
	// To compare ten thousand of them takes some milliseconds: not while everybody waits.
	var changed []string
	for name := range joined(records, wanted) {
		if !proto.Equal(records[name], wanted[name]) {
			changed = append(changed, name)
		}
	}
	for some := range slices.Chunk(changed, seenAtOnce) {
		if err := s.claims.do(ctx, true, func(p *plan) error {
			for _, name := range some {
				p.putService(name, wanted[name])
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return answersOf(in, given, refused), nil
}

func joined[V any](a, b map[string]V) map[string]struct{} {
	keys := make(map[string]struct{}, len(a)+len(b))
	for key := range a {
		keys[key] = struct{}{}
	}
	for key := range b {
		keys[key] = struct{}{}
	}
	return keys
}

// putService writes one record; nil: it is no more.
func (p *plan) putService(name string, one *clearwayv1.KubernetesService) {
	key := record.KubernetesKey(record.KubernetesServices, name)
	switch {
	case one == nil:
		p.write(record.Op{Key: key})
	case p.mayHave(one):
		p.write(record.Op{Key: key, Value: mustMarshal(one)})
	}
}

// communityFaults tells of Services whose annotation names what is no community.
func (s *Server) communityFaults(all map[string]*service.Service) map[string]string {
	faults := map[string]string{}
	for name, one := range all {
		if len(one.Communities) == 0 {
			continue
		}
		spec := &clearwayv1.IPPoolSpec{Communities: one.Communities} // the kind that has such a list
		for _, fault := range s.options.Validate(&clearwayv1.IPPool{Spec: spec}) {
			faults[name] = fmt.Sprintf("annotation clearway.io/communities %q: %s", fault.GetValue(), fault.GetMessage())
			break
		}
	}
	return faults
}

// asBefore has the communities of before: with those that cannot be read, and with none where some were wanted, a route might
// get where it must not. Without any from before it has no routes.
func asBefore(one, before *clearwayv1.KubernetesService) *clearwayv1.KubernetesService {
	made := proto.CloneOf(one)
	if len(before.GetRoutes()) == 0 {
		made.Routes = nil
	}
	for _, route := range made.GetRoutes() {
		route.Communities = before.GetRoutes()[0].GetCommunities()
	}
	return made
}

// mayHave looks again whether a pool has become another one since addresses were chosen: then they wait for the next round.
func (p *plan) mayHave(one *clearwayv1.KubernetesService) bool {
	for _, addr := range addressesOfService(one) {
		from := p.pools[addr.Pool]
		if p.kube.services.byAddress[addr.Addr] == nil && (from == nil || from.Kind != pool.LoadBalancer || !from.CIDR.Contains(addr.Addr)) {
			return false
		}
	}
	return true
}

// wantedServices are the records of those Services that have an address or are told of.
func wantedServices(in service.Input, given map[string]service.Held, allowed service.Allowed) map[string]*clearwayv1.KubernetesService {
	inPool := func(addr netip.Addr) bool {
		return slices.ContainsFunc(in.Pools, func(p pool.Pool) bool { return p.CIDR.Contains(addr) })
	}
	wanted := map[string]*clearwayv1.KubernetesService{}
	for name, one := range in.Services {
		made := &clearwayv1.KubernetesService{Uid: one.UID}
		held := given[name]
		var addresses []netip.Addr
		for _, addr := range held.Addresses {
			made.Addresses = append(made.Addresses, &clearwayv1.ServiceAddress{Address: addr.String(), Pool: addr.Pool})
			addresses = append(addresses, addr.Addr)
		}
		if len(addresses) > 0 {
			made.GivenTime = timestamppb.New(held.Since)
		}
		for _, route := range one.Routes(addresses, allowed, inPool) {
			told := &clearwayv1.ServiceRoute{EveryNode: route.EveryNode, Nodes: route.Nodes, Communities: one.Communities}
			for _, addr := range route.Addresses {
				told.Addresses = append(told.Addresses, addr.String())
			}
			made.Routes = append(made.Routes, told)
		}
		if len(made.GetAddresses())+len(made.GetRoutes()) > 0 {
			wanted[name] = made
		}
	}
	return wanted
}

// answersOf tells of the Services that get their addresses here, and of those whose status shows an address of ours and that
// are none of ours any more: they have none.
func answersOf(in service.Input, given map[string]service.Held, refused map[string]string) map[string]service.Answer {
	answers := map[string]service.Answer{}
	for name, one := range in.Services {
		stale := !one.LoadBalancer && slices.ContainsFunc(one.Ingress, func(addr netip.Addr) bool {
			return slices.ContainsFunc(in.Pools, func(p pool.Pool) bool { return p.Kind == pool.LoadBalancer && p.CIDR.Contains(addr) })
		})
		if !stale && !one.Ours(in.DefaultClass) {
			continue
		}
		answer := service.Answer{UID: one.UID, Refusal: refused[name]}
		for _, addr := range given[name].Addresses {
			answer.Addresses = append(answer.Addresses, addr.Addr)
		}
		answers[name] = answer
	}
	return answers
}

// allowedOf reads the allow-lists. What cannot be read was refused when it was applied, and allows nothing.
func allowedOf(spec *clearwayv1.ServiceRoutes) service.Allowed {
	read := func(texts []string) []netip.Prefix {
		var list []netip.Prefix
		for _, text := range texts {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				list = append(list, prefix)
			}
		}
		return list
	}
	return service.Allowed{
		LoadBalancer: read(spec.GetLoadBalancerIps()), External: read(spec.GetExternalIps()), Cluster: read(spec.GetClusterIps()),
	}
}
