package kube

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/clearway/clearway/integration/kubeapi"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// testPods: an agent that knows nothing better of a Pod hears that it is gone when it is, under whatever UID the runtime knows
// it, and not before; and while the API server is away it hears nothing. The manifests are applied: the accounts are theirs.
func testPods(t *testing.T, c *cluster) {
	i := c.ipamd(t)
	a := &agent{client: clearwayv1.NewNodeServiceClient(i.conn), name: "pods-1"}
	if err := a.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	const mirrored = "0123456789abcdef0123456789abcdef"
	plain := c.namedPod(t, "pod-plain", a.name, "")
	static := c.namedPod(t, "pod-static", a.name, fmt.Sprintf(`, "annotations": {"kubernetes.io/config.hash": %q}`, mirrored))
	asked := []*clearwayv1.Pod{
		{Namespace: "clearway-system", Name: "pod-plain", Uid: plain},
		{Namespace: "clearway-system", Name: "pod-static", Uid: mirrored},
		{Namespace: "clearway-system", Name: "pod-static", Uid: static},
		{Namespace: "clearway-system", Name: "pod-plain", Uid: "of-before"},
		{Namespace: "gone", Name: "gone", Uid: "gone"},
	}
	hears := func(want ...string) {
		t.Helper()
		kubeapi.Eventually(t, soon, fmt.Sprintf("Pods %v to be gone", want), func() error {
			answer, err := a.client.MissingPods(t.Context(), &clearwayv1.MissingPodsRequest{Node: a.name, SessionId: a.session, Pods: asked})
			if err != nil {
				return err
			}
			slices.Sort(answer.Uids)
			if slices.Sort(want); !slices.Equal(answer.GetUids(), want) {
				return fmt.Errorf("%v are", answer.GetUids())
			}
			return nil
		})
	}
	hears("gone", "of-before")
	late := c.namedPod(t, "pod-late", a.name, "") // asked for at once: the watch need not have it yet
	asked = append(asked, &clearwayv1.Pod{Namespace: "clearway-system", Name: "pod-late", Uid: late})
	answer, err := a.client.MissingPods(t.Context(), &clearwayv1.MissingPodsRequest{Node: a.name, SessionId: a.session, Pods: asked})
	if err != nil || slices.Contains(answer.GetUids(), late) {
		t.Fatalf("a Pod that has just come is gone: %v %v", answer.GetUids(), err)
	}
	c.delete(t, "/api/v1/namespaces/clearway-system/pods/pod-plain?gracePeriodSeconds=0")
	hears("gone", "of-before", plain)
	c.delete(t, "/api/v1/namespaces/clearway-system/pods/pod-static?gracePeriodSeconds=0")
	hears("gone", "of-before", plain, mirrored, static)
}

// namedPod makes a Pod of the agents' account that goes with the test, and returns its UID.
func (c *cluster) namedPod(t *testing.T, name, node, metadata string) string {
	t.Helper()
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q%s}, "spec": {"serviceAccountName": "clearway-agent",
		"nodeName": %q, "containers": [{"name": "one", "image": "one"}]}}`, name, metadata, node)
	code, answer, err := c.Call(t.Context(), http.MethodPost, "/api/v1/namespaces/clearway-system/pods", []byte(text), "")
	if err != nil || code != http.StatusCreated {
		t.Fatalf("Pod %s: %d %s %v", name, code, answer, err)
	}
	t.Cleanup(func() {
		_, _, _ = c.Call(t.Context(), http.MethodDelete, "/api/v1/namespaces/clearway-system/pods/"+name+"?gracePeriodSeconds=0", nil, "")
	})
	var made object
	if err := json.Unmarshal(answer, &made); err != nil {
		t.Fatal(err)
	}
	return made.Metadata.UID
}
