package kube

import (
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/clearway/clearway/integration/kubeapi"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// testMigrate moves in from Calico's objects in a real API server: the resources are there as Kubernetes' own, and a node's agent
// that comes then finds the blocks and addresses that its Pods have. The manifests are applied: the accounts are theirs.
func testMigrate(t *testing.T, c *cluster) {
	for _, kind := range []string{"IPPool", "BGPPeer", "IPAMBlock"} {
		c.define(t, "crd.projectcalico.org", kind)
	}
	i := c.ipamd(t)
	c.applyNode(t, "moved", "labels: {rack: m1}", "")
	c.patchStatus(t, "/api/v1/nodes/moved", `{"status": {"nodeInfo": {"bootID": "boot-moved", "machineID": "m-moved"}}}`)
	uid := c.namedPod(t, "moved-pod", "moved", "")
	c.patchStatus(t, "/api/v1/namespaces/clearway-system/pods/moved-pod", `{"status": {"phase": "Running", "podIP": "10.77.0.5", "podIPs": [{"ip": "10.77.0.5"}]}}`)
	calico := func(kind, name, spec string) {
		text := fmt.Sprintf("{apiVersion: crd.projectcalico.org/v1, kind: %s, metadata: {name: %s}, spec: %s}", kind, name, spec)
		if err := c.ServerSideApply(t.Context(), "/apis/crd.projectcalico.org/v1/"+plural(kind)+"/"+name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	calico("IPPool", "calico-pods", "{cidr: 10.77.0.0/16, blockSize: 26, nodeSelector: all()}")
	calico("BGPPeer", "calico-tor", "{peerIP: 192.0.2.99, asNumber: 65199, nodeSelector: \"rack == 'm1'\"}")
	calico("IPAMBlock", "10-77-0-0-26", `{cidr: 10.77.0.0/26, affinity: "host:moved", allocations: [`+strings.Repeat("null, ", 5)+`0],
		attributes: [{handle_id: k8s-pod-network.c0ffee, secondary: {namespace: clearway-system, pod: moved-pod, node: moved}}]}`)

	kubeconfig := c.Kubeconfig(kubeapi.Admin)
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "clearwayctl"), "migrate", "calico", "--kubeconfig", kubeconfig, "-o", "json").Output()
	if err != nil || !has(string(out), `"10.77.0.0/26"`) || !has(string(out), "MigrationPlan") {
		t.Fatalf("plan: %v\n%s", err, out)
	}
	for range 2 { // repeating is harmless
		if out, err := i.ctl(t, "", "migrate", "calico", "--kubeconfig", kubeconfig, "--apply"); err != nil || !has(out, "1 node taken in, with 1 block and 1 address") {
			t.Fatalf("apply: %v\n%s", err, out)
		}
	}
	t.Cleanup(func() {
		for _, one := range []string{path("BGPPeer", "calico-tor"), "/api/v1/nodes/moved"} {
			_, _, _ = c.Call(t.Context(), http.MethodDelete, one, nil, "")
		}
	})
	c.accepted(t, "IPPool", "calico-pods") // it is a resource of the API server, as if kubectl had applied it
	c.accepted(t, "BGPPeer", "calico-tor")

	a := &agent{client: clearwayv1.NewNodeServiceClient(i.conn), name: "moved"}
	answer, err := a.client.Register(t.Context(), &clearwayv1.RegisterRequest{
		Node: a.name, MachineId: "m-moved", BootId: "boot-moved", JournalId: "j", ProcessId: "p", Addresses: []string{"192.0.2.30/24"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(answer.GetSealedBlocks(), []string{"10.77.0.0/26"}) {
		t.Errorf("sealed: %v", answer.GetSealedBlocks())
	}
	known := answer.GetKnownAssignments()
	if len(known) != 1 || known[0].GetAddress() != "10.77.0.5" || known[0].GetAttachment().GetContainerId() != "c0ffee" || known[0].GetPod().GetUid() != uid {
		t.Errorf("known: %v", known)
	}
}

func plural(kind string) string { return strings.ToLower(kind) + "s" }

// define installs a definition that takes anything, and waits until it is served.
func (c *cluster) define(t *testing.T, group, kind string) {
	t.Helper()
	name := plural(kind) + "." + group
	text := fmt.Sprintf(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: %s}, spec: {group: %s, scope: Cluster,
names: {kind: %s, plural: %s, singular: %s}, versions: [{name: v1, served: true, storage: true,
  schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}`, name, group, kind, plural(kind), strings.ToLower(kind))
	if err := c.ServerSideApply(t.Context(), "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"+name, []byte(text)); err != nil {
		t.Fatal(err)
	}
	kubeapi.Eventually(t, soon, "definition of "+name, func() error {
		code, text, err := c.Call(t.Context(), http.MethodGet, "/apis/"+group+"/v1/"+plural(kind), nil, "")
		if err == nil && code != http.StatusOK {
			err = errors.New(string(text))
		}
		return err
	})
}

// patchStatus merges into an object's status, as a kubelet does.
func (c *cluster) patchStatus(t *testing.T, at, text string) {
	t.Helper()
	code, answer, err := c.Call(t.Context(), http.MethodPatch, at+"/status", []byte(text), "application/merge-patch+json")
	if err != nil || code != http.StatusOK {
		t.Fatalf("status of %s: %d %s %v", at, code, answer, err)
	}
}
