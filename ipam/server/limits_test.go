package server

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// In no span of time does a caller get more than a burst and what has come in since, and whoever is refused gets its
// call when it comes again after the wait that it was told. The twin keeps every call it let through.
func TestBuckets(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rate := float64(rapid.IntRange(1, 100).Draw(r, "rate"))
		now := time.Unix(1e9, 0)
		b := newBuckets(rate, func() time.Time { return now })
		type taken struct {
			at time.Time
			n  int
		}
		passed := map[string][]taken{}
		for range rapid.IntRange(1, 100).Draw(r, "calls") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2000).Draw(r, "ms")) * time.Millisecond)
			key := rapid.SampledFrom([]string{"a", "b"}).Draw(r, "key")
			n := min(rapid.IntRange(1, 12).Draw(r, "n"), b.burst)
			wait := b.take(key, n)
			if wait > 0 && rapid.Bool().Draw(r, "again") {
				now = now.Add(wait + time.Microsecond) // the bucket counts in fractions
				if wait = b.take(key, n); wait > 0 {
					r.Fatalf("refused again after the wait, for %s", wait)
				}
			}
			if wait == 0 {
				passed[key] = append(passed[key], taken{now, n})
			}
		}
		for key, all := range passed {
			for i := range all {
				sum := 0
				for j := i; j < len(all); j++ {
					sum += all[j].n
					if most := float64(b.burst) + rate*all[j].at.Sub(all[i].at).Seconds(); float64(sum) > most+0.01 {
						r.Fatalf("%s got %d within %s, at most %g are due", key, sum, all[j].at.Sub(all[i].at), most)
					}
				}
			}
		}
	})
}

// Callers who invent names get no more memory than there is for names, and take nothing from those who are known.
func TestBucketsAreBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := newBuckets(10, func() time.Time { return now })
	b.take("sane", 1)
	for i := range maxBuckets + 1000 {
		b.take(fmt.Sprint("invented ", i), 1)
	}
	if len(b.byKey) > maxBuckets {
		t.Errorf("%d buckets", len(b.byKey))
	}
	if wait := b.take("one more", 1); wait == 0 {
		t.Error("the many beyond the bound are not bounded together")
	}
	if wait := b.take("sane", 1); wait > 0 {
		t.Errorf("the sane one is to wait %s", wait)
	}
	now = now.Add(time.Minute)
	if wait := b.take("later", 1); wait > 0 || len(b.byKey) != 1 {
		t.Errorf("those who are silent are not forgotten: %d, wait %s", len(b.byKey), wait)
	}
}

// A node's further stream ends its oldest one, and nobody else's.
func TestWatches(t *testing.T) {
	w := newWatches(2)
	isClosed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	other, doneOther := w.open("other")
	first, doneFirst := w.open("mad")
	second, doneSecond := w.open("mad")
	third, doneThird := w.open("mad")
	if !isClosed(first) || isClosed(second) || isClosed(third) || isClosed(other) {
		t.Error("not the oldest, or not it alone, is ended")
	}
	doneFirst()
	doneSecond()
	fourth, doneFourth := w.open("mad")
	if isClosed(third) || isClosed(fourth) {
		t.Error("a stream that ended by itself still counts")
	}
	doneThird()
	doneFourth()
	doneOther()
	if len(w.byNode) > 0 {
		t.Errorf("%v are remembered", w.byNode)
	}
	free := newWatches(0)
	one, _ := free.open("n")
	for range 100 {
		free.open("n")
	}
	if isClosed(one) {
		t.Error("0 is a bound")
	}
}
