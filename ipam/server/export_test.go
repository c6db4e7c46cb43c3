package server

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func init() {
	checkPause = 5 * time.Millisecond
	historyTime = 5 * time.Millisecond
	idleTime, firstPause, checkPause = 5*time.Millisecond, time.Millisecond, time.Millisecond
}

// HasRule tells whether a method says whose certificate it takes.
func HasRule(method string) bool { return demands[method] != 0 }

// OrphanLooks is how often all orphaned blocks were looked at.
func (s *Server) OrphanLooks() float64 { return testutil.ToFloat64(s.metrics.orphanLooks) }

// CallBackNow looks for claims that wait, as each second.
func (s *Server) CallBackNow(ctx context.Context) error { return s.callBackOnce(ctx) }
