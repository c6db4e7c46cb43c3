package tor

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/fleet"
	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Placeholder stands where the TCP-MD5 password is to be written.
const Placeholder = "REPLACE-WITH-THE-PASSWORD"

// Options say which router is meant, and how its side is to be written.
type Options struct {
	// Peers are names of BGPPeers, or shell patterns of them; all of them are this one router's sessions.
	Peers []string
	// Takes tells which of the nodes that the peers select are meant; nil: all.
	Takes func(*clearwayv1.Node) bool
	// Ranges are listened on in place of one neighbour for each node. Subnets: the nodes' own subnets are.
	Ranges  []netip.Prefix
	Subnets bool
	// MaxPrefixes is how many prefixes of a family one node may tell; 0: any number.
	MaxPrefixes int
	// SummaryOnly tells the router's other peers aggregates without their parts.
	SummaryOnly bool
}

// Router is a router's side of its sessions with nodes.
type Router struct {
	Peers  []string // names of the BGPPeers
	Nodes  []string
	ASN    uint32
	Groups []Group
	// Pools are what nodes may tell, and are told: addresses of Pods and services.
	Pools map[route.Family][]netip.Prefix
	// Aggregates are those declared ones whose pools' nodes are all this router's.
	Aggregates  []netip.Prefix
	SummaryOnly bool
	MaxPrefixes int
	Notes       []string // what the reader should know
}

// Group is sessions that differ in the node's address, port and AS number alone.
type Group struct {
	Name      string // of the first BGPPeer
	Neighbors []Neighbor
	Ranges    []netip.Prefix // in place of neighbours
	ASNs      []uint32       // of the nodes, ascending; at least one
	sides
}

// Neighbor is a node as the router sees it.
type Neighbor struct {
	Node    string
	Address netip.Addr
	ASN     uint32
	Port    int
}

// sides are what both ends of a session must agree on, or mirror. It is comparable.
type sides struct {
	Over             route.Family // the family of the session's addresses
	IPv4, IPv6       bool         // the families negotiated
	Hold, Keepalive  time.Duration
	ConnectRetry     time.Duration
	GracefulRestart  bool
	Password         bool
	MultihopTTL      uint8
	IBGP             bool
	Port             int  // the router's
	Passive          bool // the node takes no calls of the router, so the router must wait for its
	Active           bool // the node waits for the router's call
	Default          bool // the nodes take a default route
	OwnAS            bool // nodes of one AS hear of each other by the router
	BFD, BFDMultihop bool
	BFDTx, BFDRx     time.Duration // the router's
	BFDMultiplier    uint8
}

// Families lists those negotiated.
func (s sides) Families() []route.Family {
	var list []route.Family
	if s.IPv4 {
		list = append(list, route.IPv4)
	}
	if s.IPv6 {
		list = append(list, route.IPv6)
	}
	return list
}

// Derive computes a router's side. The error names what is missing, or cannot be.
func Derive(f *fleet.Fleet, options Options) (Router, error) {
	d := deriver{fleet: f, options: options, router: Router{
		SummaryOnly: options.SummaryOnly, MaxPrefixes: options.MaxPrefixes, Pools: map[route.Family][]netip.Prefix{},
	}}
	if err := d.choosePeers(); err != nil {
		return Router{}, err
	}
	if err := d.addNodes(); err != nil {
		return Router{}, err
	}
	if err := d.listen(); err != nil {
		return Router{}, err
	}
	d.addPools()
	if len(d.router.Pools) == 0 {
		return Router{}, fmt.Errorf("there is no IPPool: the nodes would have nothing to tell the router")
	}
	d.addAggregates()
	return d.router, nil
}

type deriver struct {
	fleet   *fleet.Fleet
	options Options
	peers   map[string]*clearwayv1.BGPPeer // chosen, by "BGPPeer/name"
	nodes   []*clearwayv1.Node             // with a session
	router  Router
}

