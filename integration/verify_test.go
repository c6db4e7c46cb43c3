package integration

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/clearway/clearway/integration/lab"
)

// differs is the exit code of a check that found something.
const differs = 4

// found runs clearwayctl, which is to find something, until it tells all of these parts.
func (r *road) found(t *testing.T, argv []string, parts ...string) {
	t.Helper()
	lab.Eventually(t, soon, strings.Join(argv, " ")+" to find it", func() error {
		_, err := r.Ctl(t.Context(), argv...)
		failed := (*lab.ExitError)(nil)
		if !errors.As(err, &failed) || failed.Code() != differs {
			return fmt.Errorf("it ends with %w", err)
		}
		for _, part := range parts {
			if !strings.Contains(failed.Stdout, part) {
				return fmt.Errorf("%q is not in %s", part, failed.Stdout)
			}
		}
		return nil
	})
}

// verified breaks a road in two ways beyond our nodes, and has verify and trace tell where.
func (r *road) verified(t *testing.T) {
	far := r.pod(t, "r2n2", "far")
	blocks, err := r.Blocks(t.Context(), "r2n2")
	must(t, err)
	block := ""
	for _, one := range blocks {
		if one.Contains(far.IPv4) {
			block = one.String()
		}
	}
	whole := func() {
		t.Helper()
		lab.Eventually(t, soon, "nothing to be found", func() error {
			_, err := r.Ctl(t.Context(), "bgp", "verify", "--probe")
			return err
		})
		told, err := r.Ctl(t.Context(), "bgp", "trace", far.IPv4.String())
		must(t, err)
		if want := "3 of 3 other nodes have it in their kernels"; !strings.Contains(told, want) || strings.Contains(told, "note:") {
			t.Errorf("%q is not in, or a note is in %s", want, told)
		}
	}
	whole()

	// All books are right, and packets are lost on their way: only a probe can tell.
	tor := r.Node("tor2")
	_, err = tor.Exec(t.Context(), "ip", "route", "add", "blackhole", block, "metric", "1")
	must(t, err)
	_, err = r.Ctl(t.Context(), "bgp", "verify")
	must(t, err)
	r.found(t, []string{"bgp", "verify", "--probe"}, "NoAnswer", "r1n1", block)
	_, err = tor.Exec(t.Context(), "ip", "route", "del", "blackhole", block, "metric", "1")
	must(t, err)
	whole()

	// The ToR takes the block from its owner and tells nobody.
	configure := func(lines ...string) {
		t.Helper()
		argv := []string{"vtysh", "-c", "configure terminal"}
		for _, line := range lines {
			argv = append(argv, "-c", line)
		}
		_, err := tor.Exec(t.Context(), append(argv, "-c", "end", "-c", "clear bgp 172.16.22.1 soft in")...)
		must(t, err)
	}
	configure("ip prefix-list not seq 5 permit "+block, "route-map without deny 10", "match ip address prefix-list not",
		"route-map without permit 20", "router bgp 65102", "address-family ipv4 unicast", "neighbor 172.16.22.1 route-map without in")
	r.found(t, []string{"bgp", "verify"}, "NotHeard", "r1n1", "r2n2's block, and no peer tells of it")
	r.found(t, []string{"bgp", "trace", far.IPv4.String()}, "does not hear of "+block, "r2n2 tells 172.16.22.0 (BGPPeer/r2n2-ipv4)", "look at what is between them")
	configure("router bgp 65102", "address-family ipv4 unicast", "no neighbor 172.16.22.1 route-map without in", "exit", "exit",
		"no route-map without", "no ip prefix-list not")
	whole()
}
