package server

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/status"
)

// The first refusals are logged at once, then one in this time: who tries on and on must not fill the log.
const (
	refusalsFirst = 20
	refusalEvery  = time.Second
)

// refusals count and log the calls that were refused for who made them or for how many there were.
type refusals struct {
	log     *slog.Logger
	counted *prometheus.CounterVec
	pace    *rate.Limiter
	silent  atomic.Int64 // since the last line
}

func newRefusals(log *slog.Logger) *refusals {
	return &refusals{
		log: log, pace: rate.NewLimiter(rate.Every(refusalEvery), refusalsFirst),
		counted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "clearway_ipamd_refusals_total",
			Help: "Calls refused for who made them, by method and reason: role, node (another node's call), token, rate.",
		}, []string{"method", "reason"}),
	}
}

// note takes a refusal. The method is one that is served: gRPC answers others itself.
func (r *refusals) note(method, reason string, from caller, node string, err error) {
	r.counted.WithLabelValues(method, reason).Inc()
	if !r.pace.Allow() {
		r.silent.Add(1)
		return
	}
	attributes := []any{"method", method, "reason", reason, "host", from.host, "error", status.Convert(err).Message()}
	if node != "" {
		attributes = append(attributes, "node", node)
	}
	if silent := r.silent.Swap(0); silent > 0 {
		attributes = append(attributes, "more_before", silent)
	}
	r.log.Warn("a call is refused", attributes...)
}
