package node

import (
	"fmt"
	"testing"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestNamespacesAreKnownFromIpamd: what the runtime says of a namespace goes before what ipamd says, and of one that nobody
// knows nothing is made up.
func TestNamespacesAreKnownFromIpamd(t *testing.T) {
	snapshot := &clearwayv1.NodeSnapshot{Namespaces: map[string]*clearwayv1.KubernetesNamespace{
		"a": {Labels: map[string]string{"team": "x"}, Annotations: map[string]string{annotationPools: "pods"}},
	}}
	nothing := fmt.Sprint(map[string]string{}, map[string]string{})
	for name, c := range map[string]struct {
		in   *clearwayv1.AddRequest
		with *clearwayv1.NodeSnapshot
		want string
	}{
		"known":                {&clearwayv1.AddRequest{Pod: &clearwayv1.Pod{Namespace: "a"}}, snapshot, "map[team:x] map[clearway.io/pools:pods]"},
		"not known":            {&clearwayv1.AddRequest{Pod: &clearwayv1.Pod{Namespace: "b"}}, snapshot, nothing},
		"no Pod":               {&clearwayv1.AddRequest{}, snapshot, nothing},
		"no snapshot":          {&clearwayv1.AddRequest{Pod: &clearwayv1.Pod{Namespace: "a"}}, nil, nothing},
		"the runtime's labels": {&clearwayv1.AddRequest{Pod: &clearwayv1.Pod{Namespace: "a"}, NamespaceLabels: map[string]string{"team": "y"}}, snapshot, "map[team:y] map[clearway.io/pools:pods]"},
	} {
		knowNamespace(c.in, c.with)
		if got := fmt.Sprint(c.in.GetNamespaceLabels(), c.in.GetNamespaceAnnotations()); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	// An ADD goes by it.
	in := &clearwayv1.AddRequest{Pod: &clearwayv1.Pod{Namespace: "a"}}
	knowNamespace(in, snapshot)
	query, err := wishes(in)
	if err != nil || len(query.Wanted) != 1 || query.Wanted[0].Names[0] != "pods" || query.Pod.NamespaceLabels["team"] != "x" {
		t.Errorf("%+v, %v", query, err)
	}
}
