package protocol

import (
	"testing"
	"time"
)

var (
	epoch = time.Unix(1_000_000, 0)
	usual = Config{DesiredMinTx: 100 * time.Millisecond, RequiredMinRx: 100 * time.Millisecond, Multiplier: 3}
)

// most is the jitter that waits longest.
func most(limit int64) int64 { return limit - 1 }

// in makes a session in a state, with a peer of the usual wishes that is in a state as well.
func in(state State) *Session {
	s := New(usual, 1, epoch, most)
	s.Advance(epoch)
	switch state {
	case AdminDown:
		s.SetAdminDown(true, epoch)
	case Init:
		s.Receive(told(Down), epoch)
	case Up:
		s.Receive(told(Down), epoch)
		s.Receive(told(Init), epoch)
		s.Receive(Packet{State: Up, Final: true, Multiplier: 3, Mine: 2, Yours: 1, DesiredMinTx: usual.DesiredMinTx, RequiredMinRx: usual.RequiredMinRx}, epoch)
	}
	return s
}

func told(state State) Packet {
	p := Packet{State: state, Multiplier: 3, Mine: 2, Yours: 1, DesiredMinTx: usual.DesiredMinTx, RequiredMinRx: usual.RequiredMinRx}
	if state == Down {
		p.Yours = 0
	}
	return p
}

// TestStateMachine is RFC 5880 section 6.8.6's, every state by every one that can be told.
func TestStateMachine(t *testing.T) {
	for _, c := range []struct {
		state, told, want State
		diagnostic        Diagnostic
	}{
		{AdminDown, AdminDown, AdminDown, AdminDownDiag},
		{AdminDown, Down, AdminDown, AdminDownDiag},
		{AdminDown, Init, AdminDown, AdminDownDiag},
		{AdminDown, Up, AdminDown, AdminDownDiag},
		{Down, AdminDown, Down, NoDiagnostic},
		{Down, Down, Init, NoDiagnostic},
		{Down, Init, Up, NoDiagnostic},
		{Down, Up, Down, NoDiagnostic},
		{Init, AdminDown, Down, NeighborDown},
		{Init, Down, Init, NoDiagnostic},
		{Init, Init, Up, NoDiagnostic},
		{Init, Up, Up, NoDiagnostic},
		{Up, AdminDown, Down, NeighborDown},
		{Up, Down, Down, NeighborDown},
		{Up, Init, Up, NoDiagnostic},
		{Up, Up, Up, NoDiagnostic},
	} {
		s := in(c.state)
		s.Receive(told(c.told), epoch)
		if got := s.Status(); got.State != c.want || got.Diagnostic != c.diagnostic {
			t.Errorf("%v told %v: %v (%v), want %v (%v)", c.state, c.told, got.State, got.Diagnostic, c.want, c.diagnostic)
		}
	}
}

// TestSlowStart: section 6.8.3: not Up, no less than a second between packets, whatever is configured.
func TestSlowStart(t *testing.T) {
	s := New(usual, 1, epoch, func(int64) int64 { return 0 })
	if out := s.Advance(epoch); len(out) != 1 || out[0].DesiredMinTx != SlowTx {
		t.Fatalf("sent %+v", out)
	}
	if got := s.Deadline().Sub(epoch); got != 750*time.Millisecond {
		t.Errorf("the next packet is due after %v, want 75 %% of a second", got)
	}
	s = in(Up)
	if out := s.Advance(epoch.Add(100 * time.Millisecond)); len(out) != 1 || out[0].DesiredMinTx != usual.DesiredMinTx {
		t.Errorf("Up, it sent %+v", out)
	}
}

// TestIntervalIsNegotiated: section 6.8.7: what both ends can keep up.
func TestIntervalIsNegotiated(t *testing.T) {
	s := in(Up)
	p := told(Up)
	p.RequiredMinRx = 400 * time.Millisecond
	s.Receive(p, epoch)
	if got := s.TxInterval(); got != 400*time.Millisecond {
		t.Errorf("sends each %v, want the peer's 400ms", got)
	}
	p.RequiredMinRx = 0
	s.Receive(p, epoch)
	if out := s.Advance(epoch.Add(200 * time.Millisecond)); len(out) != 0 {
		t.Errorf("it was asked not to send (section 6.8.7: RemoteMinRxInterval zero), and sent %+v", out)
	}
	p.RequiredMinRx = 100 * time.Millisecond
	s.Receive(p, epoch.Add(210*time.Millisecond))
	if got := s.Deadline(); got.After(epoch.Add(210 * time.Millisecond).Add(100 * time.Millisecond)) {
		t.Errorf("it is asked to send again, and does so at %v", got.Sub(epoch))
	}
}

// TestDetectionTime: section 6.8.4: the peer's multiplier times what both ends agreed on.
func TestDetectionTime(t *testing.T) {
	s := in(Up)
	p := told(Up)
	p.Multiplier, p.DesiredMinTx = 5, 200*time.Millisecond
	s.Receive(p, epoch)
	if got := s.DetectionTime(); got != time.Second {
		t.Fatalf("detection time %v, want 5 x max(100ms, 200ms)", got)
	}
	s.Advance(epoch.Add(time.Second - 1))
	if got := s.Status().State; got != Up {
		t.Fatalf("%v before the detection time", got)
	}
	out := s.Advance(epoch.Add(time.Second))
	if got := s.Status(); got.State != Down || got.Diagnostic != DetectionExpired || got.Failures != 1 {
		t.Fatalf("after the detection time: %+v", got)
	}
	if len(out) != 1 || out[0].State != Down || out[0].Yours != 0 || out[0].DesiredMinTx != SlowTx {
		t.Errorf("section 6.8.1: the discriminator is forgotten, and the change told; sent %+v", out)
	}
}

