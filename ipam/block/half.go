package block

import (
	"cmp"
	"container/heap"
	"slices"
	"time"
)

// half indexes one half of a block's addresses for the choice of the next. (Of a block with one address the lower half
// is empty.)
type half struct {
	from     int
	assigned int
	// sealed counts the addresses that are neither assigned nor excluded and in a sealed part.
	sealed int

	// fresh are the never used, by distance from from. No word below hint has a member.
	fresh      bitmap
	freshCount int
	hint       int

	// resting and rested are the freed ones; which of the two is a matter of when settle last looked. An address is in
	// at most one, and not in fresh.
	resting, rested queue
}

func newHalf(from, to int) half {
	return half{from: from, fresh: newBitmap(to - from)}
}

// settle moves those whose rest has ended from resting to rested.
func (h *half) settle(now time.Time) {
	for len(h.resting.items) > 0 && !now.Before(h.resting.items[0].until) {
		h.rested.push(h.resting.pop())
	}
}

func (h *half) ready() int { return h.freshCount + len(h.rested.items) }

// next is the oldest: the lowest fresh one, then the one longest rested. There must be one.
func (h *half) next() int {
	if h.freshCount == 0 {
		return h.rested.items[0].offset
	}
	i := h.fresh.first(h.hint)
	h.hint = i / 64
	return h.from + i
}

func (h *half) unfresh(i int) {
	if i -= h.from; h.fresh.has(i) {
		h.fresh.clear(i)
		h.freshCount--
	}
}

func (h *half) refresh(i int) {
	i -= h.from
	h.fresh.set(i)
	h.freshCount++
	h.hint = min(h.hint, i/64)
}

func (h *half) forget(it item) {
	if !h.rested.remove(it) {
		h.resting.remove(it)
	}
}

// item is a freed address in a queue.
type item struct {
	offset int
	until  time.Time
}

func (a item) before(b item) bool { return a.compare(b) < 0 }

func (a item) compare(b item) int {
	return cmp.Or(a.until.Compare(b.until), cmp.Compare(a.offset, b.offset))
}

// queue is a heap of items, the earliest first.
type queue struct{ items []item }

func (q *queue) Len() int           { return len(q.items) }
func (q *queue) Less(i, j int) bool { return q.items[i].before(q.items[j]) }
func (q *queue) Swap(i, j int)      { q.items[i], q.items[j] = q.items[j], q.items[i] }
func (q *queue) Push(x any)         { q.items = append(q.items, x.(item)) }
func (q *queue) Pop() any {
	last := q.items[len(q.items)-1]
	q.items = q.items[:len(q.items)-1]
	return last
}

func (q *queue) push(it item) { heap.Push(q, it) }
func (q *queue) pop() item    { return heap.Pop(q).(item) }

// remove takes one item out. The head is found at once; another costs a walk, and only addresses that were asked for
// by name are taken from the middle.
func (q *queue) remove(it item) bool {
	i := slices.IndexFunc(q.items, func(other item) bool { return other.offset == it.offset })
	if i >= 0 {
		heap.Remove(q, i)
	}
	return i >= 0
}
