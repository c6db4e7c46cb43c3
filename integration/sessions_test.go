package integration

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/lab"
)

// TestSessionsWithFoundPeers: peers that the configuration names by interface, by default gateway and by range alone, and what a
// speaker that breaks the rules can do to an agent.
func TestSessionsWithFoundPeers(t *testing.T) {
	topology, err := lab.ReadTopology("testdata/sessions.clab.yml")
	must(t, err)
	lab.Require(t, topology)
	bin, err := built()
	must(t, err)
	r := &road{Cluster: cluster.Cluster{Lab: lab.UpForTest(t, lab.Options{Topology: topology, BinDir: bin})}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	must(t, r.Answers(ctx))
	resources, err := os.ReadFile("testdata/sessions/resources.yaml")
	must(t, err)
	must(t, r.ApplyText(ctx, string(resources)))

	t.Run("Unnumbered", r.unnumbered)
	t.Run("Gateways", r.gateways)
	t.Run("Callers", r.callers)
	t.Run("MaxPrefixes", r.limited)
	t.Run("BadMessages", r.badMessages)
	t.Run("Diagnosis", r.diagnosis)
	t.Run("LongLived", r.longLived)
}

// sessionOf is the session of n1 whose peer's address has a part.
func (r *road) sessionOf(ctx context.Context, origin, part string) (cluster.SessionStatus, error) {
	sessions, err := cluster.ListOn[cluster.SessionSpec, cluster.SessionStatus](ctx, r.Cluster, "n1", "bgpsession")
	if err != nil {
		return cluster.SessionStatus{}, err
	}
	for _, s := range sessions {
		if s.Spec.Origin == "BGPPeer/"+origin && strings.Contains(s.Spec.PeerAddress, part) {
			return s.Status, nil
		}
	}
	return cluster.SessionStatus{}, fmt.Errorf("%s has no session with %s", origin, part)
}

func (r *road) established(t *testing.T, origin, part string) {
	t.Helper()
	lab.Eventually(t, soon, "the session of "+origin, func() error {
		s, err := r.sessionOf(t.Context(), origin, part)
		if err == nil && s.State != "Established" {
			err = fmt.Errorf("%s: %s", s.State, s.Reason)
		}
		return err
	})
}

// shows waits until a command on a node writes all that is wanted.
func (r *road) shows(t *testing.T, node string, command []string, want ...string) {
	t.Helper()
	lab.Eventually(t, soon, strings.Join(command, " ")+" on "+node, func() error {
		text, err := r.Node(node).Exec(t.Context(), command...)
		for _, part := range want {
			if !strings.Contains(text, part) {
				return fmt.Errorf("%q is not in it: %w\n%s", part, err, text)
			}
		}
		return err
	})
}

// unnumbered: FRR has no more than `neighbor eth1 interface remote-as external`, and we have no more than the interface's
// name. IPv4 goes by IPv6 next hops (RFC 8950), both ways, into both kernels.
func (r *road) unnumbered(t *testing.T) {
	r.established(t, "unnumbered", "%eth1")
	r.shows(t, "n1", []string{"ip", "route", "show", "203.0.113.0/24"}, "via inet6 fe80::", "dev eth1", "proto 73")
	r.shows(t, "n1", []string{"ip", "-6", "route", "show", "2001:db8:113::/48"}, "via fe80::", "dev eth1", "proto 73")
	block4, block6 := r.block(t, true), r.block(t, false)
	r.shows(t, "tor1", []string{"ip", "route", "show", block4}, "via inet6 fe80::", "dev eth1", "proto bgp")
	r.shows(t, "tor1", []string{"ip", "-6", "route", "show", block6}, "via fe80::", "dev eth1", "proto bgp")
}

func (r *road) block(t *testing.T, is4 bool) (block string) {
	t.Helper()
	lab.Eventually(t, soon, "a block of n1's", func() error {
		blocks, err := r.Blocks(t.Context(), "n1")
		for _, prefix := range blocks {
			if prefix.Addr().Is4() == is4 {
				block = prefix.String()
				return err
			}
		}
		return fmt.Errorf("none among %v: %w", blocks, err)
	})
	return block
}

// gateways: both families' default gateways are peers, the IPv6 one by its link-local address. A gateway that is there no more
// is a peer no more, after a while.
func (r *road) gateways(t *testing.T) {
	r.established(t, "gateways", "192.0.2.1")
	r.established(t, "gateways", "fe80::2%eth2")
	r.shows(t, "n1", []string{"ip", "route", "show", "203.0.114.0/24"}, "via 192.0.2.1 dev eth2 proto 73")
	r.shows(t, "n1", []string{"ip", "-6", "route", "show", "2001:db8:114::/48"}, "via fe80::2 dev eth2 proto 73")
	block4, block6 := r.block(t, true), r.block(t, false)
	r.shows(t, "tor2", []string{"ip", "route", "show", block4}, "via 192.0.2.11 dev eth1 proto bird")
	r.shows(t, "tor2", []string{"ip", "-6", "route", "show", block6}, "via fe80::", "dev eth1 proto bird")
	// A lease that is renewed: the route goes and comes back, and the session does not notice.
	before, err := r.sessionOf(t.Context(), "gateways", "192.0.2.1")
	must(t, err)
	_, err = r.Node("n1").Exec(t.Context(), "sh", "-c", "ip route del default && sleep 2 && ip route add default via 192.0.2.1")
	must(t, err)
	after, err := r.sessionOf(t.Context(), "gateways", "192.0.2.1")
	must(t, err)
	if after.State != "Established" || after.Flaps != before.Flaps {
		t.Errorf("the session before and after its route was away for two seconds: %+v, %+v", before, after)
	}
}

// diagnosis: FRR, and what is no FRR, for each of the main reasons why a session does not come up.
func (r *road) diagnosis(t *testing.T) {
	peers := []struct{ name, spec, want string }{
		{"wrong-asn", "peerAddress: 192.0.3.3, sourceAddress: 192.0.3.13, peerASN: 65101", "the peer's AS number is 65103, and peerASN is 65101"},
		{"our-asn", "peerAddress: 192.0.3.4, sourceAddress: 192.0.3.14, peerASN: 65101", "refuses our AS number 65001"},
		{"password", "peerAddress: 192.0.3.5, sourceAddress: 192.0.3.15, peerASN: 65101, passwordFile: /run/password", "TCP-MD5"},
		{"no-gtsm", "peerAddress: 192.0.3.6, sourceAddress: 192.0.3.16, peerASN: 65101, ttlSecurityHops: 1", "GTSM: packets arrive with a TTL below 255"},
		{"unknown", "peerAddress: 192.0.3.1, sourceAddress: 192.0.3.2, peerASN: 65101", "it has no neighbour 192.0.3.2"},
		{"refused", "peerAddress: 198.51.100.2, sourceAddress: 198.51.100.1, peerASN: 65101, peerPort: 1790", "198.51.100.2:1790 refuses the connection"},
		{"nobody", "peerAddress: 192.0.3.99, sourceAddress: 192.0.3.2, peerASN: 65101", "192.0.3.99 does not answer on its link"},
		{"far", "peerAddress: 203.0.115.1, sourceAddress: 192.0.2.11, peerASN: 65101", "it needs multihopTTL"},
	}
	var yaml strings.Builder
	for _, p := range peers {
		fmt.Fprintf(&yaml, "---\napiVersion: clearway.io/v1\nkind: BGPPeer\nmetadata: {name: %s}\nspec: {%s, connectRetryTime: 1s}\n", p.name, p.spec)
	}
	must(t, r.ApplyText(t.Context(), yaml.String()))
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			lab.Eventually(t, soon, "the reason", func() error {
				s, err := r.sessionOf(t.Context(), p.name, "")
				if err == nil && !strings.Contains(s.Reason, p.want) {
					err = fmt.Errorf("%s: %q, want %q", s.State, s.Reason, p.want)
				}
				return err
			})
		})
	}
	text, err := r.NodeCtl(t.Context(), "n1", "bgp", "peers")
	must(t, err)
	if !strings.Contains(text, "peerASN is 65101") || strings.Contains(text, "another\n") {
		t.Errorf("bgp peers shows no reason:\n%s", text)
	}
	for _, p := range peers {
		_, err := r.Ctl(t.Context(), "delete", "bgppeer", p.name)
		must(t, err)
	}
}

