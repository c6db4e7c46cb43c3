package protocol

import "time"

// SlowTx is the least interval at which a session that is not Up sends (RFC 5880 section 6.8.3).
const SlowTx = time.Second

// Config is what one end wants. A change of it takes effect by a Poll Sequence; the session does not go down for it.
type Config struct {
	DesiredMinTx  time.Duration // at least 1 ms: what this end keeps up
	RequiredMinRx time.Duration
	Multiplier    uint8 // 1 to 255
}

// Session is one end of a session: the variables of RFC 5880 section 6.8.1. It belongs to one goroutine.
type Session struct {
	config Config
	jitter func(limit int64) int64

	state, remoteState State
	diagnostic         Diagnostic // bfd.LocalDiag
	remoteDiagnostic   Diagnostic
	local, remote      uint32 // discriminators

	desiredMinTx  time.Duration // as told to the other end: not below SlowTx while not Up
	requiredMinRx time.Duration // as told
	usedMinTx     time.Duration // as kept to: behind desiredMinTx while a Poll Sequence runs
	usedMinRx     time.Duration

	remoteMinTx       time.Duration
	remoteMinRx       time.Duration
	remoteMultiplier  uint8
	remoteDemand      bool
	remoteIndependent bool

	polling, pollAgain bool

	sent     time.Time // when the last periodic packet went
	nextSend time.Time // zero: none is due
	interval time.Duration
	heard    time.Time // when the last packet was taken; zero: none, or what it told is forgotten
	since    time.Time // in the state since
	failures int64
}

// New makes a session that is Down. discriminator is unique on this system and not 0. jitter gives a random number of
// 0 to limit-1.
func New(config Config, discriminator uint32, now time.Time, jitter func(limit int64) int64) *Session {
	slow := max(config.DesiredMinTx, SlowTx)
	return &Session{
		config: config, jitter: jitter, state: Down, remoteState: Down, local: discriminator,
		desiredMinTx: slow, usedMinTx: slow, requiredMinRx: config.RequiredMinRx, usedMinRx: config.RequiredMinRx,
		remoteMinRx: time.Microsecond, // section 6.8.1: its initial value
		nextSend:    now, since: now,
	}
}

// Kept is what a session that is Up is gone on with by another process.
type Kept struct {
	Local, Remote     uint32 // discriminators
	RemoteMinTx       time.Duration
	RemoteMinRx       time.Duration
	RemoteMultiplier  uint8
	RemoteIndependent bool
	Failures          int64
	Since             time.Time
}

// Keep returns what Resume needs; ok is false when the session cannot be gone on with: it is not Up.
func (s *Session) Keep() (kept Kept, ok bool) {
	return Kept{
		Local: s.local, Remote: s.remote, RemoteMinTx: s.remoteMinTx, RemoteMinRx: s.remoteMinRx,
		RemoteMultiplier: s.remoteMultiplier, RemoteIndependent: s.remoteIndependent, Failures: s.failures, Since: s.since,
	}, s.state == Up
}

// Resume goes on with a session that was Up a moment ago. To the other end it is the same one, which was silent meanwhile;
// this end gives it a whole detection time. It begins with a Poll Sequence: what was wanted may have changed.
func Resume(config Config, kept Kept, now time.Time, jitter func(limit int64) int64) *Session {
	s := New(config, kept.Local, now, jitter)
	s.state, s.remoteState, s.remote = Up, Up, kept.Remote
	s.remoteMinTx, s.remoteMinRx, s.remoteMultiplier = kept.RemoteMinTx, kept.RemoteMinRx, kept.RemoteMultiplier
	s.remoteIndependent, s.failures, s.since = kept.RemoteIndependent, kept.Failures, kept.Since
	s.desiredMinTx, s.usedMinTx, s.polling, s.heard = config.DesiredMinTx, config.DesiredMinTx, true, now
	return s
}

// Configure changes what this end wants.
func (s *Session) Configure(config Config, now time.Time) []Packet {
	if config == s.config {
		return nil
	}
	told := config.Multiplier != s.config.Multiplier
	s.config = config
	return s.output(now, s.timers(now) || told)
}

