package fib

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/clearway/clearway/bgp/route"
)

// metrics are the clearway_fib_* family.
type metrics struct {
	writes   *prometheus.CounterVec // by kind of request
	refused  *prometheus.CounterVec // by errno's name
	resyncs  *prometheus.CounterVec // by reason
	overruns prometheus.Counter
	batches  prometheus.Histogram
	dumps    prometheus.Histogram
	all      []prometheus.Collector
}

var installStates = []route.InstallState{route.Pending, route.Installed, route.Unresolved, route.Conflict, route.Failed}

func newMetrics(w *Writer) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "clearway", Subsystem: "fib", Name: name, Help: help}
	}
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), []string{label})
	}
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "clearway", Subsystem: "fib", Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(50e-6, 4, 9),
		})
	}
	m := &metrics{
		writes:   counter("writes_total", "Requests that the kernel carried out, by kind.", "kind"),
		refused:  counter("write_errors_total", "Requests that the kernel refused, by errno.", "errno"),
		resyncs:  counter("resyncs_total", "Comparisons of the whole kernel table with what is desired, by reason.", "reason"),
		overruns: prometheus.NewCounter(prometheus.CounterOpts(opts("monitor_overruns_total", "Times the kernel dropped notifications."))),
		batches:  histogram("write_batch_seconds", "Time from handing a batch of requests to the kernel until all were answered."),
		dumps:    histogram("dump_seconds", "Time of a dump of links, addresses and routes."),
	}
	kernel := prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts("kernel_routes", "Routes of ours that the kernel has.")),
		func() float64 { return float64(w.Count()) })
	m.all = []prometheus.Collector{m.writes, m.refused, m.resyncs, m.overruns, m.batches, m.dumps, kernel}
	for _, state := range installStates {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "clearway", Subsystem: "fib", Name: "routes", Help: "Desired routes, by what became of them.",
			ConstLabels: prometheus.Labels{"state": state.String()},
		}, func() float64 { return float64(w.stateCount(state)) }))
	}
	return m
}

// register adds all to r, or none.
func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for i, c := range m.all {
		if err := r.Register(c); err != nil {
			for _, done := range m.all[:i] {
				r.Unregister(done)
			}
			return err
		}
	}
	return nil
}

func (m *metrics) unregister(r prometheus.Registerer) {
	if r == nil {
		return
	}
	for _, c := range m.all {
		r.Unregister(c)
	}
}

func since(h prometheus.Histogram, start time.Time) { h.Observe(time.Since(start).Seconds()) }
