package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/lab"
)

// TestNothingLeaks: addresses for which no DEL came are found by what is left of their Pods, and none of a Pod that runs.
func TestNothingLeaks(t *testing.T) {
	r := raise(t, "two-racks")
	t.Run("namespace is gone, no DEL came", r.noDel)
	t.Run("sandbox of a retry", r.retried)
	t.Run("journal wiped, blocks accounted for", r.unsealed)
	t.Run("node is gone without a word", r.orphaned)
}

// leakGrace sets how long an attachment must be seen to have gone, until the test ends.
func (r *road) leakGrace(t *testing.T, grace string) {
	t.Helper()
	r.ipam(t, "cooldown: 2s, leakGrace: "+grace)
}

// ipam applies an IPAMConfiguration until the test ends.
func (r *road) ipam(t *testing.T, spec string) {
	t.Helper()
	set := func(ctx context.Context, spec string) error {
		return r.ApplyText(ctx, "{apiVersion: clearway.io/v1, kind: IPAMConfiguration, metadata: {name: default}, spec: {"+spec+"}}")
	}
	must(t, set(t.Context(), spec))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		if err := set(ctx, ""); err != nil {
			t.Error(err)
		}
	})
}

// held are the addresses that a node's agent has given out, each with the Pod's name.
func (r *road) held(ctx context.Context, node string) (map[netip.Addr]string, error) {
	list, err := cluster.ListOn[cluster.AssignmentSpec, cluster.None](ctx, r.Cluster, node, "assignment")
	if err != nil {
		return nil, err
	}
	held := map[netip.Addr]string{}
	for _, one := range list {
		address, err := netip.ParseAddr(one.Spec.Address)
		if err != nil {
			return nil, err
		}
		held[address] = one.Spec.Pod.Name
	}
	return held, nil
}

// holdsOnly waits until a node's agent holds the addresses of these Pods and no others.
func (r *road) holdsOnly(t *testing.T, node string, pods ...*lab.Pod) {
	t.Helper()
	lab.Eventually(t, soon, node+" to hold what its Pods have", func() error { return r.lacks(t.Context(), node, true, pods...) })
}

// lacks is nil when a node's agent holds the addresses of these Pods, and, where only is set, no others.
func (r *road) lacks(ctx context.Context, node string, only bool, pods ...*lab.Pod) error {
	held, err := r.held(ctx, node)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		for _, address := range addresses(pod) {
			if _, ok := held[address]; !ok {
				return fmt.Errorf("%s of %s is not held", address, pod)
			}
			delete(held, address)
		}
	}
	if only && len(held) > 0 {
		return fmt.Errorf("held besides: %v", held)
	}
	return nil
}

// noDel removes a Pod's namespace without a DEL, and kills the agent between the two looks that it takes.
func (r *road) noDel(t *testing.T) {
	const node = "r1n1"
	r.leakGrace(t, "4s")
	lives, gone := r.pod(t, node, "lives"), r.pod(t, node, "gone")
	running := probe(t, [2]*lab.Pod{lives, r.pod(t, "r2n1", "far")})
	must(t, gone.Vanish(t.Context()))
	lab.Always(t, 2*time.Second, "the address to be held before its time", func() error {
		return r.lacks(t.Context(), node, true, lives, gone)
	})
	must(t, r.Crash(t.Context(), node))
	must(t, r.Node(node).Restart(cluster.Agent))
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	must(t, r.AgentAnswers(ctx, node))
	must(t, r.lacks(ctx, node, true, lives, gone)) // what was seen before the crash does not count
	// The agent is in no first process namespace: it waits for a plugin to call.
	must(t, lives.Check(ctx))
	r.holdsOnly(t, node, lives)
	lab.Always(t, 10*time.Second, "the living Pod to hold its addresses", func() error {
		return r.lacks(t.Context(), node, true, lives)
	})
	running.lossless(t)
}

// retried is what a runtime does whose sandboxes fail: each try has a new container ID, and no DEL comes.
func (r *road) retried(t *testing.T) {
	const node = "r1n1"
	r.leakGrace(t, "24h")
	first, err := r.Node(node).NewSandbox(t.Context(), "try")
	must(t, err)
	_, err = first.Add(t.Context())
	must(t, err)
	must(t, first.Vanish(t.Context()))
	second, err := r.Node(node).NewSandbox(t.Context(), "try")
	must(t, err)
	second.UID = first.UID
	_, err = second.Add(t.Context())
	must(t, err)
	r.holdsOnly(t, node, second)
	must(t, second.Check(t.Context()))
	must(t, second.Del(t.Context()))
	r.holdsOnly(t, node)
}