// longLived: routes outlive the restart time, 2 s at both ends, with who is away: in our kernel while BIRD is, in BIRD's while
// the agent is. Who comes back finds nothing missing.
func (r *road) longLived(t *testing.T) {
	const beyond = "6" // seconds
	ours := []string{"ip", "route", "show", "203.0.114.0/24"}
	r.established(t, "gateways", "192.0.2.1")
	must(t, r.Node("tor2").Kill(t.Context(), "bird", syscall.SIGKILL))
	_, err := r.Node("n1").Exec(t.Context(), "sleep", beyond)
	must(t, err)
	r.shows(t, "n1", ours, "via 192.0.2.1 dev eth2 proto 73")
	must(t, r.Node("tor2").Restart("bird"))
	r.established(t, "gateways", "192.0.2.1")
	r.shows(t, "n1", ours, "via 192.0.2.1 dev eth2 proto 73")

	block := r.block(t, true)
	r.shows(t, "tor2", []string{"birdc", "show", "route", block, "all"}, "via 192.0.2.11")
	must(t, r.Node("n1").Kill(t.Context(), "clearway-agent", syscall.SIGKILL))
	r.shows(t, "tor2", []string{"birdc", "show", "route", block, "all"}, "(65535,6)", "via 192.0.2.11") // LLGR_STALE
	must(t, r.Node("n1").Restart("clearway-agent"))
	r.established(t, "gateways", "192.0.2.1")
	lab.Eventually(t, soon, "BIRD to have the block fresh", func() error {
		text, err := r.Node("tor2").Exec(t.Context(), "birdc", "show", "route", block, "all")
		if err == nil && (strings.Contains(text, "65535,6") || !strings.Contains(text, "via 192.0.2.11")) {
			err = fmt.Errorf("it has\n%s", text)
		}
		return err
	})
}
