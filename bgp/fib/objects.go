package fib

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// plainGateways is how many gateways of one interface are written into the IPv4 routes themselves; routes by a further
// one lead to a nexthop object. The kernel keeps one record of each way that IPv4 routes have, and looks for it in a
// hash of protocol, metric and interface, but not of the gateway: with thousands of gateways behind one interface it
// goes through a list of thousands for each route. Ways that are objects are told apart by their ids.
const plainGateways = 64

// manner is how the IPv4 routes to a group are written.
type manner uint8

const (
	undecided manner = iota
	plainly          // one of plainGateways
	asked            // an object is asked for in the present batch
	byObject         // the object is in the kernel
	refused          // the kernel refused the object, or somebody changed it: plainly, until the next comparison
)

// objects is what is known of our nexthop objects. An object of ours has our protocol number, one IPv4 gateway, and
// that gateway's address as its id, so that the next process finds it again. It is created exclusively, and removed
// when a comparison has found no route that leads to it, ours or others': the kernel removes those along with it.
type objects struct {
	off   bool              // the kernel has none, or tells routes without the hops of their objects
	limit int               // plainGateways
	plain map[int]int       // interface -> how many gateways are written plainly
	made  map[uint32]*group // in the kernel, by id
}

func newObjects() objects {
	return objects{limit: plainGateways, plain: make(map[int]int), made: make(map[uint32]*group)}
}

// compatMode is whether the kernel tells the hops of routes that lead to objects; by default it does. It is the
// setting of the calling thread's network namespace.
const compatMode = "/proc/sys/net/ipv4/nexthop_compat_mode"

// routesToldWhole reports false only where the setting says so. Kernels without it, or without objects, are found out
// by their answers.
func routesToldWhole() bool {
	text, err := os.ReadFile(compatMode)
	return err != nil || strings.TrimSpace(string(text)) != "0"
}

// gatewayID is a gateway's address as a number.
func gatewayID(gateway netip.Addr) uint32 {
	a := gateway.As4()
	return binary.BigEndian.Uint32(a[:])
}

// objective tells whether the group could be a nexthop object: it is one IPv4 gateway.
func (g *group) objective() bool {
	return g != nil && g.reject == 0 && len(g.legs) == 1 && g.legs[0].gateway.Is4() && g.legs[0].weight == 1 && !g.legs[0].onlink
}

// awaitsObject tells whether an entry's route is to lead to an object that is not in the kernel yet, and asks for it.
// The route waits for the answer: were the id another's, the route would lead where that one's object does.
func (w *Writer) awaitsObject(e *entry) bool {
	o, g := &w.core.objects, e.target
	if o.off || !e.prefix.Addr().Is4() || !g.objective() || g.manner != undecided {
		return g != nil && g.manner == asked
	}
	l := g.legs[0]
	id := gatewayID(l.gateway)
	switch {
	case o.made[id] != nil: // the gateway is an object by another interface already
		return false
	case o.plain[l.ifindex] < o.limit:
		g.manner = plainly
		o.plain[l.ifindex]++
		return false
	}
	w.core.ops = append(w.core.ops, op{step: step{kind: stepObject}, object: id})
	w.core.requests.buf.newObject(w.core.requests.nextSeq(), id, l, w.who)
	w.haveObject(id, g)
	g.manner = asked
	return true
}

// objectFor is the id of the object to which a route to the group is to lead, 0 where it is written plainly.
func (w *Writer) objectFor(g *group) uint32 {
	if g == nil || g.manner != byObject {
		return 0
	}
	return gatewayID(g.legs[0].gateway)
}

func (w *Writer) haveObject(id uint32, g *group) {
	g.manner = byObject
	w.core.objects.made[id] = g
	w.core.resync.touchObject(id)
}

// loseObject notes that an object is not in the kernel, or not as it was, and what that means to routes to be written.
func (w *Writer) loseObject(id uint32, now manner) *group {
	g := w.core.objects.made[id]
	if g == nil {
		return nil
	}
	g.manner = now
	delete(w.core.objects.made, id)
	w.core.resync.touchObject(id)
	return g
}

