package server

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// metrics are ipamd's own; they count whether or not they are registered anywhere.
type metrics struct {
	wishes   *prometheus.CounterVec
	commits  *prometheus.HistogramVec
	calls    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	streams  *prometheus.GaugeVec
	dropped  prometheus.Counter
	panics   prometheus.Counter
	// orphanLooks counts the looks at all orphaned blocks.
	orphanLooks prometheus.Counter
}

func newMetrics() *metrics {
	seconds := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	return &metrics{
		wishes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "clearway_ipamd_writes_total", Help: "Decisions written to the store, by lane.",
		}, []string{"lane"}),
		commits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "clearway_ipamd_transaction_seconds", Help: "Time of one transaction of the store.", Buckets: seconds,
		}, []string{"lane", "result"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "clearway_ipamd_calls_total", Help: "Calls answered, by method and status code.",
		}, []string{"method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "clearway_ipamd_call_seconds", Help: "Time of one unary call.", Buckets: seconds,
		}, []string{"method"}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "clearway_ipamd_streams", Help: "Streams open now, by method.",
		}, []string{"method"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "clearway_ipamd_events_dropped_total", Help: "Events that were too many to be kept.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "clearway_ipamd_panics_total", Help: "Calls that ended in a panic.",
		}),
		orphanLooks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "clearway_ipamd_orphan_looks_total", Help: "Looks at what the nodes hear of orphaned blocks.",
		}),
	}
}

func (m *metrics) register(to prometheus.Registerer, s *Server) error {
	for _, one := range []prometheus.Collector{
		m.wishes, m.commits, m.calls, m.duration, m.streams, s.refusals.counted, m.dropped, m.panics, m.orphanLooks, &gauges{s: s},
	} {
		if err := to.Register(one); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

func (m *metrics) committed(lane string, wishes int, took time.Duration, err error) {
	result := "written"
	if err != nil {
		result = "failed"
	} else {
		m.wishes.WithLabelValues(lane).Add(float64(wishes))
	}
	m.commits.WithLabelValues(lane, result).Observe(took.Seconds())
}

func (m *metrics) unary(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
) (any, error) {
	start := time.Now()
	answer, err := handle(ctx, request)
	m.duration.WithLabelValues(info.FullMethod).Observe(time.Since(start).Seconds())
	m.calls.WithLabelValues(info.FullMethod, status.Code(err).String()).Inc()
	return answer, err
}

func (m *metrics) stream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	open := m.streams.WithLabelValues(info.FullMethod)
	open.Inc()
	defer open.Dec()
	err := handle(service, stream)
	m.calls.WithLabelValues(info.FullMethod, status.Code(err).String()).Inc()
	return err
}

// gauges reads the state when it is asked.
type gauges struct{ s *Server }

var (
	leaderGauge   = prometheus.NewDesc("clearway_ipamd_leader", "1 when this ipamd is in office.", nil, nil)
	blocksGauge   = prometheus.NewDesc("clearway_ipamd_blocks", "Blocks, by pool and state.", []string{"pool", "state"}, nil)
	freeGauge     = prometheus.NewDesc("clearway_ipamd_pool_free_blocks", "Blocks of blockSize that still fit.", []string{"pool"}, nil)
	assignedGauge = prometheus.NewDesc("clearway_ipamd_assigned_addresses", "Addresses assigned, by the nodes' mirrors.", nil, nil)
	recoverGauge  = prometheus.NewDesc("clearway_ipamd_recovering", "1 while claims wait for the nodes' reports after a restore.", nil, nil)
	awaitedGauge  = prometheus.NewDesc("clearway_ipamd_awaited_nodes", "Nodes whose report a recovering store awaits.", nil, nil)
	historyGauge  = prometheus.NewDesc("clearway_ipamd_history_bytes", "What the history of assignments takes of the store.", nil, nil)
	sinceGauge    = prometheus.NewDesc("clearway_ipamd_history_since_seconds", "Unix time that the history reaches back to; 0: none is kept.", nil, nil)
	nodesGauge    = prometheus.NewDesc("clearway_ipamd_nodes", "Registered nodes, by phase.", []string{"phase"}, nil)
)

// Describe implements prometheus.Collector.
func (*gauges) Describe(to chan<- *prometheus.Desc) {
	for _, one := range []*prometheus.Desc{leaderGauge, blocksGauge, freeGauge, assignedGauge, historyGauge, sinceGauge, nodesGauge, recoverGauge, awaitedGauge} {
		to <- one
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(to chan<- prometheus.Metric) {
	leading := 0.0
	if g.s.Leading() {
		leading = 1
	}
	emit := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	emit(leaderGauge, leading)
	_ = g.s.view(func(s *state) { // without a state there is nothing to tell
		type key struct{ pool, state string }
		blocks := map[key]int{}
		for _, block := range s.blocks {
			blocks[key{block.GetPool(), stateName(block.GetState())}]++
		}
		for k, n := range blocks {
			emit(blocksGauge, float64(n), k.pool, k.state)
		}
		for name, one := range s.pools {
			if one.space != nil {
				emit(freeGauge, float64(one.space.FreeBlocks(one.BlockBits)), name)
			}
		}
		assigned := 0
		for _, of := range s.assignments {
			assigned += len(of)
		}
		emit(assignedGauge, float64(assigned))
		recovering := 0.0
		if s.recovering() {
			recovering = 1
		}
		emit(recoverGauge, recovering)
		emit(awaitedGauge, float64(len(s.awaited())))
		emit(historyGauge, float64(s.past.total()))
		since := 0.0
		if s.past.kept() {
			since = float64(s.past.since.Unix())
		}
		emit(sinceGauge, since)
		phases := map[string]int{phaseReady: 0, phaseNotReady: 0, phaseLost: 0}
		for name := range s.nodes {
			phase := phaseLost
			if session := g.s.sessions.of(name); session != nil {
				phase, _, _ = session.status()
			}
			phases[phase]++
		}
		for phase, n := range phases {
			emit(nodesGauge, float64(n), phase)
		}
	})
}

// stateName writes BLOCK_STATE_OWNED as Owned.
func stateName(state clearwayv1.BlockState) string {
	return map[clearwayv1.BlockState]string{
		clearwayv1.BlockState_BLOCK_STATE_OWNED:       "Owned",
		clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING: "Withdrawing",
		clearwayv1.BlockState_BLOCK_STATE_COOLING:     "Cooling",
		clearwayv1.BlockState_BLOCK_STATE_ORPHANED:    "Orphaned",
	}[state]
}