// Receive takes a packet that Parse passed and that is this session's: by its discriminator, or by its addresses where
// that is 0. It returns what is to be sent at once.
func (s *Session) Receive(p Packet, now time.Time) []Packet {
	s.remote, s.remoteState, s.remoteDiagnostic = p.Mine, p.State, p.Diagnostic
	s.remoteDemand, s.remoteIndependent = p.Demand, p.Independent
	s.remoteMinTx, s.remoteMinRx, s.remoteMultiplier = p.DesiredMinTx, p.RequiredMinRx, p.Multiplier
	if p.Final && s.polling {
		s.endPoll()
	}
	if s.state == AdminDown {
		return nil // section 6.8.6: discarded here, after the variables were set
	}
	s.heard = now
	changed := s.follow(p.State, now)
	changed = s.timers(now) || changed
	s.schedule(now)
	var out []Packet
	if p.Poll {
		final := s.Packet()
		final.Poll, final.Final = false, true
		out = append(out, final)
		changed = changed && s.polling // the answer has told the rest
	}
	if changed {
		s.hasten(now)
	}
	return out
}

// hastened is how soon a change that a packet brought about is told. Not at once: an answer to each packet by a packet
// would be a storm, were both ends to change their minds by turns.
const hastened = 5 * time.Millisecond

// hasten brings the next periodic packet forward.
func (s *Session) hasten(now time.Time) {
	if soon := now.Add(hastened); s.mayTell() && soon.Before(s.nextSend) {
		s.nextSend = soon
	}
}

// follow is the state machine of section 6.8.6.
func (s *Session) follow(told State, now time.Time) bool {
	switch {
	case told == AdminDown && s.state != Down:
		return s.enter(Down, NeighborDown, now)
	case told == AdminDown:
		return false
	case s.state == Down && told == Down:
		return s.enter(Init, s.diagnostic, now)
	case s.state == Down && told == Init:
		return s.enter(Up, NoDiagnostic, now)
	case s.state == Init && (told == Init || told == Up):
		return s.enter(Up, NoDiagnostic, now)
	case s.state == Up && told == Down:
		return s.enter(Down, NeighborDown, now)
	}
	return false
}

func (s *Session) enter(state State, why Diagnostic, now time.Time) bool {
	if s.state == Up && state == Down && s.remoteState != AdminDown {
		s.failures++
	}
	s.state, s.diagnostic, s.since = state, why, now
	return true
}

// timers brings what is told to what is wanted, and begins a Poll Sequence where that is a change (section 6.8.3). It
// tells whether it is.
func (s *Session) timers(now time.Time) bool {
	tx, rx := s.config.DesiredMinTx, s.config.RequiredMinRx
	if s.state != Up {
		tx = max(tx, SlowTx)
	}
	if tx == s.desiredMinTx && rx == s.requiredMinRx {
		return false
	}
	s.desiredMinTx, s.requiredMinRx = tx, rx
	s.pollAgain = s.polling // an answer that is under way may be to the values of before
	s.polling = true
	// While Up, the other end is not to miss packets that it still expects, nor be given up for ones that it does not
	// send yet: what makes us slower, or stricter, waits for the Poll Sequence's end.
	if s.state != Up || tx < s.usedMinTx {
		s.usedMinTx = tx
	}
	if s.state != Up || rx > s.usedMinRx {
		s.usedMinRx = rx
	}
	s.schedule(now)
	return true
}

func (s *Session) endPoll() {
	if s.pollAgain {
		s.pollAgain = false
		return
	}
	s.polling = false
	s.usedMinTx, s.usedMinRx = s.desiredMinTx, s.requiredMinRx
}

// SetAdminDown holds the session down, or lets it come up again (section 6.8.16). The other end is told at once, and on.
func (s *Session) SetAdminDown(held bool, now time.Time) []Packet {
	if held == (s.state == AdminDown) {
		return nil
	}
	if held {
		s.enter(AdminDown, AdminDownDiag, now)
	} else {
		s.enter(Down, s.diagnostic, now)
	}
	s.timers(now)
	return s.output(now, true)
}

// Advance does what is due by now and returns what is to be sent.
func (s *Session) Advance(now time.Time) []Packet {
	changed := s.expire(now)
	due := !s.nextSend.IsZero() && !now.Before(s.nextSend)
	return s.output(now, changed || due)
}

