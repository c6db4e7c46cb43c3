package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/lab"
)

// awayTime is how long ipamd and its etcd stay down: a minute in CI, where it is long enough for every timer of BGP
// and gRPC to have its say; LAB_AWAY says otherwise.
func awayTime(t *testing.T) time.Duration {
	t.Helper()
	if text := os.Getenv("LAB_AWAY"); text != "" {
		away, err := time.ParseDuration(text)
		must(t, err)
		return away
	}
	if os.Getenv("CI") != "" {
		return time.Minute
	}
	return 20 * time.Second
}

// running waits for some more answers of each probe, as a measure of time in which traffic flowed.
func (p probes) running(t *testing.T, more int) {
	t.Helper()
	wanted := make([]int, len(p))
	for i, probe := range p {
		wanted[i] = probe.Answered() + more
	}
	for i, probe := range p {
		lab.Eventually(t, soon, "probes to go on", func() error {
			if got := probe.Answered(); got < wanted[i] {
				return fmt.Errorf("%d answers of %d", got, wanted[i])
			}
			return nil
		})
	}
}

// probeSeesLoss cuts the one road between the racks: a probe that never loses anything would prove nothing.
func (r *road) probeSeesLoss(t *testing.T) {
	near, far := r.pod(t, "r1n1", "near"), r.pod(t, "r2n1", "far")
	running := probe(t, [2]*lab.Pod{near, far})
	running.running(t, 20)
	link := r.Link("spine", "tor1")
	must(t, link.Down())
	lab.Eventually(t, soon, "the road to be cut", func() error {
		if _, err := lab.AskSource(t.Context(), near, netip.AddrPortFrom(far.IPv4, 9)); err != nil && !strings.Contains(err.Error(), "refused") {
			return nil
		}
		return errors.New("the far Pod answers")
	})
	must(t, link.Up())
	running.running(t, 50)
	for _, result := range running.stop(t) {
		if result.Lost == 0 {
			t.Errorf("saw no loss on a road that was cut: %s", result)
		}
	}
	r.right(t)
}

// restartAgent kills a node's agent, leaves it dead for a moment, starts it, and waits until its sessions are back.
func (r *road) restartAgent(t *testing.T, name string, dead time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	must(t, r.Crash(ctx, name))
	lab.Always(t, dead, "the agent to stay dead", func() error {
		if r.Node(name).Process(cluster.Agent).Running() {
			return errors.New("it runs")
		}
		return nil
	})
	must(t, r.Node(name).Restart(cluster.Agent))
	must(t, r.AgentAnswers(ctx, name))
}

// agentKilled is the invariant Hitless: kill -9 of both ends' agents, one after the other, loses no packet.
func (r *road) agentKilled(t *testing.T) {
	near, far := r.pod(t, "r1n1", "near"), r.pod(t, "r2n1", "far")
	mate := r.pod(t, "r1n2", "mate")
	running := probe(t, [2]*lab.Pod{near, far}, [2]*lab.Pod{near, mate})
	running.running(t, 100)
	for _, name := range []string{"r1n1", "r2n1"} {
		r.restartAgent(t, name, 2*time.Second)
		r.settled(t)
		running.running(t, 200)
	}
	r.right(t)
	running.running(t, 600) // past the first prune, and what a peer may do late
	running.lossless(t)
	r.right(t)
}

// tornJournal leaves half a record at the journal's end, as a machine that lost power while writing does.
func (r *road) tornJournal(t *testing.T) {
	near, far := r.pod(t, "r1n1", "near"), r.pod(t, "r2n1", "far")
	running := probe(t, [2]*lab.Pod{near, far})
	node := r.Node("r1n1")
	must(t, r.Crash(t.Context(), "r1n1"))
	journal := newestJournal(t, node.DataDir())
	file, err := os.OpenFile(journal, os.O_RDWR|os.O_APPEND, 0)
	must(t, err)
	defer file.Close()
	info, err := file.Stat()
	must(t, err)
	half := make([]byte, 13)
	_, err = file.ReadAt(half, max(0, info.Size()-40))
	must(t, err)
	_, err = file.Write(half)
	must(t, err)
	must(t, node.Restart(cluster.Agent))
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	must(t, r.AgentAnswers(ctx, "r1n1"))
	r.settled(t)
	another := r.pod(t, "r1n1", "another")
	if another.IPv4 == near.IPv4 || another.IPv6 == near.IPv6 {
		t.Errorf("%s was given the address of %s", another, near)
	}
	running.lossless(t)
	r.right(t)
}

