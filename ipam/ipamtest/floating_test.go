package ipamtest_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// floating is a cluster whose Pods have names that stay, and addresses of Floating pools of both families. Its twin is one
// map: what an owner was given first it is given ever after.
type floating struct {
	*cluster
	adds sync.WaitGroup
	made int

	twin map[string][]netip.Addr // by owner; guarded by cluster.mu
	lost map[string]string       // containers whose ADD failed, and their nodes: a runtime deletes them; guarded by cluster.mu
	off  map[string]string       // the folders of nodes that are off

	poweredOn time.Time // when a machine was last
}

func newFloating(t rapid.TB, dir string, nodes ...string) *floating {
	f := &floating{cluster: newCluster(t, dir), twin: map[string][]netip.Addr{}, lost: map[string]string{}, off: map[string]string{}}
	time.Sleep(time.Second)
	f.admin(func(ctx context.Context, client clearwayv1.ResourceServiceClient) error {
		pool := func(name, kind, cidr string) *clearwayv1.Resource {
			return clearwayv1.Wrap(&clearwayv1.IPPool{
				Metadata: &clearwayv1.ObjectMeta{Name: name}, Spec: &clearwayv1.IPPoolSpec{Cidr: cidr, Kind: kind},
			})
		}
		_, err := client.Apply(ctx, &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{
			pool("float4", "Floating", "10.9.0.0/28"), pool("float6", "Floating", "fd00:9::/120"),
			pool("pods4", "Block", "10.0.0.0/24"), pool("pods6", "Block", "fd00:1::/64"),
		}})
		return err
	})
	for _, name := range nodes {
		f.startAgent(name, f.newDir())
		time.Sleep(100 * time.Millisecond)
	}
	return f
}

