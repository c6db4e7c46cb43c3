package node

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

const (
	reportEvery   = 15 * time.Second
	reportAtMost  = 500 * time.Millisecond // apart
	reportTimeout = 5 * time.Second
	// maxEvents bounds what is kept while ipamd is away; the oldest go.
	maxEvents = 100
)

// The types of events, as Kubernetes has them.
const (
	eventNormal  = "Normal"
	eventWarning = "Warning"
)

// event notes something an operator may want to know; it is sent with the next report.
func (n *Node) event(eventType, reason, regarding, message string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addEvents([]*clearwayv1.EventSpec{{
		Time: timestamppb.New(n.now()), Type: eventType, Reason: reason, Message: message,
		Node: n.options.Node, Regarding: regarding,
	}})
}

func (n *Node) addEvents(events []*clearwayv1.EventSpec) {
	n.events = append(n.events, events...)
	if over := len(n.events) - maxEvents; over > 0 {
		n.events = n.events[over:]
	}
}

// report tells ipamd how the node does: soon after a change, and now and then.
func (l *link) report(ctx context.Context, s *session) error {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		if err := l.reportOnce(ctx, s); err != nil {
			return fmt.Errorf("report status: %w", err)
		}
		select {
		case <-time.After(reportAtMost):
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-l.options.StatusChanged:
		case <-l.reportDue:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *link) reportOnce(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	request := &clearwayv1.ReportStatusRequest{Ready: true}
	if l.options.Status != nil {
		if status := l.options.Status(); status != nil {
			request = proto.CloneOf(status)
		}
	}
	request.Node, request.SessionId = l.options.Node, s.id
	request.Ready = request.GetReady() && l.Ready()
	request.Blocks = l.book.blockUse()
	l.reportOrphans(request)
	l.mu.Lock()
	l.addEvents(request.GetEvents())
	request.Events, l.events = l.events, nil
	l.mu.Unlock()
	_, err := s.client.ReportStatus(ctx, request)
	if err != nil {
		l.mu.Lock()
		later := l.events
		l.events = nil
		l.addEvents(request.GetEvents())
		l.addEvents(later)
		l.mu.Unlock()
	}
	return err
}

// reportOrphans tells which orphaned blocks somebody still holds, as far as this node hears.
func (l *link) reportOrphans(request *clearwayv1.ReportStatusRequest) {
	if l.options.Heard == nil {
		return
	}
	l.mu.Lock()
	orphans := l.owners.orphans()
	l.mu.Unlock()
	prefixes := make([]netip.Prefix, 0, len(orphans))
	for _, one := range orphans {
		prefix, err := netip.ParsePrefix(one.CIDR)
		if err != nil {
			return // it cannot be looked for
		}
		prefixes = append(prefixes, prefix)
	}
	var heard []netip.Prefix
	if len(prefixes) > 0 {
		var err error
		if heard, err = l.options.Heard(prefixes); err != nil {
			l.log.Warn("orphaned blocks could not be looked for", "error", err)
			return
		}
	}
	for _, own := range l.book.advertised() {
		if slices.ContainsFunc(prefixes, own.Overlaps) {
			heard = append(heard, own)
		}
	}
	request.OrphansDigest = clearwayv1.OrphansDigest(orphans)
	for _, prefix := range heard {
		request.HeldOrphans = append(request.HeldOrphans, prefix.String())
	}
}

func (b *book) blockUse() []*clearwayv1.BlockUse {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]*clearwayv1.BlockUse, 0, len(b.blocks))
	for _, o := range b.blocks {
		c := o.Count(b.now())
		all = append(all, &clearwayv1.BlockUse{
			Cidr: o.CIDR.String(), Assigned: int64(c.Assigned), Cooling: int64(c.Cooling), Sealed: o.Block.Sealed(),
		})
	}
	return all
}