func newestJournal(t *testing.T, dir string) string {
	t.Helper()
	var newest string
	var when time.Time
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.Contains(path[len(dir):], "journal") {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Size() > 0 && info.ModTime().After(when) {
			newest, when = path, info.ModTime()
		}
		return err
	})
	must(t, err)
	if newest == "" {
		t.Fatalf("no journal below %s", dir)
	}
	return newest
}

// ipamdAway is the invariant LocalFirst, and that silence withdraws nothing: ipamd and etcd are down while Pods come
// and go on every node, and an agent dies and comes back in that time.
func (r *road) ipamdAway(t *testing.T) {
	near, far := r.pod(t, "r1n1", "near"), r.pod(t, "r2n1", "far")
	var early []*lab.Pod
	for _, node := range r.Agents() {
		early = append(early, r.pod(t, node.Spec.Name, "early"))
	}
	r.right(t)
	before, err := r.Blocks(t.Context(), "")
	must(t, err)
	running := probe(t, [2]*lab.Pod{near, far})

	must(t, r.Node("ctl").Kill(t.Context(), cluster.Ipamd, syscall.SIGKILL))
	away := time.Now()
	for i, node := range r.Agents() {
		must(t, early[i].Del(t.Context()))
		r.pod(t, node.Spec.Name, "away")
	}
	r.restartAgent(t, "r2n1", time.Second)
	for _, node := range r.Agents() {
		r.pod(t, node.Spec.Name, "later")
	}
	newcomer, old := r.Node("r2n1").Pods()[0], near
	source(t, old, echo(t, newcomer, newcomer.IPv4))
	lab.Always(t, max(time.Second, awayTime(t)-time.Since(away)), "the routers' tables without ipamd", func() error {
		for _, name := range r.routers {
			held, err := cluster.RouterPrefixes(t.Context(), r.Node(name), pods4, pods6)
			if err != nil {
				return err
			}
			if !slices.Equal(held, before) {
				return fmt.Errorf("%s holds %v, and had %v", name, held, before)
			}
		}
		return nil
	})
	t.Logf("ipamd was away for %s", time.Since(away).Round(time.Second))
	must(t, r.Node("ctl").Restart(cluster.Ipamd))
	r.settled(t)
	r.right(t)
	after, err := r.Blocks(t.Context(), "")
	must(t, err)
	if !slices.Equal(before, after) {
		t.Errorf("the blocks were %v and are %v", before, after)
	}
	running.lossless(t)
}

// dataWiped loses a node's journal while its Pods run: they keep their addresses, and nobody else is given one.
func (r *road) dataWiped(t *testing.T) {
	const node = "r1n2"
	old := []*lab.Pod{r.pod(t, node, "old1"), r.pod(t, node, "old2")}
	far := r.pod(t, "r2n1", "far")
	r.right(t) // the mirror has them
	running := probe(t, [2]*lab.Pod{old[0], far})
	must(t, r.Node(node).WipeData())
	r.restartAgent(t, node, time.Second)
	r.settled(t)
	held := map[netip.Addr]string{}
	for _, pod := range old {
		for _, addr := range addresses(pod) {
			held[addr] = pod.Name
		}
	}
	for i := range 4 {
		pod := r.pod(t, node, fmt.Sprintf("new%d", i))
		for _, addr := range addresses(pod) {
			if other := held[addr]; other != "" {
				t.Errorf("%s was given %s, which is held by %s", pod, addr, other)
			}
			held[addr] = pod.Name
		}
		source(t, far, echo(t, pod, pod.IPv4))
	}
	running.overColdStart(t)
	lab.Eventually(t, soon, "routers to hold the blocks", func() error { return r.routersHoldBlocks(t.Context()) })
	lab.Eventually(t, soon, "the books to agree", func() error { return r.booksAgree(t.Context()) })
}

