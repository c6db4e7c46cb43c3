package node

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/proof"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// foundNetwork is the network's name of attachments that no journal and no mirror knew: an address of a sealed block
// that was found in use. No configuration has it, so that no DEL and no GC means them by chance.
const foundNetwork = "clearway.found"

// seal is what looks have found in a sealed block so far.
type seal struct {
	first time.Time
	looks int
	found map[netip.Addr]proof.Place
}

// unseal opens the sealed blocks of which all is known: ipamd has told what the mirror had, and every network namespace
// and the host's routes were seen twice, over the grace time, so that whoever had just been given an address has put it
// in place. What was found in use is held from then on, all else rests.
//
// Of what somebody here held before the look, known, the book knows: its DEL frees it.
func (r *reconciler) unseal(ctx context.Context, sealed []netip.Prefix, known map[netip.Addr]bool, view proof.View) {
	seals := map[netip.Prefix]*seal{}
	for _, prefix := range sealed {
		s := r.seals[prefix]
		if s == nil {
			s = &seal{first: r.now(), found: map[netip.Addr]proof.Place{}}
		}
		seals[prefix] = s
		if view.Fault != "" {
			continue
		}
		s.looks++
		s.gather(prefix, view)
		maps.DeleteFunc(s.found, func(address netip.Addr, _ proof.Place) bool { return known[address] })
		if s.looks < proof.Looks || r.now().Sub(s.first) < r.graceTime() {
			continue
		}
		if err := r.open(ctx, prefix, s); err != nil && ctx.Err() == nil {
			r.log.Warn("sealed block could not be opened", "block", prefix, "error", err)
		}
	}
	r.seals = seals
}

// gather notes the addresses of a block that a view found in use.
func (s *seal) gather(prefix netip.Prefix, view proof.View) {
	for address, places := range view.Places {
		if prefix.Contains(address) {
			s.found[address] = places[0]
		}
	}
	for address := range view.Reached {
		if _, known := s.found[address]; !known && prefix.Contains(address) {
			s.found[address] = proof.Place{}
		}
	}
}

// open journals the holders that were found, then that all else rests, then that the block is open. Each step may be
// repeated: a crash between two leaves the block sealed.
func (r *reconciler) open(ctx context.Context, prefix netip.Prefix, s *seal) error {
	for _, record := range r.book.foundRecords(prefix, s.found, r.options.Namespaces, r.now()) {
		r.log.Warn("address of a sealed block is in use, and nobody knew by whom", "address", record.Addrs[0].Addr, "netns", record.Netns.Path)
		if _, err := r.write(ctx, record); err != nil {
			return err
		}
	}
	for _, record := range r.book.restRecords(prefix) {
		if _, err := r.write(ctx, record); err != nil {
			return err
		}
	}
	record, known := r.book.record(prefix)
	if !known || !record.Sealed {
		return nil
	}
	record.Sealed = false
	if _, err := r.write(ctx, record); err != nil {
		return err
	}
	r.log.Info("opened a sealed block: each of its addresses is accounted for", "block", prefix, "in_use", len(s.found))
	r.event(eventNormal, "BlockUnsealed", "Block/"+clearwayv1.PrefixName(prefix.String()), fmt.Sprintf(
		"every network namespace and route was seen: %d of its addresses are in use; it gives new ones after the cooldown", len(s.found)))
	r.notify()
	r.claims.wake()
	return nil
}

// sealedBlocks are the blocks that wait to be accounted for, none before ipamd has told what the mirror knows of them, and
// which addresses in them are known to be held.
func (b *book) sealedBlocks() (sealed []netip.Prefix, known map[netip.Addr]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.adopted {
		return nil, nil
	}
	for _, o := range b.blocks {
		if o.blockRecord.Sealed {
			sealed = append(sealed, o.CIDR)
		}
	}
	if len(sealed) == 0 {
		return nil, nil
	}
	known = map[netip.Addr]bool{}
	for address := range b.holders {
		if o := b.blockOf(address); o != nil && o.blockRecord.Sealed {
			known[address] = true
		}
	}
	return sealed, known
}

// setAdopted notes that what ipamd knows of the node's blocks has been taken over.
func (b *book) setAdopted() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.adopted = true
}

// foundRecords are assignments of those addresses of a block that were found in use and that nobody holds.
func (b *book) foundRecords(
	prefix netip.Prefix, found map[netip.Addr]proof.Place, namespaces Namespaces, now time.Time,
) []assignRecord {
	records := make([]assignRecord, 0, len(found))
	for address, place := range found {
		r := assignRecord{
			key:   key{Network: foundNetwork, Container: "found-" + clearwayv1.PrefixName(address.String()), Ifname: "unknown"},
			Addrs: []held{{Addr: address}}, Time: now,
		}
		if place.Path != "" {
			if seen := namespaces.Identify(place.Path); seen.Self == place.Self {
				r.Netns = seen
			}
		}
		records = append(records, r)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.findBlock(prefix)
	if o == nil {
		return nil
	}
	p, _ := b.settings.pool(o.Pool)
	records = slices.DeleteFunc(records, func(r assignRecord) bool {
		address := r.Addrs[0].Addr
		_, reserved := b.reserved[address]
		// The gateway is on the node's end of each Pod's link: it is in use, and nobody was given it.
		return b.holders[address] != nil || reserved || p.IsGateway(o.CIDR, address)
	})
	for _, r := range records {
		r.Addrs[0].Block, r.Addrs[0].Pool = o.CIDR, o.Pool
	}
	slices.SortFunc(records, func(x, y assignRecord) int { return x.Addrs[0].Addr.Compare(y.Addrs[0].Addr) })
	return records
}

// restRecords put every address of a block to rest that nobody holds: its former holder may just have gone.
func (b *book) restRecords(prefix netip.Prefix) []restRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.findBlock(prefix)
	if o == nil {
		return nil
	}
	until := b.now().Add(b.settings.configuration().Cooldown)
	var rests []restingAddress
	for address, last := prefix.Addr(), cidr.Last(prefix); ; address = address.Next() {
		if !o.Assigned(address) {
			rests = append(rests, restingAddress{Addr: address, Until: until})
		}
		if address == last {
			break
		}
	}
	var records []restRecord
	for part := range slices.Chunk(rests, restsPerRecord) {
		records = append(records, restRecord{part})
	}
	return records
}