// unsealed loses a node's journal while Pods run, the last of them so new that no mirror has it: they keep their
// addresses, and the blocks give new ones when all is accounted for.
func (r *road) unsealed(t *testing.T) {
	const node = "r2n2"
	r.leakGrace(t, "4s")
	old := r.pod(t, node, "old")
	blocks, err := r.Blocks(t.Context(), node)
	must(t, err)
	running := probe(t, [2]*lab.Pod{old, r.pod(t, "r1n1", "far")})
	lab.Eventually(t, soon, "the mirror", func() error { return r.booksAgree(t.Context()) })
	must(t, r.Node("ctl").Kill(t.Context(), cluster.Ipamd, syscall.SIGKILL))
	unknown := r.pod(t, node, "unknown")
	must(t, r.Crash(t.Context(), node))
	must(t, r.Node(node).WipeData())
	must(t, r.Node("ctl").Restart(cluster.Ipamd))
	must(t, r.Answers(t.Context()))
	must(t, r.Node(node).Restart(cluster.Agent))
	r.settled(t)
	sealed := func() (sealed int) {
		list, err := cluster.ListOn[cluster.BlockSpec, struct{ Sealed bool }](t.Context(), r.Cluster, node, "block")
		must(t, err)
		for _, block := range list {
			if block.Status.Sealed {
				sealed++
			}
		}
		return sealed
	}
	if n := sealed(); n != len(blocks) {
		t.Fatalf("%d blocks are sealed of %v", n, blocks)
	}
	taken := map[netip.Addr]*lab.Pod{}
	for _, pod := range []*lab.Pod{old, unknown} {
		for _, address := range addresses(pod) {
			taken[address] = pod
		}
	}
	fresh := func(name string) *lab.Pod {
		pod := r.pod(t, node, name)
		for _, address := range addresses(pod) {
			if other := taken[address]; other != nil {
				t.Fatalf("%s was given %s, which %s has", pod, address, other)
			}
			taken[address] = pod
		}
		return pod
	}
	meanwhile := fresh("meanwhile") // out of another block; and the plugin's call shows that all can be seen
	lab.Eventually(t, soon, "the blocks to be accounted for", func() error {
		if n := sealed(); n > 0 {
			return fmt.Errorf("%d are sealed", n)
		}
		return nil
	})
	must(t, r.lacks(t.Context(), node, true, old, unknown, meanwhile))
	for i := range 5 {
		fresh(fmt.Sprintf("later%d", i))
	}
	must(t, old.Check(t.Context()))
	running.overColdStart(t)
	// Nobody knew who it was; when it goes, its namespace tells.
	must(t, unknown.Del(t.Context()))
	lab.Eventually(t, soon, "the unknown one's addresses to come back", func() error {
		held, err := r.held(t.Context(), node)
		for _, address := range addresses(unknown) {
			if _, still := held[address]; still && err == nil {
				err = fmt.Errorf("%s is held", address)
			}
		}
		return err
	})
}

// orphaned kills a node's agent for good and deletes the node without saying that it is off. While its ToR keeps the
// routes for the restart that never comes, its blocks stay; when no peer tells them any more they are given on.
func (r *road) orphaned(t *testing.T) {
	const node = "r2n1"
	r.ipam(t, "cooldown: 2s, orphanGrace: 10s")
	must(t, r.ApplyText(t.Context(), "{apiVersion: clearway.io/v1, kind: BGPConfiguration, metadata: {name: default}, "+
		"spec: {asNumber: 65001, nodeMesh: None, gracefulRestart: {restartTime: 25s}}}"))
	r.settled(t)
	must(t, r.Crash(t.Context(), node))
	must(t, r.Node(node).Restart(cluster.Agent)) // a standing session goes on with the time that it began with
	r.settled(t)
	blocks, err := r.Blocks(t.Context(), node)
	must(t, err)
	r.freshAt(t, "tor2", blocks) // what is stale still when a session breaks again goes at once (RFC 4724 section 4.2)
	must(t, r.Crash(t.Context(), node))
	_, err = r.Ctl(t.Context(), "node", "delete", node)
	must(t, err)
	states := func() (map[string]int, error) {
		list, err := cluster.List[cluster.BlockSpec, cluster.None](t.Context(), r.Cluster, "block")
		found := map[string]int{}
		for _, one := range list {
			if prefix, _ := netip.ParsePrefix(one.Spec.CIDR); slices.Contains(blocks, prefix) {
				found[one.Spec.State]++
			}
		}
		return found, err
	}
	lab.Always(t, 15*time.Second, "blocks that a router still tells to stay orphaned", func() error {
		found, err := states()
		if err == nil && found["Orphaned"] != len(blocks) {
			err = fmt.Errorf("they are %v", found)
		}
		return err
	})
	lab.Eventually(t, 2*soon, "blocks that nobody holds to be given on", func() error {
		found, err := states()
		if err == nil && len(found) > 0 {
			err = fmt.Errorf("they are %v", found)
		}
		return err
	})
	// The machine was not off after all: it comes back, is told that it lost them, and gets others.
	must(t, r.Node(node).Restart(cluster.Agent))
	r.settled(t)
	r.pod(t, node, "again")
	r.right(t)
}

// freshAt waits until a router has been told of blocks in the session that stands, and has them from none before it.
func (r *road) freshAt(t *testing.T, router string, blocks []netip.Prefix) {
	t.Helper()
	for _, block := range blocks {
		family := "ipv6"
		if block.Addr().Is4() {
			family = "ipv4"
		}
		lab.Eventually(t, soon, fmt.Sprintf("%s to have %s anew", router, block), func() error {
			text, err := r.Node(router).Exec(t.Context(), "vtysh", "-c", fmt.Sprintf("show bgp %s unicast %s json", family, block))
			if err == nil && (!strings.Contains(text, `"valid":true`) || strings.Contains(text, `"stale":true`)) {
				err = fmt.Errorf("it has %s", text)
			}
			return err
		})
	}
}