func (f *floating) admin(call func(context.Context, clearwayv1.ResourceServiceClient) error) {
	conn, err := f.dial(&agent{})
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close()
	if err := call(context.Background(), clearwayv1.NewResourceServiceClient(conn)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *floating) request(owner, container, pools string) *clearwayv1.AddRequest {
	return &clearwayv1.AddRequest{
		Attachment: &clearwayv1.Attachment{Network: "pods", ContainerId: container, Ifname: "eth0"},
		Pod:        &clearwayv1.Pod{Namespace: "db", Name: owner}, Annotations: map[string]string{"clearway.io/pools": pools},
	}
}

// add asks for an owner's addresses on a node, for a new container.
func (f *floating) add(node, owner, pools string, patience time.Duration) (container string, err error) {
	f.mu.Lock()
	f.made++
	container = fmt.Sprintf("%s-%d", owner, f.made)
	agent := f.agents[node]
	if agent == nil { // it was killed just now
		f.lost[container] = node
	}
	f.mu.Unlock()
	if agent == nil {
		return container, errors.New("no agent answers")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, err := agent.api.Add(ctx, f.request(owner, container, pools))
	agent.mu.Lock()
	dead := agent.dead
	agent.mu.Unlock()
	if err != nil || dead { // of a dead one nobody heard the answer
		f.mu.Lock()
		defer f.mu.Unlock()
		f.lost[container] = node
		return container, err
	}
	var addrs []netip.Addr
	for i, one := range answer.GetAddresses() {
		addr := netip.MustParsePrefix(one.GetAddress()).Addr()
		addrs = append(addrs, addr)
		f.hold(node, fmt.Sprintf("%s/%d", container, i), addr)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if had := f.twin[owner]; had != nil && !slices.Equal(had, addrs) {
		f.fault("%s had %v, and is given %v on %s", owner, had, addrs, node)
	}
	f.twin[owner] = addrs
	return container, nil
}

// cleanUp deletes what failed ADDs may have left, as a runtime does.
func (f *floating) cleanUp() {
	f.mu.Lock()
	lost := maps.Clone(f.lost)
	clear(f.lost)
	f.mu.Unlock()
	for container, node := range lost {
		f.del(container, node)
	}
}

// running are the containers that hold something, with their nodes.
func (f *floating) running() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	nodes := map[string]string{}
	for name, p := range f.pods {
		container, _, _ := strings.Cut(name, "/")
		nodes[container] = p.node
	}
	return nodes
}

// del ends a container. It is told to its node, unless that is off.
func (f *floating) del(container, node string) {
	f.mu.Lock()
	for _, family := range []string{"/0", "/1"} {
		delete(f.pods, container+family)
	}
	agent := f.agents[node]
	f.mu.Unlock()
	if agent == nil {
		return
	}
	_, err := agent.api.Del(context.Background(), &clearwayv1.DelRequest{
		Attachment: &clearwayv1.Attachment{Network: "pods", ContainerId: container, Ifname: "eth0"},
	})
	agent.mu.Lock()
	defer agent.mu.Unlock()
	if err != nil && !agent.dead {
		f.mu.Lock()
		f.fault("DEL of %s: %v", container, err)
		f.mu.Unlock()
	}
}

// powerOff is a machine that loses its power: its Pods and its routes are gone, and an operator says so.
func (f *floating) powerOff(name string) {
	dir := f.end(name)
	f.off[name] = dir
	f.mu.Lock()
	delete(f.advertised, name)
	for pod, p := range f.pods {
		if p.node == name {
			delete(f.pods, pod)
		}
	}
	f.mu.Unlock()
	time.Sleep(20 * time.Second) // the session is over
	f.admin(func(ctx context.Context, client clearwayv1.ResourceServiceClient) error {
		_, err := client.Delete(ctx, &clearwayv1.DeleteRequest{Kind: "Node", Name: name, PoweredOff: true})
		if status.Code(err).String() == "NotFound" {
			return nil // it never registered
		}
		return err
	})
}

// powerOn starts a machine that was said to be off. Its agent has to be told so: one that hears nothing goes by what it
// has on disk, as the design lets it.
func (f *floating) powerOn(name string) {
	time.Sleep(30 * time.Second) // ipamd leads
	f.boots[name]++
	f.poweredOn = time.Now()
	f.startAgent(name, f.off[name])
	delete(f.off, name)
}

// restartServer kills ipamd, once machines that were powered on have heard of it, and starts it after a time.
func (f *floating) restartServer(down time.Duration) {
	time.Sleep(time.Until(f.poweredOn.Add(15 * time.Second)))
	f.stop()
	time.Sleep(down)
	f.startServer()
}

// TestFloatingHandOver lets owners go from node to node, while agents and ipamd are killed, machines lose their power and
// come back, DELs come late, and ADDs are asked of several nodes at once. An owner has its two addresses ever after, nobody
// else is given them, no two nodes advertise one, and whoever has one is reachable.
func TestFloatingHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		rapid.Check(bubbled{t}, func(rt *rapid.T) {
			runs++
			nodes := []string{"n1", "n2", "n3"}
			f := newFloating(rt, filepath.Join(t.TempDir(), fmt.Sprint(runs)), nodes...)
			defer f.close()
			defer f.adds.Wait()
			const pools = "float4,float6"
			owners := []string{"a", "b", "c"}
			for range rapid.IntRange(3, 25).Draw(rt, "steps") {
				name := rapid.SampledFrom(nodes).Draw(rt, "node")
				on := f.agents[name] != nil
				switch action := rapid.SampledFrom([]string{"add", "move", "move", "move", "del", "kill", "kill", "ipamd", "power", "wait"}).Draw(rt, "action"); {
				case action == "wait":
					time.Sleep(time.Duration(rapid.IntRange(0, 8000).Draw(rt, "milliseconds")) * time.Millisecond)
				case action == "ipamd":
					f.restartServer(time.Duration(rapid.IntRange(0, 20).Draw(rt, "down")) * time.Second)
				case action == "power" && on:
					f.adds.Wait()
					time.Sleep(30 * time.Second) // ipamd leads
					f.powerOff(name)
				case action == "power":
					f.powerOn(name)
				case !on:
				case action == "kill":
					f.kill(name)
				default:
					owner := rapid.SampledFrom(owners).Draw(rt, "owner")
					patience := time.Duration(rapid.IntRange(1, 30).Draw(rt, "patience")) * time.Second
					late := time.Duration(rapid.IntRange(-3000, 5000).Draw(rt, "late")) * time.Millisecond
					move := func() {
						for container, node := range f.running() {
							if strings.HasPrefix(container, owner+"-") {
								f.del(container, node)
							}
						}
					}
					switch action {
					case "del":
						move()
					case "add":
						f.adds.Go(func() { _, _ = f.add(name, owner, pools, patience) })
					case "move":
						if late < 0 {
							move()
							time.Sleep(-late)
						}
						f.adds.Go(func() { _, _ = f.add(name, owner, pools, patience) })
						if late >= 0 {
							time.Sleep(late)
							move()
						}
					}
				}
				f.cleanUp()
				f.check(rt)
			}
			f.adds.Wait()
			for _, name := range slices.Sorted(maps.Keys(f.off)) {
				f.powerOn(name)
			}
			f.cleanUp()
			for container, node := range f.running() {
				f.del(container, node)
			}
			time.Sleep(5 * time.Minute)
			for i, owner := range owners {
				if _, err := f.add(nodes[i], owner, pools, 30*time.Second); err != nil {
					rt.Errorf("%s is on no node, and does not get its addresses on %s: %v", owner, nodes[i], err)
				}
			}
			f.check(rt)
		})
	})
}

