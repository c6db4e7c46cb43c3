package speaker

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// doctor finds out why sessions do not come up, by calling their peers as a session would: GoBGP tells neither why a
// connection fails nor what a peer answers to an OPEN. It calls a peer only while its session is down, seldom, and hangs up.
type doctor struct {
	speaker *Speaker
	busy    chan struct{} // it holds as many as may be looked at together
	visits  map[netip.Addr]visit
}

// visit is when a session is to be looked at next, and how long after that again.
type visit struct {
	due  time.Time
	wait time.Duration
}

var visits = struct {
	first, again, most time.Duration
	deadline           time.Duration
	atOnce             int
}{
	first:    8 * time.Second, // most sessions are up by then
	again:    15 * time.Second,
	most:     2 * time.Minute,
	deadline: 5 * time.Second, // for one look
	atOnce:   4,
}

func newDoctor(s *Speaker) *doctor {
	return &doctor{speaker: s, busy: make(chan struct{}, visits.atOnce), visits: map[netip.Addr]visit{}}
}

// run looks at sessions until the context ends.
func (d *doctor) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, p := range d.patients(now, readCounters()) {
				select {
				case d.busy <- struct{}{}:
				default:
					continue // it is still due at the next tick
				}
				d.visited(p.neighbor.Address, now)
				wg.Go(func() {
					defer func() { <-d.busy }()
					look, cancel := context.WithTimeout(ctx, visits.deadline)
					defer cancel()
					d.note(p, examine(look, p))
				})
			}
		}
	}
}

// patient is a session that is to be looked at.
type patient struct {
	neighbor config.Neighbor
	routerID netip.Addr
	before   counters // of the kernel, when the session went down
}

// patients are the sessions that are down and due. One that went down just now has the kernel's counters noted.
func (d *doctor) patients(now time.Time, kernel counters) []patient {
	s := d.speaker
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.desired == nil || s.restarting() {
		return nil // peers keep our routes until we are back: nothing is to disturb them
	}
	var due []patient
	for address, session := range s.sessions {
		ill := session.state != route.Established && session.problem == "" && session.blocked.why == "" && session.group == "" && !s.frozen &&
			!s.table.HasStale(address) // it restarts, and is expected back
		v, known := d.visits[address]
		switch {
		case !ill:
			delete(d.visits, address)
			session.finding = ""
		case !known:
			d.visits[address] = visit{now.Add(visits.first), visits.again}
			session.counters = kernel
		case !now.Before(v.due):
			due = append(due, patient{session.neighbor, s.desired.Global.RouterID, session.counters})
		}
	}
	for address := range d.visits {
		if s.sessions[address] == nil {
			delete(d.visits, address)
		}
	}
	return due
}

func (d *doctor) visited(address netip.Addr, now time.Time) {
	v := d.visits[address]
	d.visits[address] = visit{now.Add(v.wait), min(2*v.wait, visits.most)}
}

// note keeps what was found, unless the session came up or was changed meanwhile.
func (d *doctor) note(p patient, finding string) {
	s := d.speaker
	s.mu.Lock()
	defer s.mu.Unlock()
	session := s.sessions[p.neighbor.Address]
	if session == nil || session.state == route.Established || len(config.ResetFields(session.neighbor, p.neighbor)) > 0 {
		return
	}
	if finding != session.finding && finding != "" {
		s.log.Warn("session is down", "peer", p.neighbor.Address.String(), "origin", p.neighbor.Origin, "reason", finding)
	}
	session.finding = finding
	s.table.signal()
}
