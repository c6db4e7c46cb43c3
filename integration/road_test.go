package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/lab"
)

// soon is long beside what any single step of a healthy cluster takes, on a busy machine too.
const soon = 45 * time.Second

// probeEvery is the pace of the probes that count lost packets.
const probeEvery = 5 * time.Millisecond

var (
	pods4 = netip.MustParsePrefix("10.244.0.0/16")
	pods6 = netip.MustParsePrefix("fd00:10:244::/48")
)

// road is a cluster under test, in a lab of its own.
type road struct {
	cluster.Cluster
	// routers are those that must know every block.
	routers []string
}

// raise builds a topology with Clearway in it and waits until all sessions stand.
func raise(t testing.TB, name string) *road {
	t.Helper()
	return raiseWith(t, name, "")
}

// raiseWith is raise with a CNI network of its own; empty: the default one.
func raiseWith(t testing.TB, name, network string) *road {
	t.Helper()
	topology, err := lab.ReadTopology("../deploy/containerlab/" + name + ".clab.yml")
	if err != nil {
		t.Fatal(err)
	}
	lab.Require(t, topology)
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	l := lab.UpForTest(t, lab.Options{Topology: topology, BinDir: bin, Network: network})
	r := &road{Cluster: cluster.Cluster{Lab: l}, routers: []string{"tor1", "tor2", "spine"}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	if err := r.Apply(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *road) settled(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	if err := r.Settled(ctx); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pod makes a Pod that is removed at the test's end, unless its node was rebooted meanwhile.
func (r *road) pod(t *testing.T, node, name string) *lab.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	pod, err := r.Node(node).AddPod(ctx, name)
	must(t, err)
	if !pods4.Contains(pod.IPv4) || !pods6.Contains(pod.IPv6) {
		t.Fatalf("pod %s has %s and %s, not of the pools", pod, pod.IPv4, pod.IPv6)
	}
	t.Cleanup(func() {
		if !slices.Contains(pod.Node.Pods(), pod) {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		if err := pod.Del(ctx); err != nil {
			t.Error(err)
		}
	})
	return pod
}

// addresses are a Pod's two.
func addresses(p *lab.Pod) []netip.Addr { return []netip.Addr{p.IPv4, p.IPv6} }

// ofFamily picks the Pod's address of the other one's family.
func ofFamily(p *lab.Pod, like netip.Addr) netip.Addr {
	if like.Is4() {
		return p.IPv4
	}
	return p.IPv6
}

// echo serves at a place until the test ends.
func echo(t *testing.T, at lab.Place, addr netip.Addr) netip.AddrPort {
	t.Helper()
	e, err := lab.ServeEcho(at, addr)
	must(t, err)
	t.Cleanup(e.Close)
	return e.Addr
}

// source waits until a place reaches a service, and tells which source address the service sees.
func source(t *testing.T, from lab.Place, to netip.AddrPort) netip.Addr {
	t.Helper()
	var seen netip.Addr
	lab.Eventually(t, soon, fmt.Sprintf("%s to reach %s", from, to), func() error {
		var err error
		seen, err = lab.AskSource(t.Context(), from, to)
		return err
	})
	return seen
}

// probes are the two-way probes between Pods; each way both families.
type probes []*lab.Probe

// probe starts probes between pairs of Pods, in both directions and families, once every way is open.
func probe(t *testing.T, pairs ...[2]*lab.Pod) probes {
	t.Helper()
	var all probes
	for _, pair := range pairs {
		for _, way := range [][2]*lab.Pod{{pair[0], pair[1]}, {pair[1], pair[0]}} {
			for _, to := range addresses(way[1]) {
				service := echo(t, way[1], to)
				source(t, way[0], service)
				p, err := lab.StartProbe(way[0], ofFamily(way[0], to), service, probeEvery)
				must(t, err)
				all = append(all, p)
			}
		}
	}
	return all
}

// stop ends the probes and returns what they counted.
func (p probes) stop(t *testing.T) []lab.ProbeResult {
	t.Helper()
	var results []lab.ProbeResult
	for _, probe := range p {
		result := probe.Stop()
		t.Log(result)
		results = append(results, result)
	}
	return results
}

// lossless ends the probes and fails the test for every lost packet.
func (p probes) lossless(t *testing.T) {
	t.Helper()
	for _, result := range p.stop(t) {
		if result.Lost > 0 || result.Sent < 100 {
			t.Errorf("lost packets, or counted too few: %s", result)
		}
	}
}

// coldStart is the longest that a node may be without roads to it when its agent has come back without its data. It cannot say
// that it went on forwarding (RFC 4724 section 4.1), so that a peer drops what it kept as soon as the session is back, and has it
// anew with the UPDATEs that follow, milliseconds later.
const coldStart = 200 * time.Millisecond

// overColdStart ends the probes and fails the test for an outage that is longer than a cold start's.
func (p probes) overColdStart(t *testing.T) {
	t.Helper()
	for _, result := range p.stop(t) {
		if result.Outage > coldStart || result.Sent < 100 {
			t.Errorf("out for longer than %s, or counted too few: %s", coldStart, result)
		}
	}
}

// routersHoldBlocks compares each router's table, within the pools, with the owned blocks: the blocks and nothing
// else, no single address.
func (r *road) routersHoldBlocks(ctx context.Context) error {
	blocks, err := r.Blocks(ctx, "")
	if err != nil {
		return err
	}
	if len(blocks) == 0 {
		return errors.New("no block is owned")
	}
	for _, name := range r.routers {
		held, err := cluster.RouterPrefixes(ctx, r.Node(name), pods4, pods6)
		if err != nil {
			return err
		}
		if !slices.Equal(held, blocks) {
			return fmt.Errorf("%s holds %v; the blocks are %v", name, held, blocks)
		}
	}
	return nil
}

// kernelsHoldBlocks compares each node's kernel with the owned blocks: its own as blackholes, the others' as routes.
func (r *road) kernelsHoldBlocks(ctx context.Context) error {
	blocks, err := r.Blocks(ctx, "")
	if err != nil {
		return err
	}
	for _, node := range r.Agents() {
		own, err := r.Blocks(ctx, node.Spec.Name)
		if err != nil {
			return err
		}
		routes, err := cluster.Routes(ctx, node, cluster.Protocol)
		if err != nil {
			return err
		}
		for _, block := range blocks {
			route, found := routes[block]
			if mine := slices.Contains(own, block); !found || mine != (route.Type == "blackhole") {
				return fmt.Errorf("%s: block %s (own: %v) is %+v in the kernel", node, block, mine, route)
			}
			delete(routes, block)
		}
		for prefix := range routes {
			if pods4.Overlaps(prefix) || pods6.Overlaps(prefix) {
				return fmt.Errorf("%s: the kernel has %s, which is no block", node, prefix)
			}
		}
	}
	return nil
}

// booksAgree compares who holds what: by the runtime (the lab's Pods), by each agent's journal, and by ipamd's mirror.
func (r *road) booksAgree(ctx context.Context) error {
	mirror, err := assignments(cluster.List[cluster.AssignmentSpec, cluster.None](ctx, r.Cluster, "assignment"))
	if err != nil {
		return err
	}
	for _, node := range r.Agents() {
		name := node.Spec.Name
		journal, err := assignments(cluster.ListOn[cluster.AssignmentSpec, cluster.None](ctx, r.Cluster, name, "assignment"))
		if err != nil {
			return err
		}
		var held []string
		for _, pod := range node.Pods() {
			for _, addr := range addresses(pod) {
				held = append(held, fmt.Sprintf("%s %s %s", name, addr, pod.ContainerID[:12]))
			}
		}
		slices.Sort(held)
		if !slices.Equal(journal, held) {
			return fmt.Errorf("%s: the journal has\n%s\nthe runtime has\n%s", name, strings.Join(journal, "\n"), strings.Join(held, "\n"))
		}
		ofNode := slices.DeleteFunc(slices.Clone(mirror), func(line string) bool { return !strings.HasPrefix(line, name+" ") })
		if !slices.Equal(ofNode, held) {
			return fmt.Errorf("%s: ipamd has\n%s\nthe runtime has\n%s", name, strings.Join(ofNode, "\n"), strings.Join(held, "\n"))
		}
	}
	return nil
}

func assignments(list []cluster.Object[cluster.AssignmentSpec, cluster.None], err error) ([]string, error) {
	var lines []string
	for _, item := range list {
		lines = append(lines, fmt.Sprintf("%s %s %.12s", item.Spec.Node, item.Spec.Address, item.Spec.Attachment.ContainerID))
	}
	slices.Sort(lines)
	return lines, err
}

// right waits until routers, kernels and books are as they must be.
func (r *road) right(t *testing.T) {
	t.Helper()
	lab.Eventually(t, soon, "routers to hold the blocks", func() error { return r.routersHoldBlocks(t.Context()) })
	lab.Eventually(t, soon, "kernels to hold the blocks", func() error { return r.kernelsHoldBlocks(t.Context()) })
	lab.Eventually(t, soon, "the books to agree", func() error { return r.booksAgree(t.Context()) })
}

// everyRoad asserts the main job: on one node, in one rack, across racks and from outside, in both families, with the
// Pod's own address seen at the far side, and plain packets on the spine's link.
func (r *road) everyRoad(t *testing.T) {
	first := r.pod(t, "r1n1", "first")
	for _, far := range []struct {
		name string
		pod  *lab.Pod
	}{
		{"same node", r.pod(t, "r1n1", "second")},
		{"same rack", r.pod(t, "r1n2", "first")},
		{"across racks", r.pod(t, "r2n1", "first")},
		{"across racks, other node", r.pod(t, "r2n2", "first")},
	} {
		t.Run(far.name, func(t *testing.T) {
			for _, way := range [][2]*lab.Pod{{first, far.pod}, {far.pod, first}} {
				for _, to := range addresses(way[1]) {
					if seen, want := source(t, way[0], echo(t, way[1], to)), ofFamily(way[0], to); seen != want {
						t.Errorf("%s saw %s, want the Pod's own %s", way[1], seen, want)
					}
				}
			}
			running := probe(t, [2]*lab.Pod{first, far.pod})
			running.running(t, 100)
			running.lossless(t)
		})
	}
	outside := r.Node("outside")
	t.Run("from outside", func(t *testing.T) {
		for _, from := range []netip.Addr{netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8:100::2")} {
			if seen := source(t, outside, echo(t, first, ofFamily(first, from))); seen != from {
				t.Errorf("the Pod saw %s, want %s", seen, from)
			}
			if seen, want := source(t, first, echo(t, outside, from)), ofFamily(first, from); seen != want {
				t.Errorf("outside saw %s, want the Pod's own %s", seen, want)
			}
		}
	})
}

// plainOnTheWire looks at the packets between spine and ToR: a Pod's packet is there as the Pod sent it, with no
// header around it and no address changed.
func (r *road) plainOnTheWire(t *testing.T) {
	near, far := r.pod(t, "r1n1", "near"), r.pod(t, "r2n1", "far")
	capture, err := r.Node("spine").StartCapture("eth1")
	must(t, err)
	running := probe(t, [2]*lab.Pod{near, far})
	running.running(t, 100)
	running.lossless(t)
	seen := map[netip.Addr]int{}
	for _, packet := range capture.Stop() {
		if !packet.CarriesProbe() {
			continue
		}
		ends := []netip.Addr{packet.Source, packet.Destination}
		if !packet.Probe() || !slices.Contains(addresses(near), ends[0]) && !slices.Contains(addresses(near), ends[1]) ||
			!slices.Contains(addresses(far), ends[0]) && !slices.Contains(addresses(far), ends[1]) {
			t.Fatalf("a Pod's packet was changed on its way: %s to %s, protocol %d", ends[0], ends[1], packet.Protocol)
		}
		seen[packet.Source]++
	}
	for _, addr := range slices.Concat(addresses(near), addresses(far)) {
		if seen[addr] < 50 {
			t.Errorf("%d packets from %s on the spine's link", seen[addr], addr)
		}
	}
}

// fill takes addresses on a node by the IPAM plugin alone until the node owns a third block of a family, and gives
// them back at the test's end.
func (r *road) fill(t *testing.T, name string) {
	t.Helper()
	node := r.Node(name)
	conf := `{"cniVersion": "1.1.0", "name": "fill", "type": "ptp", "ipam": {"type": "clearway-ipam", "socket": "/run/clearway/agent.sock"}}`
	call := func(ctx context.Context, command string, number int) error {
		_, err := node.ExecWith(ctx, []byte(conf), []string{
			"CNI_COMMAND=" + command, fmt.Sprintf("CNI_CONTAINERID=fill%d", number), "CNI_IFNAME=eth0", "CNI_NETNS=/run/netns/none",
			"CNI_PATH=/opt/clearway/bin", fmt.Sprintf("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=fill%d", number),
		}, "clearway-ipam")
		return err
	}
	const most, at = 200, 8
	taken := 0
	t.Cleanup(func() {
		var group errgroup.Group
		group.SetLimit(at)
		for number := range taken {
			group.Go(func() error { return call(context.Background(), "DEL", number) })
		}
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	for taken < most {
		group, ctx := errgroup.WithContext(t.Context())
		for number := taken; number < taken+at; number++ {
			group.Go(func() error { return call(ctx, "ADD", number) })
		}
		taken += at
		must(t, group.Wait())
		blocks, err := r.Blocks(t.Context(), name)
		must(t, err)
		if len(blocks) >= 6 { // three of each family
			return
		}
	}
	t.Fatalf("%d addresses are taken on %s, and it has no third block", taken, name)
}

// thirdBlock asserts that a busy node's further blocks are known wherever they must be.
func (r *road) thirdBlock(t *testing.T) {
	r.fill(t, "r1n1")
	blocks, err := r.Blocks(t.Context(), "r1n1")
	must(t, err)
	lab.Eventually(t, soon, "both ToRs and the spine to hold every block", func() error { return r.routersHoldBlocks(t.Context()) })
	lab.Eventually(t, soon, "every node to hold every block", func() error { return r.kernelsHoldBlocks(t.Context()) })
	late := r.pod(t, "r1n1", "late")
	for _, addr := range addresses(late) {
		if slices.ContainsFunc(blocks[:1], func(p netip.Prefix) bool { return p.Contains(addr) }) {
			t.Logf("%s is still of the first block", addr)
		}
		if seen := source(t, r.Node("outside"), echo(t, late, addr)); !seen.IsValid() {
			t.Error("not reached")
		}
	}
}

func TestTwoRacks(t *testing.T) {
	r := raise(t, "two-racks")
	t.Run("EveryRoad", r.everyRoad)
	t.Run("PlainOnTheWire", r.plainOnTheWire)
	t.Run("RoutersHoldBlocksOnly", r.right)
	t.Run("ThirdBlock", r.thirdBlock)
	t.Run("Verified", r.verified)
	t.Run("ProbeSeesLoss", r.probeSeesLoss)
	t.Run("AgentKilled", r.agentKilled)
	t.Run("TornJournal", r.tornJournal)
	t.Run("IpamdAway", r.ipamdAway)
	t.Run("DataWiped", r.dataWiped)
	t.Run("OnlyLinkCut", r.onlyLinkCut)
	t.Run("NodeRebooted", r.nodeRebooted)
	t.Run("NodeDeleted", r.nodeDeleted)
}

func TestTwoRacksWithBIRD(t *testing.T) {
	r := raise(t, "two-racks-bird")
	t.Run("EveryRoad", r.everyRoad)
	t.Run("RoutersHoldBlocksOnly", r.right)
	t.Run("AgentKilled", r.agentKilled)
}

func TestDualHomed(t *testing.T) {
	r := raise(t, "dual-homed")
	t.Run("RoutersHoldBlocksOnly", r.right)
	t.Run("SpreadOverBothToRs", r.spread)
	t.Run("AgentKilled", r.agentKilledDualHomed)
	t.Run("WayDrained", r.wayDrained)
	t.Run("LinkCut", func(t *testing.T) { r.oneLinkCut(t, (*lab.Link).Down) })
	t.Run("LinkSilent", func(t *testing.T) { r.oneLinkCut(t, (*lab.Link).Blackhole) })
}
