package server

import (
	"context"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Limits of events: they are told, never waited for.
const (
	maxQueuedEvents    = 1024
	maxEventsPerSecond = 50
	maxEventText       = 1024
)

// Types of events.
const (
	eventNormal  = "Normal"
	eventWarning = "Warning"
)

// note tells operators of something.
func (s *Server) note(kind, reason, node, regarding, message string) {
	s.log.Info("event", "type", kind, "reason", reason, "node", node, "regarding", regarding, "message", message)
	s.keepEvent(&clearwayv1.EventSpec{
		Time: timestamppb.New(s.now()), Type: kind, Reason: reason, Message: message, Node: node, Regarding: regarding,
	})
}

func (s *Server) keepEvent(event *clearwayv1.EventSpec) {
	if s.tight.Load() {
		s.metrics.dropped.Inc()
		return
	}
	select {
	case s.events <- event:
	default:
		s.metrics.dropped.Inc()
	}
}

// writeEvents writes events to the store, off everyone's way and at a bounded rate, until ctx ends.
func (s *Server) writeEvents(ctx context.Context) error {
	limit := rate.NewLimiter(maxEventsPerSecond, maxEventsPerSecond)
	var count uint32
	for {
		select {
		case event := <-s.events:
			if limit.Wait(ctx) != nil {
				return nil //nolint:nilerr // the context has ended
			}
			count++
			s.writeEvent(ctx, event, count)
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Server) writeEvent(ctx context.Context, event *clearwayv1.EventSpec, count uint32) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := s.copies.do(ctx, false, func(p *plan) error {
		p.write(record.Op{Key: record.EventKey(event.GetTime().AsTime(), count), Value: mustMarshal(event), Expires: true})
		return nil
	})
	if err != nil {
		s.metrics.dropped.Inc()
	}
}

// takeReport keeps an agent's report, and its events.
func (s *Server) takeReport(session *session, request *clearwayv1.ReportStatusRequest) {
	session.mu.Lock()
	session.report, session.heard = request, s.now()
	session.mu.Unlock()
	for _, event := range request.GetEvents() {
		if event.GetTime() == nil || !event.GetTime().IsValid() || event.GetTime().AsTime().Before(time.Unix(0, 0)) {
			event.Time = timestamppb.New(s.now())
		}
		event.Node = request.GetNode()
		if len(event.GetMessage()) > maxEventText {
			event.Message = event.GetMessage()[:maxEventText]
		}
		s.keepEvent(event)
	}
}