// steps of a hand-over, in order, and how they are seen from outside.
var handOverSteps = []struct {
	name string
	seen func(f *floating, from, to string, addr netip.Addr) bool
}{
	{"the old holder has it", func(*floating, string, string, netip.Addr) bool { return true }},
	{"released", func(f *floating, from, _ string, addr netip.Addr) bool { return !f.assignedOn(from, addr) }},
	{"withdrawn", func(f *floating, from, _ string, addr netip.Addr) bool { return !f.tells(from, addr) }},
	{"given up", func(f *floating, from, _ string, addr netip.Addr) bool { return f.stateOf(addr) != "owned by "+from }},
	{"claimed", func(f *floating, _, to string, addr netip.Addr) bool { return f.stateOf(addr) == "owned by "+to }},
	{"held", func(f *floating, _, to string, addr netip.Addr) bool { return f.assignedOn(to, addr) }},
	{"advertised", func(f *floating, _, to string, addr netip.Addr) bool { return f.tells(to, addr) }},
}

func (f *floating) assignedOn(node string, addr netip.Addr) bool {
	all, err := f.agents[node].List(context.Background(), &clearwayv1.ListRequest{Kind: "Assignment", Address: addr.String()})
	if err != nil {
		f.t.Fatal(err)
	}
	return len(all) > 0
}

func (f *floating) tells(node string, addr netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.advertised[node], netip.PrefixFrom(addr, addr.BitLen()))
}

func (f *floating) stateOf(addr netip.Addr) string {
	text := "unknown"
	f.admin(func(ctx context.Context, client clearwayv1.ResourceServiceClient) error {
		stream, err := client.List(ctx, &clearwayv1.ListRequest{Kind: "Block", Address: addr.String()})
		if err != nil {
			return err
		}
		answer, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // ipamd is down, or there is none
		}
		block := answer.GetResources()[0].GetBlock().GetSpec()
		if text = "resting"; block.GetState() == clearwayv1.BlockState_BLOCK_STATE_OWNED {
			text = "owned by " + block.GetNode()
		}
		return nil
	})
	return text
}

// TestFloatingHandOverGoesOnAfterEachKill kills the old holder's agent, the new one's, or ipamd, as soon as each step of a
// hand-over is seen. The owner gets its addresses on the new node all the same.
func TestFloatingHandOverGoesOnAfterEachKill(t *testing.T) {
	for _, step := range handOverSteps {
		for _, victim := range []string{"n1", "n2", "ipamd", "all"} {
			t.Run(step.name+"/"+victim, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					handOverWithKill(t, t.TempDir(), step.seen, victim)
				})
			})
		}
	}
}

