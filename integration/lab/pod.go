package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/google/uuid"
)

// DefaultNetwork is the CNI network of a node under Clearway: ptp wires the Pod, clearway-ipam asks the agent.
const DefaultNetwork = `{
  "cniVersion": "1.1.0",
  "name": "clearway",
  "plugins": [
    {"type": "ptp", "ipMasq": false, "ipam": {"type": "clearway-ipam", "socket": "/run/clearway/agent.sock"}}
  ]
}`

// podSysctls save the seconds that duplicate address detection takes.
var podSysctls = []string{"net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0"}

// Pod is a network namespace in a node, wired by the real CNI chain.
type Pod struct {
	Node *Node
	Name string
	// IPv4 and IPv6 are the addresses the chain gave; invalid where it gave none of the family.
	IPv4, IPv6 netip.Addr
	// Attachment is CNI's key.
	ContainerID, Interface string
	UID                    string

	network *os.File
	list    *libcni.NetworkConfigList
}

// AddPod makes a Pod's sandbox and runs ADD. What failed halfway is undone as a runtime would: DEL, then the sandbox.
func (n *Node) AddPod(ctx context.Context, name string) (*Pod, error) {
	pod, err := n.NewSandbox(ctx, name)
	if err != nil {
		return nil, err
	}
	if _, err := pod.Add(ctx); err != nil {
		return nil, errors.Join(err, pod.Del(ctx))
	}
	return pod, nil
}

// NewSandbox makes a Pod that has a namespace and no interface yet.
func (n *Node) NewSandbox(ctx context.Context, name string) (*Pod, error) {
	list, err := libcni.ConfListFromBytes([]byte(n.lab.network))
	if err != nil {
		return nil, fmt.Errorf("%s: network: %w", n.Spec.Name, err)
	}
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	pod := &Pod{
		Node: n, Name: name, ContainerID: hex.EncodeToString(id), Interface: "eth0", UID: uuid.NewString(), list: list,
	}
	if _, err := n.Exec(ctx, "ip", "netns", "add", name); err != nil {
		return nil, fmt.Errorf("pod %s: %w", pod, err)
	}
	err = n.Do(func() error {
		pod.network, err = os.Open(pod.NetNS())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", pod, err)
	}
	n.mu.Lock()
	n.pods[name] = pod
	n.mu.Unlock()
	argv := append([]string{"sysctl", "-q", "-w"}, podSysctls...)
	if _, err := pod.Exec(ctx, argv...); err != nil {
		return nil, err
	}
	_, err = pod.Exec(ctx, "ip", "link", "set", "lo", "up")
	return pod, err
}

// String writes "node/pod".
func (p *Pod) String() string { return p.Node.Spec.Name + "/" + p.Name }

// NetNS is the path of the Pod's network namespace within its node.
func (p *Pod) NetNS() string { return "/run/netns/" + p.Name }

// Do runs fn on a thread in the Pod's network namespace.
func (p *Pod) Do(fn func() error) error { return inNetwork(p.network, fn) }

// Exec runs a command in the Pod's network and its node's other namespaces.
func (p *Pod) Exec(ctx context.Context, argv ...string) (string, error) {
	return p.Node.run(ctx, p.network, nil, nil, argv)
}

func (p *Pod) cni() (*libcni.CNIConfig, *libcni.RuntimeConf) {
	config := libcni.NewCNIConfigWithCacheDir(
		[]string{binPath, binPath + "/cni"}, filepath.Join(p.Node.dir, "cni"), pluginExec{p.Node})
	return config, &libcni.RuntimeConf{
		ContainerID: p.ContainerID, NetNS: p.NetNS(), IfName: p.Interface,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", "default"},
			{"K8S_POD_NAME", p.Name},
			{"K8S_POD_UID", p.UID},
			{"K8S_POD_INFRA_CONTAINER_ID", p.ContainerID},
		},
	}
}

// Add runs CNI's ADD and takes the Pod's addresses from its answer.
func (p *Pod) Add(ctx context.Context) (*types100.Result, error) {
	config, runtime := p.cni()
	answer, err := config.AddNetworkList(ctx, p.list, runtime)
	if err != nil {
		return nil, fmt.Errorf("pod %s: ADD: %w", p, err)
	}
	result, err := types100.NewResultFromResult(answer)
	if err != nil {
		return nil, fmt.Errorf("pod %s: ADD: %w", p, err)
	}
	for _, ip := range result.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok && addr.Unmap().Is4() {
			p.IPv4 = addr.Unmap()
		} else if ok {
			p.IPv6 = addr
		}
	}
	return result, nil
}

// Check runs CNI's CHECK.
func (p *Pod) Check(ctx context.Context) error {
	config, runtime := p.cni()
	if err := config.CheckNetworkList(ctx, p.list, runtime); err != nil {
		return fmt.Errorf("pod %s: CHECK: %w", p, err)
	}
	return nil
}

// Del runs CNI's DEL and removes the sandbox.
func (p *Pod) Del(ctx context.Context) error {
	config, runtime := p.cni()
	if err := config.DelNetworkList(ctx, p.list, runtime); err != nil {
		return fmt.Errorf("pod %s: DEL: %w", p, err)
	}
	return p.Vanish(ctx)
}

// Vanish removes the sandbox without a DEL, as a runtime does that has forgotten what the sandbox had.
func (p *Pod) Vanish(ctx context.Context) error {
	p.Node.mu.Lock()
	delete(p.Node.pods, p.Name)
	p.Node.mu.Unlock()
	p.network.Close()
	if _, err := p.Node.Exec(ctx, "ip", "netns", "del", p.Name); err != nil {
		return fmt.Errorf("pod %s: %w", p, err)
	}
	return nil
}

// pluginExec runs CNI plugins in a node.
type pluginExec struct{ node *Node }

// ExecPlugin runs one plugin; one that fails answers with CNI's error on its standard output.
func (e pluginExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	// libcni hands over its own environment first; the node's PATH has the last word.
	output, err := e.node.run(ctx, nil, stdin, append(environ, "PATH="+nodePATH), []string{path})
	if err == nil {
		return []byte(output), nil
	}
	var refused types.Error
	if json.Unmarshal([]byte(output), &refused) == nil && refused.Msg != "" {
		return nil, &refused
	}
	return nil, err
}

// FindInPath looks a plugin up as the node sees it.
func (e pluginExec) FindInPath(plugin string, paths []string) (string, error) {
	var found string
	err := e.node.Do(func() error {
		for _, dir := range paths {
			found = filepath.Join(dir, plugin)
			if info, err := os.Stat(found); err == nil && info.Mode().IsRegular() {
				return nil
			}
		}
		return fmt.Errorf("%s: no CNI plugin %q in %v", e.node, plugin, paths)
	})
	return found, err
}

// Decode reads a plugin's answer to VERSION.
func (e pluginExec) Decode(answer []byte) (version.PluginInfo, error) {
	return new(version.PluginDecoder).Decode(answer)
}
