package speaker

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// A reflector's routes (RFC 4456) are GoBGP's own, as all that it has: it passes nothing on by itself. GoBGP puts ORIGINATOR_ID
// and CLUSTER_LIST on what it sends a client alone, so every node of the mesh is one to it, always: who reflects may change
// without a reset. Which neighbour is told which is the export policy's, and ORIGIN tells it: agents originate with IGP alone,
// which is what neighbours are told again.
const (
	originOwn        = api.OriginType_ORIGIN_TYPE_IGP
	originClients    = api.OriginType_ORIGIN_TYPE_EGP        // from a client: for every node of the mesh
	originReflectors = api.OriginType_ORIGIN_TYPE_INCOMPLETE // from another reflector: for clients
)

// gate lets reflections through to those that are to have them, with their ORIGIN as it was, and to nobody else: neither to
// BGPPeers nor to who calls from a listen range, even one that nodes of the mesh are in. It stands whether the node reflects or
// not: policies change before paths do.
func gate(request *api.SetPoliciesRequest, neighbors []config.Neighbor) []*api.Statement {
	mesh := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: "mesh"}
	clients := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: "clients"}
	for _, n := range neighbors {
		if !n.ClusterID.IsValid() {
			continue
		}
		member := netip.PrefixFrom(n.Address.WithZone(""), n.Address.BitLen()).String()
		mesh.List = append(mesh.List, member)
		if n.Client {
			clients.List = append(clients.List, member)
		}
	}
	var statements []*api.Statement
	pass := func(set *api.DefinedSet, origin api.OriginType) {
		if len(set.List) == 0 {
			return // to GoBGP an empty set is everybody
		}
		request.DefinedSets = append(request.DefinedSets, set)
		statements = append(statements, &api.Statement{
			Name:       fmt.Sprintf("%s: reflected %s", set.Name, origin),
			Conditions: &api.Conditions{NeighborSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: set.Name}, Origin: origin},
			Actions: &api.Actions{
				RouteAction:  api.RouteAction_ROUTE_ACTION_ACCEPT,
				OriginAction: &api.OriginAction{Origin: originOwn},
			},
		})
	}
	pass(mesh, originClients)
	pass(clients, originReflectors)
	for _, origin := range []api.OriginType{originClients, originReflectors} {
		statements = append(statements, &api.Statement{
			Name: fmt.Sprintf("others: nothing of %s", origin), Conditions: &api.Conditions{Origin: origin},
			Actions: &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT},
		})
	}
	return statements
}

// applyReflections makes what GoBGP tells on what is desired: added before removed.
func (s *Speaker) applyReflections(desired config.Desired) error {
	var faults []error
	wanted := make(map[netip.Prefix]bool, len(desired.Reflect))
	for _, r := range desired.Reflect {
		prefix := r.Path.Prefix
		if _, own := s.applied.paths[prefix]; own {
			continue
		}
		wanted[prefix] = true
		if s.applied.reflected[prefix] == r {
			continue
		}
		path, err := reflectedPath(r)
		if err == nil {
			_, err = s.engine.bgp.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{path}})
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("reflect %s: %w", prefix, err))
			continue
		}
		s.applied.reflected[prefix] = r
	}
	for prefix, r := range s.applied.reflected {
		if wanted[prefix] {
			continue
		}
		if _, own := s.applied.paths[prefix]; !own { // else the own one took its place
			path, err := reflectedPath(r)
			if err == nil {
				err = s.engine.bgp.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{path}})
			}
			if err != nil {
				faults = append(faults, fmt.Errorf("reflect %s no more: %w", prefix, err))
				continue
			}
		}
		delete(s.applied.reflected, prefix)
	}
	count := map[reflection]int64{}
	for _, r := range s.applied.reflected {
		count[reflection{route.FamilyOf(r.Path.Prefix), r.ClientsOnly}]++
	}
	s.mu.Lock()
	s.reflects = count
	s.mu.Unlock()
	return errors.Join(faults...)
}

// reflection is a kind of them, to be counted.
type reflection struct {
	family      route.Family
	clientsOnly bool
}

// reflected counts what of others a session's peer is told. The lock is held.
func (s *Speaker) reflected(session *session) (count int64) {
	if !session.neighbor.ClusterID.IsValid() {
		return 0
	}
	for _, family := range session.families {
		count += s.reflects[reflection{family, false}]
		if session.neighbor.Client {
			count += s.reflects[reflection{family, true}]
		}
	}
	return count
}

func reflectedPath(r config.Reflection) (*apiutil.Path, error) {
	p := r.Path
	path, err := pathOf(p.Prefix, p.NextHop, false)
	if err != nil {
		return nil, err
	}
	origin := bgp.BGP_ORIGIN_ATTR_TYPE_EGP
	if r.ClientsOnly {
		origin = bgp.BGP_ORIGIN_ATTR_TYPE_INCOMPLETE
	}
	for i, attribute := range path.Attrs {
		if attribute.GetType() == bgp.BGP_ATTR_TYPE_ORIGIN {
			path.Attrs[i] = bgp.NewPathAttributeOrigin(origin)
		}
	}
	add := func(attribute bgp.PathAttributeInterface) { path.Attrs = append(path.Attrs, attribute) }
	if len(p.ASPath) > 0 {
		add(bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, p.ASPath)}))
	}
	add(bgp.NewPathAttributeLocalPref(p.LocalPref))
	if p.MED != 0 {
		add(bgp.NewPathAttributeMultiExitDisc(p.MED))
	}
	if len(p.Communities) > 0 {
		add(bgp.NewPathAttributeCommunities(p.Communities))
	}
	return path, addExtra(path, p.Extra)
}

func addExtra(path *apiutil.Path, extra *route.Extra) error {
	if len(extra.LargeCommunities) > 0 {
		var large []*bgp.LargeCommunity
		for _, c := range extra.LargeCommunities {
			large = append(large, bgp.NewLargeCommunity(c.Global, c.Local1, c.Local2))
		}
		path.Attrs = append(path.Attrs, bgp.NewPathAttributeLargeCommunities(large))
	}
	originator, err := bgp.NewPathAttributeOriginatorId(extra.OriginatorID)
	if err != nil {
		return err
	}
	path.Attrs = append(path.Attrs, originator)
	if len(extra.ClusterList) > 0 {
		clusters, err := bgp.NewPathAttributeClusterList(extra.ClusterList)
		if err != nil {
			return err
		}
		path.Attrs = append(path.Attrs, clusters)
	}
	return nil
}