func handOverWithKill(rt *testing.T, dir string, seen func(*floating, string, string, netip.Addr) bool, victim string) {
	f := newFloating(rt, dir, "n1", "n2")
	defer f.close()
	time.Sleep(time.Second)
	first, err := f.add("n1", "a", "float4,float6", 10*time.Second)
	if err != nil {
		rt.Fatal(err)
	}
	time.Sleep(time.Second)
	addr := f.twin["a"][1]
	ended := make(chan error, 1)
	go func() {
		_, err := f.add("n2", "a", "float4,float6", 30*time.Second)
		ended <- err
	}()
	time.Sleep(500 * time.Millisecond)
	f.check(rt)
	go f.del(first, "n1")
	for waited := 0; !seen(f, "n1", "n2", addr); waited++ {
		if waited > 2_000 {
			rt.Fatal("the step was never seen")
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, name := range []string{"n1", "n2"} {
		if victim == name || victim == "all" {
			f.kill(name)
		}
	}
	if victim == "ipamd" || victim == "all" {
		f.stop()
		f.startServer()
	}
	<-ended // it got them, or its agent was killed
	f.del(first, "n1")
	for container, node := range f.running() {
		f.del(container, node)
	}
	f.cleanUp()
	time.Sleep(30 * time.Second)
	for _, node := range []string{"n2", "n1", "n2"} {
		container, err := f.add(node, "a", "float4,float6", 30*time.Second)
		if err != nil {
			rt.Fatalf("on %s: %v", node, err)
		}
		f.del(container, node)
	}
	f.check(rt)
}

// TestAllFamiliesOrNoneAcrossKinds: one ADD takes an address of a Block pool and one of a Floating pool, or neither.
func TestAllFamiliesOrNoneAcrossKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFloating(t, t.TempDir(), "n1", "n2")
		defer f.close()
		time.Sleep(time.Second)
		full := func(name, kind, cidr string, size int32) {
			f.admin(func(ctx context.Context, client clearwayv1.ResourceServiceClient) error {
				_, err := client.Apply(ctx, &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{clearwayv1.Wrap(&clearwayv1.IPPool{
					Metadata: &clearwayv1.ObjectMeta{Name: name}, Spec: &clearwayv1.IPPoolSpec{Cidr: cidr, Kind: kind, BlockSize: size},
				})}})
				return err
			})
		}
		full("tiny4", "Floating", "10.8.0.0/30", 0) // one address
		full("tiny6", "Block", "fd00:8::/126", 126) // two
		time.Sleep(time.Second)                     // the agents hear of them
		mixed, err := f.add("n1", "a", "pods4,float6", 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		f.del(mixed, "n1")
		if _, err := f.add("n1", "a", "pods4,float6", 10*time.Second); err != nil {
			t.Fatal(err)
		}
		// IPv4 of a Floating pool that has none, IPv6 of a Block pool that has.
		if _, err := f.add("n1", "b", "tiny4,pods6", 10*time.Second); err != nil {
			t.Fatal(err)
		}
		_, err = f.add("n2", "c", "tiny4,pods6", 10*time.Second)
		if err == nil || !strings.Contains(err.Error(), `pool "tiny4"`) || !strings.Contains(err.Error(), "1 are held") {
			t.Errorf("without an IPv4 address: %v", err)
		}
		// IPv6 of a Block pool that has none: what was claimed of the Floating pool goes back.
		for _, owner := range []string{"d", "e"} {
			if _, err := f.add("n2", owner, "tiny6", 10*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := f.add("n2", "f", "float4,tiny6", 5*time.Second); err == nil {
			t.Error("there was no IPv6 address, and the ADD succeeded")
		}
		time.Sleep(10 * time.Second)
		for name, agent := range f.agents {
			blocks, err := agent.List(context.Background(), &clearwayv1.ListRequest{Kind: "Block", Pool: "float4"})
			if err != nil || len(blocks) > 0 {
				t.Errorf("%s keeps %v of a failed ADD (%v)", name, blocks, err)
			}
		}
		held, err := f.agents["n2"].List(context.Background(), &clearwayv1.ListRequest{Kind: "Assignment"})
		if err != nil || len(held) != 2 {
			t.Errorf("n2 has %d assignments, want 2: %v, %v", len(held), held, err)
		}
		f.check(t)
	})
}

// TestFloatingNeedsIpamd: what is held is answered again while ipamd is away, and what is not says who would give it.
func TestFloatingNeedsIpamd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFloating(t, t.TempDir(), "n1")
		defer f.close()
		time.Sleep(time.Second)
		if _, err := f.add("n1", "a", "float4", 10*time.Second); err != nil {
			t.Fatal(err)
		}
		f.stop()
		time.Sleep(time.Minute)
		agent := f.agents["n1"]
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if _, err := agent.api.Add(ctx, f.request("a", "a-1", "float4")); err != nil {
			t.Errorf("the same attachment: %v", err)
		}
		_, err := f.add("n1", "b", "float4", 5*time.Second)
		if err == nil || !strings.Contains(err.Error(), "which does not answer") {
			t.Errorf("another: %v", err)
		}
		if _, err := f.add("n1", "c", "pods4", 5*time.Second); err != nil && !strings.Contains(err.Error(), "ipamd does not answer") {
			t.Errorf("of a Block pool: %v", err)
		}
		f.startServer()
		time.Sleep(time.Minute)
		if _, err := f.add("n1", "b", "float4", 5*time.Second); err != nil {
			t.Error(err)
		}
		f.check(t)
	})
}
