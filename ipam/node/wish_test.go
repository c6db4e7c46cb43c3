package node

import (
	"maps"
	"strings"
	"testing"

	"github.com/clearway/clearway/ipam/node/nodetest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestPoolsByAnnotation: what a Pod says goes before its namespace, that before the network configuration, that before
// the selectors; what is wrong is told by its place.
func TestPoolsByAnnotation(t *testing.T) {
	d := dualStack(t)
	d.Pool("other", &clearwayv1.IPPoolSpec{Cidr: "10.9.0.0/24", Priority: -1})
	d.Pool("third", &clearwayv1.IPPoolSpec{Cidr: "10.8.0.0/24", Priority: -1})
	d.Pool("edge", &clearwayv1.IPPoolSpec{Cidr: "10.7.0.0/24", NamespaceSelector: &clearwayv1.LabelSelector{
		MatchLabels: map[string]string{"kubernetes.io/metadata.name": "edge"},
	}})
	d.Pool("web", &clearwayv1.IPPoolSpec{Cidr: "10.6.0.0/24", Priority: -1, PodSelector: &clearwayv1.LabelSelector{
		MatchLabels: map[string]string{"app": "web"},
	}})
	a := run(t, d, t.TempDir())
	for name, c := range map[string]struct {
		request *clearwayv1.AddRequest
		want    string // the addresses' beginnings
		code    uint32
		text    string
	}{
		"selectors":             {&clearwayv1.AddRequest{}, "10.244. fd00:", 0, ""},
		"network configuration": {&clearwayv1.AddRequest{Pools: []string{"other"}}, "10.9.0.", 0, ""},
		"namespace": {&clearwayv1.AddRequest{
			Pools: []string{"nowhere"}, NamespaceAnnotations: map[string]string{"clearway.io/pools": "third, v6"},
		}, "10.8.0. fd00:", 0, ""},
		"Pod": {&clearwayv1.AddRequest{
			Pools: []string{"nowhere"}, NamespaceAnnotations: map[string]string{"clearway.io/pools": "third"},
			Annotations: map[string]string{"clearway.io/pools": "other"},
		}, "10.9.0.", 0, ""},
		"a family by the Pod": {&clearwayv1.AddRequest{
			Pools: []string{"third", "v6"}, Annotations: map[string]string{"clearway.io/ipv4-pools": "other"},
		}, "10.9.0. fd00:", 0, ""},
		"families": {&clearwayv1.AddRequest{Annotations: map[string]string{"clearway.io/families": "IPv6"}}, "fd00:", 0, ""},
		"address":  {&clearwayv1.AddRequest{Annotations: map[string]string{"clearway.io/addresses": "10.244.0.40"}}, "10.244.0.40/16 fd00:", 0, ""},
		"address, overruled": {&clearwayv1.AddRequest{
			Addresses: []string{"10.244.0.41"}, Annotations: map[string]string{"clearway.io/addresses": "10.244.0.42,fd00:1::9"},
		}, "10.244.0.41/16 fd00:1::9/", 0, ""},
		"of its namespace": {&clearwayv1.AddRequest{Pod: &clearwayv1.Pod{Namespace: "edge"}}, "10.7.0. fd00:", 0, ""},
		"of its labels": {&clearwayv1.AddRequest{
			PodLabels: map[string]string{"app": "web"}, Annotations: map[string]string{"clearway.io/pools": "web"},
		}, "10.6.0.", 0, ""},
		"not of its namespace": {
			&clearwayv1.AddRequest{Annotations: map[string]string{"clearway.io/pools": "edge"}}, "", cniPoolNotAllowed,
			`annotation clearway.io/pools of the Pod: pool may not be used here: the namespaceSelector of pool "edge" ` +
				`(kubernetes.io/metadata.name=edge) does not take namespace "default" (kubernetes.io/metadata.name=default)`,
		},
		"labels that nobody told": {
			&clearwayv1.AddRequest{NamespaceAnnotations: map[string]string{"clearway.io/pools": "web"}}, "", cniPoolNotAllowed,
			`annotation clearway.io/pools of the Pod's namespace: pool may not be used here: the podSelector of pool "web" (app=web) ` +
				`cannot be judged: the Pod's labels are not known here`,
		},
		"no such pool": {
			&clearwayv1.AddRequest{Annotations: map[string]string{"clearway.io/ipv6-pools": "nowhere"}}, "", cniBadConfig,
			`annotation clearway.io/ipv6-pools of the Pod: pool "nowhere": there is no such pool`,
		},
		"the other family": {
			&clearwayv1.AddRequest{Annotations: map[string]string{"clearway.io/ipv6-pools": "other"}}, "", cniBadConfig,
			`annotation clearway.io/ipv6-pools of the Pod: pool is of the other family: "other" is 10.9.0.0/24`,
		},
		"no name at all": {
			&clearwayv1.AddRequest{Annotations: map[string]string{"clearway.io/pools": " , "}}, "", cniBadConfig, "names no pool",
		},
		"a bad name": {
			&clearwayv1.AddRequest{Annotations: map[string]string{"clearway.io/pools": "Other"}}, "", cniBadConfig,
			`annotation clearway.io/pools of the Pod: "Other" is no pool's name`,
		},
		"a bad family": {
			&clearwayv1.AddRequest{Annotations: map[string]string{"clearway.io/families": "IPv4,ipv6"}}, "", cniBadConfig,
			`annotation clearway.io/families of the Pod: "IPv4,ipv6" must be IPv4, IPv6, or both with a comma`,
		},
		"a bad address": {
			&clearwayv1.AddRequest{Annotations: map[string]string{"clearway.io/addresses": "10.244.0"}}, "", cniBadConfig,
			`annotation clearway.io/addresses of the Pod: "10.244.0" must be an address`,
		},
		"addresses of one family": {
			&clearwayv1.AddRequest{Annotations: map[string]string{"clearway.io/addresses": "10.244.0.4,10.244.0.5"}}, "", cniBadConfig,
			"are of one family",
		},
		"an address outside of the pools": {
			&clearwayv1.AddRequest{Annotations: map[string]string{"clearway.io/addresses": "10.9.0.7", "clearway.io/pools": "third"}}, "",
			cniBadConfig, "in no pool that the Pod may use",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := a.add(strings.NewReplacer(" ", "-", ",", "").Replace(name), func(r *clearwayv1.AddRequest) {
				r.Pools, r.Addresses, r.PodLabels = c.request.Pools, c.request.Addresses, c.request.PodLabels
				r.Annotations, r.NamespaceAnnotations = c.request.Annotations, c.request.NamespaceAnnotations
				if c.request.Pod != nil {
					r.Pod.Namespace = c.request.Pod.Namespace
				}
			})
			if c.code != 0 {
				wantCode(t, err, c.code, c.text)
				return
			}
			want := strings.Fields(c.want)
			if err != nil || len(got) != len(want) {
				t.Fatalf("%v, %v; want %v", got, err, want)
			}
			for i, address := range got {
				if !strings.HasPrefix(address, want[i]) {
					t.Errorf("%v; want %v", got, want)
				}
			}
		})
	}
	if reserved := maps.Clone(a.book.reserved); len(reserved) > 0 {
		t.Errorf("left reserved: %v", reserved)
	}
}

// TestStatusAsksForNoPod: a node all of whose pools are for certain Pods is able; it claims for them when they come.
func TestStatusAsksForNoPod(t *testing.T) {
	d := nodetest.New(t)
	d.Pool("edge", &clearwayv1.IPPoolSpec{Cidr: "10.7.0.0/24", NamespaceSelector: &clearwayv1.LabelSelector{
		MatchLabels: map[string]string{"kubernetes.io/metadata.name": "edge"},
	}})
	a := run(t, d, t.TempDir())
	nodetest.Eventually(t, "the node to be ready", a.Ready)
	if err := a.able(nil); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	_, err := a.add("c1")
	wantCode(t, err, cniPoolNotAllowed, `no pool is for this node: pool may not be used here: the namespaceSelector of pool "edge"`)
	if d.Calls("ClaimBlock") != 0 {
		t.Errorf("a block was claimed for nobody")
	}
	a.mustAdd("c2", func(r *clearwayv1.AddRequest) { r.Pod.Namespace = "edge" })
}
