package node

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the node tells of itself, all named clearway_ipam_*.
type metrics struct {
	adds, dels, claims *prometheus.CounterVec
	looks, leaks       *prometheus.CounterVec
	suspects, unseen   prometheus.Gauge
	blind              prometheus.Gauge
	addSeconds         prometheus.Histogram
	writeSeconds       prometheus.Histogram
	records            prometheus.Counter
	addresses          *addressMetrics
}

func newMetrics(n *Node) *metrics {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "clearway_ipam_" + name, Help: help}, []string{label})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "clearway_ipam_" + name, Help: help})
	}
	return &metrics{
		looks:    counter("looks_total", "Looks at all network namespaces for what nobody holds any more: whole, or blind.", "result"),
		leaks:    counter("leaks_freed_total", "Attachments released without a DEL: gone, or superseded by the same Pod's next sandbox.", "reason"),
		suspects: gauge("leak_suspects", "Attachments that the last look saw to have gone and that are not released yet."),
		unseen:   gauge("unseen_attachments", "Attachments of which the last whole look could not tell whether they live."),
		blind:    gauge("looks_blind", "Whether the last look could not see all network namespaces, so that nothing is collected."),
		adds:     counter("adds_total", "ADDs answered, by result.", "result"),
		dels:     counter("dels_total", "DELs answered, by result.", "result"),
		claims:   counter("claims_total", "Claims of a block, by result.", "result"),
		addSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "clearway_ipam_add_seconds", Help: "How long an ADD took in the agent.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18), // 100 µs to 13 s
		}),
		writeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "clearway_ipam_journal_write_seconds", Help: "How long one write of the journal took, fdatasync included.",
			Buckets: prometheus.ExponentialBuckets(0.00005, 2, 18),
		}),
		records: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "clearway_ipam_journal_records_total", Help: "Records made durable.",
		}),
		addresses: &addressMetrics{n},
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.adds, m.dels, m.claims, m.looks, m.leaks, m.suspects, m.unseen, m.blind, m.addSeconds, m.writeSeconds, m.records, m.addresses}
}

func (m *metrics) register(with prometheus.Registerer) error {
	for _, one := range m.all() {
		if err := with.Register(one); err != nil {
			m.unregister(with)
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

func (m *metrics) unregister(with prometheus.Registerer) {
	for _, one := range m.all() {
		with.Unregister(one)
	}
}

func (m *metrics) observeWrite(records int, took time.Duration) {
	m.records.Add(float64(records))
	m.writeSeconds.Observe(took.Seconds())
}

// result is a call's outcome as a label: ok, or the CNI code.
func result(err error) string {
	if err == nil {
		return "ok"
	}
	if failed := new(cniError); errors.As(err, &failed) {
		return fmt.Sprint(failed.code)
	}
	return fmt.Sprint(cniTryLater)
}

// addressMetrics counts addresses by pool and state when it is asked.
type addressMetrics struct{ *Node }

var (
	addressesDesc = prometheus.NewDesc("clearway_ipam_addresses", "Addresses in the node's blocks, by pool and state.",
		[]string{"pool", "state"}, nil)
	blocksDesc = prometheus.NewDesc("clearway_ipam_blocks", "Blocks of the node, by pool.", []string{"pool"}, nil)
	cutDesc    = prometheus.NewDesc("clearway_ipam_rests_cut_short_total",
		"Addresses given while they rested, since the node had no other, by pool.", []string{"pool"}, nil)
	bytesDesc  = prometheus.NewDesc("clearway_ipam_journal_bytes", "Size of the journal's file.", nil, nil)
	onlineDesc = prometheus.NewDesc("clearway_ipam_online", "Whether ipamd answers.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m *addressMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- addressesDesc
	to <- blocksDesc
	to <- cutDesc
	to <- onlineDesc
	to <- bytesDesc
}

// Collect implements prometheus.Collector.
func (m *addressMetrics) Collect(to chan<- prometheus.Metric) {
	uses, online := m.book.uses()
	for name, u := range uses {
		to <- prometheus.MustNewConstMetric(blocksDesc, prometheus.GaugeValue, float64(u.blocks), name)
		for state, count := range map[string]int{"assigned": u.Assigned, "ready": u.Ready, "cooling": u.Cooling, "excluded": u.Excluded} {
			to <- prometheus.MustNewConstMetric(addressesDesc, prometheus.GaugeValue, float64(count), name, state)
		}
	}
	for name, count := range m.book.cutShort() {
		to <- prometheus.MustNewConstMetric(cutDesc, prometheus.CounterValue, float64(count), name)
	}
	to <- prometheus.MustNewConstMetric(bytesDesc, prometheus.GaugeValue, float64(m.journal.Bytes()))
	value := 0.0
	if online {
		value = 1
	}
	to <- prometheus.MustNewConstMetric(onlineDesc, prometheus.GaugeValue, value)
}

func (b *book) uses() (map[string]use, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	uses := map[string]use{}
	for _, name := range b.used() {
		uses[name] = b.useLocked(name, b.now())
	}
	return uses, b.offlineSince.IsZero()
}

// cutShort is how many addresses were given while they rested, by pool in use.
func (b *book) cutShort() map[string]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	counts := map[string]uint64{}
	for name, p := range b.pools {
		counts[name] = p.cutShort
	}
	return counts
}
