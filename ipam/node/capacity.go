package node

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/clearway/clearway/ipam/block"
	"github.com/clearway/clearway/ipam/pool"
	"github.com/clearway/clearway/ipam/proof"
)

const (
	// refusalHolds is how long ipamd's refusal of a block answers for ADDs that come after it, so that a node of many
	// Pods does not ask for each of them.
	refusalHolds = time.Second
	// offlineGrace is how long ipamd must have been away before addresses that still rest are given: a new leader is
	// there sooner.
	offlineGrace = 5 * time.Second
	// promiseFresh is how old ipamd's last word may be for a promise to stand: it is asked each second.
	promiseFresh = 5 * time.Second
	// calledBackPause is how long after a block was called back no other is claimed ahead of need.
	calledBackPause = 30 * time.Second
)

// poolState is what the book knows of claims from one pool.
type poolState struct {
	// cutShort counts the addresses that were given while they rested, since the start.
	cutShort uint64
	// claimKey is the journalled request key of the open claim; empty: none is open.
	claimKey string
	// wanted: an ADD waits for a block of this pool.
	wanted bool
	// running: a claim is being sent.
	running bool
	// refusal is ipamd's last answer, where it was no block; refusedAt when it came, refusedSince when the first of an
	// unbroken row of refusals did.
	refusal                 string
	refusedAt, refusedSince time.Time
	// refusedWanted: an ADD waited when the claim was sent that was refused last. Only such a refusal counts for ADDs:
	// ipamd does more for them.
	refusedWanted bool
	// promised: the last refusal said that a block is being called back for this node.
	promised bool
	// heldOff is until when no block is claimed ahead of need: one was just called back.
	heldOff time.Time
	// next is when the pool may be asked for again, by itself, and retry what it is put off by; nil: nothing failed.
	next  time.Time
	retry *backoff.ExponentialBackOff
	// emptySince is since when the pool has had no address to give; zero: it has, or nobody has asked.
	emptySince time.Time
}

func (b *book) pool(name string) *poolState {
	p := b.pools[name]
	if p == nil {
		p = &poolState{}
		b.pools[name] = p
	}
	return p
}

// use is how a pool's addresses on this node stand.
type use struct {
	blocks, sealed int
	block.Counts
}

// useLocked counts a pool's blocks. Of sealed ones nothing is ready.
func (b *book) useLocked(name string, now time.Time) use {
	var u use
	for _, o := range b.blocks {
		if o.Pool != name {
			continue
		}
		c := o.Count(now)
		u.blocks++
		u.Size += c.Size
		u.Assigned += c.Assigned
		u.Excluded += c.Excluded
		if o.Block.Sealed() {
			u.sealed++
			continue
		}
		u.Ready += c.Ready
		u.Cooling += c.Cooling
	}
	return u
}

func (u use) String() string {
	text := fmt.Sprintf("%d blocks of %d addresses, of which %d are assigned, %d rest, %d are reserved",
		u.blocks, u.Size, u.Assigned, u.Cooling, u.Excluded)
	if u.sealed > 0 {
		text += fmt.Sprintf("; %d blocks are sealed", u.sealed)
	}
	return text
}

// request is what an ADD asks for.
type request struct {
	key    key
	pod    pod
	query  pool.Query
	static []netip.Addr
	// began is when the ADD came: refusals of before do not count for it, but for refusalHolds.
	began time.Time
	// started is when its plugin began, by the clock since boot; 0: it did not say.
	started time.Duration
	// netns is the attachment's namespace.
	netns proof.Namespace
	// owner is who keeps the addresses over the life of the Pod, where it is not the Pod's own name.
	owner string
}

// reserve takes an address of every family the Pod may use, or none. Then wait says what it waits for; it is nil
// where there is an error, which is final. Pools for which a block is wanted are marked so.
func (b *book) reserve(r request) (taken []held, wait *shortage, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.settings == nil {
		return nil, &shortage{changed: b.changed, text: "ipamd has not been heard yet, so no pool is known"}, nil
	}
	choice, err := b.settings.choose(b.settings.withFloating(r))
	if err != nil {
		return nil, nil, err
	}
	now := b.now()
	families := [][]pool.Pool{choice.IPv4, choice.IPv6}
	for _, addr := range r.static {
		h, wait, err := b.takeStatic(r, addr, choice, now)
		if err != nil || wait != nil {
			b.undoLocked(taken)
			return nil, wait, err
		}
		taken = append(taken, h)
		families[familyIndex(addr)] = nil
	}
	for _, pools := range families {
		if len(pools) == 0 {
			continue
		}
		h, wait, err := b.takeFrom(pools, r, now)
		if err != nil || wait != nil {
			b.undoLocked(taken)
			return nil, wait, err
		}
		taken = append(taken, h)
	}
	if wait, err := b.charge(r, taken, now); err != nil || wait != nil {
		b.undoLocked(taken)
		return nil, wait, err
	}
	slices.SortFunc(taken, func(x, y held) int { return x.Addr.Compare(y.Addr) }) // IPv4 first
	return taken, nil, nil
}

