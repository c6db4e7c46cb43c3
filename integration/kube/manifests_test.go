package kube

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/clearway/clearway/integration/kubeapi"
	"github.com/clearway/clearway/integration/lab"
)

// testManifests applies what kustomize makes of deploy/kubernetes to the API server, which knows each field, and tries what
// the overlays make of it.
func testManifests(t *testing.T, c *cluster) {
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(root, "deploy/kubernetes")
	checkListed(t, folder)
	for _, name := range []string{"base", "overlays/embedded", "overlays/uninstall"} {
		for _, text := range documents(t, render(t, "kustomize", "build", filepath.Join(folder, name))) {
			c.put(t, name, text, name != "base")
		}
	}
	if t.Failed() {
		return
	}
	// What an installation goes by: the agent asks for a token that ipamd takes, and ipamd is told whose.
	agent, ipamd := c.argv(t, "DaemonSet", "clearway-agent"), c.argv(t, "Deployment", "clearway-ipamd")
	for _, want := range []string{"--token-file=/var/run/secrets/clearway/token", "--tls-ca=/etc/clearway/ca/ca.crt"} {
		if !slices.Contains(agent, want) {
			t.Errorf("the agent is run with %q, without %s", agent, want)
		}
	}
	if !slices.Contains(ipamd, "--agent-service-account=clearway-system/clearway-agent") {
		t.Errorf("ipamd is run with %q", ipamd)
	}
}

// checkListed: every file is in its folder's kustomization, and none is that is not there.
func checkListed(t *testing.T, folder string) {
	t.Helper()
	for _, dir := range []string{"base", "crds", "rbac", "overlays/embedded", "overlays/cert-manager", "overlays/uninstall"} {
		text, err := os.ReadFile(filepath.Join(folder, dir, "kustomization.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var listed struct {
			Resources []string
			Patches   []struct{ Path string }
		}
		if err := yaml.Unmarshal(text, &listed); err != nil {
			t.Fatalf("%s: %v", dir, err)
		}
		names := slices.Clone(listed.Resources)
		for _, patch := range listed.Patches {
			names = append(names, patch.Path)
		}
		for _, name := range names {
			if _, err := os.Stat(filepath.Join(folder, dir, name)); name != "" && err != nil {
				t.Errorf("%s: %v", dir, err)
			}
		}
		files, err := filepath.Glob(filepath.Join(folder, dir, "*.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if name := filepath.Base(file); name != "kustomization.yaml" && !slices.Contains(names, name) {
				t.Errorf("%s/%s is in no list: nobody applies it", dir, name)
			}
		}
	}
}

// documents are those of a YAML text, each as JSON.
func documents(t *testing.T, text string) [][]byte {
	t.Helper()
	all, err := kubeapi.Documents(text)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// put applies a document, or tries to and leaves things as they are.
func (c *cluster) put(t *testing.T, name string, text []byte, dry bool) {
	t.Helper()
	query := ""
	if dry {
		query = "&dryRun=All"
	}
	if err := c.Put(t.Context(), text, query); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// argv is what the first container of a workload is run with.
func (c *cluster) argv(t *testing.T, kind, name string) []string {
	t.Helper()
	code, text, err := c.Call(t.Context(), http.MethodGet, kubeapi.Places[kind]+"/"+name, nil, "")
	if err != nil || code != http.StatusOK {
		t.Fatalf("%s %s: %d %v", kind, name, code, err)
	}
	var read struct {
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct{ Command, Args []string }
				}
			}
		}
	}
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	first := read.Spec.Template.Spec.Containers[0]
	return append(first.Command, first.Args...)
}

// token asks the API server for a token as the kubelet does for a Pod's volume.
func (c *cluster) token(t *testing.T, account, pod, audience string) string {
	t.Helper()
	code, text, err := c.Call(t.Context(), http.MethodGet, "/api/v1/namespaces/clearway-system/pods/"+pod, nil, "")
	if err != nil || code != http.StatusOK {
		t.Fatalf("Pod %s: %d %s %v", pod, code, text, err)
	}
	var of object
	if err := json.Unmarshal(text, &of); err != nil {
		t.Fatal(err)
	}
	request := fmt.Sprintf(`{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": [%q],
		"expirationSeconds": 600, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": %q, "uid": %q}}}`, audience, pod, of.Metadata.UID)
	code, text, err = c.Call(t.Context(), http.MethodPost, kubeapi.Places["ServiceAccount"]+"/"+account+"/token", []byte(request), "")
	if err != nil || code != http.StatusCreated {
		t.Fatalf("token of %s: %d %s %v", account, code, text, err)
	}
	var made struct{ Status struct{ Token string } }
	if err := json.Unmarshal(text, &made); err != nil {
		t.Fatal(err)
	}
	return made.Status.Token
}

// pod makes a Pod that runs on a node, as far as the API server knows.
func (c *cluster) pod(t *testing.T, name, account, node string) {
	t.Helper()
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q}, "spec": {"serviceAccountName": %q, "nodeName": %q,
		"containers": [{"name": "agent", "image": "clearway"}]}}`, name, account, node)
	code, answer, err := c.Call(t.Context(), http.MethodPost, "/api/v1/namespaces/clearway-system/pods", []byte(text), "")
	if err != nil || code != http.StatusCreated {
		t.Fatalf("Pod %s: %d %s %v", name, code, answer, err)
	}
	t.Cleanup(func() {
		_, _, _ = c.Call(t.Context(), http.MethodDelete, "/api/v1/namespaces/clearway-system/pods/"+name+"?gracePeriodSeconds=0", nil, "")
	})
}

func has(text, part string) bool { return strings.Contains(text, part) }
