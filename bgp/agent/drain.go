package agent

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Traffic is what has gone through the machine since it started, in packets.
type Traffic struct {
	Forwarded  uint64         // from one interface to another, of both families
	Interfaces map[int]uint64 // received and sent, by the kernel's index
	Names      map[string]int // the interfaces' indices by name
}

// quiet is when nothing to speak of flows any more. A node forwards nothing but its Pods' packets. On a link there are, beside
// them, BGP's, BFD's (20 a second at 100 ms) and ND's.
var quiet = struct {
	forwarded, link float64       // packets a second
	least           time.Duration // since the drain began: peers choose anew, and their peers
	lasting         time.Duration
}{forwarded: 10, link: 50, least: 10 * time.Second, lasting: 5 * time.Second}

// The phases of a drain.
const (
	draining = "Draining"
	drained  = "Drained"
)

// drain follows one drain to its end. Its zero value is none.
type drain struct {
	spec       *clearwayv1.Drain
	generation int64
	began      time.Time
	calm       time.Time // since when it is quiet
	seen       Traffic
	seenAt     time.Time
	done       bool
	reason     string
}

// phase is the phase as operators see it; empty: none.
func (d *drain) phase() string {
	switch {
	case d.spec == nil:
		return ""
	case d.done:
		return drained
	}
	return draining
}

// order takes what the snapshot says of the node's drain, and reports what begins and ends.
func (c *core) order(now time.Time) {
	node := c.snapshot.GetNode()
	spec, d := node.GetSpec().GetDrain(), &c.drain
	d.generation = node.GetMetadata().GetGeneration()
	if proto.Equal(spec, d.spec) {
		return
	}
	before := d.spec
	same := before != nil && spec != nil && slices.Equal(before.GetPeers(), spec.GetPeers())
	switch {
	case spec == nil:
		c.drain = drain{generation: d.generation}
		c.events.add(now, "Normal", "Undrained", "Node/"+c.node, "the drain is over: everything is told as usual")
	case same:
		d.spec = spec
	default:
		c.drain = drain{spec: spec, generation: d.generation, began: now, reason: "peers are told that it leaves"}
		c.events.add(now, "Normal", "DrainBegan", "Node/"+c.node, "peers are told GRACEFUL_SHUTDOWN: "+whatLeaves(spec))
	}
	if spec.GetWithdraw() {
		c.finish("withdrawn at an operator's word", now)
	}
}

func whatLeaves(spec *clearwayv1.Drain) string {
	if len(spec.GetPeers()) == 0 {
		return "traffic is to leave the node"
	}
	return "traffic is to leave the sessions of " + strings.Join(spec.GetPeers(), ", ")
}

func (c *core) finish(why string, now time.Time) {
	if d := &c.drain; !d.done {
		d.done, d.reason = true, why
		c.events.add(now, "Normal", "Drained", "Node/"+c.node, "nothing is told any more: "+why)
	}
}

// watchDrain looks whether traffic has moved, and withdraws then.
func (c *core) watchDrain(now time.Time) {
	d := &c.drain
	if d.spec == nil || d.done {
		return
	}
	if d.spec.GetKeep() {
		d.reason = "what has another way moves; nothing is withdrawn"
		return
	}
	if c.traffic == nil {
		d.reason = "the agent cannot measure traffic; withdraw at your own word"
		return
	}
	seen, err := c.traffic()
	if err != nil {
		d.calm, d.reason = time.Time{}, "traffic cannot be measured: "+err.Error()
		return
	}
	before, since := d.seen, now.Sub(d.seenAt)
	d.seen, d.seenAt = seen, now
	if since > 10*limits.tick || since <= 0 {
		return // the first look, or one after a long while: no rate follows from it
	}
	links := c.leavingLinks(seen.Names)
	if len(d.spec.GetPeers()) > 0 && len(links) == 0 {
		d.calm, d.reason = time.Time{}, "the links of its sessions are not known; withdraw at your own word"
		return
	}
	rate, most, what := c.flowing(before, seen, links)
	rate /= since.Seconds()
	if rate > most {
		d.calm = time.Time{}
		d.reason = fmt.Sprintf("%.0f packets a second %s; withdrawn when it is at most %.0f", rate, what, most)
		return
	}
	if d.calm.IsZero() {
		d.calm = now
	}
	d.reason = fmt.Sprintf("at most %.0f packets a second %s; withdrawn when that has lasted", most, what)
	if now.Sub(d.calm) >= quiet.lasting && now.Sub(d.began) >= quiet.least {
		c.finish(fmt.Sprintf("for %s at most %.0f packets a second %s", now.Sub(d.calm).Round(time.Second), most, what), now)
	}
}

// flowing counts the packets between two looks that the drain is to move away.
func (c *core) flowing(before, after Traffic, links map[int]bool) (packets, most float64, what string) {
	if len(c.drain.spec.GetPeers()) == 0 {
		return grown(before.Forwarded, after.Forwarded), quiet.forwarded, "are forwarded"
	}
	for index := range links {
		packets += grown(before.Interfaces[index], after.Interfaces[index])
	}
	return packets, quiet.link, "go over the links of " + strings.Join(c.drain.spec.GetPeers(), ", ")
}

// grown is how much a counter grew. One that became less began anew.
func grown(before, after uint64) float64 {
	if after < before {
		return float64(after)
	}
	return float64(after - before)
}

// leavingLinks are the interfaces that sessions which leave run over: of their local addresses; of a link-local session the
// one it names; of a listen range those with an address in it, and the one that has the node's own.
func (c *core) leavingLinks(named map[string]int) map[int]bool {
	links, own := map[int]bool{}, map[netip.Addr]bool{}
	for _, n := range c.built.Neighbors {
		if n.Leaving == nil {
			continue
		}
		own[n.SourceAddress] = true
		if index, there := named[n.Address.Zone()]; there {
			links[index] = true
		}
	}
	for _, r := range c.built.Ranges {
		if r.Session.Leaving == nil {
			continue
		}
		own[cmp.Or(r.Session.SourceAddress, c.built.Global.NextHop(route.FamilyOf(r.Prefix)))] = true
		for _, l := range c.local {
			if r.Prefix.Overlaps(netip.PrefixFrom(l.Address, l.Bits)) {
				links[l.Interface] = true
			}
		}
	}
	for _, l := range c.local {
		if own[l.Address] {
			links[l.Interface] = true
		}
	}
	return links
}

// leave makes the drain's end that of its sessions: nothing is told any more, and BFD says AdminDown, so that what follows is
// no failure.
func (d *drain) leave(n *config.Neighbor) {
	if d.done && n.Leaving != nil {
		n.Withdrawn, n.BFD = true, nil
	}
}

// Drain tells how far the node's drain is, for ipamd: phase (empty: none), why, and the generation of the Node that it is of.
func (a *Agent) Drain() (phase, reason string, generation int64) {
	err := a.ask(context.Background(), func() {
		phase, reason, generation = a.core.drain.phase(), a.core.drain.reason, a.core.drain.generation
	})
	if err != nil {
		a.log.Warn("the BGP agent does not tell of its drain", "error", err)
	}
	return phase, reason, generation
}
