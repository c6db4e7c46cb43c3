package agent

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
)

var descriptions = struct {
	up, flaps, paths, rejected, prefixes, kernel, settled, bfdUp, bfdFailures *prometheus.Desc
}{
	up:          describe("session_established", "Whether the session is Established.", "peer", "origin"),
	flaps:       describe("session_flaps_total", "How often the session left Established.", "peer", "origin"),
	paths:       describe("paths", "Paths a peer tells, by verdict.", "peer", "verdict"),
	rejected:    describe("rejected_paths_total", "Paths rejected on arrival, by rule.", "rule"),
	prefixes:    describe("learned_prefixes", "Prefixes that peers tell."),
	kernel:      describe("kernel_routes", "Routes of ours that the kernel has."),
	bfdUp:       describe("bfd_up", "Whether BFD with the peer is Up; 0 as well where that is not known.", "peer", "origin"),
	bfdFailures: describe("bfd_failures_total", "How often BFD with the peer left Up, but for an administrator's word.", "peer", "origin"),
	settled:     describe("settled", "Whether every source has spoken since the start, so that old routes were pruned."),
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("clearway_bgp_"+name, help, labels, nil)
}

// collector reads the figures when they are asked for.
type collector struct{ agent *Agent }

func (a *Agent) register() error {
	if err := a.options.Registerer.Register(collector{a}); err != nil {
		return fmt.Errorf("register BGP metrics: %w", err)
	}
	return nil
}

func (c collector) Describe(to chan<- *prometheus.Desc) {
	d := descriptions
	for _, desc := range []*prometheus.Desc{d.up, d.flaps, d.paths, d.rejected, d.prefixes, d.kernel, d.settled, d.bfdUp, d.bfdFailures} {
		to <- desc
	}
}

// figures are copied out of the loop: nothing there waits for the one who collects.
type figures struct {
	sessions []route.Session
	verdicts map[string][3]int
	rejected map[policy.Rule]int64
	prefixes int
	settled  bool
	bfd      map[string]watched
}

// watched are one BFD session's figures.
type watched struct {
	up       bool
	failures int64
}

func (c collector) Collect(to chan<- prometheus.Metric) {
	f := figures{bfd: map[string]watched{}, verdicts: map[string][3]int{}, rejected: map[policy.Rule]int64{}}
	core := c.agent.core
	err := c.agent.ask(context.Background(), func() {
		f.sessions = core.speaker.Sessions()
		for _, s := range f.sessions {
			count := core.table.Peer(s.Peer)
			if state := core.bfd.state(s.Peer); state != "" {
				f.bfd[s.Peer.String()] = watched{state == route.BFDUp, core.bfd.known[s.Peer].Failures}
			}
			f.verdicts[s.Peer.String()] = [3]int{count.Rejected, count.Pending, count.Accepted}
		}
		for rule, count := range core.rejected {
			f.rejected[rule] = count
		}
		f.prefixes, f.settled = core.table.Len(), core.restart.settled
	})
	if err != nil {
		return // the scrape has no BGP figures rather than wrong ones
	}
	f.send(to)
	gauge(to, descriptions.kernel, float64(c.agent.options.FIB.Count()))
}

func (f figures) send(to chan<- prometheus.Metric) {
	for _, s := range f.sessions {
		peer := s.Peer.String()
		gauge(to, descriptions.up, number(s.State == route.Established), peer, s.Origin)
		counter(to, descriptions.flaps, float64(s.Flaps), peer, s.Origin)
		if bfd, ok := f.bfd[peer]; ok {
			gauge(to, descriptions.bfdUp, number(bfd.up), peer, s.Origin)
			counter(to, descriptions.bfdFailures, float64(bfd.failures), peer, s.Origin)
		}
		for decision, count := range f.verdicts[peer] {
			gauge(to, descriptions.paths, float64(count), peer, policy.Decision(decision).String())
		}
	}
	for rule, count := range f.rejected {
		counter(to, descriptions.rejected, float64(count), rule.String())
	}
	gauge(to, descriptions.prefixes, float64(f.prefixes))
	gauge(to, descriptions.settled, number(f.settled))
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func gauge(to chan<- prometheus.Metric, desc *prometheus.Desc, value float64, labels ...string) {
	to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

func counter(to chan<- prometheus.Metric, desc *prometheus.Desc, value float64, labels ...string) {
	to <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value, labels...)
}
