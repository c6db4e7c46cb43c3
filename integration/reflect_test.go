package integration

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/lab"
)

// sessions counts each node's, and checks that all are Established.
func (r *road) sessions(t *testing.T) (count map[string]int, err error) {
	t.Helper()
	count = map[string]int{}
	for _, node := range r.Agents() {
		name := node.Spec.Name
		list, err := cluster.ListOn[cluster.SessionSpec, cluster.SessionStatus](t.Context(), r.Cluster, name, "bgpsession")
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			if s.Status.State != "Established" {
				return nil, fmt.Errorf("%s is %s", s.Metadata.Name, s.Status.State)
			}
		}
		count[name] = len(list)
	}
	return count, nil
}

// reflectors waits until two nodes reflect and each other one has these two alone; without names leaving.
func (r *road) reflectors(t *testing.T, leaving ...string) []string {
	t.Helper()
	var names []string
	lab.Eventually(t, 2*time.Minute, fmt.Sprintf("two reflectors, none of %v", leaving), func() error {
		count, err := r.sessions(t)
		if err != nil {
			return err
		}
		names = nil
		for name, n := range count {
			switch {
			case n == len(count)-1:
				names = append(names, name)
			case n != 2:
				return fmt.Errorf("%s has %d sessions: %v", name, n, count)
			}
		}
		if slices.ContainsFunc(names, func(name string) bool { return slices.Contains(leaving, name) }) || len(names) != 2 {
			return fmt.Errorf("%v reflect: %v", names, count)
		}
		return nil
	})
	return names
}

// TestReflectors: with more nodes on one link than the threshold two of them reflect, and nobody needs to know. Either may
// die, and one that is drained hands over, without a packet lost between others.
func TestReflectors(t *testing.T) {
	r := raise(t, "one-link")
	first := r.reflectors(t)
	var clients []*lab.Pod
	for _, node := range r.Agents() {
		if name := node.Spec.Name; !slices.Contains(first, name) && len(clients) < 2 {
			clients = append(clients, r.pod(t, name, "client"))
		}
	}
	near, far := clients[0], clients[1]
	running := probe(t, [2]*lab.Pod{near, far})
	running.running(t, 100)

	_, err := r.Ctl(t.Context(), "node", "drain", first[0], "--now")
	must(t, err)
	second := r.reflectors(t, first[0])
	running.running(t, 100)
	_, err = r.Ctl(t.Context(), "node", "undrain", first[0], "--wait", "--timeout", "30s")
	must(t, err)
	third := r.reflectors(t)
	t.Logf("reflectors %v, %v, %v", first, second, third)
	slices.Sort(first)
	slices.Sort(third)
	if !slices.Equal(first, third) {
		t.Errorf("the same nodes, and first %v reflected, then %v", first, third)
	}
	for _, name := range third {
		if name != near.Node.Spec.Name && name != far.Node.Spec.Name {
			must(t, r.Crash(t.Context(), name))
		}
	}
	running.running(t, 400) // both dead: what they told is kept for the restart time
	for _, name := range third {
		must(t, r.Node(name).Restart(cluster.Agent))
	}
	r.reflectors(t)
	running.running(t, 200)
	running.lossless(t)
}
