package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/lab"
)

// TestMoveIn: a node that another network served is taken in while its Pod runs. The Pod keeps its addresses, and every road to
// them; nobody else gets them; and the runtime's DEL frees them.
func TestMoveIn(t *testing.T) {
	const node = "r2n2"
	r := raise(t, "two-racks")
	r.leakGrace(t, "4s")
	ctx, cancel := context.WithTimeout(t.Context(), 4*soon)
	defer cancel()
	must(t, r.Crash(ctx, node)) // and from here on it is a machine that never had an agent
	_, err := r.Ctl(ctx, "node", "delete", node, "--powered-off")
	must(t, err)
	must(t, r.Node(node).WipeData())
	old := r.calicoPod(t, node, "old", "10.244.3.5", "fd00:10:244:3::5")
	file := filepath.Join(t.TempDir(), "calico.yaml")
	must(t, os.WriteFile(file, []byte(r.calicoObjects(old)), 0o600))

	plan, err := r.Ctl(ctx, "migrate", "calico", "-f", file, "--plan")
	must(t, err)
	if !strings.Contains(plan, "IPPool  pods") && !strings.Contains(plan, node) {
		t.Errorf("the plan says nothing of the node:\n%s", plan)
	}
	if blocks, err := r.Blocks(ctx, node); err == nil && len(blocks) > 0 {
		t.Fatalf("a plan gave the node %v", blocks)
	}
	done, err := r.Ctl(ctx, "migrate", "calico", "-f", file, "--apply")
	must(t, err)
	for _, want := range []string{"ippool/pods is there already", "1 node taken in, with 2 blocks and 2 addresses"} {
		if !strings.Contains(done, want) {
			t.Errorf("--apply does not say %q:\n%s", want, done)
		}
	}
	must(t, r.Node(node).Restart(cluster.Agent))
	r.settled(t)
	running := probe(t, [2]*lab.Pod{old, r.pod(t, "r1n1", "far")})
	taken := map[netip.Addr]bool{old.IPv4: true, old.IPv6: true}
	fresh := func(name string) (of3 bool) {
		pod := r.pod(t, node, name)
		for _, address := range addresses(pod) {
			if taken[address] {
				t.Fatalf("%s was given %s, which another has", pod, address)
			}
			taken[address] = true
		}
		return netip.MustParsePrefix("10.244.3.0/26").Contains(pod.IPv4)
	}
	if fresh("meanwhile") {
		t.Error("an address of a block was given before it was accounted for")
	}
	lab.Eventually(t, soon, "the blocks to be accounted for", func() error {
		list, err := cluster.ListOn[cluster.BlockSpec, struct{ Sealed bool }](t.Context(), r.Cluster, node, "block")
		for _, block := range list {
			if block.Status.Sealed {
				return fmt.Errorf("%s is sealed", block.Spec.CIDR)
			}
		}
		return err
	})
	for i := range 5 {
		fresh(fmt.Sprintf("later%d", i))
	}
	held, err := r.held(ctx, node)
	must(t, err)
	if held[old.IPv4] != "old" || held[old.IPv6] != "old" {
		t.Errorf("the Pod's addresses are not held for it: %v", held)
	}
	running.lossless(t)
	must(t, old.Del(ctx))
	lab.Eventually(t, soon, "its addresses to come back", func() error {
		held, err := r.held(t.Context(), node)
		if name, still := held[old.IPv4]; err == nil && still {
			err = fmt.Errorf("%s is held by %s", old.IPv4, name)
		}
		return err
	})
}

// calicoPod makes a Pod as Calico wires it: an address for itself, the way out by a neighbour that the host answers for.
func (r *road) calicoPod(t *testing.T, node, name, ipv4, ipv6 string) *lab.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	n := r.Node(node)
	pod, err := n.NewSandbox(ctx, name)
	must(t, err)
	host := func(argv ...string) {
		t.Helper()
		_, err := n.Exec(ctx, argv...)
		must(t, err)
	}
	inside := func(argv ...string) {
		t.Helper()
		_, err := pod.Exec(ctx, argv...)
		must(t, err)
	}
	device := "cali" + name
	host("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name)
	host("ip", "link", "set", device, "up")
	mac, err := n.Exec(ctx, "cat", "/sys/class/net/"+device+"/address")
	must(t, err)
	host("ip", "-6", "addr", "add", "fe80::1/64", "dev", device, "nodad")
	inside("ip", "link", "set", "eth0", "up")
	inside("ip", "addr", "add", ipv4+"/32", "dev", "eth0")
	inside("ip", "-6", "addr", "add", ipv6+"/128", "dev", "eth0", "nodad")
	inside("ip", "route", "add", "169.254.1.1", "dev", "eth0")
	inside("ip", "neigh", "add", "169.254.1.1", "lladdr", strings.TrimSpace(mac), "dev", "eth0") // proxy ARP wants a default route on the host
	inside("ip", "route", "add", "default", "via", "169.254.1.1")
	inside("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")
	host("ip", "route", "add", ipv4+"/32", "dev", device)
	host("ip", "-6", "route", "add", ipv6+"/128", "dev", device)
	pod.IPv4, pod.IPv6 = netip.MustParseAddr(ipv4), netip.MustParseAddr(ipv6)
	return pod
}

// calicoObjects are what the API server of a cluster has in which Calico gave a Pod its addresses.
func (r *road) calicoObjects(pod *lab.Pod) string {
	node := pod.Node.Spec.Name
	block := func(name, cidr string, index int) string {
		return fmt.Sprintf(`{apiVersion: crd.projectcalico.org/v1, kind: IPAMBlock, metadata: {name: %s}, spec: {cidr: %q, affinity: "host:%s",
 allocations: [%s0], attributes: [{handle_id: k8s-pod-network.%s, secondary: {namespace: default, pod: %s, node: %s}}]}}`,
			name, cidr, node, strings.Repeat("null, ", index), pod.ContainerID, pod.Name, node)
	}
	return strings.Join([]string{
		fmt.Sprintf(`{apiVersion: v1, kind: Node, metadata: {name: %s}, status: {nodeInfo: {bootID: %q}}}`, node, pod.Node.BootID()),
		fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: default, uid: %s}, spec: {nodeName: %s},
 status: {phase: Running, podIPs: [{ip: %s}, {ip: %q}]}}`, pod.Name, pod.UID, node, pod.IPv4, pod.IPv6),
		"{apiVersion: crd.projectcalico.org/v1, kind: IPPool, metadata: {name: pods}, spec: {cidr: 10.244.0.0/16, blockSize: 26}}",
		`{apiVersion: crd.projectcalico.org/v1, kind: IPPool, metadata: {name: pods6}, spec: {cidr: "fd00:10:244::/48", blockSize: 122}}`,
		block("v4", "10.244.3.0/26", 5), block("v6", "fd00:10:244:3::/122", 5),
	}, "\n---\n")
}