// expire ends a session of which nothing was heard for the detection time (section 6.8.4).
func (s *Session) expire(now time.Time) bool {
	if s.heard.IsZero() || now.Before(s.heard.Add(s.DetectionTime())) {
		return false
	}
	s.heard, s.remote = time.Time{}, 0 // section 6.8.1: the discriminator is forgotten
	s.remoteState, s.remoteDemand = Down, false
	if s.state != Init && s.state != Up {
		return false
	}
	s.remoteMinRx = time.Microsecond // it may have asked for silence, and be back with another wish
	s.enter(Down, DetectionExpired, now)
	s.timers(now)
	return true
}

// output is the present packet where one is due, and the time of the next one.
func (s *Session) output(now time.Time, due bool) []Packet {
	if !due || !s.mayTell() {
		s.schedule(now)
		return nil
	}
	s.sent = now
	s.interval = 0 // a new jitter for each packet
	s.schedule(now)
	return []Packet{s.Packet()}
}

// mayTell is section 6.8.7: no periodic packets to one that wants none.
func (s *Session) mayTell() bool {
	quiet := s.remoteDemand && s.state == Up && s.remoteState == Up && !s.polling
	return s.remoteMinRx > 0 && !quiet
}

// schedule sets when the next periodic packet is due. It is asked whenever something changes: a shorter interval holds
// at once.
func (s *Session) schedule(now time.Time) {
	if !s.mayTell() {
		s.nextSend, s.interval = time.Time{}, 0
		return
	}
	base := s.TxInterval()
	if s.interval == base && !s.nextSend.IsZero() {
		return
	}
	s.interval = base
	s.nextSend = s.sent.Add(s.jittered(base))
	if s.sent.IsZero() {
		s.nextSend = now
	}
}

// jittered is 75 to 100 % of an interval, with a multiplier of 1 75 to 90 % (section 6.8.7).
func (s *Session) jittered(base time.Duration) time.Duration {
	share := int64(base) / 4
	if s.config.Multiplier == 1 {
		share = int64(base) * 15 / 100
	}
	return base*3/4 + time.Duration(s.jitter(share+1))
}

// Deadline is when Advance is to be called; zero: nothing is due before something arrives.
func (s *Session) Deadline() time.Time {
	next := s.nextSend
	if !s.heard.IsZero() {
		if expires := s.heard.Add(s.DetectionTime()); next.IsZero() || expires.Before(next) {
			next = expires
		}
	}
	return next
}

// TxInterval is the interval of sending before jitter: what both ends can keep up.
func (s *Session) TxInterval() time.Duration { return max(s.usedMinTx, s.remoteMinRx) }

// DetectionTime is the silence after which the session is down (section 6.8.4); 0 before anything was heard.
func (s *Session) DetectionTime() time.Duration {
	return time.Duration(s.remoteMultiplier) * max(s.usedMinRx, s.remoteMinTx)
}

// Packet is the control packet that tells the present state.
func (s *Session) Packet() Packet {
	return Packet{
		Diagnostic: s.diagnostic, State: s.state, Poll: s.polling, Independent: true, Multiplier: s.config.Multiplier,
		Mine: s.local, Yours: s.remote, DesiredMinTx: s.desiredMinTx, RequiredMinRx: s.requiredMinRx,
	}
}

// Status is what an operator sees of a session.
type Status struct {
	State, RemoteState           State
	Diagnostic, RemoteDiagnostic Diagnostic
	Local, Remote                uint32 // discriminators
	RemoteIndependent            bool
	Since                        time.Time
	Failures                     int64 // how often it left Up, but for an administrator's word (RFC 5882 section 3.2)
	TxInterval, DetectionTime    time.Duration
	RemoteMinTx, RemoteMinRx     time.Duration
	RemoteMultiplier             uint8
}

// Status tells where the session stands.
func (s *Session) Status() Status {
	return Status{
		State: s.state, RemoteState: s.remoteState, Diagnostic: s.diagnostic, RemoteDiagnostic: s.remoteDiagnostic,
		Local: s.local, Remote: s.remote, RemoteIndependent: s.remoteIndependent, Since: s.since, Failures: s.failures,
		TxInterval: s.TxInterval(), DetectionTime: s.DetectionTime(),
		RemoteMinTx: s.remoteMinTx, RemoteMinRx: s.remoteMinRx, RemoteMultiplier: s.remoteMultiplier,
	}
}
