package node

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/clearway/clearway/ipam/block"
	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/pool"
	"github.com/clearway/clearway/ipam/proof"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// book is all that the node knows of its blocks and of who holds what: memory alone, behind one mutex, with no I/O
// under it. What is durable in it changes only in Apply, in the order of the journal; beside it are reservations, which
// a restart forgets.
type book struct {
	log *slog.Logger
	now func() time.Time

	mu sync.Mutex // guards all below

	settings *settings // nil: none known yet
	bootID   string
	// unsettled: a new boot began, and it is not known yet which blocks of before are still the node's. A restart in the
	// same boot must wait for it as the first start did.
	unsettled bool
	// incarnation is the store's that the blocks are of; empty: none, or of before it was journalled.
	incarnation string

	last     uint64      // number of the last record applied
	blocks   []*ownBlock // in ascending order of address; no two overlap
	entries  map[key]*entry
	holders  map[netip.Addr]*assignment // durable; every address of every entry's held is here
	reserved map[netip.Addr]key         // taken in its block, not yet durable; never in holders
	pools    map[string]*poolState
	changes  changeLog
	changed  chan struct{} // closed and made anew whenever an ADD that waits should look again
	emptied  waker         // a draining block may hold no address any more

	// pods is how many attachments hold something, by the Pod's interface, and asking how many ADDs are under way that
	// found one.
	pods, asking map[podKey]int
	tombstones   tombstones
	floating     floatings
	sticky       stickies
	quotas       quotas
	adopted      bool // what ipamd knows of the node's blocks was taken over since the start

	reservedUntil time.Time // when the first of the reservations in force ends; zero: none does
	offlineSince  time.Time // zero: ipamd answers
	unableSince   time.Time // since when no pool has been for this node; zero: one is, or nobody has asked
	onlineSince   time.Time // of use while it does
}

// ownBlock is a block the node owns.
type ownBlock struct {
	*block.Block
	blockRecord
	// returning: it is being given back, and is no longer to be advertised.
	returning *returnRecord
	// returnDurable: the journal has returning.
	returnDurable bool
	// draining: its pool, or its part of it, is being emptied: it gives no address, and goes back when it holds none.
	draining bool
	// call is the part that is called back, sealed; nil: none is. callDurable: the journal has it.
	call        *callRecord
	callDurable bool
	// since is when the block came into the book.
	since time.Time
	// freeSince is since when no address of it is assigned; zero: one is.
	freeSince time.Time
}

// floats tells whether the block is an address of a Floating pool.
func (o *ownBlock) floats() bool { return o.Floating != holder{} }

// reseal brings what gives addresses in line with what is known of the block.
func (o *ownBlock) reseal() {
	o.Seal(o.blockRecord.Sealed || o.Withdrawing || o.returning != nil || o.draining)
	part := netip.Prefix{}
	if o.call != nil {
		part = o.call.Part
	}
	o.SealPart(part)
}

// assignment is what one attachment holds. It is never changed once made.
type assignment struct {
	key    key
	pod    pod
	addrs  []held
	time   time.Time
	number uint64 // of the record that made it: its generation
	netns  proof.Namespace
	owner  string // empty: the Pod's own name
	quotas []string
}

// isOf tells whether the Pod of a UID may hold it. Runtimes do not always tell the UID.
func (a *assignment) isOf(uid string) bool { return uid == "" || a.pod.UID == "" || a.pod.UID == uid }

// entry is an attachment that holds something, or that somebody works on.
type entry struct {
	key  key
	held *assignment // nil: nothing
	told uint64      // how often an ADD was answered with held after the one that made it
	// busy is closed when whoever works on the entry is done; nil: nobody does. deleted is of the same time, and is
	// closed by a DEL that came in it.
	busy, deleted chan struct{}
}

