package integration

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/lab"
)

// networkOf is a CNI network of some main plugin whose Pods draw from these pools.
func networkOf(plugin, pools string) string {
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "clearway", "plugins": [
  {%s, "ipam": {"type": "clearway-ipam", "socket": "/run/clearway/agent.sock", "pools": [%s]}}
]}`, plugin, pools)
}

// ping waits until one place reaches another's address, both ways.
func ping(t *testing.T, from lab.Place, to *lab.Pod, addr netip.Addr) {
	t.Helper()
	source(t, from, echo(t, to, addr))
}

// TestCallBackLosesNoPacket: the pool is one block, and a node has all of it. Pods on other nodes get parts of it, while
// the first one's Pod is reached all the time from outside: also when its agent is killed in between.
func TestCallBackLosesNoPacket(t *testing.T) {
	r := raiseWith(t, "two-racks", networkOf(`"type": "ptp"`, `"tiny"`))
	must(t, r.ApplyText(t.Context(), "{apiVersion: clearway.io/v1, kind: IPPool, metadata: {name: tiny}, "+
		"spec: {cidr: 10.245.0.0/28, blockSize: 28, minBlockSize: 30, priority: -1}}"))
	outside := r.Node("outside")
	from := netip.MustParseAddr("198.51.100.2")
	first := r.tinyPod(t, "r1n1", "first")
	r.ownsTiny(t, "r1n1", "10.245.0.0/28")
	service := echo(t, first, first.IPv4)
	source(t, outside, service)
	running, err := lab.StartProbe(outside, from, service, probeEvery)
	must(t, err)
	all := probes{running}

	second := r.tinyPod(t, "r2n1", "second")
	r.ownsTiny(t, "r1n1", "10.245.0.0/29")
	r.ownsTiny(t, "r2n1", "10.245.0.8/29")
	ping(t, outside, second, second.IPv4)
	ping(t, first, second, second.IPv4)

	// The next half comes from one of the two; the first one's agent dies over it again and again.
	got := make(chan *lab.Pod, 1)
	go func() { got <- r.tinyPod(t, "r2n2", "third") }()
	var third *lab.Pod
	for waits := true; waits; {
		must(t, r.Crash(t.Context(), "r1n1"))
		must(t, r.Node("r1n1").Restart(cluster.Agent))
		select {
		case third = <-got:
			waits = false
		case <-time.After(2500 * time.Millisecond):
		}
	}
	if third == nil {
		t.FailNow()
	}
	ping(t, outside, third, third.IPv4)
	ping(t, first, third, third.IPv4)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	must(t, r.AgentAnswers(ctx, "r1n1"))
	lab.Eventually(t, soon, "every block of the pool to be owned by one node and told by the routers", r.tinyIsWhole)
	all.lossless(t)

	shown, err := r.Ctl(t.Context(), "ipam", "show", "tiny")
	must(t, err)
	if !strings.Contains(shown, "0 addresses are in no block") || !strings.Contains(shown, "3 are assigned") {
		t.Errorf("ipam show tells\n%s", shown)
	}
}

// tinyPod makes a Pod of one family that lives until the test ends.
func (r *road) tinyPod(t *testing.T, node, name string) *lab.Pod {
	ctx, cancel := context.WithTimeout(context.Background(), 2*soon)
	defer cancel()
	pod, err := r.Node(node).AddPod(ctx, name)
	if err != nil {
		t.Error(err)
		return nil
	}
	return pod
}

// tinyBlocks are a node's blocks of the small pool.
func (r *road) tinyBlocks(ctx context.Context, node string) ([]netip.Prefix, error) {
	blocks, err := r.Blocks(ctx, node)
	if err != nil {
		return nil, err
	}
	var tiny []netip.Prefix
	for _, block := range blocks {
		if netip.MustParsePrefix("10.245.0.0/28").Overlaps(block) {
			tiny = append(tiny, block)
		}
	}
	return tiny, nil
}

func (r *road) ownsTiny(t *testing.T, node, want string) {
	t.Helper()
	lab.Eventually(t, soon, node+" to own "+want, func() error {
		blocks, err := r.tinyBlocks(t.Context(), node)
		if err == nil && fmt.Sprint(blocks) != "["+want+"]" {
			err = fmt.Errorf("it owns %v", blocks)
		}
		return err
	})
}

// tinyIsWhole tells whether the blocks are all of the pool, none twice, and what the spine has of it.
func (r *road) tinyIsWhole() error {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	blocks, err := r.tinyBlocks(ctx, "")
	if err != nil {
		return err
	}
	addresses := 0
	for _, block := range blocks {
		addresses += 1 << (32 - block.Bits())
	}
	held, err := cluster.RouterPrefixes(ctx, r.Node("spine"), netip.MustParsePrefix("10.245.0.0/28"))
	if err != nil {
		return err
	}
	if addresses != 16 || fmt.Sprint(held) != fmt.Sprint(blocks) {
		return fmt.Errorf("the blocks are %v, and the spine has %v", blocks, held)
	}
	return nil
}

// TestRigidPoolsServeTheBridgePlugin: Pods behind the real bridge plugin reach each other through the bridge, and across
// racks by the blocks' routes, in both families; their gateway is their block's own.
func TestRigidPoolsServeTheBridgePlugin(t *testing.T) {
	r := raiseWith(t, "two-racks", networkOf(`"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true`, `"rigid", "rigid6"`))
	must(t, r.ApplyText(t.Context(), `{apiVersion: clearway.io/v1, kind: IPPool, metadata: {name: rigid}, spec: {cidr: 10.246.0.0/24, blockSize: 28, layout: Rigid, priority: -1}}
---
{apiVersion: clearway.io/v1, kind: IPPool, metadata: {name: rigid6}, spec: {cidr: "fd00:10:246::/64", blockSize: 124, layout: Rigid, priority: -1}}
`))
	one, two := r.tinyPod(t, "r1n1", "one"), r.tinyPod(t, "r1n1", "two")
	far := r.tinyPod(t, "r2n1", "far")
	for _, pair := range [][2]*lab.Pod{{one, two}, {two, one}, {one, far}, {far, two}} {
		for _, addr := range addresses(pair[1]) {
			ping(t, pair[0], pair[1], addr)
		}
	}
	block := netip.PrefixFrom(one.IPv4, 28).Masked()
	routes, err := one.Exec(t.Context(), "ip", "route")
	must(t, err)
	for _, want := range []string{"default via " + block.Addr().Next().String(), block.String() + " dev eth0"} {
		if !strings.Contains(routes, want) {
			t.Errorf("the Pod's routes lack %q:\n%s", want, routes)
		}
	}
	// A second bridge subnet would be refused by the plugin: a node has one block, and says so when it is full.
	var refusal error
	for i := range 16 {
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		_, refusal = r.Node("r1n1").AddPod(ctx, fmt.Sprint("more", i))
		cancel()
		if refusal != nil {
			break
		}
	}
	if refusal == nil || !strings.Contains(refusal.Error(), "the layout is Rigid") {
		t.Errorf("the block is full: %v", refusal)
	}
	running := probe(t, [2]*lab.Pod{one, far})
	must(t, r.Crash(t.Context(), "r1n1"))
	must(t, r.Node("r1n1").Restart(cluster.Agent))
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	must(t, r.AgentAnswers(ctx, "r1n1"))
	lab.Always(t, 2*time.Second, "the other rack to be reached", func() error {
		_, err := far.Exec(ctx, "ping", "-c", "1", "-W", "1", one.IPv4.String())
		return err
	})
	running.lossless(t)
}
