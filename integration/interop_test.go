package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/lab"
)

// sessionKind is a kind of session between the node and a peer. Each has addresses of its own, so that every peer's
// configuration has all of them from the beginning, and the node one at a time.
type sessionKind struct {
	Name   string
	Number int
	// IBGP: the node shows itself with the peer's AS number.
	IBGP bool
	MD5  bool
	// GTSM: TTL 255 both ways (RFC 5082).
	GTSM bool
	// Multihop: between loopback addresses, behind a static route.
	Multihop bool
	// IPv6: the session's own addresses are; IPv4 is not told in it.
	IPv6 bool
	// NodePassive and PeerPassive: that end waits.
	NodePassive, PeerPassive bool
	// Restart: the agent is killed, and the peer keeps its routes until it is back (RFC 4724).
	Restart bool
}

var sessionKinds = []sessionKind{
	{Name: "ebgp", Number: 1}, {Name: "ibgp", Number: 2, IBGP: true}, {Name: "md5", Number: 3, MD5: true},
	{Name: "gtsm", Number: 4, GTSM: true}, {Name: "multihop", Number: 5, Multihop: true}, {Name: "ipv6", Number: 6, IPv6: true},
	{Name: "node-waits", Number: 7, NodePassive: true}, {Name: "peer-waits", Number: 8, PeerPassive: true},
	{Name: "graceful-restart", Number: 9, Restart: true},
}

// speaker is an implementation of BGP that the node is peered with.
type speaker struct {
	Name   string
	Number int
	image  string
	// config is where its configuration goes; command starts it where the image does not.
	config, command string
	// BothFamilies: IPv6 routes go in sessions between IPv4 addresses too.
	BothFamilies bool
	// keeps: it keeps the routes of a node that restarts.
	keeps bool
	// ready is run until it succeeds, before the sessions.
	ready []string
	// again makes it try a node again at once, where it would wait for longer than a test.
	again []string
	// table shows what it has learned.
	table []string
}

var speakers = []speaker{
	{
		Name: "frr", Number: 1, image: "quay.io/frrouting/frr:10.4.1", config: "/etc/frr/frr.conf", BothFamilies: true, keeps: true,
		table: []string{"vtysh", "-c", "show bgp ipv4 unicast", "-c", "show bgp ipv6 unicast"},
	},
	{
		Name: "bird", Number: 2, image: "bird", config: "/etc/bird.conf", BothFamilies: true, keeps: true,
		table: []string{"birdc", "show", "route"},
	},
	{
		Name: "openbgpd", Number: 3, image: "openbgpd", config: "/etc/openbgpd.conf", keeps: true, // its IPv6 next hop in an IPv4 session is ::1
		command: `sh -c 'mkdir -p /run/openbgpd && chmod 600 /etc/openbgpd.conf && exec bgpd -d -f /etc/openbgpd.conf'`,
		again:   []string{"sh", "-c", "bgpctl neighbor NODE down && bgpctl neighbor NODE up"},
		table:   []string{"bgpctl", "show", "rib", "in"},
	},
	{
		Name: "exabgp", Number: 4, image: "exabgp", config: "/etc/exabgp.conf", BothFamilies: true,
		command: "env exabgp.daemon.user=root exabgp.api.cli=false exabgp.log.level=NOTICE exabgp /etc/exabgp.conf",
		table:   []string{"cat", "/run/exabgp.json"},
	},
	{
		Name: "gobgpd", Number: 5, image: "gobgpd", config: "/etc/gobgpd.toml", keeps: true, // an IPv6 route in an IPv4 session has a mapped next hop
		command: "gobgpd -f /etc/gobgpd.toml",
		ready:   []string{"sh", "-c", "gobgp global rib add 198.18.5.0/24 && gobgp global rib add -a ipv6 2001:db8:5::/64"},
		table:   []string{"sh", "-c", "gobgp global rib -a ipv4; gobgp global rib -a ipv6"},
	},
}

// interopAS is the AS number of the first speaker, of four octets (RFC 6793); the others' follow.
const interopAS = 4200000000

// cell is one kind of session with one peer.
type cell struct {
	sessionKind
	Peer speaker
}

func (c cell) AS() int { return interopAS + c.Peer.Number }

// NodeAS is what the node shows itself with.
func (c cell) NodeAS() int {
	if c.IBGP {
		return c.AS()
	}
	return 65001
}

// Node and Router are the session's ends.
func (c cell) Node() string   { return c.end(1) }
func (c cell) Router() string { return c.end(2) }

func (c cell) end(n int) string {
	if c.IPv6 {
		return fmt.Sprintf("fd0%d:%d::%d", c.Peer.Number, c.Number, n)
	}
	return fmt.Sprintf("10.20%d.%d.%d", c.Peer.Number, c.Number, n)
}

// Six is the peer's address for next hops of IPv6 on its link.
func (c cell) Six() string { return fmt.Sprintf("fd0%d:%d::2", c.Peer.Number, c.Number) }

