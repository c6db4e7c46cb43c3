package server

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Limits bound what one caller may ask, so that one that has gone mad does not starve the rest. A caller is a
// certificate; without TLS, a node by the name it gives, and else a host. 0 is no bound.
type Limits struct {
	// NodeClaims is how many claims and releases of blocks a node may make a second, NodeCalls how many other calls.
	NodeClaims, NodeCalls float64
	// ClientCalls is how many calls an operator or viewer may make a second.
	ClientCalls float64
	// NodeWatches is how many streams of the ownership log a node may have: a further one ends the oldest.
	NodeWatches int
}

// DefaultLimits are far above what a sane caller does: an agent that is busy makes some ten calls a second.
func DefaultLimits() Limits {
	return Limits{NodeClaims: 100, NodeCalls: 50, ClientCalls: 50, NodeWatches: 4}
}

const (
	// burstSeconds is how many seconds' worth of calls may come at once.
	burstSeconds = 4
	// What calls weigh that are more work than others: they send or read all there is.
	openingWeight = 10
	// mirrorUnit is how many changes of a mirror weigh as much as one call.
	mirrorUnit = 200
	// maxBuckets bounds the callers that are told apart; who comes later shares one bucket with the like.
	maxBuckets = 1 << 16
)

// limits are all callers' counts.
type limits struct {
	claims, calls, clients *buckets
	watches                *watches
}

func newLimits(bounds Limits, now func() time.Time) *limits {
	return &limits{
		claims: newBuckets(bounds.NodeClaims, now), calls: newBuckets(bounds.NodeCalls, now),
		clients: newBuckets(bounds.ClientCalls, now), watches: newWatches(bounds.NodeWatches),
	}
}

// take counts a call. RESOURCE_EXHAUSTED, with RetryInfo: the caller makes too many.
func (l *limits) take(key, method string, request any) error {
	kind := l.clients
	if demands[method] == acting {
		kind = l.calls
	}
	switch method {
	case clearwayv1.NodeService_ClaimBlock_FullMethodName, clearwayv1.NodeService_ClaimFloating_FullMethodName,
		clearwayv1.NodeService_ReleaseBlock_FullMethodName:
		kind = l.claims
	}
	wait := kind.take(key, weight(method, request))
	if wait == 0 {
		return nil
	}
	answer := status.New(codes.ResourceExhausted, fmt.Sprintf(
		"%s makes more than %g calls a second; try again in %s", key, float64(kind.limit), wait.Round(time.Millisecond)))
	return withDetails(answer, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)}))
}

// weight is how many calls a call counts as.
func weight(method string, request any) int {
	switch method {
	case clearwayv1.NodeService_Register_FullMethodName, clearwayv1.NodeService_WatchNode_FullMethodName,
		clearwayv1.NodeService_WatchOwnership_FullMethodName:
		return openingWeight
	}
	if mirror, ok := request.(*clearwayv1.MirrorAssignmentsRequest); ok {
		return 1 + (len(mirror.GetAssigned())+len(mirror.GetReleased()))/mirrorUnit
	}
	return 1
}

// buckets are one token bucket a caller.
type buckets struct {
	limit rate.Limit
	burst int
	now   func() time.Time

	// mu guards all following fields.
	mu    sync.Mutex
	byKey map[string]*rate.Limiter
	// rest is for callers beyond maxBuckets; nil: there were none yet.
	rest  *rate.Limiter
	swept time.Time
}

func newBuckets(perSecond float64, now func() time.Time) *buckets {
	made := &buckets{limit: rate.Limit(perSecond), now: now, byKey: map[string]*rate.Limiter{}}
	if perSecond <= 0 {
		made.limit = rate.Inf
	}
	made.burst = int(min(math.Ceil(perSecond*burstSeconds), math.MaxInt32))
	return made
}

// take is 0 when the caller may go on, and else how long it should wait.
func (b *buckets) take(key string, n int) time.Duration {
	if b.limit == rate.Inf {
		return 0
	}
	now := b.now()
	n = min(n, b.burst)
	bucket := b.bucket(key, now)
	// Not ReserveN and its Cancel: of several at once they leave a debt that nobody made.
	if bucket.AllowN(now, n) {
		return 0
	}
	missing := float64(n) - bucket.TokensAt(now)
	return max(time.Duration(missing/float64(b.limit)*float64(time.Second)), time.Millisecond)
}

func (b *buckets) bucket(key string, now time.Time) *rate.Limiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	if found := b.byKey[key]; found != nil {
		return found
	}
	if len(b.byKey) >= maxBuckets && !b.sweep(now) {
		if b.rest == nil {
			b.rest = rate.NewLimiter(b.limit, b.burst)
		}
		return b.rest
	}
	made := rate.NewLimiter(b.limit, b.burst)
	b.byKey[key] = made
	return made
}

// sweep forgets the callers who have been silent for so long that a new bucket is the same to them. It looks at all of
// them, so it does that once a second at most. False: there is no room.
func (b *buckets) sweep(now time.Time) bool {
	if now.Sub(b.swept) < time.Second {
		return false
	}
	b.swept = now
	for key, one := range b.byKey {
		if one.TokensAt(now) >= float64(b.burst) {
			delete(b.byKey, key)
		}
	}
	return len(b.byKey) < maxBuckets
}

// watches are the streams of the ownership log, by node.
type watches struct {
	most int // 0: no bound

	// mu guards all following fields.
	mu     sync.Mutex
	byNode map[string][]chan struct{} // oldest first; closed: it is to end
}

func newWatches(most int) *watches { return &watches{most: most, byNode: map[string][]chan struct{}{}} }

// open counts a stream in. replaced is closed when newer ones took its place; done counts it out.
func (w *watches) open(node string) (replaced <-chan struct{}, done func()) {
	mine := make(chan struct{})
	w.mu.Lock()
	defer w.mu.Unlock()
	all := append(w.byNode[node], mine)
	if w.most > 0 && len(all) > w.most {
		close(all[0])
		all = slices.Clone(all[1:])
	}
	w.byNode[node] = all
	return mine, func() { w.close(node, mine) }
}

func (w *watches) close(node string, mine chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := slices.DeleteFunc(w.byNode[node], func(one chan struct{}) bool { return one == mine })
	if len(left) == 0 {
		delete(w.byNode, node)
		return
	}
	w.byNode[node] = left
}
