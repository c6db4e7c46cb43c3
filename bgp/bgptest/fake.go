package bgptest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// Speaker is a fake of bgp/speaker: it keeps what it is told, and tells what the test lets peers say.
type Speaker struct {
	mu       sync.Mutex // guards all below
	desired  config.Desired
	sets     int
	sessions map[netip.Addr]*route.Session
	told     map[netip.Prefix]map[netip.Addr]*route.Path
	dirty    []netip.Prefix
	changed  chan struct{}
}

// NewSpeaker makes a Speaker that was told nothing.
func NewSpeaker() *Speaker {
	return &Speaker{
		sessions: map[netip.Addr]*route.Session{}, told: map[netip.Prefix]map[netip.Addr]*route.Path{},
		changed: make(chan struct{}, 1),
	}
}

// Set keeps what the speaker is to be.
func (s *Speaker) Set(desired config.Desired) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.desired = desired
	s.sets++
	for _, n := range desired.Neighbors {
		if s.sessions[n.Address] == nil {
			s.sessions[n.Address] = &route.Session{
				Peer: n.Address, PeerASN: n.PeerASN, LocalASN: n.LocalASN, Origin: n.Origin, State: route.Idle,
			}
		}
	}
	for address := range s.sessions {
		if !slices.ContainsFunc(desired.Neighbors, func(n config.Neighbor) bool { return n.Address == address }) {
			delete(s.sessions, address)
		}
	}
}

// Sets counts the calls of Set.
func (s *Speaker) Sets() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sets
}

// Changed gets a value when there is something to Take.
func (s *Speaker) Changed() <-chan struct{} { return s.changed }

// Take returns up to max changed prefixes.
func (s *Speaker) Take(max int) []route.Learned {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(max, len(s.dirty))
	var taken []route.Learned
	for _, prefix := range s.dirty[:n] {
		learned := route.Learned{Prefix: prefix}
		for _, peer := range slices.SortedFunc(maps.Keys(s.told[prefix]), netip.Addr.Compare) {
			learned.Paths = append(learned.Paths, s.told[prefix][peer])
		}
		taken = append(taken, learned)
	}
	s.dirty = s.dirty[n:]
	return taken
}

// Sessions lists the sessions, with the number of paths that each peer tells now.
func (s *Speaker) Sessions() []route.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []route.Session
	for _, address := range slices.SortedFunc(maps.Keys(s.sessions), netip.Addr.Compare) {
		session := *s.sessions[address]
		for _, paths := range s.told {
			if paths[address] != nil {
				session.Received++
			}
		}
		list = append(list, session)
	}
	return list
}

// Up establishes a session, for IPv4.
func (s *Speaker) Up(peer netip.Addr, graceful bool) {
	s.change(peer, func(session *route.Session) {
		session.State, session.GracefulRestart, session.Families = route.Established, graceful, []route.Family{route.IPv4}
	})
}

// Down ends a session.
func (s *Speaker) Down(peer netip.Addr, reason string) {
	s.change(peer, func(session *route.Session) {
		session.State, session.Reason = route.Idle, reason
		session.Flaps++
	})
}

// Fail ends a session as the agent found that its peer cannot be reached.
func (s *Speaker) Fail(peer netip.Addr, reason string, keepStale bool) {
	s.mu.Lock()
	session := s.sessions[peer]
	ends := session != nil && (session.State == route.Established || !keepStale)
	var told []netip.Prefix
	for prefix, paths := range s.told {
		if ends && paths[peer] != nil {
			told = append(told, prefix)
		}
	}
	s.mu.Unlock()
	if !ends {
		return
	}
	s.Down(peer, reason)
	for _, prefix := range told {
		s.Withdraw(peer, prefix)
	}
}

// EndOfRIB lets a peer say that it has told all.
func (s *Speaker) EndOfRIB(peer netip.Addr) {
	s.change(peer, func(session *route.Session) { session.EndOfRIB = true })
}

func (s *Speaker) change(peer netip.Addr, how func(*route.Session)) {
	s.mu.Lock()
	session := s.sessions[peer]
	if session == nil {
		s.mu.Unlock()
		panic(fmt.Sprintf("%s is no neighbour: the speaker was told\n%s", peer, s))
	}
	how(session)
	s.mu.Unlock()
	s.signal()
}

func (s *Speaker) signal() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Tell lets a peer tell a path.
func (s *Speaker) Tell(path *route.Path) {
	s.mu.Lock()
	if s.told[path.Prefix] == nil {
		s.told[path.Prefix] = map[netip.Addr]*route.Path{}
	}
	s.told[path.Prefix][path.Peer] = path
	s.mark(path.Prefix)
	s.mu.Unlock()
	s.signal()
}

// Withdraw lets a peer take a prefix back.
func (s *Speaker) Withdraw(peer netip.Addr, prefix netip.Prefix) {
	s.mu.Lock()
	delete(s.told[prefix], peer)
	s.mark(prefix)
	s.mu.Unlock()
	s.signal()
}

func (s *Speaker) mark(prefix netip.Prefix) {
	if !slices.Contains(s.dirty, prefix) {
		s.dirty = append(s.dirty, prefix)
	}
}

