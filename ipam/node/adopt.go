package node

import (
	"net/netip"
	"slices"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// same tells whether two records say the same of a block.
func (r blockRecord) same(other blockRecord) bool {
	times := r.Claimed.Equal(other.Claimed) && r.RestUntil.Equal(other.RestUntil)
	other.Claimed, other.RestUntil = r.Claimed, r.RestUntil
	return times && r == other
}

// record is what the journal has of a block.
func (b *book) record(prefix netip.Prefix) (blockRecord, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.findBlock(prefix)
	if o == nil {
		return blockRecord{}, false
	}
	return o.blockRecord, true
}

func (b *book) specs() []*clearwayv1.BlockSpec {
	specs, _ := b.heldBlocks()
	return specs
}

// missing are the blocks of ours that a list of a revision should name, and does not.
func (b *book) missing(listed []*clearwayv1.BlockSpec, revision int64) []netip.Prefix {
	b.mu.Lock()
	defer b.mu.Unlock()
	var missing []netip.Prefix
	for _, o := range b.blocks {
		named := slices.ContainsFunc(listed, func(spec *clearwayv1.BlockSpec) bool { return spec.GetCidr() == o.CIDR.String() })
		_, since := clearwayv1.SplitGeneration(o.Generation)
		if !named && o.returning == nil && since <= revision {
			missing = append(missing, o.CIDR)
		}
	}
	return missing
}

// adoptable are the assignments out of ipamd's copy that the book may take: one record for each attachment that the
// book does not know, of addresses that nobody holds.
func (b *book) adoptable(specs []*clearwayv1.AssignmentSpec) []assignRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	records := map[key]*assignRecord{}
	var order []key
	for _, spec := range specs {
		k := keyOf(spec.GetAttachment())
		addr, err := netip.ParseAddr(spec.GetAddress())
		if err != nil || b.holders[addr] != nil || b.entries[k] != nil {
			if a := b.holders[addr]; err != nil || a == nil || a.key != k {
				b.log.Warn("assignment that ipamd knows is left out: the journal knows otherwise", "address", spec.GetAddress(), "attachment", k)
			}
			continue
		}
		if _, reserved := b.reserved[addr]; reserved {
			b.log.Error("address was given out anew although ipamd knows a holder", "address", addr, "attachment", k)
			continue
		}
		r := records[k]
		if r == nil {
			r = &assignRecord{key: k, Pod: podOf(spec.GetPod()), Time: spec.GetAssignedTime().AsTime()}
			records[k] = r
			order = append(order, k)
		}
		h := held{Addr: addr, Pool: spec.GetPool()}
		if o := b.blockOf(addr); o != nil {
			h.Block = o.CIDR
		}
		r.Addrs = append(r.Addrs, h)
	}
	adoptable := make([]assignRecord, 0, len(order))
	for _, k := range order {
		slices.SortFunc(records[k].Addrs, func(x, y held) int { return x.Addr.Compare(y.Addr) })
		adoptable = append(adoptable, *records[k])
	}
	return adoptable
}
