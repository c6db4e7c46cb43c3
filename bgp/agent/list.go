package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/rib"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// list answers for one kind; look is what the kernel had a moment ago, where that is asked for.
func (c *core) list(request *clearwayv1.ListRequest, look *route.Look) ([]*clearwayv1.Resource, error) {
	switch request.GetKind() {
	case "BGPSession":
		return c.listSessions(request.GetName()), nil
	case "Route":
		return c.listRoutes(request, look)
	}
	return nil, nil
}

func (c *core) listSessions(name string) []*clearwayv1.Resource {
	var list []*clearwayv1.Resource
	for _, s := range c.speaker.Sessions() {
		session := c.session(s)
		if name == "" || name == session.GetMetadata().GetName() {
			list = append(list, clearwayv1.Wrap(session))
		}
	}
	for _, session := range c.awaited() {
		if name == "" || name == session.GetMetadata().GetName() {
			list = append(list, clearwayv1.Wrap(session))
		}
	}
	return list
}

// awaited are sessions that are wanted with peers that are not found yet.
func (c *core) awaited() []*clearwayv1.BGPSession {
	var list []*clearwayv1.BGPSession
	for _, a := range c.desired.Awaited {
		list = append(list, &clearwayv1.BGPSession{
			ApiVersion: clearwayv1.APIVersion, Kind: "BGPSession",
			Metadata: &clearwayv1.ObjectMeta{Name: c.node + "." + clearwayv1.PrefixName(strings.ReplaceAll(a.Place, " ", "-"))},
			Spec:     &clearwayv1.BGPSessionSpec{Node: c.node, PeerAddress: a.Place, Origin: a.Origin},
			Status:   &clearwayv1.BGPSessionStatus{State: route.Idle, Reason: a.Why},
		})
	}
	return list
}

// session is a session as operators see it.
func (c *core) session(s route.Session) *clearwayv1.BGPSession {
	routerID := ""
	if s.RouterID.IsValid() {
		routerID = s.RouterID.String()
	}
	reason := s.Reason
	if reason == "" {
		reason = s.Warning
	}
	return &clearwayv1.BGPSession{
		ApiVersion: clearwayv1.APIVersion, Kind: "BGPSession",
		Metadata: &clearwayv1.ObjectMeta{Name: c.node + "." + clearwayv1.PrefixName(s.Peer.String())},
		Spec: &clearwayv1.BGPSessionSpec{
			Node: c.node, PeerAddress: s.Peer.String(), PeerAsn: s.PeerASN, LocalAsn: s.LocalASN, Origin: s.Origin,
		},
		Status: &clearwayv1.BGPSessionStatus{
			State: s.State, Since: timestamppb.New(s.Since), Received: s.Received,
			Accepted: int64(c.table.Peer(s.Peer).Accepted), Advertised: s.Advertised, Families: familyNames(s.Families),
			GracefulRestart: s.GracefulRestart, Reason: reason, Flaps: s.Flaps,
			Bfd: c.bfd.status(s.Peer), Pending: s.Held, RouterId: routerID, LongLived: s.LongLived,
			AddPath: familyNames(s.AddPath),
		},
	}
}

func familyNames(families []route.Family) []string {
	var names []string
	for _, family := range families {
		names = append(names, fmt.Sprintf("IPv%d", family))
	}
	return names
}

// listRoutes lists what is advertised, then what is learned, each in order of addresses.
func (c *core) listRoutes(request *clearwayv1.ListRequest, look *route.Look) ([]*clearwayv1.Resource, error) {
	match, err := matcher(request)
	if err != nil {
		return nil, err
	}
	var list []*clearwayv1.Resource
	add := func(prefix netip.Prefix, resource *clearwayv1.Route) {
		if look != nil {
			resource.Status.Kernel = inKernel(prefix, resource.GetSpec().GetDirection() == directionLearned, look)
		}
		list = append(list, clearwayv1.Wrap(resource))
	}
	sessions := c.sessionsByPeer()
	for _, advertisement := range c.desired.Advertise {
		if match(advertisement.Prefix) {
			add(advertisement.Prefix, c.advertised(advertisement, sessions))
		}
	}
	for prefix, entry := range c.table.All {
		if match(prefix) {
			add(prefix, c.learned(prefix, entry))
		}
	}
	return list, nil
}

// matcher is what a request's name and address let through: an address matches what holds it, a prefix itself.
func matcher(request *clearwayv1.ListRequest) (func(netip.Prefix) bool, error) {
	name, text := request.GetName(), request.GetAddress()
	within := func(netip.Prefix) bool { return true }
	switch {
	case text == "":
	case strings.Contains(text, "/"):
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("address %q is no prefix: write it as 192.0.2.0/24", text)
		}
		within = func(p netip.Prefix) bool { return p == prefix.Masked() }
	default:
		address, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("address %q is neither an address nor a prefix", text)
		}
		within = func(p netip.Prefix) bool { return p.Contains(address.Unmap()) }
	}
	return func(p netip.Prefix) bool {
		return within(p) && (name == "" || name == clearwayv1.PrefixName(p.String()))
	}, nil
}

func (c *core) resource(prefix netip.Prefix, direction string) *clearwayv1.Route {
	return &clearwayv1.Route{
		ApiVersion: clearwayv1.APIVersion, Kind: "Route",
		Metadata: &clearwayv1.ObjectMeta{Name: clearwayv1.PrefixName(prefix.String())},
		Spec:     &clearwayv1.RouteSpec{Node: c.node, Prefix: prefix.String(), Direction: direction},
		Status:   &clearwayv1.RouteStatus{},
	}
}

