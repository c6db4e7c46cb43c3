package agent

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/rib"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// core is the agent's state and what follows from its inputs. It belongs to one goroutine and is told the time.
type core struct {
	node    string
	speaker Speaker
	fib     FIB
	bfd     liveness
	log     *slog.Logger

	routers    Routers // nil: none are looked for
	gateways   lingering
	placed     config.Surroundings // what the neighbours were made by
	listLocal  func() ([]config.LocalAddress, error)
	local      []config.LocalAddress // as last listed
	localFault string                // what was last logged about it

	snapshot *clearwayv1.NodeSnapshot // nil: unknown
	blocks   []netip.Prefix           // own ones, ascending; see blocksKnown
	subnets  []netip.Prefix           // those of them that are a bridge's own
	holes    []netip.Prefix           // what gets a blackhole route: see dig
	services []config.ServicePrefix   // what is told of Services
	// blocksKnown: the blocks were said once. Without them, or without a snapshot, the speaker is told nothing:
	// a session that came up before its routes would end its first burst with an empty End-of-RIB.
	blocksKnown bool
	built       config.Desired // of the newest snapshot, without what is advertised
	desired     config.Desired // what the speaker was told last
	problems    map[config.Problem]bool

	ownership policy.Log
	judge     policy.Judge
	table     *rib.Table

	online      bool
	onlineSince time.Time // since when it is as online says
	afterOnline bool      // online again, and the log has not spoken since

	reflector reflector
	toldOn    time.Time // when reflections were told last within a burst
	leftovers map[netip.Addr]leftover

	restart  restart
	drain    drain
	traffic  func() (Traffic, error)
	events   events
	sessions map[netip.Addr]string // their states when last looked at
	warnings map[netip.Addr]string // as last told
	rejected map[policy.Rule]int64

	news            chan struct{} // gets a value when Status has something new
	reported, shown standing
}

// standing is what an operator sees of a node's BGP at a glance.
type standing struct {
	states, routes string
}