// objectAnswered takes the kernel's answer to a request for an object, or to its removal.
func (w *Writer) objectAnswered(o *op) {
	switch g := w.core.objects.made[o.object]; {
	case o.step.kind == stepForget || g == nil:
		return // what could not be removed is found by the next comparison
	case o.errs.errno == 0:
		g.manner = byObject
		return
	}
	w.metrics.refused.WithLabelValues(unix.ErrnoName(o.errs.errno)).Inc()
	w.log.Debug("nexthop object refused; the routes are written without", "id", o.object, "error", o.errs.Error())
	w.loseObject(o.object, refused)
	if o.errs.errno == unix.EOPNOTSUPP {
		w.core.objects.off = true
	}
}

// withoutObject deals with a route that the kernel refused because it has no such object (any more).
func (w *Writer) withoutObject(o *op) {
	w.loseObject(o.object, undecided)
	w.enqueue(o.e)
}

// routesFlushed takes it that the kernel has removed the routes to some groups along with their objects. It never
// says so. Should it be wrong of one, creating it anew will be refused, and a look at the kernel puts it right.
func (w *Writer) routesFlushed(gone map[*group]bool) {
	if len(gone) == 0 {
		return
	}
	for prefix, e := range w.entries {
		if prefix.Addr().Is4() && gone[e.have] {
			w.setHave(e, nil)
			w.core.flushed = append(w.core.flushed, e)
		}
	}
	w.core.reachDirty = true
	w.wantResync("nexthop", resyncSoon)
}

// objectsFlushedBy takes it that the kernel has removed all objects by an interface: it does so when the interface goes
// down and, other than with plain routes, also when its carrier goes.
func (w *Writer) objectsFlushedBy(ifindex int) {
	gone := make(map[*group]bool)
	for id, g := range w.core.objects.made {
		if g.legs[0].ifindex == ifindex {
			gone[w.loseObject(id, undecided)] = true
		}
	}
	w.routesFlushed(gone)
}

// takeObject takes what others do to an object of ours.
func (w *Writer) takeObject(m message) error {
	at, _, err := parseObject(m.body)
	if err != nil || w.core.objects.made[at.id] == nil {
		return err
	}
	if m.kind == unix.RTM_DELNEXTHOP {
		w.routesFlushed(map[*group]bool{w.loseObject(at.id, undecided): true})
		return nil
	}
	w.loseObject(at.id, refused)
	w.wantResync("nexthop", resyncSoon) // the kernel has changed our routes with it
	return nil
}

// objectAt is a nexthop object as the kernel tells it.
type objectAt struct {
	id       uint32
	protocol uint8
	leg      leg
}

// ours tells whether the object is one that w would make.
func (o objectAt) ours(w who) bool {
	return o.protocol == w.protocol && o.leg.gateway.Is4() && o.leg.ifindex != 0 && !o.leg.onlink && o.id == gatewayID(o.leg.gateway)
}

const nhmsgLen = 8 // struct nhmsg of include/uapi/linux/nexthop.h: family, scope, protocol, reserved, flags

// parseObject reads the body of an RTM_NEWNEXTHOP or RTM_DELNEXTHOP. It reports false for what is not one plain hop: a
// group, a blackhole, a tunnel.
func parseObject(body []byte) (at objectAt, plain bool, err error) {
	if len(body) < nhmsgLen {
		return at, false, errShort
	}
	family := body[0]
	at = objectAt{protocol: body[2], leg: leg{weight: 1, onlink: native.Uint32(body[4:])&unix.RTNH_F_ONLINK != 0}}
	plain = true
	for rest := body[nhmsgLen:]; len(rest) >= attrLen; {
		kind, value, next, err := nextAttr(rest)
		if err != nil {
			return at, false, err
		}
		switch kind {
		case unix.NHA_ID:
			at.id, err = uint32Of(value)
		case unix.NHA_OIF:
			var index uint32
			index, err = uint32Of(value)
			at.leg.ifindex = int(index)
		case unix.NHA_GATEWAY:
			at.leg.gateway, err = addrOf(family, value)
		default:
			plain = false
		}
		if err != nil {
			return at, false, err
		}
		rest = next
	}
	return at, plain, nil
}

// object begins a message about an object: its fixed part and id.
func (m *buffer) object(kind, flags uint16, seq uint32, family, protocol uint8, id uint32) {
	m.begin(kind, flags, seq)
	m.b = append(m.b, family, 0, protocol, 0, 0, 0, 0, 0)
	if id != 0 {
		m.attr32(unix.NHA_ID, id)
	}
}

