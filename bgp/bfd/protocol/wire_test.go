package protocol

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// wire is two sessions and the packets between them, in a time of its own.
type wire struct {
	now      time.Time
	ends     [2]*Session
	underway []flight
	delay    func() time.Duration
	lose     func() bool
	ordered  bool // nothing overtakes
	latest   [2]time.Time
	fault    func(format string, args ...any)
}

type flight struct {
	to      int
	arrives time.Time
	data    []byte
}

func (w *wire) send(from int, packets []Packet) {
	for _, p := range packets {
		if !w.lose() {
			at := w.now.Add(w.delay())
			if w.ordered && at.Before(w.latest[from]) {
				at = w.latest[from]
			}
			w.latest[from] = at
			w.underway = append(w.underway, flight{1 - from, at, p.Append(nil)})
		}
	}
}

// step goes to the next moment at which something happens, and does it; false: nothing does by until.
func (w *wire) step(until time.Time) bool {
	next := until
	for _, end := range w.ends {
		if at := end.Deadline(); !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	slices.SortStableFunc(w.underway, func(a, b flight) int { return cmp.Compare(a.arrives.UnixNano(), b.arrives.UnixNano()) })
	if len(w.underway) > 0 && !w.underway[0].arrives.After(next) {
		f := w.underway[0]
		w.underway = w.underway[1:]
		w.now = f.arrives
		p, err := Parse(f.data)
		if err != nil {
			w.fault("an end sent what no end takes: %v", err)
			return true
		}
		if p.Yours != 0 && p.Yours != w.ends[f.to].local {
			return true // as the demultiplexer does
		}
		w.send(f.to, w.ends[f.to].Receive(p, w.now))
		return true
	}
	if !next.Before(until) {
		w.now = until
		return false
	}
	w.now = next
	for i, end := range w.ends {
		if at := end.Deadline(); !at.IsZero() && !at.After(w.now) {
			w.send(i, end.Advance(w.now))
			if at := end.Deadline(); !at.IsZero() && !at.After(w.now) {
				w.fault("end %d wants to be asked again at once", i)
			}
		}
	}
	return true
}

func (w *wire) run(length time.Duration, look func()) {
	for until := w.now.Add(length); w.step(until); {
		look()
	}
}

func (w *wire) both(state State) bool {
	return w.ends[0].Status().State == state && w.ends[1].Status().State == state
}

func drawConfig(t *rapid.T, name string) Config {
	interval := rapid.Int64Range(10, 1500)
	return Config{
		DesiredMinTx:  time.Duration(interval.Draw(t, name+" tx")) * time.Millisecond,
		RequiredMinRx: time.Duration(interval.Draw(t, name+" rx")) * time.Millisecond,
		Multiplier:    rapid.Uint8Range(2, 10).Draw(t, name+" multiplier"),
	}
}

func drawWire(t *rapid.T) *wire {
	noise := rapid.Int64Range(0, 1<<30)
	jitter := func(limit int64) int64 { return noise.Draw(t, "noise") % limit }
	w := &wire{now: epoch, fault: t.Fatalf}
	for i := range w.ends {
		w.ends[i] = New(drawConfig(t, "end"), uint32(10+i), epoch, jitter)
	}
	w.fine(t)
	return w
}

// fine is a wire that loses nothing and keeps the order, as a link does; it delays by less than the least interval.
func (w *wire) fine(t *rapid.T) {
	delay := rapid.Int64Range(0, int64(2*time.Millisecond))
	w.delay = func() time.Duration { return time.Duration(delay.Draw(t, "delay")) }
	w.lose, w.ordered = func() bool { return false }, true
}

func (w *wire) bad(t *rapid.T) {
	delay := rapid.Int64Range(0, int64(3*time.Second))
	w.delay = func() time.Duration { return time.Duration(delay.Draw(t, "delay")) }
	lost := rapid.Bool()
	w.ordered = false
	w.lose = func() bool { return lost.Draw(t, "lost") }
}

// settleTime is enough for any two ends to come up, or to end a Poll Sequence: some slow intervals, and the longest
// detection time, 10 x 1.5 s, in which one of them may still believe in the session of before.
const settleTime = 30 * time.Second

// TestFineWire: it always comes up, and never flaps, not when the wishes change either.
func TestFineWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWire(t)
		w.run(settleTime, func() {})
		if !w.both(Up) {
			t.Fatalf("not up: %+v, %+v", w.ends[0].Status(), w.ends[1].Status())
		}
		for range rapid.IntRange(0, 3).Draw(t, "changes") {
			i := rapid.IntRange(0, 1).Draw(t, "which")
			w.send(i, w.ends[i].Configure(drawConfig(t, "new"), w.now))
			w.run(time.Duration(rapid.Int64Range(0, int64(4*time.Second)).Draw(t, "pause")), func() {
				if !w.both(Up) {
					t.Fatalf("it flapped: %+v, %+v", w.ends[0].Status(), w.ends[1].Status())
				}
			})
		}
		w.run(settleTime, func() {})
		for i, end := range w.ends {
			other := w.ends[1-i]
			if !w.both(Up) || end.polling || end.TxInterval() != max(end.config.DesiredMinTx, other.config.RequiredMinRx) ||
				end.DetectionTime() != time.Duration(other.config.Multiplier)*max(end.config.RequiredMinRx, other.config.DesiredMinTx) {
				t.Fatalf("end %d did not settle: %+v", i, end.Status())
			}
		}
	})
}

