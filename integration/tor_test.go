package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/lab"
)

// comeUp is long beside what sessions take once both ends are configured: a node calls again within 10 s.
const comeUp = 30 * time.Second

// TestTorConfig: two ToRs know their interfaces and nothing else. What tor-config writes is loaded into FRR (a neighbour
// for each node, a session for each family, TCP-MD5, BFD) and into BIRD (a listen range, both families in one session,
// BFD), and the sessions come up, with routes both ways in both families.
func TestTorConfig(t *testing.T) {
	topology, err := lab.ReadTopology("testdata/tor-config.clab.yml")
	must(t, err)
	lab.Require(t, topology)
	bin, err := built()
	must(t, err)
	r := &road{
		Cluster: cluster.Cluster{Lab: lab.UpForTest(t, lab.Options{Topology: topology, BinDir: bin})},
		routers: []string{"tor1", "tor2"},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	must(t, r.Apply(ctx))
	for _, node := range r.Agents() {
		_, err := node.Start(cluster.BFD, "clearway-agent", "bfd")
		must(t, err)
	}
	lab.Eventually(t, soon, "both nodes to have blocks", func() error {
		for _, node := range r.Agents() {
			if blocks, err := r.Blocks(t.Context(), node.Spec.Name); err != nil || len(blocks) < 2 {
				return fmt.Errorf("%s has %v: %w", node, blocks, err)
			}
		}
		return nil
	})
	r.loadTor(t, "tor1", `cat >/run/tor.conf && vtysh -f /run/tor.conf`, "--peer", "n?-tor1*", "--vendor", "frr")
	r.loadTor(t, "tor2", `cat >/run/bird/clearway.conf && birdc configure`, "--peer", "n?-tor2", "--vendor", "bird", "--range", "172.16.40.0/21")
	began := time.Now()
	ctx, cancel = context.WithTimeout(t.Context(), comeUp)
	defer cancel()
	must(t, r.Settled(ctx))
	t.Logf("all sessions are up %s after the routers were configured", time.Since(began).Round(time.Millisecond))
	t.Run("BFD", func(t *testing.T) {
		r.sees(t, "tor1", frrSees, 4)
		r.sees(t, "tor2", birdSees, 2)
	})
	t.Run("Routes", r.torRoutes)
	t.Run("Traffic", func(t *testing.T) {
		near, far := r.pod(t, "n1", "near"), r.pod(t, "n2", "far")
		for _, to := range addresses(far) {
			source(t, near, echo(t, far, to))
		}
	})
}

// loadTor gives a router what tor-config writes for it, with the password in its place.
func (r *road) loadTor(t *testing.T, router, load string, argv ...string) {
	t.Helper()
	text, err := r.Ctl(t.Context(), append([]string{"tor-config"}, argv...)...)
	must(t, err)
	password, err := os.ReadFile("testdata/tor-config/password")
	must(t, err)
	text = strings.ReplaceAll(text, "REPLACE-WITH-THE-PASSWORD", strings.TrimSpace(string(password)))
	_, err = r.Node(router).Exec(t.Context(), "sh", "-c", `printf %s "$0" | { `+load+"; }", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
}

// torRoutes: each router has each block, and each node the other's by both routers, and the aggregates.
func (r *road) torRoutes(t *testing.T) {
	blocks, err := r.Blocks(t.Context(), "")
	must(t, err)
	aggregates := []netip.Prefix{netip.MustParsePrefix("10.244.0.0/17"), netip.MustParsePrefix("fd00:10:244::/49")}
	for _, router := range r.routers {
		for _, prefix := range append(blocks, aggregates...) {
			lab.Eventually(t, soon, fmt.Sprintf("%s to have %s", router, prefix), func() error {
				text, err := r.Node(router).Exec(t.Context(), "ip", family(prefix), "route", "show", prefix.String())
				if err != nil || text == "" {
					return fmt.Errorf("%q: %w", text, err)
				}
				return nil
			})
		}
	}
	far, err := r.Blocks(t.Context(), "n2")
	must(t, err)
	for _, prefix := range append(far, aggregates...) {
		lab.Eventually(t, soon, "n1 to reach "+prefix.String()+" by both routers", func() error {
			routes, err := cluster.Routes(t.Context(), r.Node("n1"), cluster.Protocol)
			if err != nil || len(routes[prefix].Nexthops) != 2 {
				return fmt.Errorf("%+v: %w", routes[prefix], err)
			}
			return nil
		})
	}
}

func family(prefix netip.Prefix) string {
	if prefix.Addr().Is4() {
		return "-4"
	}
	return "-6"
}
