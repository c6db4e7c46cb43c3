package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/lab"
)

// demoTime bounds everything up to the last line; it takes well under a minute.
const demoTime = 5 * time.Minute

// demo raises the two racks, makes Pods on every node, and shows that they reach one another.
func demo(ctx context.Context, once bool) error {
	root, err := lab.Root()
	if err != nil {
		return err
	}
	topology, err := lab.ReadTopology(filepath.Join(root, "deploy/containerlab/two-racks.clab.yml"))
	if err != nil {
		return err
	}
	say := newScreen()
	bounded, cancel := context.WithTimeout(ctx, demoTime)
	defer cancel()
	l, err := raise(bounded, say, topology)
	if err != nil {
		return err
	}
	defer l.Down()
	d := &demonstration{screen: say, c: cluster.Cluster{Lab: l}}
	if err := d.run(bounded); err != nil {
		if ctx.Err() != nil {
			return nil // Ctrl-C
		}
		return fmt.Errorf("%w\n%s", err, l.Logs(15))
	}
	if once {
		say.step("Done; taking it down")
		return nil
	}
	d.invite()
	<-ctx.Done()
	fmt.Println()
	say.step("Taking it down")
	return nil
}

type demonstration struct {
	*screen
	c    cluster.Cluster
	pods map[string][]*lab.Pod // by node
}

func (d *demonstration) run(ctx context.Context) error {
	d.step("Applying pools and peers")
	if err := d.c.Apply(ctx); err != nil {
		return err
	}
	d.step("Waiting for the agents and their BGP sessions")
	if err := d.c.Settled(ctx); err != nil {
		return err
	}
	d.step("Making two Pods on each node (libcni, ptp, clearway-ipam)")
	if err := d.makePods(ctx); err != nil {
		return err
	}
	d.step("Pinging")
	if err := d.pingAll(ctx); err != nil {
		return err
	}
	d.step("What the operator sees")
	if err := d.c.Reported(ctx); err != nil {
		return err
	}
	return d.tour(ctx)
}

func (d *demonstration) makePods(ctx context.Context) error {
	d.pods = map[string][]*lab.Pod{}
	var group errgroup.Group
	for _, node := range d.c.Agents() {
		pods := make([]*lab.Pod, 2)
		d.pods[node.Spec.Name] = pods
		for i := range pods {
			group.Go(func() error {
				var err error
				pods[i], err = node.AddPod(ctx, fmt.Sprintf("pod%d", i+1))
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, node := range d.c.Agents() {
		for _, pod := range d.pods[node.Spec.Name] {
			d.detail("%-10s %-15s %s", pod, pod.IPv4, pod.IPv6)
		}
	}
	return nil
}

// pingAll pings along each kind of road, with both families.
func (d *demonstration) pingAll(ctx context.Context) error {
	first := d.pods["r1n1"][0]
	outside := d.c.Node("outside")
	roads := []struct {
		name string
		exec func(ctx context.Context, argv ...string) (string, error)
		from string
		to   *lab.Pod
	}{
		{"same node", first.Exec, first.String(), d.pods["r1n1"][1]},
		{"same rack", first.Exec, first.String(), d.pods["r1n2"][0]},
		{"across racks", first.Exec, first.String(), d.pods["r2n2"][0]},
		{"from outside", outside.Exec, outside.String(), d.pods["r2n1"][0]},
	}
	for _, road := range roads {
		for _, addr := range []netip.Addr{road.to.IPv4, road.to.IPv6} {
			var output string
			// The first packet may be ahead of the last route.
			err := lab.Poll(ctx, road.name, func() error {
				var err error
				output, err = road.exec(ctx, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", addr.String())
				return err
			})
			if err != nil {
				return err
			}
			d.detail("%s %-13s %-10s to %-10s %-22s %s", d.green("ok"), road.name, road.from, road.to, addr, roundTrip(output))
		}
	}
	return nil
}

// roundTrip is the average of ping's last line: "rtt min/avg/max/mdev = 0.04/0.06/0.08/0.01 ms".
func roundTrip(output string) string {
	_, numbers, found := strings.Cut(output, "mdev = ")
	parts := strings.Split(numbers, "/")
	if !found || len(parts) < 2 {
		return ""
	}
	return parts[1] + " ms"
}

func (d *demonstration) tour(ctx context.Context) error {
	for _, command := range []string{
		"get ippools", "ipam blocks", "node list", "bgp peers", "bgp routes --node r1n1", "ipam show --ip " + d.pods["r2n2"][0].IPv4.String(),
	} {
		output, err := d.c.Ctl(ctx, strings.Fields(command)...)
		if err != nil {
			return err
		}
		d.show("clearwayctl "+command, output)
	}
	for _, look := range []struct{ node, command string }{
		{"tor1", "vtysh -c 'show ip route bgp' | sed '1,/^$/d'"}, // without its legend
		{"r1n1", "ip route show proto 73"},
		{"r1n1", "ip -6 route show proto 73"},
	} {
		output, err := d.c.Node(look.node).Exec(ctx, "sh", "-c", look.command)
		if err != nil {
			return err
		}
		d.show(fmt.Sprintf("[%s] %s", look.node, look.command), output)
	}
	fmt.Println()
	return nil
}

func (d *demonstration) invite() {
	far := d.pods["r2n2"][0]
	d.step("It is yours, in another terminal (as root, in this folder):")
	for _, line := range []string{
		"bin/lab exec r1n1 -- bash",
		"bin/lab exec r1n1 -- ip netns exec pod1 ping " + far.IPv4.String(),
		"bin/lab exec spine -- tcpdump -ni eth1",
		"bin/lab exec tor1 -- vtysh",
		"bin/lab exec ctl -- clearwayctl --insecure bgp peers",
		"bin/lab exec r1n1 -- pkill -9 clearway-agent   # the ping goes on",
	} {
		d.detail("%s", line)
	}
	d.step("%s ends it", d.bold("Ctrl-C"))
}
