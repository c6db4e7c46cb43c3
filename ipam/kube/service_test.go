package kube

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/clearway/clearway/ipam/service"
)

func TestServiceOf(t *testing.T) {
	class, both, local := "clearway.io/bgp", corev1.IPFamilyPolicyRequireDualStack, corev1.ServiceInternalTrafficPolicyLocal
	whole := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "a", UID: "u", Labels: map[string]string{"tier": "edge"}, Annotations: map[string]string{
			"clearway.io/load-balancer-ips": " 203.0.113.7, 2001:db8::7", "clearway.io/pools": "edge,other", "clearway.io/sharing-key": "k",
			"clearway.io/communities": "64512:1, NoExport",
		}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class, IPFamilyPolicy: &both, InternalTrafficPolicy: &local,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, ClusterIPs: []string{"10.96.0.7", "None"},
			ExternalIPs: []string{"198.51.100.7"}, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
			Selector: map[string]string{"b": "2", "a": "1"}, Ports: []corev1.ServicePort{{Port: 80}, {Port: 53, Protocol: corev1.ProtocolUDP}},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "203.0.113.7"}, {Hostname: "x"}}}},
	}
	got := serviceOf(whole)
	want := &service.Service{
		Namespace: "web", Name: "a", UID: "u", Labels: map[string]string{"tier": "edge"}, LoadBalancer: true, Class: class,
		Families: []service.Family{service.IPv4, service.IPv6}, AllFamilies: true, ClusterIPs: addrsOf([]string{"10.96.0.7"}),
		ExternalIPs: addrsOf([]string{"198.51.100.7"}), Ingress: addrsOf([]string{"203.0.113.7"}),
		Ports: []service.Port{{Protocol: "TCP", Number: 80}, {Protocol: "UDP", Number: 53}}, ExternalLocal: true, InternalLocal: true,
		Selector: "a=1,b=2", Asked: addrsOf([]string{"203.0.113.7", "2001:db8::7"}), Pools: []string{"edge", "other"}, SharingKey: "k",
		Communities: []string{"64512:1", "NoExport"},
	}
	if !sameService(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for text, fault := range map[string]string{
		"203.0.113.300":          `annotation clearway.io/load-balancer-ips "203.0.113.300": `,
		"203.0.113.7,198.51.0.7": `annotation clearway.io/load-balancer-ips "198.51.0.7": is the second of its family; name one a family`,
		"2001:db8::7":            `annotation clearway.io/load-balancer-ips "2001:db8::7": is IPv6, which is not among the Service's ipFamilies`,
	} {
		bad := whole.DeepCopy()
		bad.Annotations["clearway.io/load-balancer-ips"], bad.Spec.IPFamilies = text, []corev1.IPFamily{corev1.IPv4Protocol}
		if got := serviceOf(bad).Fault; len(got) < len(fault) || got[:len(fault)] != fault {
			t.Errorf("%s: %s, want %s", text, got, fault)
		}
	}
	old := whole.DeepCopy()
	old.Annotations, old.Spec.LoadBalancerIP = nil, "203.0.113.9"
	if got := serviceOf(old); fmt.Sprint(got.Asked)+got.Fault != "[203.0.113.9]" {
		t.Errorf("spec.loadBalancerIP: %v %s", got.Asked, got.Fault)
	}
}

func TestEndpoints(t *testing.T) {
	yes, no := true, false
	one, two := "n1", "n2"
	endpoint := func(node *string, ready, serving, terminating *bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{NodeName: node, Conditions: discoveryv1.EndpointConditions{Ready: ready, Serving: serving, Terminating: terminating}}
	}
	made := func(of string, endpoints ...discoveryv1.Endpoint) slice {
		return sliceOf(&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "web", Labels: map[string]string{discoveryv1.LabelServiceName: of}}, Endpoints: endpoints,
		})
	}
	services := map[string]*service.Service{"web/a": {Namespace: "web", Name: "a"}, "web/b": {Namespace: "web", Name: "b"}}
	joined := withEndpoints(services, map[string]slice{
		"1": made("a", endpoint(&one, &no, &yes, &yes), endpoint(&two, &no, &no, &no), endpoint(nil, &yes, nil, nil)),
		"2": made("a", endpoint(&two, nil, nil, nil), endpoint(&one, &no, &yes, &no)),
		"3": made("none", endpoint(&one, &yes, nil, nil)), "4": made(""),
	})
	want := map[string]service.Readiness{"n1": service.Terminating, "n2": service.Ready, "": service.Ready}
	if got := joined["web/a"].Endpoints; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if len(joined["web/b"].Endpoints) > 0 || services["web/a"].Endpoints != nil {
		t.Errorf("%v, and the Service itself has %v", joined["web/b"].Endpoints, services["web/a"].Endpoints)
	}
}

// TestServiceStatusIsWrittenOnce: not while it is on its way to us, and again when somebody has made another one of it.
func TestServiceStatusIsWrittenOnce(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	address := []netip.Addr{netip.MustParseAddr("203.0.113.1")}
	other := []netip.Addr{netip.MustParseAddr("203.0.113.2")}
	for name, c := range map[string]struct {
		shows, wanted []netip.Addr
		written       ingressWrite
		want          bool
	}{
		"it has none":               {nil, address, ingressWrite{}, true},
		"it has it":                 {address, address, ingressWrite{}, false},
		"just written":              {nil, address, ingressWrite{"u", address, now.Add(-time.Second)}, false},
		"written long ago":          {nil, address, ingressWrite{"u", address, now.Add(-echoTime)}, true},
		"another was written":       {other, address, ingressWrite{"u", other, now}, true},
		"of one before it":          {nil, address, ingressWrite{"before", address, now}, true},
		"what it has no longer":     {address, nil, ingressWrite{}, true},
		"what it has no longer, 2":  {address, nil, ingressWrite{"u", nil, now}, false},
		"in another order the same": {append(address, other...), append(other, address...), ingressWrite{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			teller := newServiceTeller(nil)
			one := &service.Service{Namespace: "a", Name: "b", UID: "u", Ingress: c.shows}
			teller.written[one.Key()] = c.written
			if got := teller.differs(one, service.Answer{UID: "u", Addresses: c.wanted}, now); got != c.want {
				t.Errorf("%v", got)
			}
		})
	}
}