func (d *deriver) choosePeers() error {
	d.peers = map[string]*clearwayv1.BGPPeer{}
	for _, pattern := range d.options.Peers {
		found := false
		for _, peer := range d.fleet.Peers() {
			matches, err := path.Match(pattern, peer.GetMetadata().GetName())
			if err != nil {
				return fmt.Errorf("peer %q is no pattern: %w", pattern, err)
			}
			if matches {
				d.peers[clearwayv1.KeyOf(peer)], found = peer, true
			}
		}
		if !found {
			return &NotFoundError{fmt.Sprintf("there is no BGPPeer %s", pattern)}
		}
	}
	for _, peer := range d.fleet.Peers() {
		if d.peers[clearwayv1.KeyOf(peer)] == nil {
			continue
		}
		asn := peer.GetSpec().GetPeerAsn()
		if d.router.ASN != 0 && asn != d.router.ASN {
			return fmt.Errorf("BGPPeer %s has peerASN %d, and %s has %d: name the peers of one router",
				peer.GetMetadata().GetName(), asn, d.router.Peers[0], d.router.ASN)
		}
		d.router.ASN = asn
		d.router.Peers = append(d.router.Peers, peer.GetMetadata().GetName())
	}
	return nil
}

// NotFoundError says that what was named is not there.
type NotFoundError struct{ text string }

func (e *NotFoundError) Error() string { return e.text }

// addNodes takes each node's sessions from what its agent will make of the resources.
func (d *deriver) addNodes() error {
	var why []string
	for _, plan := range d.fleet.Build() {
		name := plan.Node.GetMetadata().GetName()
		if d.options.Takes != nil && !d.options.Takes(plan.Node) {
			continue
		}
		for _, problem := range plan.Problems {
			if d.peers[problem.Regarding] != nil {
				why = append(why, fmt.Sprintf("node %s: %s: %s", name, problem.Regarding, problem.Message))
			}
		}
		count := 0
		for _, neighbor := range plan.Desired.Neighbors {
			peer := d.peers[neighbor.Origin]
			if peer == nil {
				continue
			}
			count++
			if err := d.add(name, peer, neighbor, plan.Desired.Global); err != nil {
				return err
			}
		}
		if count > 0 {
			d.nodes = append(d.nodes, plan.Node)
			d.router.Nodes = append(d.router.Nodes, name)
		}
	}
	d.router.Notes = append(d.router.Notes, why...)
	if len(d.nodes) == 0 && len(d.options.Ranges) == 0 {
		text := "no node has a session of BGPPeer " + strings.Join(d.router.Peers, ", ")
		if len(why) > 0 {
			text += ": " + strings.Join(why, "; ")
		}
		return &NotFoundError{text + "; name --range PREFIX to write it before there are nodes"}
	}
	if len(d.nodes) == 0 {
		return d.addUnborn()
	}
	return nil
}

