package agent

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// events keeps the newest few until they are reported.
type events struct {
	node string
	list []*clearwayv1.EventSpec
	last map[string]time.Time // when a thing was told last
}

func newEvents(node string) events { return events{node: node, last: map[string]time.Time{}} }

func (e *events) add(now time.Time, kind, reason, regarding, message string) {
	if len(e.list) == limits.events {
		e.list = append(e.list[:0], e.list[1:]...)
	}
	e.list = append(e.list, &clearwayv1.EventSpec{
		Time: timestamppb.New(now), Type: kind, Reason: reason, Message: message, Node: e.node, Regarding: regarding,
	})
}

// due tells whether a thing may be told (again), and notes that it is.
func (e *events) due(key string, now time.Time) bool {
	if last, ok := e.last[key]; ok && now.Sub(last) < limits.eventEvery {
		return false
	}
	const maxKeys = 4096
	if len(e.last) >= maxKeys {
		clear(e.last)
	}
	e.last[key] = now
	return true
}

func (e *events) drain() []*clearwayv1.EventSpec {
	list := e.list
	e.list = nil
	return list
}