func familyIndex(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

// shortage is why an ADD has to wait.
type shortage struct {
	changed <-chan struct{}
	claim   bool // a block was asked for
	text    string
	// floating is to be asked of ipamd; nil: nothing is.
	floating *floatingWish
	quota    bool // more of a quota was asked for
}

// takeFrom takes an address of one family: out of the first of the pools that has a rested one, where a pool that may
// still get a block goes before those after it; then, under pressure, one that still rests.
func (b *book) takeFrom(pools []pool.Pool, r request, now time.Time) (held, *shortage, error) {
	if pools[0].Kind == pool.Floating {
		return b.takeFloating(pools, netip.Addr{}, r)
	}
	if h, ok := b.takeSticky(pools, r, now); ok {
		return h, nil, nil
	}
	offline := !b.offlineSince.IsZero()
	promised := false
	for _, p := range pools {
		if o, addr := b.next(p.Name, now); o != nil {
			return b.reserveLocked(p, o, addr, r.key), nil, nil
		}
		state := b.pool(p.Name)
		if state.emptySince.IsZero() {
			state.emptySince = now
		}
		if state.wanted = true; !offline && !state.refusedFor(r) {
			return held{}, b.shortageOf(pools, now), nil
		}
		promised = promised || state.promised && now.Sub(state.refusedAt) < promiseFresh
	}
	if !offline || now.Sub(b.offlineSince) >= offlineGrace {
		for _, p := range pools {
			if o, addr, rested := b.nextEarly(p.Name, now); o != nil {
				h := b.reserveLocked(p, o, addr, r.key)
				h.rested = rested
				return h, nil, nil
			}
		}
	}
	short := b.shortageOf(pools, now)
	if offline || promised {
		return held{}, short, nil
	}
	return held{}, nil, refuse(cniTryLater, "no address is free: %s", short.text)
}

// refusedFor tells whether ipamd's last answer was a refusal that counts for an ADD.
func (p *poolState) refusedFor(r request) bool {
	return p.refusal != "" && p.refusedWanted && !p.refusedAt.Before(r.began.Add(-refusalHolds))
}

func (b *book) shortageOf(pools []pool.Pool, now time.Time) *shortage {
	short := &shortage{changed: b.changed, claim: true}
	for i, p := range pools {
		if i > 0 {
			short.text += "; "
		}
		short.text += fmt.Sprintf("pool %q: this node has %v", p.Name, b.useLocked(p.Name, now))
		switch state := b.pool(p.Name); {
		case !b.offlineSince.IsZero():
			short.text += "; ipamd does not answer"
		case state.refusal != "":
			short.text += "; ipamd refused another block: " + state.refusal
		}
	}
	return short
}

// next takes a rested address from the fullest block of a pool that has one, so that whole blocks come free; the lowest
// of equally full ones.
func (b *book) next(name string, now time.Time) (*ownBlock, netip.Addr) {
	var best *ownBlock
	most := -1
	for _, o := range b.blocks {
		if o.Pool != name || o.Block.Sealed() {
			continue
		}
		if c := o.Count(now); c.Ready > 0 && c.Assigned > most {
			best, most = o, c.Assigned
		}
	}
	if best == nil {
		return nil, netip.Addr{}
	}
	addr, _ := best.Assign(now)
	return best, addr
}

// nextEarly takes the address of a pool whose rest ends first, and tells when it would have ended.
func (b *book) nextEarly(name string, now time.Time) (*ownBlock, netip.Addr, time.Time) {
	var best *ownBlock
	var first time.Time
	for _, o := range b.blocks {
		if until, ok := o.Earliest(now); ok && o.Pool == name && (best == nil || until.Before(first)) {
			best, first = o, until
		}
	}
	if best == nil {
		return nil, netip.Addr{}, time.Time{}
	}
	addr, _ := best.AssignEarly(now)
	return best, addr, first
}

// takeStatic takes an address that was asked for. It must be in one of the node's own blocks, of a pool the Pod may use.
func (b *book) takeStatic(r request, addr netip.Addr, choice pool.Choice, now time.Time) (held, *shortage, error) {
	pools := [][]pool.Pool{choice.IPv4, choice.IPv6}[familyIndex(addr)]
	i := slices.IndexFunc(pools, func(p pool.Pool) bool { return p.CIDR.Contains(addr) })
	if i < 0 {
		return held{}, nil, refuse(cniBadConfig, "address %s was asked for, and is in no pool that the Pod may use here", addr)
	}
	if pools[i].Kind == pool.Floating {
		return b.takeFloating(pools[i:i+1], addr, r)
	}
	o := b.blockOf(addr)
	if o == nil {
		state := b.pool(pools[i].Name)
		if b.useLocked(pools[i].Name, now).blocks == 0 && !state.refusedFor(r) { // the first block may be the one
			state.wanted = true
			return held{}, b.shortageOf(pools[i:i+1], now), nil
		}
		return held{}, nil, &elsewhere{addr: addr, pool: pools[i].Name}
	}
	owner := r.holder().String()
	until, last := o.RestOf(addr)
	if err := o.AssignAt(addr, now, owner); err != nil {
		failed := refuse(staticCode(err), "address %s was asked for and cannot be given", addr)
		failed.err = err
		return held{}, nil, failed
	}
	h := b.reserveLocked(pools[i], o, addr, r.key)
	if now.Before(until) {
		h.rested, h.owner = until, last
	}
	return h, nil, nil
}

// reserveLocked notes an address that was just taken in its block.
func (b *book) reserveLocked(p pool.Pool, o *ownBlock, addr netip.Addr, k key) held {
	b.reserved[addr] = k
	o.freeSince = time.Time{}
	state := b.pool(p.Name)
	state.emptySince, state.wanted = time.Time{}, false
	bits, gateway := p.Link(o.CIDR)
	return held{Addr: addr, Block: o.CIDR, Pool: p.Name, Bits: bits, Gateway: gateway}
}

// undo gives reserved addresses back that never got into the journal.
func (b *book) undo(taken []held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.undoLocked(taken)
	b.wakeLocked()
}

func (b *book) undoLocked(taken []held) {
	for _, h := range taken {
		delete(b.reserved, h.Addr)
		b.uncharge(h.Addr)
		if o := b.blockOf(h.Addr); o != nil {
			if h.rested.IsZero() {
				o.Cancel(h.Addr)
			} else {
				o.Release(h.Addr, h.rested, h.owner)
				b.sticky.keep(b, h.owner, h.Addr)
			}
			b.noteFree(o)
		}
	}
}

// runsLow tells whether a block should be claimed for a pool of these addresses.
func (b *book) runsLow(taken []held) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	return slices.ContainsFunc(taken, func(h held) bool { return b.low(h.Pool, now) })
}