func newCore(options Options) *core {
	c := &core{
		node: options.Node, speaker: options.Speaker, fib: options.FIB, log: options.Logger,
		bfd:      newLiveness(options.Liveness),
		problems: map[config.Problem]bool{}, sessions: map[netip.Addr]string{}, warnings: map[netip.Addr]string{}, rejected: map[policy.Rule]int64{},
		traffic: options.Traffic, leftovers: map[netip.Addr]leftover{},
		restart: restart{start: options.Start}, events: newEvents(options.Node), listLocal: options.LocalAddresses,
		news: make(chan struct{}, 1),
	}
	c.routers, c.gateways = options.Routers, newLingering(options.Gateways)
	if c.listLocal == nil {
		c.listLocal = func() ([]config.LocalAddress, error) { return nil, nil }
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.table = rib.New(c.judge.Judge)
	c.judge.Owners = c.ownership.Owners()
	return c
}

// begin notes when the agent started to work.
func (c *core) begin(now time.Time) {
	c.onlineSince = now
	c.restart.begin(now)
	c.lookAround()
}

// lookAround lists the machine's addresses anew. When that fails, those of before hold.
func (c *core) lookAround() {
	local, err := c.listLocal()
	if err != nil {
		if text := err.Error(); text != c.localFault {
			c.localFault = text
			c.log.Error("next hops may be of before", "error", err)
		}
		return
	}
	c.local, c.localFault = local, ""
}

// receive takes over what came in, all of it before anything is done.
func (c *core) receive(box mailbox, now time.Time) {
	var touched touched
	for _, piece := range box.ownership {
		c.receiveOwnership(piece, &touched)
	}
	if box.online != nil {
		c.setOnline(*box.online, now)
	}
	before := c.holes
	if box.blocks != nil {
		c.setBlocks(*box.blocks, &touched)
	}
	if box.snapshot != nil {
		c.snapshot = box.snapshot
		c.order(now)
	}
	if box.snapshot != nil || touched.all {
		c.configure(&touched, now)
	}
	if box.snapshot != nil || touched.services {
		c.services = config.Services(c.snapshot, c.ownership.Owners().Services())
	}
	c.dig(&touched)
	c.write(before, touched)
	c.tell(now)
}

// touched is what a change of inputs makes to be judged again.
type touched struct {
	all      bool
	prefixes []netip.Prefix // and all that share addresses with them
	services bool           // what every node tells of Services
}

func (c *core) receiveOwnership(piece *clearwayv1.WatchOwnershipResponse, touched *touched) {
	effect, err := c.ownership.Receive(piece)
	if err != nil {
		c.log.Error("entries of the ownership log are left out", "error", err)
	}
	c.judge.Owners = c.ownership.Owners()
	touched.all, touched.services = touched.all || effect.Nodes, touched.services || effect.Services
	touched.prefixes = append(touched.prefixes, effect.Blocks...)
	if piece.GetComplete() && c.afterOnline {
		c.comeBack(touched)
	}
}

func (c *core) setOnline(online bool, now time.Time) {
	if online == c.online {
		return
	}
	c.online, c.onlineSince = online, now
	c.afterOnline = online
}

// comeBack ends the time alone: from now on the log names what is owned. It is not ended with the first sign of
// ipamd, for what was taken alone would be given up for the moment until the log has spoken.
func (c *core) comeBack(touched *touched) {
	c.afterOnline = false
	touched.all = touched.all || c.judge.Alone
	c.judge.Alone = false
}

func (c *core) setBlocks(own ownBlocks, touched *touched) {
	blocks := slices.Clone(own.all)
	slices.SortFunc(blocks, netip.Prefix.Compare)
	blocks = slices.Compact(blocks)
	c.blocksKnown = true
	for _, block := range c.blocks {
		if !slices.Contains(blocks, block) {
			c.judge.Own.Delete(block)
			touched.prefixes = append(touched.prefixes, block)
		}
	}
	for _, block := range blocks {
		if !slices.Contains(c.blocks, block) {
			c.judge.Own.Insert(block, struct{}{})
			touched.prefixes = append(touched.prefixes, block)
		}
	}
	c.blocks, c.subnets = blocks, own.subnets
}

// dig says which prefixes get a blackhole route: the node's blocks and the aggregates that it tells, so that a packet to what
// nobody has does not go back to the router it came from.
func (c *core) dig(touched *touched) {
	c.holes = slices.DeleteFunc(slices.Clone(c.blocks), func(block netip.Prefix) bool {
		return !blackholed(block) || slices.Contains(c.subnets, block)
	})
	originated := map[netip.Prefix]struct{}{}
	for _, one := range config.Originated(c.snapshot, c.blocks, c.services) {
		originated[one.Prefix] = struct{}{}
		c.holes = append(c.holes, one.Prefix)
	}
	if !maps.Equal(originated, c.judge.Originated) {
		for prefix := range originated {
			touched.prefixes = append(touched.prefixes, prefix)
		}
		for prefix := range c.judge.Originated {
			touched.prefixes = append(touched.prefixes, prefix)
		}
		c.judge.Originated = originated
	}
}

// configure computes neighbours and what the judge goes by.
func (c *core) configure(touched *touched, now time.Time) {
	if c.snapshot == nil {
		return
	}
	built, problems := config.BuildAt(c.place(now), c.node, c.snapshot, c.ownership.Owners().Nodes())
	c.handOver(&built, now)
	c.built = built
	touched.all = c.reflector.reroute(built) || touched.all
	c.note(problems, now)
	peers := map[netip.Addr]policy.Peer{}
	for _, neighbor := range built.Neighbors {
		peers[neighbor.Address] = neighbor.Peer()
	}
	ranges := map[netip.Prefix]policy.Peer{}
	for _, r := range built.Ranges {
		ranges[r.Prefix] = r.Session.Peer()
	}
	pools, aggregates := config.Pools(c.snapshot), config.Aggregates(c.snapshot)
	services := config.ServiceSpace(c.snapshot)
	asn, self := config.ClusterASN(c.snapshot), [2]netip.Addr{built.Global.NextHop4, built.Global.NextHop6}
	if reflect.DeepEqual(peers, c.judge.Peers) && reflect.DeepEqual(ranges, c.judge.Ranges) && reflect.DeepEqual(aggregates, c.judge.Aggregates) &&
		slices.Equal(services, c.judge.Services) && c.samePools(pools) && asn == c.judge.DefaultASN && self == c.judge.Self && built.Global.RouterID == c.judge.RouterID {
		return
	}
	touched.all = true
	c.judge.Ranges = ranges
	c.judge.Peers, c.judge.Aggregates, c.judge.DefaultASN, c.judge.Self = peers, aggregates, asn, self
	c.judge.RouterID, c.judge.Services = built.Global.RouterID, services
	for prefix := range c.judge.Pools.Clone().All() {
		c.judge.Pools.Delete(prefix)
	}
	for prefix, name := range pools {
		c.judge.Pools.Insert(prefix, name)
	}
}

func (c *core) samePools(pools map[netip.Prefix]string) bool {
	for prefix, name := range pools {
		if there, ok := c.judge.Pools.Get(prefix); !ok || there != name {
			return false
		}
	}
	return len(pools) == c.judge.Pools.Size()
}

// note reports problems of the configuration, each once while it lasts.
func (c *core) note(problems []config.Problem, now time.Time) {
	present := map[config.Problem]bool{}
	for _, problem := range problems {
		present[problem] = true
		if !c.problems[problem] {
			c.log.Warn(problem.Message, "regarding", problem.Regarding, "reason", problem.Reason)
			c.events.add(now, "Warning", problem.Reason, problem.Regarding, problem.Message)
		}
	}
	c.problems = present
}

// write brings the route writer to the new own blocks (before: those that had a blackhole) and verdicts. A prefix may be both given up and learned (or the
// reverse): the verdicts come over what goes, and the own blackholes over the verdicts.
func (c *core) write(before []netip.Prefix, touched touched) {
	changes := map[netip.Prefix]*route.Kernel{}
	for _, block := range before {
		if !slices.Contains(c.holes, block) {
			changes[block] = nil
		}
	}
	for _, prefix := range c.affected(touched) {
		if change, changed := c.table.Rejudge(prefix); changed {
			changes[prefix] = change.Route
		} else if _, given := changes[prefix]; given {
			changes[prefix] = c.table.Get(prefix).Route
		}
		c.reflector.look(prefix, c.table.Get(prefix))
	}
	for _, block := range c.holes {
		if _, given := changes[block]; given || !slices.Contains(before, block) {
			changes[block] = &route.Kernel{Prefix: block, Blackhole: true}
		}
	}
	if len(changes) == 0 {
		return
	}
	list := make([]route.Change, 0, len(changes))
	for prefix, kernel := range changes {
		list = append(list, route.Change{Prefix: prefix, Route: kernel})
	}
	slices.SortFunc(list, func(a, b route.Change) int { return a.Prefix.Compare(b.Prefix) })
	c.fib.Apply(list)
}

// blackholed tells whether an own block gets a blackhole route, so that a packet to one of its free addresses does not
// go back to the router it came from. A single address has none: its Pod's own route has the same destination.
func blackholed(block netip.Prefix) bool { return !block.IsSingleIP() }

func (c *core) affected(touched touched) []netip.Prefix {
	if touched.all {
		list := make([]netip.Prefix, 0, c.table.Len())
		for prefix := range c.table.All {
			list = append(list, prefix)
		}
		return list
	}
	seen := map[netip.Prefix]bool{}
	var list []netip.Prefix
	for _, prefix := range touched.prefixes {
		for _, at := range c.table.Touching(prefix) {
			if !seen[at] {
				seen[at] = true
				list = append(list, at)
			}
		}
	}
	return list
}

// tell gives the speaker the whole, once both halves of it are known.
func (c *core) tell(now time.Time) {
	if c.snapshot == nil || !c.blocksKnown || !c.servicesKnown(now) {
		return
	}
	desired := config.Desired{
		Global: c.built.Global, Neighbors: slices.Clone(c.built.Neighbors), Ranges: slices.Clone(c.built.Ranges), Awaited: c.built.Awaited,
	}
	desired.Advertise, desired.Reflect = config.Advertise(c.snapshot, c.blocks, c.services), c.reflector.all()
	for i := range desired.Neighbors {
		neighbor := &desired.Neighbors[i]
		neighbor.SetNextHops(desired.Global, c.local)
		c.drain.leave(neighbor)
		neighbor.SetExports(desired.Global, desired.Advertise)
	}
	for i := range desired.Ranges {
		session := &desired.Ranges[i].Session
		c.drain.leave(session)
		session.SetExports(desired.Global, desired.Advertise)
	}
	if c.restart.told.IsZero() {
		c.restart.told = now
	} else if reflect.DeepEqual(desired, c.desired) {
		return
	}
	c.desired = desired
	c.speaker.Set(desired)
	c.bfd.want(desired.Neighbors)
}

// servicesKnown tells whether the ownership log has said what every node tells of Services, where they are told of at all: else
// a session that comes up before would end its first burst without them, and the peers would drop them. Who starts without a
// copy of the log, and without ipamd, does not wait for ever.
func (c *core) servicesKnown(now time.Time) bool {
	return len(config.ServiceSpace(c.snapshot)) == 0 || c.ownership.Complete() || !c.restart.told.IsZero() ||
		now.Sub(c.restart.began) >= limits.alone
}

// learn takes over what peers tell.
func (c *core) learn(learned []route.Learned, now time.Time) {
	var changes []route.Change
	for _, prefix := range learned {
		if change, changed := c.table.Set(prefix); changed {
			changes = append(changes, change)
		}
		c.reflector.look(prefix.Prefix, c.table.Get(prefix.Prefix))
		c.watch(prefix.Prefix, now)
	}
	if len(changes) > 0 {
		c.fib.Apply(changes)
	}
	c.tellOn(now)
}

// usual are rejections that nobody need hear of: a reflector tells its client what is the client's, and other nodes originate
// the aggregate that this one does, and tell of the Services that it does.
var usual = map[policy.Rule]bool{policy.ReflectedBack: true, policy.ClusterLoop: true, policy.OwnAggregate: true, policy.ServiceAddress: true}

// watch counts and reports what was rejected.
func (c *core) watch(prefix netip.Prefix, now time.Time) {
	entry := c.table.Get(prefix)
	if entry == nil {
		return
	}
	for i, verdict := range entry.Verdicts {
		if verdict.Decision != policy.Reject || usual[verdict.Rule] {
			continue
		}
		c.rejected[verdict.Rule]++
		path := entry.Paths[i]
		key := path.Peer.String() + " " + verdict.Rule.String()
		if !c.events.due(key, now) {
			continue
		}
		reason := c.judge.Explain(path)
		origin := c.judge.Origin(path)
		c.log.Warn("path rejected (others like it are counted, not logged, for a while)", "prefix", prefix, "peer", path.Peer,
			"origin", origin, "nextHop", path.NextHop, "asPath", path.ASPath, "rule", verdict.Rule.String(), "reason", reason)
		c.events.add(now, "Warning", "PathRejected", origin, prefix.String()+" from "+path.Peer.String()+": "+reason)
	}
}

// tick does what depends on time alone.
func (c *core) tick(now time.Time) {
	var touched touched
	switch {
	case !c.online && !c.judge.Alone && now.Sub(c.onlineSince) >= limits.alone:
		c.judge.Alone = true
		touched.all = true // what waits is taken, and pieces of what owners split
	case c.online && c.afterOnline && now.Sub(c.onlineSince) >= limits.alone:
		c.comeBack(&touched) // ipamd has nothing new to say
	}
	if len(c.leftovers) > 0 {
		c.configure(&touched, now)
	}
	if touched.all || len(touched.prefixes) > 0 {
		c.write(c.holes, touched)
	}
	c.lookAround()
	if c.moved(now) {
		c.configure(&touched, now)
		c.write(c.holes, touched)
	}
	c.watchDrain(now)
	c.tell(now)
	sessions := c.speaker.Sessions()
	c.follow(sessions, now)
	c.settle(sessions, now)
	c.announce(sessions)
}

// announce says that there is news: at once for a session's state, for numbers of routes when they have come to rest,
// so that a burst of routes is no burst of reports.
func (c *core) announce(sessions []route.Session) {
	var states, routes strings.Builder
	for _, s := range sessions {
		fmt.Fprint(&states, s.Peer, s.State, c.bfd.state(s.Peer), " ")
		fmt.Fprint(&routes, s.Received, " ", s.Advertised, " ")
	}
	fmt.Fprint(&routes, c.fib.Count())
	fmt.Fprint(&states, c.drain.phase(), c.drain.generation)
	now := standing{states.String(), routes.String()}
	resting := now == c.shown
	c.shown = now
	if now == c.reported || now.states == c.reported.states && !resting {
		return
	}
	c.reported = now
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// follow reports sessions that came up or went down.
func (c *core) follow(sessions []route.Session, now time.Time) {
	states := make(map[netip.Addr]string, len(sessions))
	maps.DeleteFunc(c.warnings, func(peer netip.Addr, _ string) bool {
		return !slices.ContainsFunc(sessions, func(s route.Session) bool { return s.Peer == peer })
	})
	for _, s := range sessions {
		states[s.Peer] = s.State
		was := c.sessions[s.Peer]
		if s.Warning != "" && c.warnings[s.Peer] != s.Warning {
			c.events.add(now, "Warning", "TooManyPrefixes", s.Origin, s.Warning+" ("+s.Peer.String()+")")
		}
		c.warnings[s.Peer] = s.Warning
		switch {
		case s.State == route.Established && was != route.Established:
			c.events.add(now, "Normal", "SessionEstablished", s.Origin, "session with "+s.Peer.String()+" is established")
		case s.State != route.Established && was == route.Established:
			c.events.add(now, "Warning", "SessionLost", s.Origin, "session with "+s.Peer.String()+" is lost: "+s.Reason)
		}
	}
	c.sessions = states
}

// settle says Settled when every source has spoken (the invariant NoEarlyPrune). The sessions were listed before: what
// they told until then is taken first.
func (c *core) settle(sessions []route.Session, now time.Time) {
	if c.restart.settled || !c.ownership.Complete() || c.restart.told.IsZero() {
		return
	}
	missing := c.missing(sessions)
	late := now.Sub(c.restart.told) >= c.patience()
	if len(missing) > 0 && !late {
		c.restart.why = "waiting for End-of-RIB from " + names(missing)
		return
	}
	for {
		learned := c.speaker.Take(limits.batch)
		if len(learned) == 0 {
			break
		}
		c.learn(learned, now)
	}
	if len(c.table.Waiting()) > 0 && !late {
		c.restart.why = "waiting for the ownership log to name what peers tell"
		return
	}
	c.fib.Settled()
	c.restart.settle(sessions, missing, now)
	c.log.Info("every source has spoken: routes of before that nobody wants are removed now",
		"restart", c.restart.outcome, "why", c.restart.why)
	c.events.add(now, "Normal", "Settled", "Node/"+c.node, c.restart.why)
}

// missing are the wanted sessions whose peers have not told all they know yet.
func (c *core) missing(sessions []route.Session) []route.Session {
	ended := map[netip.Addr]route.Session{}
	for _, s := range sessions {
		ended[s.Peer] = s
	}
	var missing []route.Session
	for _, neighbor := range c.desired.Neighbors {
		if s := ended[neighbor.Address]; !s.EndOfRIB && !c.bfd.gone(neighbor.Address) {
			s.Peer, s.Origin = neighbor.Address, neighbor.Origin
			missing = append(missing, s)
		}
	}
	if len(missing) > 0 || c.routers == nil {
		return missing
	}
	for _, awaited := range c.desired.Awaited {
		missing = append(missing, route.Session{Origin: awaited.Origin})
	}
	return missing
}

// patience is how long neighbours may take after a start.
func (c *core) patience() time.Duration {
	longest := limits.settle
	for _, neighbor := range c.desired.Neighbors {
		longest = max(longest, neighbor.GracefulRestart.DeferralTime+limits.settleExtra)
	}
	return longest
}