// newObject writes RTM_NEWNEXTHOP, exclusively: another's object with that id stays.
func (m *buffer) newObject(seq, id uint32, l leg, w who) {
	m.object(unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE|unix.NLM_F_EXCL, seq, unix.AF_INET, w.protocol, id)
	m.attr32(unix.NHA_OIF, uint32(l.ifindex))
	m.attrAddr(unix.NHA_GATEWAY, l.gateway)
	m.end()
}

// deleteObject writes RTM_DELNEXTHOP.
func (m *buffer) deleteObject(seq, id uint32) {
	m.object(unix.RTM_DELNEXTHOP, 0, seq, unix.AF_UNSPEC, 0, id)
	m.end()
}

// dumpObjects writes a request for all objects.
func (m *buffer) dumpObjects(seq uint32) {
	m.object(unix.RTM_GETNEXTHOP, unix.NLM_F_DUMP, seq, unix.AF_UNSPEC, 0, 0)
	m.end()
}

// takeObjects dumps the objects of ours.
func (snap *snapshot) takeObjects(s *socket, w who) error {
	var found []objectAt
	routesPartial := snap.partial
	snap.partial = false
	err := snap.section(s, func() {
		found = found[:0]
		s.buf.dumpObjects(s.nextSeq())
	}, func(m message) error {
		if m.kind != unix.RTM_NEWNEXTHOP {
			return nil
		}
		// One that can't be read is not one that we made.
		if at, plain, err := parseObject(m.body); err == nil && plain && at.ours(w) {
			found = append(found, at)
		}
		return nil
	})
	snap.objects, snap.objectsPartial, snap.partial = found, snap.partial, routesPartial
	if errors.Is(err, unix.EOPNOTSUPP) {
		snap.objectless = true // before Linux 5.3
		return nil
	}
	return err
}

// objects takes which objects of ours the kernel has. It comes before the sweep of groups, which then tells those to
// which nothing leads.
func (c *comparison) objects() {
	w := c.w
	o := &w.core.objects
	if c.snap.objectless {
		o.off = true
	}
	if o.off {
		return
	}
	for _, g := range w.core.groups.groups {
		if g.manner == refused {
			g.manner = undecided
		}
	}
	told := make(map[uint32]bool, len(c.snap.objects))
	for _, at := range c.snap.objects {
		told[at.id] = true
		if g := w.core.groups.intern(0, []leg{at.leg}); !w.core.resync.objectTouched(at.id) && o.made[at.id] != g {
			w.loseObject(at.id, undecided)
			w.core.objects.uncount(g)
			w.haveObject(at.id, g)
		}
	}
	for id := range o.made {
		if !told[id] && !c.snap.objectsPartial && !w.core.resync.objectTouched(id) {
			w.loseObject(id, undecided)
		}
	}
}

// uncount takes a group out of those that are written plainly.
func (o *objects) uncount(g *group) {
	if g.manner == plainly {
		g.manner = undecided
		o.plain[g.legs[0].ifindex]--
	}
}

// forget removes the objects of groups to which no route leads.
func (w *Writer) forget(unused []*group) {
	c := &w.core
	var ids []uint32
	for _, g := range unused {
		c.objects.uncount(g)
		if g.manner == byObject {
			ids = append(ids, gatewayID(g.legs[0].gateway))
		}
	}
	for len(ids) > 0 {
		c.ops = c.ops[:0]
		c.requests.buf.reset()
		for _, id := range ids[:min(len(ids), batchOps)] {
			w.loseObject(id, undecided)
			c.ops = append(c.ops, op{step: step{kind: stepForget}, object: id})
			c.requests.buf.deleteObject(c.requests.nextSeq(), id)
		}
		ids = ids[len(c.ops):]
		w.exchange()
	}
}

// forgetAll removes the objects when no route of ours is left; those stay to which others lead.
func (w *Writer) forgetAll() {
	c := &w.core
	theirs := make(map[*group]bool)
	for _, others := range c.reach.routes.All() {
		for _, o := range others {
			theirs[o.to] = true
		}
	}
	var unused []*group
	for _, g := range c.objects.made {
		if !theirs[g] {
			unused = append(unused, g)
		}
	}
	w.forget(unused)
}
