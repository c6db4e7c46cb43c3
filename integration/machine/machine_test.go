//go:build machine

package machine

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clearway/clearway/integration/kubeapi"
	"github.com/clearway/clearway/integration/lab"
)

const (
	apiAt   = "172.16.42.1:6443"
	kubeBin = "/opt/clearway/bin/"
	// soon is much beside any single step; long is so beside the start of a hundred Pods on two cores.
	soon, long = 2 * time.Minute, 6 * time.Minute
	many       = 100
)

func TestMain(m *testing.M) {
	lab.ServeChild()
	kubeapi.Main()
	code := m.Run()
	if code == 0 {
		if err := lab.Leftovers(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// machine is a cluster of one node.
type machine struct {
	*lab.Lab
	api *kubeapi.Server
	// kubeconfig is a file that the nodes see too.
	kubeconfig string
	disk       string // the node's, as the host sees it
}

// TestMachine installs Clearway on a node as its users do. A Deployment of a hundred Pods comes up, each Pod is reached from the
// router in both families, and its going leaves nothing; and the node's reboot neither loses nor leaks an address.
func TestMachine(t *testing.T) {
	root, err := lab.Root()
	must(t, err)
	bin, err := lab.Build(t.Context())
	must(t, err)
	archives := images(t, root)
	m := raise(t, bin, archives)
	m.startNode(t, archives)
	m.install(t, root)
	m.configure(t)
	m.ready(t)

	m.deploy(t)
	t.Logf("%d Pods: %s", many, m.scale(t, many))
	m.reached(t, many)
	t.Logf("none: %s", m.scale(t, 0))
	m.assigned(t, 0)

	const few = 10
	m.scale(t, few)
	must(t, m.Node("n1").PowerOff())
	removeGroups(m.disk) // or the kubelet asks containerd about each of them for minutes
	must(t, m.Node("n1").PowerOn(t.Context()))
	m.startNode(t, nil)
	m.reached(t, few)
	m.assigned(t, few)
	m.scale(t, 0)
	m.assigned(t, 0)
}

// raise starts the lab and the control plane.
func raise(t *testing.T, bin string, archives []string) *machine {
	t.Helper()
	topology, err := lab.ReadTopology("testdata/machine.clab.yml")
	must(t, err)
	lab.Require(t, topology)
	kept := t.TempDir()
	t.Cleanup(func() { removeGroups(kept) }) // after the lab's end
	for i := range topology.Nodes {
		if topology.Nodes[i].Name != "n1" {
			continue
		}
		for _, folder := range []string{"/var/lib/kubelet", "/var/lib/containerd", "/var/lib/clearway-ipamd", "/var/log/pods", "/var/log/containers"} {
			source := filepath.Join(kept, filepath.Base(filepath.Dir(folder))+"-"+filepath.Base(folder))
			must(t, os.MkdirAll(source, 0o755))
			topology.Nodes[i].Binds = append(topology.Nodes[i].Binds, lab.Bind{Source: source, Target: folder})
		}
		topology.Nodes[i].Binds = append(topology.Nodes[i].Binds, lab.Bind{Source: filepath.Dir(archives[0]), Target: "/run/images", ReadOnly: true})
	}
	l := lab.UpForTest(t, lab.Options{Topology: topology, BinDir: bin})
	ctl := l.Node("ctl")
	network := fmt.Sprintf("/proc/%d/ns/net", ctl.Process("sleep").PID())
	api := kubeapi.StartAt(t, kubeapi.StartEtcdIn(t, network), network, apiAt)
	m := &machine{Lab: l, api: api, kubeconfig: api.Kubeconfig(kubeapi.Admin), disk: kept}
	m.start(t, "ctl", "kube-controller-manager", "--kubeconfig", m.kubeconfig, "--leader-elect=false",
		"--service-account-private-key-file", api.Key(), "--root-ca-file", api.CA(), "--node-monitor-grace-period", "20s")
	m.start(t, "ctl", "kube-scheduler", "--kubeconfig", m.kubeconfig, "--leader-elect=false")
	return m
}

// removeGroups removes the cgroups of containers that ended with their node: cgroups are the host's, and outlive it.
func removeGroups(disk string) {
	containers, _ := filepath.Glob(filepath.Join(disk, "lib-containerd/io.containerd.runtime.v2.task/k8s.io/*"))
	for _, container := range containers {
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/k8s.io/" + filepath.Base(container)) // of cgroup v1
		for _, group := range append(groups, "/sys/fs/cgroup/k8s.io/"+filepath.Base(container)) {
			_ = os.Remove(group) // of one version or the other
		}
	}
	parents, _ := filepath.Glob("/sys/fs/cgroup/*/k8s.io")
	for _, parent := range append(parents, "/sys/fs/cgroup/k8s.io") {
		_ = os.Remove(parent) // unless another has containers in it
	}
}

func (m *machine) start(t *testing.T, node, program string, args ...string) {
	t.Helper()
	_, err := m.Node(node).Start(program, append([]string{kubeBin + program}, args...)...)
	must(t, err)
}

// startNode starts what runs on the node, with images for a containerd that has none yet.
func (m *machine) startNode(t *testing.T, archives []string) {
	t.Helper()
	n := m.Node("n1")
	_, err := n.Start("containerd", "env", "PATH="+kubeBin+":/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
		kubeBin+"containerd", "--config", "/etc/machine/containerd.toml")
	must(t, err)
	lab.Eventually(t, soon, "containerd", func() error {
		_, err := n.Exec(t.Context(), kubeBin+"ctr", "--timeout", "2s", "version")
		return err
	})
	for _, archive := range archives {
		_, err := n.Exec(t.Context(), kubeBin+"ctr", "-n", "k8s.io", "images", "import", "/run/images/"+filepath.Base(archive))
		must(t, err)
	}
	m.start(t, "n1", "kubelet", "--config", "/etc/machine/kubelet.yaml", "--kubeconfig", m.kubeconfig, "--hostname-override", "n1",
		"--node-ip", "172.16.41.1,fd00:16:41::1", "--node-labels", "clearway.io/ipamd=")
	m.start(t, "n1", "kube-proxy", "--kubeconfig", m.kubeconfig, "--proxy-mode", "nftables", "--hostname-override", "n1",
		"--conntrack-max-per-core", "0", "--conntrack-min", "0")
}

// install applies the manifests of a small cluster, with a certificate that clearwayctl makes.
func (m *machine) install(t *testing.T, root string) {
	t.Helper()
	m.api.InstallDefinitions()
	overlay := t.TempDir()
	relative, err := filepath.Rel(overlay, filepath.Join(root, "deploy/kubernetes/overlays/embedded"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(overlay, "kustomization.yaml"), fmt.Appendf(nil, `resources: [%q]
images: [{name: clearway/clearway, newTag: test}]
`, relative), 0o600))
	documents, err := kubeapi.Documents(run(t, root, filepath.Join(root, "bin/kustomize"), "build", overlay))
	must(t, err)
	for _, document := range documents {
		must(t, m.api.Put(t.Context(), document, ""))
	}
	pki, ctl := t.TempDir(), filepath.Join(root, "bin/clearwayctl")
	run(t, root, ctl, "pki", "init", "--dir", pki)
	run(t, root, ctl, "pki", "issue", "ipamd", "--san", "clearway-ipamd.clearway-system.svc", "--dir", pki)
	data := map[string]string{}
	for key, file := range map[string]string{"tls.crt": "ipamd.crt", "tls.key": "ipamd.key", "ca.crt": "ca.crt"} {
		content, err := os.ReadFile(filepath.Join(pki, file))
		must(t, err)
		data[key] = base64.StdEncoding.EncodeToString(content)
	}
	secret, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": data,
		"metadata": map[string]string{"name": "clearway-ipamd-tls"},
	})
	must(t, err)
	must(t, m.api.Put(t.Context(), secret, ""))
}

func (m *machine) configure(t *testing.T) {
	t.Helper()
	for at, spec := range map[string]string{
		"IPPool/pods":               `{cidr: 10.244.0.0/16}`,
		"IPPool/pods6":              `{cidr: "fd00:10:244::/48"}`,
		"IPAMConfiguration/default": `{cooldown: 1s}`,
		"BGPConfiguration/default":  `{asNumber: 64512, nodeMesh: None}`,
		"BGPPeer/tor":               `{peerAddress: 172.16.41.254, peerASN: 65001, connectRetryTime: 1s}`,
	} {
		kind, name, _ := strings.Cut(at, "/")
		must(t, m.api.ServerSideApply(t.Context(), "/apis/clearway.io/v1/"+strings.ToLower(kind)+"s/"+name,
			fmt.Appendf(nil, "{apiVersion: clearway.io/v1, kind: %s, metadata: {name: %s}, spec: %s}", kind, name, spec)))
	}
}

// read fetches an object into what is wanted of it.
func (m *machine) read(ctx context.Context, at string, into any) error {
	code, text, err := m.api.Call(ctx, http.MethodGet, at, nil, "")
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", at, code, text)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

type pod struct {
	Metadata struct{ Name, Namespace string }
	Status   struct {
		Phase             string
		PodIPs            []struct{ IP string }
		Conditions        []struct{ Type, Status, Reason, Message string }
		ContainerStatuses []struct {
			Name  string
			State json.RawMessage
		}
	}
}

func (p pod) ready() error {
	for _, one := range p.Status.Conditions {
		if one.Type == "Ready" && one.Status == "True" {
			return nil
		}
	}
	return fmt.Errorf("%s is %s: %+v %s", p.Metadata.Name, p.Status.Phase, p.Status.Conditions, p.Status.ContainerStatuses)
}

func (m *machine) pods(ctx context.Context, namespace string) ([]pod, error) {
	var list struct{ Items []pod }
	err := m.read(ctx, "/api/v1/namespaces/"+namespace+"/pods", &list)
	return list.Items, err
}

// ready waits until Clearway runs and the node is one that Pods may come to.
func (m *machine) ready(t *testing.T) {
	t.Helper()
	lab.Eventually(t, soon, "Clearway", func() error {
		pods, err := m.pods(t.Context(), "clearway-system")
		if err == nil && len(pods) != 2 {
			err = fmt.Errorf("%d Pods", len(pods))
		}
		for _, one := range pods {
			err = errors.Join(err, one.ready())
		}
		return err
	})
	lab.Eventually(t, soon, "the node", func() error {
		var node struct {
			Status struct {
				Conditions []struct{ Type, Status, Reason string }
			}
		}
		err := m.read(t.Context(), "/api/v1/nodes/n1", &node)
		wanted := map[string]string{"Ready": "True", "NetworkUnavailable": "False"}
		for _, one := range node.Status.Conditions {
			if wanted[one.Type] == one.Status {
				delete(wanted, one.Type)
			}
		}
		if err == nil && len(wanted) > 0 {
			err = fmt.Errorf("not %v: %+v", wanted, node.Status.Conditions)
		}
		return err
	})
}

func (m *machine) deploy(t *testing.T) {
	t.Helper()
	must(t, m.api.ServerSideApply(t.Context(), "/apis/apps/v1/namespaces/default/deployments/web", []byte(`{apiVersion: apps/v1, kind: Deployment,
metadata: {name: web}, spec: {replicas: 0, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}},
spec: {terminationGracePeriodSeconds: 1, automountServiceAccountToken: false, containers: [{name: web, image: "docker.io/clearway/pod:test", args: [serve]}]}}}}`)))
}

// scale waits until as many Pods are ready, and there are no others. It returns how long it took.
func (m *machine) scale(t *testing.T, count int) time.Duration {
	t.Helper()
	code, text, err := m.api.Call(t.Context(), http.MethodPatch, "/apis/apps/v1/namespaces/default/deployments/web",
		fmt.Appendf(nil, `{"spec": {"replicas": %d}}`, count), "application/merge-patch+json")
	if err != nil || code != http.StatusOK {
		t.Fatalf("scale: %d %s %v", code, text, err)
	}
	return lab.Eventually(t, long, fmt.Sprintf("%d Pods", count), func() error {
		_, err := m.running(t.Context(), count)
		return err
	})
}

func (m *machine) running(ctx context.Context, count int) ([]pod, error) {
	pods, err := m.pods(ctx, "default")
	if err != nil {
		return nil, err
	}
	var waiting []error
	for _, one := range pods {
		if err := one.ready(); err != nil {
			waiting = append(waiting, err)
		}
	}
	if len(pods) != count || len(waiting) > 0 {
		return nil, fmt.Errorf("%d Pods, %d of them not ready: %w", len(pods), len(waiting), errors.Join(waiting[:min(len(waiting), 2)]...))
	}
	return pods, nil
}

// reached connects to each Pod's addresses, from the router and by what BGP told it, and is answered by that Pod.
func (m *machine) reached(t *testing.T, count int) {
	t.Helper()
	lab.Eventually(t, long, "every Pod to answer the router", func() error {
		pods, err := m.running(t.Context(), count)
		if err != nil {
			return err
		}
		for _, one := range pods {
			if len(one.Status.PodIPs) != 2 {
				return fmt.Errorf("%s has the addresses %v", one.Metadata.Name, one.Status.PodIPs)
			}
			for _, address := range one.Status.PodIPs {
				if err := m.answers(address.IP, one.Metadata.Name); err != nil {
					return fmt.Errorf("%s, %s: %w", one.Metadata.Name, address.IP, err)
				}
			}
		}
		return nil
	})
}

func (m *machine) answers(address, name string) error {
	return m.Node("tor").Do(func() error {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(address, "8080"), 2*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err == nil && strings.TrimSpace(line) != name {
			err = fmt.Errorf("%q answers", line)
		}
		return err
	})
}

// assigned waits until the pools' books say that as many addresses are in use, one a Pod and family.
func (m *machine) assigned(t *testing.T, count int64) {
	t.Helper()
	for _, pool := range []string{"pods", "pods6"} {
		lab.Eventually(t, long, fmt.Sprintf("%d addresses of %s in use", count, pool), func() error {
			var got struct{ Status struct{ Assigned int64 } }
			got.Status.Assigned = -1 // unless it is told
			err := m.read(t.Context(), "/apis/clearway.io/v1/ippools/"+pool, &got)
			if err == nil && got.Status.Assigned != count {
				err = fmt.Errorf("%d", got.Status.Assigned)
			}
			return err
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
