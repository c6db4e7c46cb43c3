package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/clearway/clearway/ipam/block"
	"github.com/clearway/clearway/ipam/node/journal"
)

// Apply takes what the journal has just made durable.
func (b *book) Apply(records []journal.Applied) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range records {
		b.applyLocked(r.Number, r.Value.(record))
	}
}

// load takes the contents of the journal at start.
func (b *book) load(contents journal.Contents) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changes.reset(contents.Last - uint64(len(contents.Records)))
	for _, r := range contents.Snapshot {
		if err := b.loadLocked(r); err != nil {
			return err
		}
	}
	b.changes.reset(contents.Last - uint64(len(contents.Records))) // what the snapshot holds is no change
	for _, r := range contents.Records {
		if err := b.loadLocked(r); err != nil {
			return err
		}
	}
	b.last = contents.Last
	return nil
}

func (b *book) loadLocked(r journal.Record) error {
	value, err := decode(r.Type, r.Payload)
	if err != nil {
		return err
	}
	b.applyLocked(r.Number, value)
	return nil
}

// applyLocked changes what is durable. It is the one place that does, at start and later.
func (b *book) applyLocked(number uint64, r record) {
	b.last = number
	switch r := r.(type) {
	case bootRecord:
		b.applyBoot(number, r)
	case settledRecord:
		b.unsettled = false
	case blockRecord:
		b.applyBlock(r)
	case blockGoneRecord:
		b.applyBlockGone(r)
	case returnRecord:
		b.applyReturn(r)
	case claimRecord:
		b.pool(r.Pool).claimKey = r.RequestKey
	case assignRecord:
		b.applyAssign(number, r)
	case releaseRecord:
		b.applyRelease(number, r)
	case callRecord:
		b.applyCall(r)
	case splitRecord:
		b.applySplit(number, r)
	case allowanceRecord:
		b.quotas.set(r)
		b.wakeLocked()
	case storeRecord:
		b.incarnation = r.Incarnation
	case restRecord:
		for _, rest := range r.Rests {
			if o := b.blockOf(rest.Addr); o != nil {
				o.Rest(rest.Addr, b.clamp(rest.Until), rest.Owner)
				b.sticky.keep(b, rest.Owner, rest.Addr)
			}
		}
	}
}

// applyBoot forgets all assignments. Their addresses need no rest: nobody has spoken from them since before the boot.
func (b *book) applyBoot(number uint64, r bootRecord) {
	b.bootID, b.unsettled = r.BootID, r.Unsettled
	for k, e := range b.entries {
		if e.held != nil {
			b.free(e.held, r.Time)
			e.held = nil
		}
		if e.busy == nil {
			delete(b.entries, k)
		}
	}
	for _, o := range b.blocks {
		o.blockRecord.Sealed = false
		o.reseal()
	}
	b.changes.reset(number) // so many releases that the mirror had better be told the whole
}

func (b *book) applyBlock(r blockRecord) {
	if p := b.pool(r.Pool); r.RequestKey != "" && p.claimKey == r.RequestKey {
		p.claimKey = ""
	}
	switch o := b.findBlock(r.CIDR); {
	case o == nil:
		b.addBlock(r)
	case r.Generation >= o.Generation: // else an answer that was overtaken
		o.blockRecord = r
		o.reseal()
	}
	b.wakeLocked()
}

func (b *book) addBlock(r blockRecord) {
	addresses, err := block.New(r.CIDR)
	if err != nil || b.overlaps(r.CIDR) != nil { // checked before it was journalled; an old journal may say so all the same
		b.log.Error("block in the journal cannot be used", "block", r.CIDR, "error", err)
		return
	}
	o := &ownBlock{Block: addresses, blockRecord: r, since: b.now(), freeSince: b.now()}
	o.Exclude(b.settings.excluded(r.Pool, r.CIDR, b.now()))
	for addr := range b.holders { // held since before it was lost and came back
		if o.CIDR.Contains(addr) && o.Restore(addr) == nil {
			o.freeSince = time.Time{}
		}
	}
	o.restAll(b.clamp(r.RestUntil), b.now())
	o.draining = b.settings.drains(r.Pool, r.CIDR)
	o.reseal()
	if o.draining || o.floats() {
		b.emptied.wake()
	}
	b.insert(o)
}

// restAll puts all addresses to rest that are not assigned: the owner before had them.
func (o *ownBlock) restAll(until, now time.Time) {
	if !until.After(now) {
		return
	}
	for addr := o.CIDR.Addr(); o.CIDR.Contains(addr); addr = addr.Next() {
		o.Rest(addr, until, "")
	}
}

