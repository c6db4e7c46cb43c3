package agent

import (
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// liveness is what the agent knows of its BFD sessions.
type liveness struct {
	edge   Liveness // nil: there is none
	wanted map[netip.Addr]bool
	known  map[netip.Addr]route.Liveness // as last heard; it outlives a time in which the process cannot be asked
	fault  string                        // why it cannot
}

func newLiveness(edge Liveness) liveness {
	l := liveness{edge: edge, known: map[netip.Addr]route.Liveness{}}
	if edge == nil {
		l.fault = "the agent runs without BFD"
	}
	return l
}

func (c *core) livenessChanged() <-chan struct{} {
	if c.bfd.edge == nil {
		return nil
	}
	return c.bfd.edge.Changed()
}

// want says which sessions there are to be.
func (l *liveness) want(neighbors []config.Neighbor) {
	if l.edge == nil {
		return
	}
	var watches []route.Watch
	l.wanted = map[netip.Addr]bool{}
	for _, n := range neighbors {
		if n.BFD != nil {
			watches = append(watches, *n.BFD)
			l.wanted[n.Address] = true
		}
	}
	for peer := range l.known {
		if !l.wanted[peer] {
			delete(l.known, peer)
		}
	}
	l.edge.Set(watches)
}

// observe looks at how the sessions stand, and ends the BGP sessions of peers that failed since it last looked.
func (c *core) observe(now time.Time) {
	sessions, fault := c.bfd.edge.Sessions()
	if fault != c.bfd.fault && fault != "" && len(c.bfd.wanted) > 0 && c.events.due("bfd "+fault, now) {
		c.events.add(now, "Warning", "BFDUnknown", "Node/"+c.node, "no peer is watched by BFD: "+fault)
	}
	c.bfd.fault = fault
	for _, s := range sessions {
		if !c.bfd.wanted[s.Peer] {
			continue // one of before, which is on its way out
		}
		before, known := c.bfd.known[s.Peer]
		c.bfd.known[s.Peer] = s
		// One that was begun anew, as when its process was, is Down at first and says nothing about the peer.
		known = known && before.Instance == s.Instance
		c.reportLiveness(before, s, known, now)
		if known && s.Failures > before.Failures {
			c.fail(s)
		}
	}
}

// fail takes a peer's routes out of the kernel, and its session down. While the peer restarts gracefully, only BFD that
// does not share its control plane's fate tells that it does not forward either (RFC 5882 section 4.3.2).
func (c *core) fail(s route.Liveness) {
	reason := "BFD went down: " + s.Diagnostic
	c.log.Warn("a peer cannot be reached", "peer", s.Peer.String(), "reason", reason)
	c.speaker.Fail(s.Peer, reason, !s.Independent)
}

func (c *core) reportLiveness(before, s route.Liveness, known bool, now time.Time) {
	origin := ""
	for _, n := range c.desired.Neighbors {
		if n.Address == s.Peer {
			origin = n.Origin
		}
	}
	switch {
	case known && s.Failures > before.Failures:
		c.events.add(now, "Warning", "BFDDown", origin, fmt.Sprintf("BFD with %s went down: %s", s.Peer, s.Diagnostic))
	case s.State == route.BFDUp && (!known || before.State != route.BFDUp):
		c.events.add(now, "Normal", "BFDUp", origin, fmt.Sprintf("BFD with %s is up, detecting within %s", s.Peer, s.DetectionTime))
	}
}

// state is a session's state as operators see it; empty where no session is wanted.
func (l *liveness) state(peer netip.Addr) string {
	if !l.wanted[peer] {
		return ""
	}
	s, known := l.known[peer]
	if l.fault != "" || !known {
		return "Unknown"
	}
	return s.State
}

// gone tells whether a peer is known to have failed and not to be back: its End-of-RIB is not waited for.
func (l *liveness) gone(peer netip.Addr) bool {
	return l.state(peer) == route.BFDDown && l.known[peer].Failures > 0
}

// status is a session as operators see it.
func (l *liveness) status(peer netip.Addr) *clearwayv1.BFDStatus {
	state := l.state(peer)
	switch state {
	case "":
		return nil
	case "Unknown":
		return &clearwayv1.BFDStatus{State: state, Reason: l.fault}
	}
	s := l.known[peer]
	status := &clearwayv1.BFDStatus{
		State: state, RemoteState: s.RemoteState, Diagnostic: s.Diagnostic, RemoteDiagnostic: s.RemoteDiagnostic,
		Failures: s.Failures, Reason: s.Problem,
	}
	if !s.Since.IsZero() {
		status.Since = timestamppb.New(s.Since)
	}
	if state == route.BFDUp {
		status.TxInterval, status.DetectionTime = s.TxInterval.String(), s.DetectionTime.String()
	}
	return status
}
