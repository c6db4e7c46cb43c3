package server

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/ipam/cidr"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

const (
	// wantTime is how long a refused claim counts as waiting: its agent repeats it each second while a Pod waits.
	wantTime = 5 * time.Second
	// barrenTime is how long it counts that nothing was found to call back.
	barrenTime = 5 * time.Second
	// maxWants bounds what is remembered; claims beyond are refused like others and wait by repeating.
	maxWants = 10000
)

// want is a claim that a Pod waits for, and for which its pool had nothing.
type want struct {
	pool, node string
	last       time.Time
	// barren is when nothing was found that could be called back for it; zero: it has not been looked for.
	barrenAt time.Time
	declines map[netip.Prefix]time.Time
}

func (w want) declined(called netip.Prefix, now time.Time) bool {
	at, ok := w.declines[called]
	return ok && now.Sub(at) < declinedTime
}

// wants are the claims that wait: the leader's memory only, since they are repeated.
type wants struct {
	// due has a token when something new waits.
	due chan struct{}

	// mu guards all following fields. It may be taken with the server's lock held.
	mu       sync.Mutex
	waits    map[wantKey]*want
	declines map[netip.Prefix]time.Time
	seen     map[string]seen // by pool
}

type wantKey struct{ pool, node string }

// seen is what could be called back of a pool when it was last looked for.
type seen struct {
	blocks, parts int
	addresses     uint64
	at            time.Time
}

func newWants() *wants {
	w := &wants{due: make(chan struct{}, 1)}
	w.reset()
	return w
}

// reset forgets everything.
func (w *wants) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waits, w.declines, w.seen = map[wantKey]*want{}, map[netip.Prefix]time.Time{}, map[string]seen{}
}

// yield refuses a claim ahead of need while another node's Pod waits for the same pool.
func (w *wants) yield(request *clearwayv1.ClaimBlockRequest, now time.Time) error {
	if request.GetNeeded() {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, one := range w.waits {
		if key.pool == request.GetPool() && key.node != request.GetNode() && now.Sub(one.last) < wantTime {
			return status.Errorf(codes.ResourceExhausted,
				"pool %q has little left: a Pod waits for it on node %q, and node %q can do without", key.pool, key.node, request.GetNode())
		}
	}
	return nil
}

// add notes a claim that found nothing, and tells whether there is hope.
func (w *wants) add(request *clearwayv1.ClaimBlockRequest, now time.Time) (hope bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := wantKey{request.GetPool(), request.GetNode()}
	one := w.waits[key]
	if one == nil {
		if len(w.waits) >= maxWants {
			return true
		}
		one = &want{pool: key.pool, node: key.node}
		w.waits[key] = one
	}
	one.last = now
	select {
	case w.due <- struct{}{}:
	default:
	}
	return one.barrenAt.IsZero() || now.Sub(one.barrenAt) >= barrenTime
}

// met notes that a claim got its block.
func (w *wants) met(request *clearwayv1.ClaimBlockRequest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waits, wantKey{request.GetPool(), request.GetNode()})
}

// barren notes that nothing can be called back for a claim.
func (w *wants) barren(of want, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if one := w.waits[wantKey{of.pool, of.node}]; one != nil {
		one.barrenAt = now
	}
}

// decline notes that an owner keeps what was called back.
func (w *wants) decline(call *clearwayv1.CallBack, now time.Time) {
	called, err := netip.ParsePrefix(call.GetCidr())
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.declines[called] = now
	select {
	case w.due <- struct{}{}: // another one is asked for
	default:
	}
}

// declined are the parts that their owners have declined lately.
func (w *wants) declined(now time.Time) map[netip.Prefix]time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.declines, func(_ netip.Prefix, at time.Time) bool { return now.Sub(at) >= declinedTime })
	return maps.Clone(w.declines)
}

// waiting are the claims that wait now, in a fixed order; the others are forgotten.
func (w *wants) waiting(now time.Time) []want {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []want
	for key, one := range w.waits {
		if now.Sub(one.last) >= wantTime {
			delete(w.waits, key)
			continue
		}
		all = append(all, *one)
	}
	slices.SortFunc(all, func(a, b want) int { return cmp.Or(cmp.Compare(a.pool, b.pool), cmp.Compare(a.node, b.node)) })
	return all
}

// callable notes what could be called back of a pool.
func (w *wants) callable(pool string, found []candidate, now time.Time) {
	one := seen{at: now}
	for _, c := range found {
		if c.called == c.block {
			one.blocks++
		} else {
			one.parts++
		}
		one.addresses += cidr.Count(c.called)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[pool] = one
}

// outlook tells what could be called back of a pool, in half a sentence; "" when it was not looked for lately.
func (w *wants) outlook(pool string, now time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	one, known := w.seen[pool]
	switch {
	case !known || now.Sub(one.at) > 2*barrenTime:
		return ""
	case one.blocks+one.parts == 0:
		return "; no node can do without one: each part of a block that is large enough holds an address"
	}
	return fmt.Sprintf("; %d free blocks and %d free parts (%d addresses) can be called back from nodes", one.blocks, one.parts, one.addresses)
}

// seek notes a needed claim for which there is nothing, and says so; with the detail CallingBack while there is hope.
func (s *Server) seek(p *plan, request *clearwayv1.ClaimBlockRequest, exhausted error) error {
	hope := s.wants.add(request, p.now)
	text := status.Convert(exhausted).Message() + s.wants.outlook(request.GetPool(), p.now)
	coming := s.onItsWay(p.state, p.now)[wantKey{request.GetPool(), request.GetNode()}]
	if coming {
		text += "; one is being called back for this node"
	}
	refusal := status.New(codes.ResourceExhausted, text)
	if hope || coming {
		if detailed, err := refusal.WithDetails(&clearwayv1.CallingBack{}); err == nil {
			refusal = detailed
		}
	}
	return refusal.Err()
}