func (c cell) IPv4Told() bool { return !c.IPv6 }
func (c cell) IPv6Told() bool { return c.IPv6 || c.Peer.BothFamilies && !c.Multihop }

// name is what the resource and the session are called.
func (c cell) name() string { return c.Peer.Name + "-" + c.sessionKind.Name }

// Ident is a name for a configuration.
func (c cell) Ident() string { return strings.ReplaceAll(c.sessionKind.Name, "-", "_") }

// resource is the BGPPeer.
func (c cell) resource() string {
	spec := fmt.Sprintf("peerAddress: %q, peerASN: %d, sourceAddress: %q, importScope: All, holdTime: 9s, keepaliveTime: 3s, connectRetryTime: 1s",
		c.Router(), c.AS(), c.Node())
	if c.IBGP {
		spec += fmt.Sprintf(", localASNumber: %d", c.AS())
	}
	if c.MD5 {
		spec += ", passwordFile: /run/password"
	}
	if c.GTSM {
		spec += ", ttlSecurityHops: 1"
	}
	if c.Multihop {
		spec += ", multihopTTL: 4"
	}
	if c.NodePassive {
		spec += ", passive: true"
	}
	var families []string
	if c.IPv4Told() {
		families = append(families, "IPv4")
	}
	if c.IPv6Told() {
		families = append(families, "IPv6")
	}
	spec += ", families: [" + strings.Join(families, ", ") + "]"
	return fmt.Sprintf("{apiVersion: clearway.io/v1, kind: BGPPeer, metadata: {name: %s}, spec: {%s}}", c.name(), spec)
}

// wanted are the prefixes that the peer tells.
func (c cell) wanted() (prefixes []netip.Prefix) {
	if c.IPv4Told() {
		prefixes = append(prefixes, netip.MustParsePrefix(fmt.Sprintf("198.18.%d.0/24", c.Peer.Number)))
	}
	if c.IPv6Told() {
		prefixes = append(prefixes, netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::/64", c.Peer.Number)))
	}
	return prefixes
}

// cells are all kinds with one peer.
func cells(peer speaker) (all []cell) {
	for _, kind := range sessionKinds {
		all = append(all, cell{kind, peer})
	}
	return all
}

// TestInterop: every kind of session with every peer, seen at both ends: what the peer tells is in the node's kernel by the
// session's next hop, and the node's block in the peer's table by the node's address.
func TestInterop(t *testing.T) {
	topology, err := interopTopology(t.TempDir())
	must(t, err)
	lab.Require(t, topology)
	bin, err := built()
	must(t, err)
	r := &road{Cluster: cluster.Cluster{Lab: lab.UpForTest(t, lab.Options{Topology: topology, BinDir: bin})}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	must(t, r.Answers(ctx))
	must(t, r.ApplyText(ctx, "{apiVersion: clearway.io/v1, kind: IPPool, metadata: {name: pods}, spec: {cidr: 10.244.0.0/16}}\n---\n"+
		`{apiVersion: clearway.io/v1, kind: IPPool, metadata: {name: pods6}, spec: {cidr: "fd00:10:244::/48"}}`+"\n---\n"+
		"{apiVersion: clearway.io/v1, kind: BGPConfiguration, metadata: {name: default}, spec: {asNumber: 65001, nodeMesh: None}}"))
	for _, peer := range speakers {
		if len(peer.ready) > 0 {
			lab.Eventually(t, soon, peer.Name+" to be ready", func() error {
				_, err := r.Node(peer.Name).Exec(t.Context(), peer.ready...)
				return err
			})
		}
	}
	var blocks []netip.Prefix
	lab.Eventually(t, soon, "the node's blocks", func() error {
		if blocks, err = r.Blocks(t.Context(), "n1"); err == nil && len(blocks) < 2 {
			err = fmt.Errorf("it has %v", blocks)
		}
		return err
	})
	for _, kind := range sessionKinds {
		t.Run(kind.Name, func(t *testing.T) { r.interop(t, kind, blocks) })
	}
}

// interop takes one kind up with all peers at once, and down again.
func (r *road) interop(t *testing.T, kind sessionKind, blocks []netip.Prefix) {
	var texts []string
	for _, peer := range speakers {
		texts = append(texts, cell{kind, peer}.resource())
	}
	must(t, r.ApplyText(t.Context(), strings.Join(texts, "\n---\n")))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		for _, peer := range speakers {
			if _, err := r.Ctl(ctx, "delete", "bgppeer", cell{kind, peer}.name()); err != nil {
				t.Error(err)
			}
		}
	})
	for _, peer := range speakers {
		t.Run(peer.Name, func(t *testing.T) {
			c := cell{kind, peer}
			r.heard(t, c)
			r.tells(t, c, blocks)
		})
	}
	if kind.Restart && !t.Failed() {
		r.keptOver(t, kind, blocks)
	}
}

