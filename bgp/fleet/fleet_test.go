package fleet

import (
	"testing"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func meta(name string) *clearwayv1.ObjectMeta { return &clearwayv1.ObjectMeta{Name: name} }

func node(name string, spec *clearwayv1.NodeSpec, status *clearwayv1.NodeStatus) *clearwayv1.Node {
	return &clearwayv1.Node{Kind: "Node", Metadata: meta(name), Spec: spec, Status: status}
}

func configuration(asn uint32) *clearwayv1.BGPConfiguration {
	return &clearwayv1.BGPConfiguration{
		Kind: "BGPConfiguration", Metadata: meta("default"), Spec: &clearwayv1.BGPConfigurationSpec{AsNumber: asn},
	}
}

func peer(name, address string, selects map[string]string) *clearwayv1.BGPPeer {
	return &clearwayv1.BGPPeer{Kind: "BGPPeer", Metadata: meta(name), Spec: &clearwayv1.BGPPeerSpec{
		PeerAddress: address, PeerAsn: 65101, NodeSelector: &clearwayv1.LabelSelector{MatchLabels: selects},
	}}
}

// TestWithLaysOver: an applied resource takes the place of the one before, and the fleet of before stays as it was.
func TestWithLaysOver(t *testing.T) {
	reported := &clearwayv1.NodeStatus{
		Addresses: []string{"192.0.2.11/24", "2001:db8::11/64"}, AsNumber: 64512, Labels: map[string]string{"rack": "r1", "old": "yes"},
	}
	before := New(configuration(64512), node("n1", nil, reported), peer("r1", "192.0.2.1", map[string]string{"rack": "r1"}))
	after := before.With(configuration(65001), node("n1", &clearwayv1.NodeSpec{
		Addresses: []string{"198.51.100.11/24"}, Labels: map[string]string{"rack": "r2", "old": ""},
	}, nil))

	was, is := before.Build()[0], after.Build()[0]
	if len(was.Desired.Neighbors) != 1 || was.Desired.Global.ASN != 64512 {
		t.Errorf("before: %+v", was.Desired)
	}
	if len(is.Desired.Neighbors) != 0 {
		t.Errorf("a node that left the rack still has its peer: %+v", is.Desired.Neighbors)
	}
	if is.Desired.Global.ASN != 65001 {
		t.Errorf("AS number %d: what ipamd reported was the cluster's of before, and the cluster has 65001", is.Desired.Global.ASN)
	}
	labels, addresses := is.Node.GetStatus().GetLabels(), is.Node.GetStatus().GetAddresses()
	if labels["rack"] != "r2" || len(labels) != 1 {
		t.Errorf("labels %v: the operator's word goes first, and an empty one removes", labels)
	}
	if len(addresses) != 2 || addresses[0] != "198.51.100.11/24" || addresses[1] != "2001:db8::11/64" {
		t.Errorf("addresses %v: the operator's, and the agent's of the other family", addresses)
	}
	if len(reported.GetLabels()) != 2 || reported.GetAsNumber() != 64512 {
		t.Errorf("the argument was changed: %v", reported)
	}
}

// TestBuildAdvertisesOwnedBlocks: what rests, is withdrawn or orphaned is not told.
func TestBuildAdvertisesOwnedBlocks(t *testing.T) {
	block := func(cidr, owner string, state clearwayv1.BlockState) *clearwayv1.Block {
		return &clearwayv1.Block{Kind: "Block", Metadata: meta(clearwayv1.PrefixName(cidr)), Spec: &clearwayv1.BlockSpec{Cidr: cidr, Node: owner, State: state}}
	}
	plan := New(
		node("n1", &clearwayv1.NodeSpec{Addresses: []string{"192.0.2.11/24", "2001:db8::11/64"}}, nil),
		peer("all", "192.0.2.1", nil),
		block("fd00::/122", "n1", clearwayv1.BlockState_BLOCK_STATE_OWNED),
		block("10.244.0.64/26", "n1", clearwayv1.BlockState_BLOCK_STATE_OWNED),
		block("10.244.0.0/26", "n1", clearwayv1.BlockState_BLOCK_STATE_OWNED),
		block("10.244.0.128/26", "n1", clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING),
		block("10.244.0.192/26", "", clearwayv1.BlockState_BLOCK_STATE_COOLING),
		block("10.244.1.0/26", "n2", clearwayv1.BlockState_BLOCK_STATE_OWNED),
	).Build()[0]
	var got []string
	for _, advertisement := range plan.Desired.Advertise {
		got = append(got, advertisement.Prefix.String())
	}
	if len(got) != 3 || got[0] != "10.244.0.0/26" || got[1] != "10.244.0.64/26" || got[2] != "fd00::/122" {
		t.Errorf("advertised: %v", got)
	}
	neighbor := plan.Desired.Neighbors[0]
	if neighbor.NextHop4.String() != "192.0.2.11" || neighbor.NextHop6.String() != "2001:db8::11" {
		t.Errorf("next hops %s and %s", neighbor.NextHop4, neighbor.NextHop6)
	}
}

func TestSelects(t *testing.T) {
	labels := map[string]string{"rack": "r1"}
	requirement := func(key, operator string, values ...string) *clearwayv1.LabelSelector {
		return &clearwayv1.LabelSelector{MatchExpressions: []*clearwayv1.LabelSelectorRequirement{{Key: key, Operator: operator, Values: values}}}
	}
	for _, c := range []struct {
		name     string
		selector *clearwayv1.LabelSelector
		want     bool
	}{
		{"absent", nil, true},
		{"empty", &clearwayv1.LabelSelector{}, true},
		{"label", &clearwayv1.LabelSelector{MatchLabels: map[string]string{"rack": "r1"}}, true},
		{"other value", &clearwayv1.LabelSelector{MatchLabels: map[string]string{"rack": "r2"}}, false},
		{"no such label", &clearwayv1.LabelSelector{MatchLabels: map[string]string{"zone": ""}}, false},
		{"in", requirement("rack", "In", "r0", "r1"), true},
		{"not in", requirement("rack", "NotIn", "r1"), false},
		{"exists", requirement("rack", "Exists"), true},
		{"does not exist", requirement("zone", "DoesNotExist"), true},
		{"unknown operator", requirement("rack", "Like", "r*"), false},
		{"bad values", requirement("rack", "In"), false},
	} {
		if got := Selects(c.selector, labels); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