// The directions of a route.
const (
	directionAdvertised = "Advertised"
	directionLearned    = "Learned"
)

func (c *core) sessionsByPeer() map[netip.Addr]route.Session {
	sessions := map[netip.Addr]route.Session{}
	for _, session := range c.speaker.Sessions() {
		sessions[session.Peer] = session
	}
	return sessions
}

func (c *core) advertised(a route.Advertisement, sessions map[netip.Addr]route.Session) *clearwayv1.Route {
	resource := c.resource(a.Prefix, directionAdvertised)
	resource.Status.State, resource.Status.Owner = "Advertised", c.node
	var withheld, otherwise []string
	for _, neighbor := range c.desired.Neighbors {
		peer := told(a, neighbor, sessions[neighbor.Address])
		resource.Status.Peers = append(resource.Status.Peers, peer)
		text := fmt.Sprintf("%s (%s)", neighbor.Address, strings.TrimPrefix(peer.GetReason(), "by "))
		switch {
		case peer.GetState() == "Withheld":
			withheld = append(withheld, text)
		case peer.GetState() == "Told" && peer.GetReason() != "":
			otherwise = append(otherwise, text)
		}
	}
	var parts []string
	if len(withheld) > 0 {
		parts = append(parts, "not told to "+strings.Join(withheld, ", "))
	}
	if len(otherwise) > 0 {
		parts = append(parts, "told to "+strings.Join(otherwise, ", "))
	}
	resource.Status.Reason = strings.Join(parts, "; ")
	return resource
}

// told tells whether a peer is told of a prefix, and why it is not, or how it is where that is not as by default.
func told(a route.Advertisement, neighbor config.Neighbor, session route.Session) *clearwayv1.RoutePeer {
	peer := &clearwayv1.RoutePeer{PeerAddress: neighbor.Address.String(), Origin: neighbor.Origin, State: "Told"}
	family := route.FamilyOf(a.Prefix)
	why := neighbor.Why(a)
	switch {
	case !slices.Contains(neighbor.Families, family):
		peer.State, peer.Reason = "OtherFamily", fmt.Sprintf("IPv%d is not among the session's families", family)
	case why != "":
		peer.State, peer.Reason = "Withheld", why
	case neighbor.Withholds(a.Prefix):
		peer.State, peer.Reason = "Withheld", "by "+neighbor.Export.Evaluate(neighbor.ExportSubject(a)).Rule()
	case session.State != route.Established:
		peer.State, peer.Reason = "Down", cmp.Or(session.Reason, "the session is not established yet")
	case !slices.Contains(session.Families, family):
		peer.State, peer.Reason = "NotNegotiated", fmt.Sprintf("the session does not carry IPv%d", family)
	default:
		peer.Reason = neighbor.How(a.Prefix)
	}
	return peer
}

// inKernel is what a look found at a prefix. Somebody else's longer routes are of interest for what is learned alone: in
// an own block they are those of its Pods.
func inKernel(prefix netip.Prefix, learned bool, look *route.Look) *clearwayv1.KernelRoute {
	seen, present := look.Ours[prefix]
	found := &clearwayv1.KernelRoute{Present: present}
	if seen.Blackhole {
		found.NextHops = append(found.NextHops, "blackhole")
	}
	for _, hop := range seen.Hops {
		found.NextHops = append(found.NextHops, hop.String())
	}
	if learned {
		found.HiddenBy = look.HiddenBy(prefix)
	}
	return found
}

func (c *core) learned(prefix netip.Prefix, entry *rib.Entry) *clearwayv1.Route {
	resource := c.resource(prefix, directionLearned)
	status := resource.Status
	status.Owner = c.judge.Owner(prefix)
	best := map[*route.Path]bool{}
	for _, path := range entry.Best() {
		best[path] = true
	}
	pending := ""
	for i, path := range entry.Paths {
		shown := c.path(path, entry.Verdicts[i], best[entry.Used[i]])
		status.Paths = append(status.Paths, shown)
		if entry.Verdicts[i].Decision == policy.Pending {
			pending = shown.Reason
		}
	}
	switch {
	case entry.Route != nil:
		status.State, status.Reason = c.installed(prefix)
	case pending != "":
		status.State, status.Reason = "Pending", pending
	default:
		status.State, status.Reason = "Rejected", status.Paths[0].Reason
	}
	return resource
}

func (c *core) installed(prefix netip.Prefix) (state, reason string) {
	status := c.fib.Status(prefix)
	switch status.State {
	case route.Conflict:
		return "Failed", status.Reason
	case route.Pending:
		if status.Reason == "" {
			return "Pending", "not written to the kernel yet"
		}
	}
	return status.State.String(), status.Reason
}

func (c *core) path(path *route.Path, verdict policy.Verdict, best bool) *clearwayv1.RoutePath {
	shown := &clearwayv1.RoutePath{
		PeerAddress: path.Peer.String(), NextHop: path.NextHop.String(), AsPath: path.ASPath,
		LocalPref: path.LocalPref, Med: path.MED, Best: best, Stale: path.Stale,
		Verdict: verdict.Decision.String(), Reason: c.judge.Explain(path),
	}
	for _, community := range path.Communities {
		shown.Communities = append(shown.Communities, fmt.Sprintf("%d:%d", community>>16, community&0xffff))
	}
	for _, community := range path.Large() {
		shown.Communities = append(shown.Communities, community.String())
	}
	if verdict.Decision == policy.Accept {
		shown.Changes = c.judge.Changes(path)
	}
	return shown
}
