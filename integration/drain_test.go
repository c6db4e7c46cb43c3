package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/lab"
)

// wayDrained takes one of a node's two ways down without losing a packet: the drain moves the traffic of both directions to
// the other, then the link is cut, mended, and the way is used again.
func (r *road) wayDrained(t *testing.T) {
	near, far := r.pod(t, "n1", "near"), r.pod(t, "n2", "far")
	running := probe(t, [2]*lab.Pod{near, far})
	running.running(t, 100)
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	told, err := r.Ctl(ctx, "node", "drain", "n1", "--peer", "n1-tor1", "--wait", "--timeout", "60s")
	if err != nil || !strings.Contains(told, "safe to take that way down") {
		t.Fatalf("%v; told %q", err, told)
	}
	for _, addr := range addresses(far) {
		must(t, r.nextHops(ctx, "n1", addr, 1))
	}
	must(t, r.spineReaches(ctx, near, "eth2"))
	link := r.Link("tor1", "n1")
	must(t, link.Down())
	running.running(t, 400)
	must(t, link.Up())
	_, err = r.Ctl(ctx, "node", "undrain", "n1")
	must(t, err)
	lab.Eventually(t, soon, "both ways to be used again", func() error {
		for _, addr := range addresses(far) {
			if err := r.nextHops(t.Context(), "n1", addr, 2); err != nil {
				return err
			}
		}
		return nil
	})
	running.running(t, 400)
	running.lossless(t)
	r.settled(t)
	r.right(t)
}

// spineReaches checks that the spine has one way to a Pod, by this interface.
func (r *road) spineReaches(ctx context.Context, pod *lab.Pod, dev string) error {
	routes, err := cluster.Routes(ctx, r.Node("spine"), "bgp")
	if err != nil {
		return err
	}
	for prefix, route := range routes {
		if !prefix.Contains(pod.IPv4) {
			continue
		}
		if len(route.Nexthops) > 1 || route.Dev != dev {
			return fmt.Errorf("the spine's route to %s: %+v", prefix, route)
		}
		return nil
	}
	return fmt.Errorf("the spine has no route to %s", pod.IPv4)
}