// insert puts a block in its place by address.
func (b *book) insert(o *ownBlock) {
	i, _ := slices.BinarySearchFunc(b.blocks, o.CIDR.Addr(), func(o *ownBlock, a netip.Addr) int { return o.CIDR.Addr().Compare(a) })
	b.blocks = slices.Insert(b.blocks, i, o)
}

func (b *book) applyBlockGone(r blockGoneRecord) {
	b.blocks = slices.DeleteFunc(b.blocks, func(o *ownBlock) bool {
		return o.CIDR == r.CIDR && o.Generation <= r.Generation
	})
	b.wakeLocked()
}

func (b *book) applyReturn(r returnRecord) {
	if o := b.findBlock(r.CIDR); o != nil {
		o.returning, o.returnDurable = &r, true
		o.reseal()
	}
}

func (b *book) applyCall(r callRecord) {
	o := b.findBlock(r.CIDR)
	if o == nil {
		return
	}
	o.call, o.callDurable = &r, true
	if r.ID == "" {
		o.call, o.callDurable = nil, false
		b.emptied.wake()
	}
	o.reseal()
	b.wakeLocked()
}

// applySplit puts blocks in the place of one. All that is known of their addresses goes on, also what is reserved by an
// ADD under way. The mirror is told the new block of each assignment.
func (b *book) applySplit(number uint64, r splitRecord) {
	whole := b.findBlock(r.CIDR)
	if whole == nil {
		return // it was done before
	}
	b.blocks = slices.DeleteFunc(b.blocks, func(o *ownBlock) bool { return o == whole })
	for _, part := range r.Parts {
		addresses, err := whole.Part(part.CIDR)
		if err != nil || b.overlaps(part.CIDR) != nil {
			b.log.Error("part of a split block cannot be used", "block", r.CIDR, "part", part.CIDR, "error", err)
			continue
		}
		o := &ownBlock{Block: addresses, blockRecord: part, since: b.now(), freeSince: whole.freeSince}
		b.noteFree(o)
		o.draining = b.settings.drains(o.Pool, o.CIDR)
		o.reseal()
		b.insert(o)
	}
	b.moveAssignments(number, r.CIDR)
	b.pool(whole.Pool).heldOff = b.now().Add(calledBackPause)
	b.wakeLocked()
}

// moveAssignments brings the blocks that assignments name in line with a split.
func (b *book) moveAssignments(number uint64, from netip.Prefix) {
	for _, e := range b.entries {
		if e.held == nil || !slices.ContainsFunc(e.held.addrs, func(h held) bool { return h.Block == from }) {
			continue
		}
		moved := *e.held
		moved.addrs = slices.Clone(moved.addrs)
		for i, h := range moved.addrs {
			if o := b.blockOf(h.Addr); h.Block == from && o != nil {
				moved.addrs[i].Block = o.CIDR
			}
			if b.holders[h.Addr] == e.held {
				b.holders[h.Addr] = &moved
			}
		}
		e.held = &moved
		b.changes.add(change{number: number, assigned: &moved})
	}
}

func (b *book) applyAssign(number uint64, r assignRecord) {
	if r.Number == 0 {
		r.Number = number
	}
	a := &assignment{key: r.key, pod: r.Pod, addrs: b.durable(r.Addrs), time: r.Time, number: r.Number, netns: r.Netns, owner: r.Owner, quotas: r.Quotas}
	for _, h := range r.Addrs {
		if other := b.holders[h.Addr]; other != nil && other.key != r.key {
			b.log.Error("journal gives one address to two attachments; the first keeps it",
				"address", h.Addr, "holder", other.key, "other", r.key)
			return
		}
	}
	for _, h := range r.Addrs {
		if !h.rested.IsZero() && h.owner == "" {
			b.pool(h.Pool).cutShort++
		}
		b.take(h.Addr, r.key)
		b.holders[h.Addr] = a
		b.uncharge(h.Addr)
		b.countQuotas(a, h, 1)
	}
	e := b.entries[r.key]
	if e == nil {
		e = &entry{key: r.key}
		b.entries[r.key] = e
	}
	if e.held != nil {
		count(b.pods, e.held.podKey(), -1)
	}
	e.held = a
	count(b.pods, a.podKey(), 1)
	b.changes.add(change{number: number, assigned: a})
}

// durable is what the journal has of addresses: without what only their reservation knew, and in the block of now,
// which may have been split since.
func (b *book) durable(addrs []held) []held {
	kept := slices.Clone(addrs)
	for i := range kept {
		kept[i].rested, kept[i].owner, kept[i].quotas = time.Time{}, "", nil
		if o := b.blockOf(kept[i].Addr); o != nil {
			kept[i].Block = o.CIDR
		}
	}
	return kept
}

