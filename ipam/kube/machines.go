package kube

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// ownPrefix is what our labels and annotations begin with.
const ownPrefix = "clearway.io/"

// addressesAnnotation of a Node names its addresses, with prefix length and commas, one a family.
const addressesAnnotation = ownPrefix + "addresses"

// taintOutOfService says that an operator knows the machine to be off.
const taintOutOfService = "node.kubernetes.io/out-of-service"

// machine is a Node as far as it counts.
type machine struct {
	known *clearwayv1.KubernetesNode
	// unavailable is the present condition NetworkUnavailable; nil: there is none.
	unavailable *corev1.NodeCondition
	fault       string // what of its annotations is left out, and why
}

// machineOf reads a Node.
func machineOf(node *corev1.Node) machine {
	m := machine{known: &clearwayv1.KubernetesNode{
		Uid: string(node.UID), Labels: maps.Clone(node.Labels), PodCidrs: slices.Clone(node.Spec.PodCIDRs), Cordoned: node.Spec.Unschedulable,
	}}
	for _, taint := range node.Spec.Taints {
		if taint.Key == taintOutOfService {
			m.known.PoweredOff = true
		}
	}
	for i, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeNetworkUnavailable {
			m.unavailable = &node.Status.Conditions[i]
		}
	}
	m.known.Addresses, m.fault = addressesIn(node.Annotations[addressesAnnotation])
	return m
}

// addressesIn reads the annotation. With a fault none of it counts.
func addressesIn(text string) (addresses []string, fault string) {
	if strings.TrimSpace(text) == "" {
		return nil, ""
	}
	have := map[bool]bool{}
	for _, part := range strings.Split(text, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(part))
		switch {
		case err != nil || prefix.Addr().Is4In6():
			return nil, fmt.Sprintf("annotation %s: %q must be an address with its prefix length, such as 192.0.2.11/24", addressesAnnotation, strings.TrimSpace(part))
		case have[prefix.Addr().Is4()]:
			return nil, fmt.Sprintf("annotation %s: %q is the second of its family; name one a family", addressesAnnotation, text)
		case prefix.Addr().IsUnspecified() || prefix.Addr().IsMulticast() || prefix.Addr().IsLoopback() || prefix.Addr().IsLinkLocalUnicast():
			return nil, fmt.Sprintf("annotation %s: %s is no address by which other machines reach the node", addressesAnnotation, prefix)
		}
		have[prefix.Addr().Is4()] = true
		addresses = append(addresses, prefix.String())
	}
	return addresses, ""
}

// sameMachine tells whether two looks at a Node tell the same: kubelet writes it every few minutes at the least.
func sameMachine(a, b machine) bool {
	if (a.unavailable == nil) != (b.unavailable == nil) || a.fault != b.fault || !proto.Equal(a.known, b.known) {
		return false
	}
	return a.unavailable == nil || a.unavailable.Status == b.unavailable.Status && a.unavailable.Reason == b.unavailable.Reason
}

// namespaceOf reads a namespace: its labels, and the annotations that are ours.
func namespaceOf(namespace *corev1.Namespace) *clearwayv1.KubernetesNamespace {
	made := &clearwayv1.KubernetesNamespace{Labels: maps.Clone(namespace.Labels)}
	for key, value := range namespace.Annotations {
		if strings.HasPrefix(key, ownPrefix) {
			if made.Annotations == nil {
				made.Annotations = map[string]string{}
			}
			made.Annotations[key] = value
		}
	}
	return made
}

// wantedNamespaces are those that some agent may need: with annotations of ours, and all of them where a pool's
// namespaceSelector asks for labels; of their labels those and their name alone, so that no other change is told.
func wantedNamespaces(all map[string]*clearwayv1.KubernetesNamespace, asked []string) map[string]*clearwayv1.KubernetesNamespace {
	wanted := map[string]*clearwayv1.KubernetesNamespace{}
	for name, one := range all {
		made := &clearwayv1.KubernetesNamespace{Annotations: one.GetAnnotations()}
		for key, value := range one.GetLabels() {
			if slices.Contains(asked, key) || key == corev1.LabelMetadataName && len(asked) > 0 {
				if made.Labels == nil {
					made.Labels = map[string]string{}
				}
				made.Labels[key] = value
			}
		}
		if len(made.GetLabels()) > 0 || len(made.GetAnnotations()) > 0 {
			wanted[name] = made
		}
	}
	return wanted
}

// askedLabels are the labels that pools' namespaceSelectors ask for, in order.
func askedLabels(held map[key]clearwayv1.Object) []string {
	asked := map[string]bool{}
	for _, object := range held {
		pool, ok := object.(*clearwayv1.IPPool)
		if !ok {
			continue
		}
		for label := range pool.GetSpec().GetNamespaceSelector().GetMatchLabels() {
			asked[label] = true
		}
		for _, expression := range pool.GetSpec().GetNamespaceSelector().GetMatchExpressions() {
			asked[expression.GetKey()] = true
		}
	}
	return slices.Sorted(maps.Keys(asked))
}

// networkCondition is what the NetworkUnavailable condition of a node is to be; nil: as it is. Nothing is said of a node
// that nobody knows anything of (rule Fenced: silence says nothing).
func networkCondition(m machine, known, up bool) *corev1.NodeCondition {
	if !known {
		return nil
	}
	wanted := corev1.NodeCondition{
		Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue, Reason: "NoBlock",
		Message: "Clearway's agent is not ready, or owns no block of addresses",
	}
	if up {
		wanted.Status, wanted.Reason, wanted.Message = corev1.ConditionFalse, "ClearwayIsUp", "Clearway's agent is ready and owns a block of addresses"
	}
	if m.unavailable != nil && m.unavailable.Status == wanted.Status && m.unavailable.Reason == wanted.Reason {
		return nil
	}
	return &wanted
}