// TestCutWire: each end that is Up sees a cut after its detection time, no sooner and no later.
func TestCutWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWire(t)
		w.run(settleTime, func() {})
		w.lose = func() bool { return true }
		w.underway = nil
		var heard [2]time.Time
		var within [2]time.Duration
		for i, end := range w.ends {
			heard[i], within[i] = end.heard, end.DetectionTime()
		}
		w.run(settleTime, func() {
			for i, end := range w.ends {
				if down := end.Status().State == Down; down != (w.now.Sub(heard[i]) >= within[i]) {
					t.Fatalf("end %d is %v %v after the last packet; its detection time is %v", i, end.Status().State, w.now.Sub(heard[i]), within[i])
				}
			}
		})
		w.fine(t)
		w.run(settleTime, func() {})
		if !w.both(Up) {
			t.Fatalf("the wire is whole again: %+v, %+v", w.ends[0].Status(), w.ends[1].Status())
		}
	})
}

// TestBadWire: after any loss, delay and reordering, a wire that is fine again brings the session up.
func TestBadWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWire(t)
		w.bad(t)
		w.run(settleTime, func() {})
		w.fine(t)
		w.run(2*settleTime, func() {})
		if !w.both(Up) {
			t.Fatalf("not up: %+v, %+v", w.ends[0].Status(), w.ends[1].Status())
		}
	})
}

// TestResume: a process that takes over within the detection time is not noticed by the other end, and learns when the
// other end is gone.
func TestResume(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWire(t)
		w.run(settleTime, func() {})
		old := w.ends[0]
		kept, ok := old.Keep()
		gap := w.ends[1].DetectionTime() - w.now.Sub(w.ends[1].heard) - 5*time.Millisecond
		if !ok || gap < 0 {
			return
		}
		w.now = w.now.Add(time.Duration(rapid.Int64Range(0, int64(gap)).Draw(t, "gap")))
		w.underway = nil
		w.ends[0] = Resume(old.config, kept, w.now, old.jitter)
		w.run(settleTime, func() {
			if !w.both(Up) {
				t.Fatalf("it flapped: %+v, %+v", w.ends[0].Status(), w.ends[1].Status())
			}
		})
		w.lose = func() bool { return true }
		w.underway = nil
		w.run(settleTime, func() {})
		if got := w.ends[0].Status(); got.State != Down || got.Failures != kept.Failures+1 {
			t.Fatalf("after a cut: %+v", got)
		}
	})
}

// TestJitter: section 6.8.7: 75 to 100 % of the interval between packets, 75 to 90 % with a multiplier of 1.
func TestJitter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		config := drawConfig(t, "end")
		config.Multiplier = rapid.Uint8Range(1, 3).Draw(t, "multiplier")
		noise := rapid.Int64Range(0, 1<<40)
		s := New(config, 1, epoch, func(limit int64) int64 { return noise.Draw(t, "noise") % limit })
		s.Advance(epoch)
		most := int64(100)
		if config.Multiplier == 1 {
			most = 90
		}
		base := int64(s.TxInterval())
		if got := int64(s.Deadline().Sub(epoch)); got < base*75/100 || got > base*most/100 {
			t.Fatalf("%d ns of %d with multiplier %d", got, base, config.Multiplier)
		}
	})
}
