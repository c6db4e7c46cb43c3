package agent

import (
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/rib"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func (c *core) list(request *clearwayv1.ListRequest) ([]*clearwayv1.Resource, error) {
	switch request.GetKind() {
	case "BGPSession":
		return c.listSessions(request.GetName()), nil
	case "Route":
		return c.listRoutes(request)
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
	return list
}

// session is a session as operators see it.
func (c *core) session(s route.Session) *clearwayv1.BGPSession {
	var families []string
	for _, family := range s.Families {
		families = append(families, fmt.Sprintf("IPv%d", family))
	}
	return &clearwayv1.BGPSession{
		ApiVersion: clearwayv1.APIVersion, Kind: "BGPSession",
		Metadata: &clearwayv1.ObjectMeta{Name: c.node + "." + clearwayv1.PrefixName(s.Peer.String())},
		Spec: &clearwayv1.BGPSessionSpec{
			Node: c.node, PeerAddress: s.Peer.String(), PeerAsn: s.PeerASN, LocalAsn: s.LocalASN, Origin: s.Origin,
		},
		Status: &clearwayv1.BGPSessionStatus{
			State: s.State, Since: timestamppb.New(s.Since), Received: s.Received,
			Accepted: int64(c.table.Peer(s.Peer).Accepted), Advertised: s.Advertised, Families: families,
			GracefulRestart: s.GracefulRestart, Reason: s.Reason, Flaps: s.Flaps,
		},
	}
}

// listRoutes lists what is advertised, then what is learned, each in order of addresses.
func (c *core) listRoutes(request *clearwayv1.ListRequest) ([]*clearwayv1.Resource, error) {
	match, err := matcher(request)
	if err != nil {
		return nil, err
	}
	var list []*clearwayv1.Resource
	for _, advertisement := range c.desired.Advertise {
		if match(advertisement.Prefix) {
			list = append(list, clearwayv1.Wrap(c.advertised(advertisement)))
		}
	}
	for prefix, entry := range c.table.All {
		if match(prefix) {
			list = append(list, clearwayv1.Wrap(c.learned(prefix, entry)))
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

func (c *core) advertised(a route.Advertisement) *clearwayv1.Route {
	resource := c.resource(a.Prefix, "Advertised")
	resource.Status.State, resource.Status.Owner = "Advertised", c.node
	var withheld []string
	for _, neighbor := range c.desired.Neighbors {
		if accept, rule := neighbor.Export.Decide(a.Prefix); !accept {
			withheld = append(withheld, fmt.Sprintf("%s (%s)", neighbor.Address, rule))
		}
	}
	if len(withheld) > 0 {
		resource.Status.Reason = "not told to " + strings.Join(withheld, ", ")
	}
	return resource
}

func (c *core) learned(prefix netip.Prefix, entry *rib.Entry) *clearwayv1.Route {
	resource := c.resource(prefix, "Learned")
	status := resource.Status
	status.Owner = c.judge.Owner(prefix)
	best := map[*route.Path]bool{}
	for _, path := range entry.Best() {
		best[path] = true
	}
	pending := ""
	for i, path := range entry.Paths {
		shown := c.path(path, entry.Verdicts[i], best[path])
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
	return shown
}