// take makes an address assigned in its block, if a reservation did not do so already.
func (b *book) take(addr netip.Addr, k key) {
	if holder, ok := b.reserved[addr]; ok && holder == k {
		delete(b.reserved, addr)
		return
	}
	if o := b.blockOf(addr); o != nil {
		if err := o.Restore(addr); err != nil && !errors.Is(err, block.ErrAssigned) {
			b.log.Error("assignment in the journal does not fit its block", "address", addr, "error", err)
		}
		o.freeSince = time.Time{}
	}
}

func (b *book) applyRelease(number uint64, r releaseRecord) {
	e := b.entries[r.key]
	if e == nil || e.held == nil || e.held.number != r.Number { // compare and delete
		return
	}
	b.changes.add(change{number: number, released: e.held, at: r.Time})
	b.free(e.held, b.clamp(r.Until))
	e.held = nil
	if e.busy == nil {
		delete(b.entries, r.key)
	}
	b.wakeLocked()
}

// free takes the addresses from their holder and puts them to rest.
func (b *book) free(a *assignment, until time.Time) {
	count(b.pods, a.podKey(), -1)
	owner := a.holder().String()
	for _, h := range a.addrs {
		if b.holders[h.Addr] != a {
			continue
		}
		delete(b.holders, h.Addr)
		b.countQuotas(a, h, -1)
		if o := b.blockOf(h.Addr); o != nil {
			o.Release(h.Addr, until, owner)
			if !o.floats() {
				b.sticky.keep(b, owner, h.Addr)
			}
			b.noteFree(o)
		}
	}
}

// noteFree notes since when a block is wholly free.
func (b *book) noteFree(o *ownBlock) {
	if o.Count(b.now()).Assigned == 0 && o.freeSince.IsZero() {
		o.freeSince = b.now()
		if o.draining || o.floats() {
			b.emptied.wake()
		}
	}
}

// clamp keeps a rest within the cooldown from now on: a clock that was set back must not make it last for ever.
func (b *book) clamp(until time.Time) time.Time {
	if limit := b.now().Add(b.settings.configuration().Cooldown); until.After(limit) {
		return limit
	}
	return until
}

// Snapshot is the durable part of the book as records.
func (b *book) Snapshot() []journal.Entry {
	b.mu.Lock()
	records := b.snapshotLocked()
	b.mu.Unlock()
	entries := make([]journal.Entry, 0, len(records))
	for _, r := range records {
		entry, err := encode(r)
		if err != nil { // of values that were encoded before
			panic(fmt.Sprintf("journal snapshot: %v", err))
		}
		entries = append(entries, entry)
	}
	return entries
}

func (b *book) snapshotLocked() []record {
	var records []record
	if b.bootID != "" {
		records = append(records, bootRecord{BootID: b.bootID, Time: b.now(), Unsettled: b.unsettled})
	}
	if b.incarnation != "" {
		records = append(records, storeRecord{b.incarnation})
	}
	for _, r := range b.quotas.allowances {
		records = append(records, r)
	}
	for name, p := range b.pools {
		if p.claimKey != "" {
			records = append(records, claimRecord{Pool: name, RequestKey: p.claimKey})
		}
	}
	for _, o := range b.blocks {
		records = append(records, o.blockRecord)
		if o.callDurable {
			records = append(records, *o.call)
		}
		if o.returnDurable {
			records = append(records, *o.returning)
		}
		records = append(records, o.restRecords(b.now())...)
	}
	for _, e := range b.entries {
		if a := e.held; a != nil {
			records = append(records, assignRecord{key: a.key, Pod: a.pod, Addrs: a.addrs, Time: a.time, Number: a.number, Netns: a.netns, Owner: a.owner, Quotas: a.quotas})
		}
	}
	return records
}

// restsPerRecord keeps a record far below journal.MaxPayload.
const restsPerRecord = 1000

func (o *ownBlock) restRecords(now time.Time) []record {
	var rests []restingAddress
	o.Resting(now, func(addr netip.Addr, until time.Time, owner string) {
		rests = append(rests, restingAddress{addr, until, owner})
	})
	var records []record
	for part := range slices.Chunk(rests, restsPerRecord) {
		records = append(records, restRecord{part})
	}
	return records
}

// sealedRecords is the book as records for a new journal, with every block sealed.
func (b *book) sealedRecords(bootID string) []record {
	b.mu.Lock()
	defer b.mu.Unlock()
	records := []record{bootRecord{BootID: bootID, Time: b.now(), Unsettled: b.unsettled}}
	for _, o := range b.blocks {
		r := o.blockRecord
		r.Sealed = true
		records = append(records, r)
	}
	for _, e := range b.entries {
		if a := e.held; a != nil {
			records = append(records, assignRecord{key: a.key, Pod: a.pod, Addrs: a.addrs, Time: a.time, Netns: a.netns, Owner: a.owner, Quotas: a.quotas})
		}
	}
	return records
}
