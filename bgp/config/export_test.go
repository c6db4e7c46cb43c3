package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// A block carries the communities of its pool and of each prefix that holds it, each once, in order.
func TestAdvertiseWithCommunities(t *testing.T) {
	snapshot := &clearwayv1.NodeSnapshot{
		Pools: []*clearwayv1.IPPool{
			{Spec: &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/16", Communities: []string{"64512:2", "64512:1"}}},
			{Spec: &clearwayv1.IPPoolSpec{Cidr: "2001:db8::/48"}},
		},
		BgpConfiguration: &clearwayv1.BGPConfiguration{Spec: &clearwayv1.BGPConfigurationSpec{PrefixCommunities: []*clearwayv1.PrefixCommunities{
			{Cidr: "10.244.1.0/24", Communities: []string{"64512:1", "64512:0:9"}}, {Cidr: "10.244.2.0/24", Communities: []string{"64512:3"}},
		}}},
	}
	blocks := []netip.Prefix{netip.MustParsePrefix("10.244.1.0/26"), netip.MustParsePrefix("2001:db8::/64")}
	got := Advertise(snapshot, blocks, nil)
	if len(got) != 2 || fmt.Sprint(got[0].Communities, got[0].LargeCommunities) != fmt.Sprintf("[%d %d] [64512:0:9]", 64512<<16|1, 64512<<16|2) ||
		got[0].Source != route.SourceOwn || len(got[1].Communities) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestCommunitiesNamedErrors(t *testing.T) {
	pool := &clearwayv1.IPPool{Spec: &clearwayv1.IPPoolSpec{Communities: []string{"64512:1", "64512:*"}}}
	configuration := &clearwayv1.BGPConfiguration{Metadata: &clearwayv1.ObjectMeta{Name: DefaultName}, Spec: &clearwayv1.BGPConfigurationSpec{
		PrefixCommunities: []*clearwayv1.PrefixCommunities{{Cidr: "10.0.0.1/8", Communities: []string{"x"}}, {Cidr: "10.0.0.0/8"}},
	}}
	var fields []string
	for _, fault := range append(Validate(pool), Validate(configuration)...) {
		fields = append(fields, fault.GetField())
	}
	want := "spec.communities[1] spec.prefixCommunities[0].cidr spec.prefixCommunities[0].communities[0] spec.prefixCommunities[1].communities"
	if strings.Join(fields, " ") != want {
		t.Error(fields)
	}
}

// The next hop that a filter keeps is the node's own; an eBGP peer is told no preference; what is told alike is one group.
func TestSetExports(t *testing.T) {
	own, link := netip.MustParseAddr("203.0.113.11"), netip.MustParseAddr("192.0.2.11")
	pref := uint32(7)
	n := Neighbor{
		Address: netip.MustParseAddr("192.0.2.1"), SourceAddress: link, PeerASN: 65101, LocalASN: 64512, Families: []route.Family{route.IPv4},
		Export: policy.Chain{{Name: "f", Rules: []policy.FilterRule{
			{Prefixes: []policy.Match{{CIDR: netip.MustParsePrefix("10.0.3.0/26"), GE: 26, LE: 26}}},
			{Accept: true, Changes: policy.Changes{LocalPref: &pref, NextHop: policy.NextHopKeep}},
		}}},
	}
	global := Global{NextHop4: own}
	n.SetNextHops(global, nil)
	n.SetExports(global, []route.Advertisement{
		{Prefix: netip.MustParsePrefix("10.0.2.0/26")}, {Prefix: netip.MustParsePrefix("10.0.1.0/26")}, {Prefix: netip.MustParsePrefix("10.0.3.0/26")},
	})
	if fmt.Sprint(n.Withhold) != "[10.0.3.0/26]" || len(n.Told) != 1 || fmt.Sprint(n.Told[0].Prefixes) != "[10.0.1.0/26 10.0.2.0/26]" ||
		n.Told[0].NextHop != own || n.Told[0].LocalPref != 100 || n.How(netip.MustParsePrefix("10.0.1.0/26")) != "next hop 203.0.113.11" {
		t.Errorf("%v %+v", n.Withhold, n.Told)
	}
}

// TestServices: which nodes tell of a Service is a matter of labels, and what several share is told once.
func TestServices(t *testing.T) {
	snapshot := func(labels map[string]string) *clearwayv1.NodeSnapshot {
		return &clearwayv1.NodeSnapshot{
			Node: &clearwayv1.Node{Status: &clearwayv1.NodeStatus{Labels: labels}},
			Pools: []*clearwayv1.IPPool{
				{Metadata: &clearwayv1.ObjectMeta{Name: "edge"}, Spec: &clearwayv1.IPPoolSpec{
					Cidr: "203.0.113.0/24", Kind: "LoadBalancer", Communities: []string{"64512:1"},
					NodeSelector: &clearwayv1.LabelSelector{MatchLabels: map[string]string{"edge": "yes"}},
				}},
			},
			BgpConfiguration: &clearwayv1.BGPConfiguration{Spec: &clearwayv1.BGPConfigurationSpec{Services: &clearwayv1.ServiceRoutes{
				NodeSelector: &clearwayv1.LabelSelector{MatchExpressions: []*clearwayv1.LabelSelectorRequirement{{Key: "mute", Operator: "DoesNotExist"}}},
			}}},
			Services: []*clearwayv1.ServiceEntry{
				{Name: "web/z", Addresses: []*clearwayv1.ServiceAddress{{Address: "203.0.113.1", Pool: "edge"}, {Address: "192.0.2.1"}}, Communities: []string{"64512:9"}},
			},
		}
	}
	everywhere := []*clearwayv1.ServiceEntry{
		{Name: "web/a", Addresses: []*clearwayv1.ServiceAddress{{Address: "203.0.113.1", Pool: "edge"}, {Address: "2001:db8::1"}}, Communities: []string{"64512:7"}},
	}
	for name, c := range map[string]struct {
		labels map[string]string
		want   string
	}{
		"an edge":              {map[string]string{"edge": "yes"}, "192.0.2.1/32:9 203.0.113.1/32:1:7 2001:db8::1/128:7"},
		"no node of the pool":  {nil, "192.0.2.1/32:9 2001:db8::1/128:7"},
		"not of services":      {map[string]string{"edge": "yes", "mute": ""}, ""},
		"excluded by its Node": {map[string]string{"edge": "yes", excludeLabel: ""}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := snapshot(c.labels)
			var got []string
			for _, a := range Advertise(s, nil, Services(s, everywhere)) {
				text := a.Prefix.String()
				for _, community := range a.Communities {
					text += fmt.Sprint(":", community&0xffff)
				}
				got = append(got, text)
				if a.Source != route.SourceVIP {
					t.Errorf("%s is %s", a.Prefix, a.Source)
				}
			}
			if text := strings.Join(got, " "); text != c.want {
				t.Errorf("got %s, want %s", text, c.want)
			}
		})
	}
}