// low is what a pool has ready against what it should have, and whether a block should be claimed for it.
func (b *book) low(name string, now time.Time) bool {
	p, known := b.settings.pool(name)
	if !known || p.Disabled || p.Draining() || p.Kind != pool.Block || !p.Selects(b.settings.labels) {
		return false
	}
	u := b.useLocked(name, now)
	if u.blocks == u.sealed || b.pool(name).wanted {
		return true
	}
	if p.Rigid { // there is no second one
		return false
	}
	size := uint64(1) << min(p.CIDR.Addr().BitLen()-p.BlockBits, block.MaxBits)
	return u.Ready < b.settings.ipam.LowWaterOf(size)
}

// used are the pools that the node keeps addresses of: those it has blocks of, the first choice of each family for any
// Pod whatever, and those that somebody waits for.
func (b *book) used() []string {
	var names []string
	for _, o := range b.blocks {
		names = append(names, o.Pool)
	}
	if b.settings == nil {
		return nil
	}
	if choice, err := b.settings.choose(pool.Query{}); err == nil {
		for _, pools := range [][]pool.Pool{choice.IPv4, choice.IPv6} {
			if first := slices.IndexFunc(pools, pool.Pool.ForAll); first >= 0 {
				names = append(names, pools[first].Name)
			}
		}
	}
	for name, p := range b.pools {
		if p.wanted {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