// String prints what the speaker is told to be.
func (s *Speaker) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	if s.sets == 0 {
		return "not told anything\n"
	}
	g := s.desired.Global
	fmt.Fprintf(&b, "router id %s as %d port %d\n", g.RouterID, g.ASN, g.ListenPort)
	for _, n := range s.desired.Neighbors {
		fmt.Fprintf(&b, "neighbor %s as %d local as %d from %s", n.Address, n.PeerASN, n.LocalASN, n.Origin)
		for _, prefix := range n.Withhold {
			fmt.Fprintf(&b, " without %s", prefix)
		}
		for _, told := range n.Told {
			fmt.Fprintf(&b, " telling %v with %s", told.Prefixes, told)
		}
		b.WriteByte('\n')
	}
	for _, a := range s.desired.Advertise {
		fmt.Fprintf(&b, "advertise %s\n", a.Prefix)
	}
	for _, r := range s.desired.Reflect {
		to := "all"
		if r.ClientsOnly {
			to = "clients"
		}
		fmt.Fprintf(&b, "reflect %s via %s told by %s through %v to %s\n", r.Path.Prefix, r.Path.NextHop,
			r.Path.Extra.OriginatorID, r.Path.Extra.ClusterList, to)
	}
	return b.String()
}

// FIB is a fake of bgp/fib: a kernel that takes everything. Routes of before stand until Settled.
type FIB struct {
	mu      sync.Mutex // guards all below
	before  []string   // of an earlier process
	desired map[netip.Prefix]*route.Kernel
	settled bool
	changes int

	lost   map[netip.Prefix]bool
	stray  map[netip.Prefix]route.Seen
	hidden map[netip.Prefix]string
}

// NewFIB makes a FIB whose kernel still has these lines of an earlier process.
func NewFIB(before ...string) *FIB {
	return &FIB{
		before: before, desired: map[netip.Prefix]*route.Kernel{},
		lost: map[netip.Prefix]bool{}, stray: map[netip.Prefix]route.Seen{}, hidden: map[netip.Prefix]string{},
	}
}

// Apply merges changes.
func (f *FIB) Apply(changes []route.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, change := range changes {
		f.changes++
		if change.Route == nil {
			delete(f.desired, change.Prefix)
			continue
		}
		if change.Route.Prefix != change.Prefix || change.Route.Blackhole == (len(change.Route.NextHops) > 0) {
			panic(fmt.Sprintf("not a route for the kernel: %+v", *change.Route))
		}
		f.desired[change.Prefix] = change.Route
	}
}

// Settled lets the routes of before go. Twice is a fault of the caller.
func (f *FIB) Settled() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.settled {
		panic("settled twice")
	}
	f.settled = true
	f.before = nil
}

// IsSettled tells whether Settled was called.
func (f *FIB) IsSettled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.settled
}

// Changes counts the changes so far.
func (f *FIB) Changes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

// Status is Installed for what is desired.
func (f *FIB) Status(prefix netip.Prefix) route.InstallStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.desired[prefix] == nil {
		return route.InstallStatus{State: route.Pending}
	}
	return route.InstallStatus{State: route.Installed}
}

// Look finds what is desired, each next hop on the interface "eth0".
func (f *FIB) Look() (route.Look, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	look := route.Look{Ours: map[netip.Prefix]route.Seen{}, HiddenBy: func(prefix netip.Prefix) string { return f.hidden[prefix] }}
	for prefix, desired := range f.desired {
		if f.lost[prefix] {
			continue
		}
		seen := route.Seen{Blackhole: desired.Blackhole}
		for _, hop := range desired.NextHops {
			seen.Hops = append(seen.Hops, route.SeenHop{Gateway: hop.Addr, Interface: "eth0", Weight: max(1, int(hop.Weight))})
			look.OnLink = append(look.OnLink, netip.PrefixFrom(hop.Addr, hop.Addr.BitLen()))
		}
		look.Ours[prefix] = seen
	}
	for prefix, seen := range f.stray {
		look.Ours[prefix] = seen
	}
	return look, nil
}

// Lose takes a route out of the kernel behind the writer's back.
func (f *FIB) Lose(prefix netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost[prefix] = true
}

// Stray puts a route under our name into the kernel, or changes one, behind the writer's back.
func (f *FIB) Stray(prefix netip.Prefix, seen route.Seen) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stray[prefix] = seen
}

// Hide lets somebody else's route go before ours.
func (f *FIB) Hide(prefix netip.Prefix, by string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hidden[prefix] = by
}

// Count is the number of routes.
func (f *FIB) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.desired)
}

// String prints the kernel's routes of ours like `ip route`.
func (f *FIB) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, line := range f.before {
		fmt.Fprintln(&b, line)
	}
	for _, prefix := range slices.SortedFunc(maps.Keys(f.desired), netip.Prefix.Compare) {
		fmt.Fprintln(&b, Line(f.desired[prefix]))
	}
	return b.String()
}

// Line prints one route like `ip route`.
func Line(k *route.Kernel) string {
	if k.Blackhole {
		return "blackhole " + k.Prefix.String()
	}
	if len(k.NextHops) == 1 {
		return k.Prefix.String() + " via " + k.NextHops[0].Addr.String()
	}
	line := k.Prefix.String()
	for _, hop := range k.NextHops {
		line += " nexthop via " + hop.Addr.String()
	}
	return line
}