func newBook(log *slog.Logger, now func() time.Time) *book {
	return &book{
		log: log, now: now, entries: map[key]*entry{}, holders: map[netip.Addr]*assignment{},
		reserved: map[netip.Addr]key{}, pools: map[string]*poolState{}, changed: make(chan struct{}),
		emptied: newWaker(), floating: newFloatings(), sticky: stickies{}, quotas: newQuotas(), pods: map[podKey]int{}, asking: map[podKey]int{}, offlineSince: now(),
	}
}

// begin makes the caller the only one to work on an attachment, waiting for whoever does. A DEL (del) tells the one it
// waits for. An ADD that waited for one that was so told must not go on: the DEL came after it.
func (b *book) begin(ctx context.Context, k key, del bool) (*entry, error) {
	for {
		b.mu.Lock()
		e := b.entries[k]
		if e == nil {
			e = &entry{key: k}
			b.entries[k] = e
		}
		if e.busy == nil {
			e.busy, e.deleted = make(chan struct{}), make(chan struct{})
			b.mu.Unlock()
			return e, nil
		}
		if del && !isClosed(e.deleted) {
			close(e.deleted)
		}
		busy, deleted := e.busy, e.deleted
		b.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if !del && isClosed(deleted) {
			return nil, errDeleted
		}
	}
}

// beginIdle is begin for those who leave alone what somebody works on: nil then, and when there is no such attachment.
func (b *book) beginIdle(k key) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[k]
	if e == nil || e.busy != nil {
		return nil
	}
	e.busy, e.deleted = make(chan struct{}), make(chan struct{})
	return e
}

func (b *book) end(e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(e.busy)
	e.busy = nil
	if e.held == nil {
		delete(b.entries, e.key)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// heldBy is what the attachment durably holds; nil: nothing.
func (b *book) heldBy(k key) *assignment {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[k]; e != nil {
		return e.held
	}
	return nil
}

// heldAgain is heldBy for an ADD that is answered with it.
func (b *book) heldAgain(k key) *assignment {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[k]
	if e == nil || e.held == nil {
		return nil
	}
	e.told++
	return e.held
}

// wakeLocked lets every waiting ADD look again.
func (b *book) wakeLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// configure takes new settings.
func (b *book) configure(s *settings) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settings = s
	for _, o := range b.blocks {
		o.Exclude(s.excluded(o.Pool, o.CIDR, b.now()))
		o.draining = s.drains(o.Pool, o.CIDR)
		o.reseal()
	}
	_, b.reservedUntil = pool.Reserved(s.reserved, b.now())
	b.recount()
	b.emptied.wake()
	b.wakeLocked()
}

// setOnline notes whether ipamd answers.
func (b *book) setOnline(online bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case online:
		if !b.offlineSince.IsZero() {
			b.onlineSince = b.now()
		}
		b.offlineSince = time.Time{}
	case b.offlineSince.IsZero():
		b.offlineSince = b.now()
	}
	b.wakeLocked()
}

// blockOf finds the own block that holds an address; nil: none does.
func (b *book) blockOf(addr netip.Addr) *ownBlock {
	i, found := slices.BinarySearchFunc(b.blocks, addr, func(o *ownBlock, a netip.Addr) int { return o.CIDR.Addr().Compare(a) })
	if !found {
		i--
	}
	if i >= 0 && b.blocks[i].CIDR.Contains(addr) {
		return b.blocks[i]
	}
	return nil
}

func (b *book) findBlock(prefix netip.Prefix) *ownBlock {
	if o := b.blockOf(prefix.Addr()); o != nil && o.CIDR == prefix {
		return o
	}
	return nil
}

// overlaps finds an own block that overlaps a prefix and is not it.
func (b *book) overlaps(prefix netip.Prefix) *ownBlock {
	for _, o := range b.blocks {
		if o.CIDR.Overlaps(prefix) && o.CIDR != prefix {
			return o
		}
	}
	return nil
}

