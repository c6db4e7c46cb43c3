package tor

import (
	"fmt"
	"strings"
	"testing"

	"github.com/clearway/clearway/bgp/fleet"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func meta(name string) *clearwayv1.ObjectMeta { return &clearwayv1.ObjectMeta{Name: name} }

func derive(t *testing.T, spec *clearwayv1.BGPPeerSpec, options Options) Router {
	t.Helper()
	options.Peers = []string{"tor"}
	r, err := Derive(fleet.New(
		&clearwayv1.BGPPeer{Kind: "BGPPeer", Metadata: meta("tor"), Spec: spec},
		&clearwayv1.IPPool{Kind: "IPPool", Metadata: meta("pods"), Spec: &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/16"}},
		&clearwayv1.Node{Kind: "Node", Metadata: meta("n1"), Spec: &clearwayv1.NodeSpec{Addresses: []string{"192.0.2.11/24", "2001:db8::11/64"}}},
	), options)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestFamilyWithoutPool: both families are negotiated and there is no IPv6 pool. No vendor may let all of IPv6 through.
func TestFamilyWithoutPool(t *testing.T) {
	r := derive(t, &clearwayv1.BGPPeerSpec{PeerAddress: "192.0.2.1", PeerAsn: 65101}, Options{})
	shut := map[string]string{
		"frr": "ipv6 prefix-list CLEARWAY-PODS6 seq 5 deny ::/0 le 128", "sonic": "deny ::/0 le 128", "eos": "seq 10 deny ::/0 le 128",
		"nxos": "deny ::/0 le 128", "bird": "filter clearway_in6 {\n  if !(false) then reject;",
	}
	for _, vendor := range Vendors() {
		text, err := Write(vendor, r)
		if err != nil {
			t.Fatal(err)
		}
		if want := shut[vendor]; !strings.Contains(text, want) {
			t.Errorf("%s does not have %q:\n%s", vendor, want, text)
		}
		if vendor == "junos" && strings.Contains(text, "pods6") {
			t.Errorf("a term without a prefix matches every one:\n%s", text)
		}
	}
}

// TestServices: what nodes may tell of Services is taken as what they tell of pools is; each once.
func TestServices(t *testing.T) {
	r, err := Derive(fleet.New(
		&clearwayv1.BGPPeer{Kind: "BGPPeer", Metadata: meta("tor"), Spec: &clearwayv1.BGPPeerSpec{PeerAddress: "192.0.2.1", PeerAsn: 65101}},
		&clearwayv1.IPPool{Kind: "IPPool", Metadata: meta("vips"), Spec: &clearwayv1.IPPoolSpec{Cidr: "203.0.113.0/25", Kind: "LoadBalancer"}},
		&clearwayv1.BGPConfiguration{Kind: "BGPConfiguration", Metadata: meta("default"), Spec: &clearwayv1.BGPConfigurationSpec{
			Services: &clearwayv1.ServiceRoutes{
				LoadBalancerIps: []string{"203.0.113.0/26"}, ExternalIps: []string{"198.51.100.0/24"}, ClusterIps: []string{"10.96.0.0/16", "fd00:96::/112"},
			},
		}},
		&clearwayv1.Node{Kind: "Node", Metadata: meta("n1"), Spec: &clearwayv1.NodeSpec{Addresses: []string{"192.0.2.11/24"}}},
	), Options{Peers: []string{"tor"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(r.Pools[route.IPv4], r.Pools[route.IPv6]); got != "[10.96.0.0/16 198.51.100.0/24 203.0.113.0/25] [fd00:96::/112]" {
		t.Errorf("the router takes %s", got)
	}
}

// TestInternalPeers: with nodes of its own AS a router must pass on what they tell, and be their next hop.
func TestInternalPeers(t *testing.T) {
	r := derive(t, &clearwayv1.BGPPeerSpec{PeerAddress: "192.0.2.1", PeerAsn: 64512, MultihopTtl: 3}, Options{})
	for vendor, wants := range map[string][]string{
		"frr": {"route-reflector-client", "next-hop-self"}, "bird": {"rr client;", "next hop self;"}, "eos": {"route-reflector-client"},
		"nxos": {"route-reflector-client"}, "junos": {"type internal", "cluster ROUTER-ID"},
	} {
		text, err := Write(vendor, r)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not have %q:\n%s", vendor, want, text)
			}
		}
		if strings.Contains(text, "ebgp-multihop") {
			t.Errorf("%s: ebgp-multihop for an internal peer", vendor)
		}
	}
}

// TestNodeThatDoesNotListen: the router waits for its call.
func TestNodeThatDoesNotListen(t *testing.T) {
	_, err := Derive(fleet.New(
		&clearwayv1.BGPConfiguration{Kind: "BGPConfiguration", Metadata: meta("default"), Spec: &clearwayv1.BGPConfigurationSpec{ListenPort: -1}},
		&clearwayv1.BGPPeer{Kind: "BGPPeer", Metadata: meta("tor"), Spec: &clearwayv1.BGPPeerSpec{PeerAddress: "192.0.2.1", PeerAsn: 65101, Passive: true}},
		&clearwayv1.Node{Kind: "Node", Metadata: meta("n1"), Spec: &clearwayv1.NodeSpec{Addresses: []string{"192.0.2.11/24"}}},
	), Options{Peers: []string{"tor"}})
	if err == nil || !strings.Contains(err.Error(), "neither side would call the other") {
		t.Errorf("%v", err)
	}
	r := derive(t, &clearwayv1.BGPPeerSpec{PeerAddress: "2001:db8::1", PeerAsn: 65101}, Options{})
	r.Groups[0].Passive = true
	for vendor, want := range map[string]string{"frr": "TOR passive", "bird": "passive on;", "eos": "passive", "nxos": "connection-mode passive", "junos": "passive"} {
		if text, _ := Write(vendor, r); !strings.Contains(text, want) {
			t.Errorf("%s does not wait:\n%s", vendor, text)
		}
	}
}