// heard waits until what the peer tells is in the node's kernel, by the way of this session.
func (r *road) heard(t *testing.T, c cell) {
	t.Helper()
	var called time.Time
	lab.Eventually(t, soon, c.name()+": its routes in the node's kernel", func() error {
		session, err := r.sessionOf(t.Context(), c.name(), c.Router())
		if err != nil {
			return err
		}
		if session.State != "Established" {
			down := fmt.Errorf("session %s: %s", session.State, session.Reason)
			if time.Since(called) < 5*time.Second { // it takes its time
				return down
			}
			called = time.Now()
			return errors.Join(down, r.again(t.Context(), c))
		}
		routes, err := cluster.Routes(t.Context(), r.Node("n1"), cluster.Protocol)
		if err != nil {
			return err
		}
		for _, prefix := range c.wanted() {
			route, ok := routes[prefix]
			if !ok {
				return fmt.Errorf("no route to %s", prefix)
			}
			hops := []string{route.Gateway}
			for _, hop := range route.Nexthops {
				hops = append(hops, hop.Gateway)
			}
			if want := c.hop(prefix); !slices.Contains(hops, want) {
				return fmt.Errorf("%s goes by %q, not by %s", prefix, hops, want)
			}
		}
		return nil
	})
}

// again has a peer call the node again, where that waits: it called for the first time long before.
func (r *road) again(ctx context.Context, c cell) error {
	if !c.NodePassive || len(c.Peer.again) == 0 {
		return nil
	}
	var argv []string
	for _, word := range c.Peer.again {
		argv = append(argv, strings.ReplaceAll(word, "NODE", c.Node()))
	}
	_, err := r.Node(c.Peer.Name).Exec(ctx, argv...)
	return err
}

// hop is by which address the node's kernel sends what goes to a peer's prefix.
func (c cell) hop(to netip.Prefix) string {
	switch {
	case to.Addr().Is6():
		return c.Six()
	case c.Multihop:
		return fmt.Sprintf("10.20%d.1.2", c.Peer.Number)
	}
	return c.Router()
}

// tells waits until the peer has the node's blocks.
func (r *road) tells(t *testing.T, c cell, blocks []netip.Prefix) {
	t.Helper()
	lab.Eventually(t, soon, c.name()+": the node's blocks at the peer", func() error { return r.has(t.Context(), c, blocks) })
}

// has is nil when the peer's table has the node's blocks.
func (r *road) has(ctx context.Context, c cell, blocks []netip.Prefix) error {
	text, err := r.Node(c.Peer.Name).Exec(ctx, c.Peer.table...)
	if err != nil {
		return err
	}
	for _, block := range blocks {
		told := block.Addr().Is4() && c.IPv4Told() || block.Addr().Is6() && c.IPv6Told()
		if told && !strings.Contains(text, block.String()) {
			return fmt.Errorf("%s is not in\n%s", block, text)
		}
	}
	if c.IPv4Told() && !strings.Contains(text, c.Node()) {
		return fmt.Errorf("nothing by %s is in\n%s", c.Node(), text)
	}
	return nil
}

// keptOver kills the agent: peers that can keep its blocks for the time that it takes to come back.
func (r *road) keptOver(t *testing.T, kind sessionKind, blocks []netip.Prefix) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	must(t, r.Crash(ctx, "n1"))
	lab.Always(t, 2*time.Second, "peers to keep what the node told while it restarts", func() error {
		for _, peer := range speakers {
			if !peer.keeps {
				continue
			}
			if err := r.has(ctx, cell{kind, peer}, blocks); err != nil {
				return fmt.Errorf("%s: %w", peer.Name, err)
			}
		}
		return nil
	})
	must(t, r.Node("n1").Restart(cluster.Agent))
	for _, peer := range speakers {
		r.heard(t, cell{kind, peer})
		r.tells(t, cell{kind, peer}, blocks)
	}
}

// interopTopology writes every peer's configuration into a folder, and the topology that goes with them.
func interopTopology(dir string) (*lab.Topology, error) {
	templates, err := template.ParseGlob("testdata/interop/*.tmpl")
	if err != nil {
		return nil, err
	}
	here, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for _, peer := range speakers {
		var text bytes.Buffer
		if err := templates.ExecuteTemplate(&text, peer.Name+".tmpl", cells(peer)); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, peer.Name), text.Bytes(), 0o600); err != nil {
			return nil, err
		}
	}
	var text bytes.Buffer
	if err := templates.ExecuteTemplate(&text, "topology.tmpl", map[string]any{
		"Speakers": interopNodes(), "Daemons": filepath.Join(here, "testdata/sessions/daemons"), "Told": filepath.Join(here, "testdata/interop/told.sh"),
	}); err != nil {
		return nil, err
	}
	return lab.ParseTopology(text.Bytes(), dir)
}

// interopNode is a peer as the topology's template has it.
type interopNode struct {
	Name, Image, Config, Command string
	Number                       int
	Cells                        []cell
}

func interopNodes() (nodes []interopNode) {
	for _, peer := range speakers {
		nodes = append(nodes, interopNode{peer.Name, peer.image, peer.config, peer.command, peer.Number, cells(peer)})
	}
	return nodes
}
