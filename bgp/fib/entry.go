package fib

import (
	"container/heap"
	"net/netip"
	"time"

	"github.com/clearway/clearway/bgp/route"
)

// entry is all that the writer knows of one prefix. It belongs to the goroutine of Run, but for state and reason,
// which Writer.mu guards. There are hundreds of thousands of them, so fields are in order of size.
type entry struct {
	prefix netip.Prefix
	want   *route.Kernel // nil: not desired
	target *group        // where want leads now; nil: nowhere, and why says the reason
	why    string
	have   *group // what the kernel has of ours

	reason string

	round     uint32 // the batch it was last written in
	retrySlot int32  // its place in the heap of retries plus one; 0: it is not there
	steps     uint16 // since it was last at rest; to maxSteps
	tries     uint16 // refusals in a row, to maxTries
	state     installState
	sentinel  bool
	withdrawn bool // want was made nil by its source: it may go before Settled
	blocked   bool // the kernel said that something of another's is there, and we have not seen yet what
	doubled   bool // the kernel has two IPv4 routes under our name here
	queued    bool
	counted   bool // in Writer.counts; guarded like state
}

// installState is a route.InstallState in a byte.
type installState uint8

// idle tells whether nothing is left to remember.
func (e *entry) idle() bool { return e.want == nil && e.have == nil && !e.sentinel }

// queue is a first-in first-out list of entries.
type queue struct {
	items []*entry
	head  int
}

func (q *queue) push(e *entry) { q.items = append(q.items, e) }

func (q *queue) empty() bool { return q.head == len(q.items) }

func (q *queue) pop() *entry {
	e := q.items[q.head]
	q.items[q.head] = nil
	if q.head++; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return e
}

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
	maxSteps   = 2*maxLegs + 16 // of one prefix until it is at rest; more means that somebody works against us
	maxTries   = 32             // counted; the intervals do not grow any more long before
)

// retryAfter doubles from firstRetry to lastRetry.
func retryAfter(tries int) time.Duration {
	return min(firstRetry<<min(tries-1, 16), lastRetry)
}

// retry is when a refused entry is to be tried again.
type retry struct {
	e  *entry
	at time.Time
}

// retries is a heap of refused entries, the one due first on top.
type retries []retry

func (r retries) Len() int           { return len(r) }
func (r retries) Less(i, j int) bool { return r[i].at.Before(r[j].at) }
func (r retries) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].e.retrySlot, r[j].e.retrySlot = int32(i+1), int32(j+1)
}

// Push is for container/heap.
func (r *retries) Push(x any) {
	one := x.(retry)
	*r = append(*r, one)
	one.e.retrySlot = int32(len(*r))
}

// Pop is for container/heap.
func (r *retries) Pop() any {
	old := *r
	one := old[len(old)-1]
	old[len(old)-1] = retry{}
	*r = old[:len(old)-1]
	one.e.retrySlot = 0
	return one
}

func (r *retries) schedule(e *entry, at time.Time) {
	if e.retrySlot != 0 {
		(*r)[e.retrySlot-1].at = at
		heap.Fix(r, int(e.retrySlot-1))
		return
	}
	heap.Push(r, retry{e, at})
}

func (r *retries) cancel(e *entry) {
	if e.retrySlot != 0 {
		heap.Remove(r, int(e.retrySlot-1))
	}
}

// due pops an entry whose time has come, or nil.
func (r *retries) due(now time.Time) *entry {
	if len(*r) == 0 || (*r)[0].at.After(now) {
		return nil
	}
	return heap.Pop(r).(retry).e
}
