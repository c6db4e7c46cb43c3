package kube

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func TestAddressesOfANode(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "[] ",
		" 192.0.2.11/24 , 2001:db8::11/64": "[192.0.2.11/24 2001:db8::11/64] ",
		"192.0.2.11":                       `[] annotation clearway.io/addresses: "192.0.2.11" must be an address with its prefix length`,
		"192.0.2.11/24,192.0.2.12/24":      "is the second of its family",
		"127.0.0.1/8":                      "127.0.0.1/8 is no address by which other machines reach the node",
		"fe80::1/64":                       "is no address by which",
		"::ffff:192.0.2.1/120":             "must be an address with its prefix length",
		"2001:db8::11/64,,":                `[] annotation clearway.io/addresses: "" must be`,
	} {
		m := machineOf(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{addressesAnnotation: text}}})
		if got := fmt.Sprint(m.known.GetAddresses(), " ", m.fault); !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestPowerOffIsAnOperatorsWord(t *testing.T) {
	taints := []corev1.Taint{{Key: "node.kubernetes.io/unreachable"}}
	if machineOf(&corev1.Node{Spec: corev1.NodeSpec{Taints: taints}}).known.GetPoweredOff() {
		t.Error("a node that cannot be reached is taken to be off")
	}
	taints = append(taints, corev1.Taint{Key: taintOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
	if !machineOf(&corev1.Node{Spec: corev1.NodeSpec{Taints: taints}}).known.GetPoweredOff() {
		t.Error("a node that is said to be out of service is not taken to be off")
	}
}

func TestNetworkCondition(t *testing.T) {
	with := func(status corev1.ConditionStatus, reason string) machine {
		return machine{unavailable: &corev1.NodeCondition{Status: status, Reason: reason}}
	}
	for name, c := range map[string]struct {
		m         machine
		known, up bool
		want      string
	}{
		"nobody knows":             {machine{}, false, false, ""},
		"first, and up":            {machine{}, true, true, "False ClearwayIsUp"},
		"first, and not up":        {machine{}, true, false, "True NoBlock"},
		"the cloud's, and up":      {with("True", "NoRouteCreated"), true, true, "False ClearwayIsUp"},
		"ours, still up":           {with("False", "ClearwayIsUp"), true, true, ""},
		"ours, no longer up":       {with("False", "ClearwayIsUp"), true, false, "True NoBlock"},
		"ours, and the agent away": {with("False", "ClearwayIsUp"), false, false, ""},
	} {
		got := ""
		if condition := networkCondition(c.m, c.known, c.up); condition != nil {
			got = fmt.Sprint(condition.Status, " ", condition.Reason)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestNamespacesThatMatter: of a namespace goes to the nodes what a pool may ask for, and no other label.
func TestNamespacesThatMatter(t *testing.T) {
	all := map[string]*clearwayv1.KubernetesNamespace{
		"plain":  namespaceOf(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"kubernetes.io/metadata.name": "plain", "x": "y"}}}),
		"chosen": namespaceOf(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"clearway.io/pools": "p", "a/b": "c"}}}),
	}
	pool := &clearwayv1.IPPool{Kind: "IPPool", Metadata: &clearwayv1.ObjectMeta{Name: "p"}, Spec: &clearwayv1.IPPoolSpec{
		NamespaceSelector: &clearwayv1.LabelSelector{
			MatchLabels:      map[string]string{"team": "a"},
			MatchExpressions: []*clearwayv1.LabelSelectorRequirement{{Key: "x", Operator: "Exists"}},
		},
	}}
	for _, c := range []struct {
		held map[key]clearwayv1.Object
		want string
	}{
		{nil, "chosen map[] map[clearway.io/pools:p]"},
		{byKey(pool), "chosen map[] map[clearway.io/pools:p], plain map[kubernetes.io/metadata.name:plain x:y] map[]"},
	} {
		var words []string
		got := wantedNamespaces(all, askedLabels(c.held))
		for _, name := range []string{"chosen", "plain"} {
			if one := got[name]; one != nil {
				words = append(words, fmt.Sprint(name, " ", one.GetLabels(), " ", one.GetAnnotations()))
			}
		}
		if text := strings.Join(words, ", "); text != c.want {
			t.Errorf("%s, want %s", text, c.want)
		}
	}
}

// TestKubeletsHeartbeatsWakeNobody: a Node that is written with nothing new is no news.
func TestKubeletsHeartbeatsWakeNobody(t *testing.T) {
	woken := 0
	rows := tableOf(machineOf, func() { woken++ })
	rows.same = sameMachine
	node := func(heartbeat int64, rack string) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"rack": rack}, ResourceVersion: fmt.Sprint(heartbeat)},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeNetworkUnavailable, Status: "False", Reason: "ClearwayIsUp", LastHeartbeatTime: metav1.Unix(heartbeat, 0)},
				{Type: corev1.NodeReady, LastHeartbeatTime: metav1.Unix(heartbeat, 0)},
			}},
		}
	}
	for i, one := range []struct {
		node *corev1.Node
		want int
	}{{node(1, "a"), 1}, {node(2, "a"), 1}, {node(3, "b"), 2}, {node(4, "b"), 2}} {
		if err := rows.Update(one.node); err != nil || woken != one.want {
			t.Errorf("after update %d: woken %d times, want %d (%v)", i, woken, one.want, err)
		}
	}
}