// addUnborn makes the groups of peers whose nodes are yet to come, of a node that has an address of each family.
func (d *deriver) addUnborn() error {
	for _, peer := range d.fleet.Peers() {
		if d.peers[clearwayv1.KeyOf(peer)] == nil {
			continue
		}
		node := &clearwayv1.Node{
			Metadata: &clearwayv1.ObjectMeta{Name: "to-come"},
			Status:   &clearwayv1.NodeStatus{Addresses: []string{"192.0.0.9/32", "100::9/128"}},
		}
		snapshot := d.fleet.Snapshot(node)
		snapshot.Peers = []*clearwayv1.BGPPeer{peer}
		desired, problems := config.Build("to-come", snapshot, nil)
		for _, problem := range problems {
			return fmt.Errorf("%s: %s", problem.Regarding, problem.Message)
		}
		for _, neighbor := range desired.Neighbors {
			if neighbor.MeshNode == "" {
				if err := d.add("", peer, neighbor, desired.Global); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (d *deriver) add(node string, peer *clearwayv1.BGPPeer, n config.Neighbor, global config.Global) error {
	if !n.SourceAddress.IsValid() {
		return fmt.Errorf("node %s has no address of the family of BGPPeer %s's peerAddress %s: the router would not know whom to expect",
			node, peer.GetMetadata().GetName(), n.Address)
	}
	over := route.FamilyOf(netip.PrefixFrom(n.Address, 0))
	s := sides{
		Over: over, IPv4: slices.Contains(n.Families, route.IPv4), IPv6: slices.Contains(n.Families, route.IPv6),
		Hold: n.HoldTime, Keepalive: n.KeepaliveTime, ConnectRetry: n.ConnectRetryTime,
		GracefulRestart: n.GracefulRestart.Enabled, Password: n.PasswordFile != "", MultihopTTL: n.MultihopTTL,
		IBGP: !n.EBGP(), Port: int(n.Port), Passive: global.ListenPort < 0, Active: n.Passive,
		Default: n.Scope == policy.All, OwnAS: n.EBGP() && n.AllowOwnAS > 0,
	}
	if s.Active && s.Passive {
		return fmt.Errorf("BGPPeer %s is passive and listenPort is -1: neither side would call the other", peer.GetMetadata().GetName())
	}
	if w := n.BFD; w != nil {
		// What the router sends is what the node takes, and the other way round.
		s.BFD, s.BFDMultihop, s.BFDTx, s.BFDRx, s.BFDMultiplier = true, w.Multihop, w.MinRx, w.MinTx, w.Multiplier
	}
	at := slices.IndexFunc(d.router.Groups, func(g Group) bool { return g.sides == s })
	if at < 0 {
		at = len(d.router.Groups)
		d.router.Groups = append(d.router.Groups, Group{Name: peer.GetMetadata().GetName(), sides: s})
	}
	group := &d.router.Groups[at]
	if slices.ContainsFunc(d.router.Groups[:at], func(g Group) bool { return g.Name == group.Name }) {
		group.Name = fmt.Sprintf("%s-%d", group.Name, at+1)
	}
	if !slices.Contains(group.ASNs, n.LocalASN) {
		group.ASNs = append(group.ASNs, n.LocalASN)
		slices.Sort(group.ASNs)
	}
	if node != "" {
		group.Neighbors = append(group.Neighbors, Neighbor{node, n.SourceAddress, n.LocalASN, global.ListenPort})
	}
	return nil
}

// listen puts ranges in place of neighbours, where they are asked for.
func (d *deriver) listen() error {
	if !d.options.Subnets && len(d.options.Ranges) == 0 {
		return nil
	}
	for i := range d.router.Groups {
		group := &d.router.Groups[i]
		if group.Active {
			return fmt.Errorf("BGPPeer %s is passive: the router must call each node, and cannot listen on a range", group.Name)
		}
		for _, prefix := range d.options.Ranges {
			if route.FamilyOf(prefix) == group.Over {
				group.Ranges = append(group.Ranges, prefix)
			}
		}
		if d.options.Subnets {
			d.addSubnets(group)
		}
		if len(group.Ranges) == 0 {
			return fmt.Errorf("no range is of IPv%d, as the sessions of BGPPeer %s are", group.Over, group.Name)
		}
		for _, neighbor := range group.Neighbors {
			if !slices.ContainsFunc(group.Ranges, func(p netip.Prefix) bool { return p.Contains(neighbor.Address) }) {
				return fmt.Errorf("node %s calls from %s, which is in none of the ranges", neighbor.Node, neighbor.Address)
			}
		}
		group.Neighbors = nil
	}
	return nil
}

// addSubnets adds the subnets of the group's nodes; an address that is in none of its node's subnets is a range of
// itself.
func (d *deriver) addSubnets(group *Group) {
	for _, neighbor := range group.Neighbors {
		subnet := netip.PrefixFrom(neighbor.Address, neighbor.Address.BitLen())
		node, _ := d.fleet.Get("Node/" + neighbor.Node).(*clearwayv1.Node)
		for _, text := range node.GetStatus().GetAddresses() {
			if prefix, err := netip.ParsePrefix(text); err == nil && prefix.Contains(neighbor.Address) {
				subnet = prefix.Masked()
			}
		}
		if !slices.Contains(group.Ranges, subnet) {
			group.Ranges = append(group.Ranges, subnet)
		}
	}
	slices.SortFunc(group.Ranges, netip.Prefix.Compare)
}

func (d *deriver) addPools() {
	for _, pool := range d.fleet.Pools() {
		if prefix, why := policy.ParsePrefix(pool.GetSpec().GetCidr()); why == "" {
			family := route.FamilyOf(prefix)
			d.router.Pools[family] = append(d.router.Pools[family], prefix)
		}
	}
	d.addServices()
	for _, list := range d.router.Pools {
		slices.SortFunc(list, netip.Prefix.Compare)
	}
}

// addServices adds what nodes may tell of Services beside the pools.
func (d *deriver) addServices() {
	for _, prefix := range config.ServiceSpace(&clearwayv1.NodeSnapshot{BgpConfiguration: d.fleet.Configuration()}) {
		family := route.FamilyOf(prefix)
		if !slices.ContainsFunc(d.router.Pools[family], func(other netip.Prefix) bool { return policy.Within(prefix, other) }) {
			d.router.Pools[family] = append(d.router.Pools[family], prefix)
		}
	}
}

// addAggregates takes the declared aggregates that are this router's to make: those whose blocks can be of its nodes
// alone. Made by a router that has not all the parts, an aggregate leads packets for the others astray.
func (d *deriver) addAggregates() {
	for _, prefix := range fleetAggregates(d.fleet) {
		pool, stranger := d.strangers(prefix)
		switch {
		case pool == "":
			d.router.Notes = append(d.router.Notes, fmt.Sprintf("aggregate %s is not made here: it is no part of a pool", prefix))
		case stranger != "":
			d.router.Notes = append(d.router.Notes, fmt.Sprintf(
				"aggregate %s is not made here: pool %s gives blocks to node %s too, which is not this router's", prefix, pool, stranger))
		default:
			d.router.Aggregates = append(d.router.Aggregates, prefix)
		}
	}
}

func fleetAggregates(f *fleet.Fleet) []netip.Prefix {
	var list []netip.Prefix
	for prefix := range config.Aggregates(&clearwayv1.NodeSnapshot{BgpConfiguration: f.Configuration()}) {
		list = append(list, prefix)
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	return list
}

// strangers finds the pool that an aggregate is of, and a node that may have blocks of it and is not the router's.
func (d *deriver) strangers(aggregate netip.Prefix) (pool, stranger string) {
	for _, one := range d.fleet.Pools() {
		prefix, why := policy.ParsePrefix(one.GetSpec().GetCidr())
		if why != "" || !prefix.Overlaps(aggregate) {
			continue
		}
		pool = one.GetMetadata().GetName()
		for _, node := range d.fleet.Nodes() {
			name := node.GetMetadata().GetName()
			if fleet.Selects(one.GetSpec().GetNodeSelector(), node.GetStatus().GetLabels()) && !slices.Contains(d.router.Nodes, name) {
				return pool, name
			}
		}
	}
	return pool, ""
}

// families are those that any group negotiates.
func (r Router) families() []route.Family {
	var list []route.Family
	for _, family := range []route.Family{route.IPv4, route.IPv6} {
		if slices.ContainsFunc(r.Groups, func(g Group) bool { return slices.Contains(g.Families(), family) }) {
			list = append(list, family)
		}
	}
	return list
}

func (r Router) aggregates(family route.Family) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(r.Aggregates), func(p netip.Prefix) bool { return route.FamilyOf(p) != family })
}

// asn is the one AS number of the group's nodes; 0 where they differ.
func (g Group) asn() uint32 {
	if len(g.ASNs) == 1 {
		return g.ASNs[0]
	}
	return 0
}

// ports is what the group's nodes listen on where that is not BGP's own port.
func (n Neighbor) port() int {
	if n.Port == bgpPort || n.Port < 0 {
		return 0
	}
	return n.Port
}

const bgpPort = 179

// longest is the length of a host's prefix.
func longest(family route.Family) int {
	return map[route.Family]int{route.IPv4: 32, route.IPv6: 128}[family]
}

// everything is the prefix of all addresses.
func everything(family route.Family) netip.Prefix {
	return map[route.Family]netip.Prefix{route.IPv4: netip.MustParsePrefix("0.0.0.0/0"), route.IPv6: netip.MustParsePrefix("::/0")}[family]
}

func seconds(d time.Duration) int64 { return int64(cmp.Or(d, time.Second) / time.Second) }

func milliseconds(d time.Duration) int64 { return max(1, d.Milliseconds()) }