// holds tells whether a node's kernel leads to an address by one of our routes.
func holds(ctx context.Context, n *lab.Node, addr netip.Addr) (bool, error) {
	routes, err := cluster.Routes(ctx, n, cluster.Protocol)
	for prefix := range routes {
		if prefix.Contains(addr) {
			return true, err
		}
	}
	return false, err
}

// onlyLinkCut cuts the one link a node has: its routes go everywhere, and come back with the link.
func (r *road) onlyLinkCut(t *testing.T) {
	near, far := r.pod(t, "r1n1", "near"), r.pod(t, "r2n1", "far")
	service := echo(t, near, near.IPv4)
	source(t, far, service)
	link := r.Link("tor1", "r1n1")
	must(t, link.Down())
	gone := func(want bool) func() error {
		return func() error {
			for _, node := range []*lab.Node{r.Node("r2n1"), r.Node("r1n2")} {
				for _, addr := range addresses(near) {
					got, err := holds(t.Context(), node, addr)
					if err != nil {
						return err
					}
					if got == want {
						return fmt.Errorf("%s holds a route to %s: %v", node, addr, got)
					}
				}
			}
			return nil
		}
	}
	t.Logf("gone after %s", lab.Eventually(t, soon, "the cut node's routes to go", gone(true)).Round(10*time.Millisecond))
	must(t, link.Up())
	t.Logf("back after %s", lab.Eventually(t, soon, "the node's routes to come back", gone(false)).Round(10*time.Millisecond))
	source(t, far, service)
	r.settled(t)
	r.right(t)
}

// nodeRebooted starts a node anew: its Pods of before are gone and so are their assignments; its blocks stay.
func (r *road) nodeRebooted(t *testing.T) {
	const node = "r1n2"
	r.pod(t, node, "doomed")
	far := r.pod(t, "r2n1", "far")
	r.right(t)
	blocks, err := r.Blocks(t.Context(), node)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	must(t, r.Node(node).Reboot(ctx))
	must(t, r.AgentAnswers(ctx, node))
	r.settled(t)
	r.right(t)
	now, err := r.Blocks(t.Context(), node)
	must(t, err)
	if !slices.Equal(blocks, now) {
		t.Errorf("the blocks were %v and are %v", blocks, now)
	}
	reborn := r.pod(t, node, "reborn")
	source(t, far, echo(t, reborn, reborn.IPv4))
	source(t, far, echo(t, reborn, reborn.IPv6))
	nodes, err := cluster.List[cluster.None, cluster.NodeStatus](t.Context(), r.Cluster, "node")
	must(t, err)
	for _, item := range nodes {
		if item.Metadata.Name == node && item.Status.BootID != r.Node(node).BootID() {
			t.Errorf("ipamd has boot id %s, want %s", item.Status.BootID, r.Node(node).BootID())
		}
	}
}

// nodeDeleted takes a node out of the cluster for good.
func (r *road) nodeDeleted(t *testing.T) {
	const name = "r2n2"
	r.pod(t, name, "doomed")
	r.right(t)
	blocks, err := r.Blocks(t.Context(), name)
	must(t, err)
	if len(blocks) == 0 {
		t.Fatal("the node has no block")
	}
	must(t, r.Node(name).PowerOff())
	_, err = r.Ctl(t.Context(), "delete", "node", name, "--powered-off")
	must(t, err)
	lab.Eventually(t, soon, "its routes to go", func() error {
		for _, router := range r.routers {
			held, err := cluster.RouterPrefixes(t.Context(), r.Node(router), blocks...)
			if err != nil {
				return err
			}
			if len(held) > 0 {
				return fmt.Errorf("%s holds %v", router, held)
			}
		}
		for _, node := range []string{"r1n1", "r1n2", "r2n1"} {
			for _, block := range blocks {
				held, err := holds(t.Context(), r.Node(node), block.Addr())
				if err != nil {
					return err
				}
				if held {
					return fmt.Errorf("%s holds a route to %s", node, block)
				}
			}
		}
		return nil
	})
	if owned, err := r.Blocks(t.Context(), name); err != nil || len(owned) > 0 {
		t.Errorf("the deleted node owns %v, %v", owned, err)
	}
	nodes, err := cluster.List[cluster.None, cluster.NodeStatus](t.Context(), r.Cluster, "node")
	must(t, err)
	for _, node := range nodes {
		if node.Metadata.Name == name {
			t.Errorf("the deleted node is listed: %+v", node)
		}
	}
}