// TestPollIsAnswered: section 6.8.7: with Final, at once, in whatever state.
func TestPollIsAnswered(t *testing.T) {
	for _, state := range []State{Down, Init, Up} {
		s := in(state)
		p := told(Up)
		if state == Down {
			p = told(AdminDown)
		}
		p.Poll = true
		out := s.Receive(p, epoch.Add(time.Millisecond))
		if len(out) == 0 || !out[0].Final || out[0].Poll {
			t.Errorf("%v: %+v", state, out)
		}
	}
}

// TestPollSequence: section 6.8.3: to be slower, or stricter, waits for the other end's Final; to be faster does not.
func TestPollSequence(t *testing.T) {
	s := in(Up)
	slower := Config{DesiredMinTx: 500 * time.Millisecond, RequiredMinRx: 50 * time.Millisecond, Multiplier: 3}
	out := s.Configure(slower, epoch)
	if len(out) != 1 || !out[0].Poll || out[0].DesiredMinTx != slower.DesiredMinTx || out[0].RequiredMinRx != slower.RequiredMinRx {
		t.Fatalf("told %+v", out)
	}
	if s.TxInterval() != 100*time.Millisecond || s.DetectionTime() != 300*time.Millisecond {
		t.Errorf("before the Final it already sends each %v and detects in %v", s.TxInterval(), s.DetectionTime())
	}
	p := told(Up)
	p.Final, p.DesiredMinTx = true, 10*time.Millisecond
	s.Receive(p, epoch.Add(time.Millisecond))
	if s.TxInterval() != 500*time.Millisecond || s.DetectionTime() != 150*time.Millisecond {
		t.Errorf("after the Final it sends each %v and detects in %v", s.TxInterval(), s.DetectionTime())
	}
	s.Configure(usual, epoch)
	if s.TxInterval() != 100*time.Millisecond {
		t.Errorf("to be faster waits: it sends each %v", s.TxInterval())
	}
	if again := s.Configure(Config{100 * time.Millisecond, 90 * time.Millisecond, 3}, epoch); len(again) != 1 || !again[0].Poll {
		t.Errorf("told %+v", again)
	}
	s.Receive(p, epoch) // may be the answer to the wish before
	if out := s.Advance(epoch.Add(100 * time.Millisecond)); len(out) == 0 || !out[0].Poll {
		t.Errorf("the second wish is not asked for: %+v", out)
	}
}

// TestDemandIsKept: section 6.6: while both are Up, one that wants silence gets it, but for a Poll.
func TestDemandIsKept(t *testing.T) {
	s := in(Up)
	p := told(Up)
	p.Demand = true
	s.Receive(p, epoch)
	if out := s.Advance(epoch.Add(200 * time.Millisecond)); len(out) != 0 {
		t.Errorf("sent %+v", out)
	}
	if out := s.Configure(Config{time.Second, time.Second, 3}, epoch); len(out) != 1 || !out[0].Poll {
		t.Errorf("a Poll Sequence is sent nevertheless; got %+v", out)
	}
}

// TestAdminDown: section 6.8.16: it is told at once, held whatever comes, and left for Down.
func TestAdminDown(t *testing.T) {
	s := in(Up)
	out := s.SetAdminDown(true, epoch)
	if len(out) != 1 || out[0].State != AdminDown || out[0].Diagnostic != AdminDownDiag {
		t.Fatalf("told %+v", out)
	}
	if out := s.Advance(epoch.Add(time.Second)); len(out) != 1 || out[0].State != AdminDown {
		t.Errorf("told on: %+v", out)
	}
	if s.SetAdminDown(false, epoch); s.Status().State != Down {
		t.Errorf("left for %v", s.Status().State)
	}
}

// TestFailures: RFC 5882 section 3.2: an administrator's word is no failure.
func TestFailures(t *testing.T) {
	s := in(Up)
	s.Receive(told(AdminDown), epoch)
	if got := s.Status(); got.State != Down || got.Failures != 0 {
		t.Errorf("told AdminDown: %+v", got)
	}
	s = in(Up)
	s.SetAdminDown(true, epoch)
	if got := s.Status().Failures; got != 0 {
		t.Errorf("held down here: %d failures", got)
	}
	s = in(Up)
	s.Receive(told(Down), epoch)
	if got := s.Status().Failures; got != 1 {
		t.Errorf("told Down: %d failures", got)
	}
}

// TestControlPlaneIndependence: the C bit is set in all that is sent, and the peer's is known (section 4.1).
func TestControlPlaneIndependence(t *testing.T) {
	s := New(usual, 1, epoch, most)
	if out := s.Advance(epoch); !out[0].Independent {
		t.Error("the C bit is clear")
	}
	p := told(Down)
	p.Independent = true
	s.Receive(p, epoch)
	if !s.Status().RemoteIndependent {
		t.Error("the peer's C bit is not known")
	}
}
