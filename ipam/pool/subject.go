package pool

import (
	"fmt"

	"k8s.io/apimachinery/pkg/labels"
)

// NamespaceNameLabel is the label that every namespace of Kubernetes has, with its name.
const NamespaceNameLabel = "kubernetes.io/metadata.name"

// Subject is what is known of a Pod where its pools are chosen. What is not known selects nothing, not even by NotIn
// and DoesNotExist: a pool must not be open to whoever withholds a label.
type Subject struct {
	// Namespace is its name; empty: not known.
	Namespace string
	// NamespaceLabels and Labels, where not empty, are all that the namespace and the Pod have, but for
	// NamespaceNameLabel, which follows from Namespace.
	NamespaceLabels, Labels map[string]string
}

// refusal is why a pool is not for the Pod; empty: it is.
func (s *Subject) refusal(pool Pool) string {
	if why := s.namespaceRefusal(pool.NamespaceSelector); why != "" {
		return fmt.Sprintf("the namespaceSelector of pool %q (%s) %s", pool.Name, pool.NamespaceSelector, why)
	}
	switch selector := pool.PodSelector; {
	case selector.Empty():
	case len(s.Labels) == 0:
		return fmt.Sprintf("the podSelector of pool %q (%s) cannot be judged: the Pod's labels are not known here", pool.Name, selector)
	case !selector.Matches(labels.Set(s.Labels)):
		return fmt.Sprintf("the podSelector of pool %q (%s) does not take the Pod's labels (%s)", pool.Name, selector, short(s.Labels))
	}
	return ""
}

func (s *Subject) namespaceRefusal(selector labels.Selector) string {
	if selector.Empty() {
		return ""
	}
	if s.Namespace == "" {
		return "cannot be judged: the Pod's namespace is not known here (CNI_ARGS has no K8S_POD_NAMESPACE)"
	}
	if len(s.NamespaceLabels) == 0 && !byName(selector) {
		return fmt.Sprintf("cannot be judged: of namespace %q nothing but its name is known here", s.Namespace)
	}
	known := labels.Set{}
	for key, value := range s.NamespaceLabels {
		known[key] = value
	}
	known[NamespaceNameLabel] = s.Namespace
	if !selector.Matches(known) {
		return fmt.Sprintf("does not take namespace %q (%s)", s.Namespace, short(known))
	}
	return ""
}

// byName tells whether a selector looks at nothing but a namespace's name.
func byName(selector labels.Selector) bool {
	requirements, _ := selector.Requirements()
	for _, requirement := range requirements {
		if requirement.Key() != NamespaceNameLabel {
			return false
		}
	}
	return true
}

// short is a set of labels as text of bounded length.
func short(set map[string]string) string {
	const longest = 200
	text := labels.Set(set).String()
	if len(text) > longest {
		text = text[:longest] + "..."
	}
	return text
}