// advertised are the prefixes to be advertised now.
func (b *book) advertised() []netip.Prefix {
	b.mu.Lock()
	defer b.mu.Unlock()
	prefixes := []netip.Prefix{}
	for _, o := range b.blocks {
		switch {
		case o.returnDurable, o.floats() && !o.Assigned(o.CIDR.Addr()): // nobody is at the other end
		case !o.Withdrawing:
			prefixes = append(prefixes, o.CIDR)
		case o.Parent.IsValid():
			prefixes = append(prefixes, o.Parent)
		}
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return slices.Compact(prefixes)
}

// subnets are the blocks that a bridge has for its own subnet: those of Rigid pools.
func (b *book) subnets() []netip.Prefix {
	b.mu.Lock()
	defer b.mu.Unlock()
	var prefixes []netip.Prefix
	for _, o := range b.blocks {
		if p, _ := b.settings.pool(o.Pool); p.Rigid {
			prefixes = append(prefixes, o.CIDR)
		}
	}
	return prefixes
}

// heldBlocks is what registration tells.
func (b *book) heldBlocks() (blocks []*clearwayv1.BlockSpec, number uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range b.blocks {
		blocks = append(blocks, o.spec())
	}
	return blocks, b.last
}

// assignments are all that is durably held, in the order of their numbers, and the number they are of.
func (b *book) assignments() ([]*assignment, uint64) {
	all, last := b.heldNow()
	slices.SortFunc(all, func(x, y *assignment) int { return cmp.Compare(x.number, y.number) })
	return all, last
}

func (b *book) heldNow() ([]*assignment, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]*assignment, 0, len(b.entries))
	for _, e := range b.entries {
		if e.held != nil {
			all = append(all, e.held)
		}
	}
	return all, b.last
}

// stranded are the addresses assigned inside a prefix that no own block covers any more.
func (b *book) stranded(within netip.Prefix) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []string
	for addr, a := range b.holders {
		if within.Contains(addr) && b.blockOf(addr) == nil {
			found = append(found, addr.String()+" held by "+a.key.String())
		}
	}
	slices.Sort(found)
	return found
}

// number is that of the last record applied.
func (b *book) number() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// valid tells why an ownership cannot be taken into the book; empty: it can.
func (b *book) valid(prefix netip.Prefix) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := block.New(prefix); err != nil {
		return err.Error()
	}
	if other := b.overlaps(prefix); other != nil {
		return "it overlaps " + other.CIDR.String() + ", which the node has already"
	}
	return ""
}

func parseBlock(spec *clearwayv1.BlockSpec) (blockRecord, error) {
	prefix, err := cidr.Parse(spec.GetCidr())
	if err != nil {
		return blockRecord{}, err
	}
	r := blockRecord{
		CIDR: prefix, Pool: spec.GetPool(), Generation: spec.GetGeneration(), NodeUID: spec.GetNodeUid(),
		RequestKey: spec.GetRequestKey(), Floating: holderOf(spec.GetFloating()),
	}
	if t := spec.GetClaimedTime(); t != nil {
		r.Claimed = t.AsTime()
	}
	switch t := spec.GetFreeTime(); {
	case spec.GetState() == clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING:
		r.Withdrawing = true
	case t != nil:
		r.RestUntil = t.AsTime()
	}
	return r, nil
}

func (o *ownBlock) spec() *clearwayv1.BlockSpec {
	spec := &clearwayv1.BlockSpec{
		Cidr: o.CIDR.String(), Pool: o.Pool, NodeUid: o.NodeUID, State: clearwayv1.BlockState_BLOCK_STATE_OWNED,
		Generation: o.Generation, RequestKey: o.RequestKey, Floating: o.Floating.proto(),
	}
	if o.Withdrawing || o.returnDurable {
		spec.State = clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING
	}
	if !o.Claimed.IsZero() {
		spec.ClaimedTime = timestamppb.New(o.Claimed)
	}
	return spec
}

// isUnsettled tells whether the boot is new and nobody has said yet which blocks of before are still the node's.
func (b *book) isUnsettled() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.unsettled
}