// spread asserts that a node with two ToRs uses both.
func (r *road) spread(t *testing.T) {
	near, far := r.pod(t, "n1", "near"), r.pod(t, "n2", "far")
	for _, addr := range addresses(far) {
		lab.Eventually(t, soon, fmt.Sprintf("n1 to have two next hops to %s", addr), func() error {
			return r.nextHops(t.Context(), "n1", addr, 2)
		})
		if seen := source(t, near, echo(t, far, addr)); seen != ofFamily(near, addr) {
			t.Errorf("the far Pod saw %s", seen)
		}
	}
	// The spine has two roads to each block.
	routes, err := cluster.Routes(t.Context(), r.Node("spine"), "bgp")
	must(t, err)
	for prefix, route := range routes {
		if prefix.Contains(far.IPv4) && len(route.Nexthops) != 2 {
			t.Errorf("the spine's route to %s: %+v", prefix, route)
		}
	}
}

// nextHops checks how many next hops a node's kernel uses to an address.
func (r *road) nextHops(ctx context.Context, node string, addr netip.Addr, want int) error {
	routes, err := cluster.Routes(ctx, r.Node(node), cluster.Protocol)
	if err != nil {
		return err
	}
	for prefix, route := range routes {
		if !prefix.Contains(addr) {
			continue
		}
		got := 0
		for _, hop := range route.Nexthops {
			if !slices.Contains(hop.Flags, "linkdown") && !slices.Contains(hop.Flags, "dead") {
				got++
			}
		}
		if len(route.Nexthops) == 0 {
			got = 1
		}
		if got != want {
			return fmt.Errorf("%s has %d next hops to %s, want %d: %+v", node, got, prefix, want, route)
		}
		return nil
	}
	return fmt.Errorf("%s has no route to %s", node, addr)
}

func (r *road) agentKilledDualHomed(t *testing.T) {
	running := probe(t, [2]*lab.Pod{r.pod(t, "n1", "near"), r.pod(t, "n2", "far")})
	running.running(t, 100)
	r.restartAgent(t, "n1", 2*time.Second)
	r.settled(t)
	r.right(t)
	running.running(t, 600)
	running.lossless(t)
}

// healTime bounds how long traffic may be gone when one of two roads is: BGP's hold time of 9 s, and some slack.
const healTime = 15 * time.Second

// oneLinkCut cuts one of a node's two links: traffic moves to the other, and both are used again once it is mended.
func (r *road) oneLinkCut(t *testing.T, cut func(*lab.Link) error) {
	near, far := r.pod(t, "n1", "near"), r.pod(t, "n2", "far")
	running := probe(t, [2]*lab.Pod{near, far})
	running.running(t, 100)
	link := r.Link("tor1", "n1")
	must(t, cut(link))
	one := func(want int) func() error {
		return func() error {
			var group errgroup.Group
			for _, addr := range addresses(far) {
				group.Go(func() error { return r.nextHops(t.Context(), "n1", addr, want) })
			}
			return group.Wait()
		}
	}
	t.Logf("one next hop after %s", lab.Eventually(t, soon, "n1 to use the other ToR alone", one(1)).Round(10*time.Millisecond))
	running.running(t, 400)
	must(t, link.Up())
	t.Logf("two again after %s", lab.Eventually(t, soon, "n1 to use both ToRs again", one(2)).Round(10*time.Millisecond))
	running.running(t, 200)
	for _, result := range running.stop(t) {
		if result.Outage > healTime {
			t.Errorf("away for too long: %s", result)
		}
	}
	r.settled(t)
	r.right(t)
}
