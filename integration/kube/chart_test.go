package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clearway/clearway/integration/lab"
)

// TestChart: what Helm makes of the chart is what kustomize makes of the manifests, object by object.
func TestChart(t *testing.T) {
	for name, test := range map[string]struct {
		overlay string
		values  []string
	}{
		"an etcd of the cluster's":      {"base", nil},
		"an etcd of ipamd's own":        {"overlays/embedded", []string{"etcd.embedded=true"}},
		"certificates by cert-manager":  {"overlays/cert-manager", []string{"certManager.enabled=true"}},
		"a value with its default said": {"base", []string{"ipamd.replicas=3", "agent.tolerations[0].operator=Exists"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, got := kustomized(t, test.overlay), templated(t, "clearway-system", test.values...)
			delete(want, "Namespace/clearway-system") // whoever installs a chart makes its namespace
			for key, one := range want {
				if diff := cmp.Diff(one, got[key]); diff != "" {
					t.Errorf("%s (-kustomize +Helm):\n%s", key, diff)
				}
				delete(got, key)
			}
			for key := range got {
				t.Errorf("%s is by Helm alone", key)
			}
		})
	}
}

// TestChartValues: values reach what they are about, and one that is wrong is refused by its name.
func TestChartValues(t *testing.T) {
	made := render(t, "helm", "template", "clearway", "deploy/helm/clearway", "--namespace", "net", "--set", "image.repository=registry.example/clearway",
		"--set", "image.tag=v1", "--set", "image.pullPolicy=Always", "--set", "imagePullSecrets[0].name=pull", "--set", "crds.install=false",
		"--set", "agent.extraArgs={--route-metric=30}", "--set", "agent.nodeSelector.rack=r1", "--set", "etcd.endpoints={https://e1:2379,https://e2:2379}")
	for text, times := range map[string]int{
		"image: registry.example/clearway:v1": 4, "imagePullPolicy: Always": 4, "- name: pull": 2, "kind: CustomResourceDefinition": 0,
		`- "--route-metric=30"`: 1, "rack: r1": 1, `etcd-endpoints: "https://e1:2379,https://e2:2379"`: 1, "clearway-system": 0,
		"clearway-ipamd.net.svc": 1, "--agent-service-account=net/clearway-agent": 1, "namespace: \"net\"": 1,
	} {
		if n := strings.Count(made, text); n != times {
			t.Errorf("%q is there %d times, wanted %d", text, n, times)
		}
	}
	for value, told := range map[string]string{
		"agnt.x=1":                "'agnt' not allowed",
		"etcd.endpoints={e1}":     "/etcd/endpoints/0",
		"ipamd.replicas=0":        "/ipamd/replicas",
		"image.pullPolicy=Often":  "/image/pullPolicy",
		"cni.conflist={}":         "/cni/conflist",
		"agent.extraArgs={debug}": "/agent/extraArgs/0",
	} {
		if out, err := tool(t, "helm", "template", "clearway", "deploy/helm/clearway", "--set", value).CombinedOutput(); err == nil || !strings.Contains(string(out), told) {
			t.Errorf("%s: %v, told %s; want %q", value, err, out, told)
		}
	}
}

func kustomized(t *testing.T, overlay string) map[string]any {
	t.Helper()
	return objects(t, render(t, "kustomize", "build", filepath.Join("deploy/kubernetes", overlay)))
}

func templated(t *testing.T, namespace string, values ...string) map[string]any {
	t.Helper()
	args := []string{"template", "clearway", "deploy/helm/clearway", "--namespace", namespace}
	for _, value := range values {
		args = append(args, "--set", value)
	}
	return objects(t, render(t, "helm", args...))
}

// tool is a program that make test has built, in the repository's root.
func tool(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), filepath.Join(root, "bin", name), args...)
	command.Dir = root
	return command
}

func render(t *testing.T, name string, args ...string) string {
	t.Helper()
	command := tool(t, name, args...)
	var told bytes.Buffer
	command.Stderr = &told
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s %q: %v: %s(is it built? make bin/%s)", name, args, err, told.Bytes(), name)
	}
	return string(out)
}

// objects are the documents of a text by kind and name, without what the two tools are meant to have otherwise.
func objects(t *testing.T, text string) map[string]any {
	t.Helper()
	all := map[string]any{}
	for _, document := range documents(t, text) {
		var object map[string]any
		if err := json.Unmarshal(document, &object); err != nil {
			t.Fatal(err)
		}
		plain(object)
		all[object["kind"].(string)+"/"+object["metadata"].(map[string]any)["name"].(string)] = object
	}
	return all
}

// hashed is the name of a ConfigMap that kustomize generates: its content is in it.
var hashed = regexp.MustCompile(`^(clearway-(?:cni|ipamd))-[a-z0-9]{10}$`)

func plain(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key, one := range v {
			switch key {
			case "app.kubernetes.io/managed-by", "app.kubernetes.io/instance", "helm.sh/chart", "helm.sh/resource-policy",
				"checksum/etcd", "checksum/conflist":
				delete(v, key)
				continue
			case "namespace":
				if v["name"] != nil && v["kind"] == nil { // metadata's; Helm knows it without
					delete(v, key)
					continue
				}
			}
			v[key] = plain(one)
			if list, is := v[key].([]any); is && (key == "volumes" || key == "volumeMounts") { // kustomize's patches come first
				slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			}
			if left, is := v[key].(map[string]any); is && len(left) == 0 && key == "annotations" {
				delete(v, key)
			}
		}
	case []any:
		for i, one := range v {
			v[i] = plain(one)
		}
	case string:
		return hashed.ReplaceAllString(v, "$1")
	}
	return value
}
