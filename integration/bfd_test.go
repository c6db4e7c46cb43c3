package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/lab"
)

// moveTime bounds how long a silent link may hold traffic back with BFD at 3x100 ms. It is far more than the 0.3 s that
// are aimed at, and far less than the hold time: the figure itself is in the log.
const moveTime = time.Second

// withBFD starts BFD on every node, asks for it at both ends, and waits until all sessions are Up at both.
func (r *road) withBFD(t *testing.T, topology string, routers map[string]func(*testing.T, *lab.Node)) {
	t.Helper()
	for _, node := range r.Agents() {
		_, err := node.Start(cluster.BFD, "clearway-agent", "bfd")
		must(t, err)
	}
	for name, prepare := range routers {
		prepare(t, r.Node(name))
	}
	text, err := os.ReadFile("../deploy/containerlab/" + topology + "/resources.yaml")
	must(t, err)
	const line = "  connectRetryTime: 1s\n"
	must(t, r.ApplyText(t.Context(), strings.ReplaceAll(string(text), line, line+"  bfd: {minTx: 100ms, minRx: 100ms, multiplier: 3}\n")))
	r.bfdUp(t)
	r.settled(t)
}

// bfdUp waits until every session of every agent has BFD Up that detects within 300 ms.
func (r *road) bfdUp(t *testing.T) {
	t.Helper()
	lab.Eventually(t, soon, "BFD to be up on every session", func() error {
		for _, node := range r.Agents() {
			sessions, err := cluster.ListOn[cluster.SessionSpec, cluster.SessionStatus](t.Context(), r.Cluster, node.Spec.Name, "bgpsession")
			if err != nil {
				return err
			}
			for _, s := range sessions {
				if bfd := s.Status.BFD; bfd.State != "Up" || bfd.DetectionTime != "300ms" {
					return fmt.Errorf("%s: %+v", s.Metadata.Name, bfd)
				}
			}
		}
		return nil
	})
}

// frrBFD lets FRR's bfdd watch its peer groups.
func frrBFD(router string, groups ...string) func(*testing.T, *lab.Node) {
	return func(t *testing.T, node *lab.Node) {
		t.Helper()
		argv := []string{"vtysh", "-c", "configure terminal", "-c", "bfd", "-c", "profile fast", "-c", "detect-multiplier 3",
			"-c", "receive-interval 100", "-c", "transmit-interval 100", "-c", "exit", "-c", "exit", "-c", "router bgp " + router}
		for _, group := range groups {
			argv = append(argv, "-c", "neighbor "+group+" bfd", "-c", "neighbor "+group+" bfd profile fast")
		}
		_, err := node.Exec(t.Context(), argv...)
		must(t, err)
	}
}

// birdBFD lets BIRD watch its neighbours.
func birdBFD(t *testing.T, node *lab.Node) {
	t.Helper()
	_, err := node.Exec(t.Context(), "sh", "-c", `sed 's/graceful restart on;/graceful restart on; bfd on;/' /etc/bird.conf >/run/bird/bfd.conf &&
		echo 'protocol bfd { interface "*" { interval 100 ms; multiplier 3; }; }' >>/run/bird/bfd.conf &&
		birdc configure '"/run/bird/bfd.conf"'`)
	must(t, err)
}

// frrSees tells how many BFD sessions FRR has up.
func frrSees(ctx context.Context, node *lab.Node) (int, error) {
	text, err := node.Exec(ctx, "vtysh", "-c", "show bfd peers json")
	if err != nil {
		return 0, err
	}
	var peers []struct{ Status string }
	if err := json.Unmarshal([]byte(text), &peers); err != nil {
		return 0, fmt.Errorf("show bfd peers json: %w: %s", err, text)
	}
	up := 0
	for _, peer := range peers {
		if peer.Status == "up" {
			up++
		}
	}
	return up, nil
}

// birdSees tells how many BFD sessions BIRD has up.
func birdSees(ctx context.Context, node *lab.Node) (int, error) {
	text, err := node.Exec(ctx, "birdc", "show", "bfd", "sessions")
	return strings.Count(text, " Up "), err
}

func (r *road) sees(t *testing.T, name string, see func(context.Context, *lab.Node) (int, error), want int) {
	t.Helper()
	lab.Eventually(t, soon, fmt.Sprintf("%s to see %d BFD sessions up", name, want), func() error {
		if got, err := see(t.Context(), r.Node(name)); err != nil || got != want {
			return fmt.Errorf("%d: %w", got, errors.Join(err))
		}
		return nil
	})
}

// TestBFDBothDaemons: sessions in both families with FRR's bfdd and with BIRD's, which end BGP when BFD goes down. BFD
// outlives the agent, so that its death loses nothing.
func TestBFDBothDaemons(t *testing.T) {
	r := raise(t, "two-racks-bird")
	r.withBFD(t, "two-racks-bird", map[string]func(*testing.T, *lab.Node){
		"tor1": frrBFD("65101", "nodes", "nodes6"), "tor2": birdBFD,
	})
	t.Run("SeenByFRR", func(t *testing.T) { r.sees(t, "tor1", frrSees, 4) })
	t.Run("SeenByBIRD", func(t *testing.T) { r.sees(t, "tor2", birdSees, 4) })
	t.Run("AgentKilled", r.agentKilled)
}

// TestBFDMovesTraffic: a link that goes silent without losing its carrier.
func TestBFDMovesTraffic(t *testing.T) {
	r := raise(t, "dual-homed")
	r.withBFD(t, "dual-homed", map[string]func(*testing.T, *lab.Node){
		"tor1": frrBFD("65101", "nodes"), "tor2": frrBFD("65102", "nodes"),
	})
	near, far := r.pod(t, "n1", "near"), r.pod(t, "n2", "far")
	link := r.Link("tor1", "n1")
	for range 3 {
		running := probe(t, [2]*lab.Pod{near, far})
		running.running(t, 100)
		must(t, link.Blackhole())
		lab.Eventually(t, soon, "n1 to use the other ToR alone", func() error { return r.nextHops(t.Context(), "n1", far.IPv4, 1) })
		running.running(t, 200)
		results := running.stop(t)
		longest := time.Duration(0)
		for _, result := range results {
			longest = max(longest, result.Outage)
			if result.Outage > moveTime {
				t.Errorf("away for too long: %s", result)
			}
		}
		t.Logf("longest gap %s at 3x100 ms", longest.Round(time.Millisecond))
		must(t, link.Up())
		r.bfdUp(t)
		r.settled(t)
		lab.Eventually(t, soon, "n1 to use both ToRs again", func() error { return r.nextHops(t.Context(), "n1", far.IPv4, 2) })
	}
}
