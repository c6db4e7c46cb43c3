package node

import (
	"net/netip"
	"time"

	"github.com/clearway/clearway/ipam/pool"
)

// statusGrace is how long it must have been so that no address can be given before STATUS says so. The kubelet marks
// the node NotReady by it, which is worse than a few ADDs that are tried again.
const statusGrace = 30 * time.Second

// able tells why an ADD from these pools would fail, once it would have for the grace period.
func (b *book) able(pools []string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.settings == nil {
		return refuse(cniUnavailable, "ipamd has not been heard yet, so no pool is known")
	}
	choice, err := b.settings.choose(pools)
	if err != nil {
		return &cniError{code: cniUnavailable, msg: "no address can be given", err: err}
	}
	now := b.now()
	for _, family := range [][]pool.Pool{choice.IPv4, choice.IPv6} {
		if len(family) > 0 && b.exhausted(family, now) {
			return refuse(cniUnavailable, "no address is free: %s", b.shortageOf(family, now).text)
		}
	}
	return nil
}

// exhausted tells whether for the grace period no pool of a family has had an address and no block was to be had.
func (b *book) exhausted(pools []pool.Pool, now time.Time) bool {
	for _, p := range pools {
		state := b.pool(p.Name)
		if u := b.useLocked(p.Name, now); u.Ready+u.Cooling > 0 {
			state.emptySince = time.Time{}
			return false
		}
		if state.emptySince.IsZero() {
			state.emptySince = now
		}
		if now.Sub(state.emptySince) < statusGrace || !b.barren(state, now) {
			return false
		}
	}
	return true
}

// barren: no block can be had of the pool, for the grace period: ipamd refuses, or is away.
func (b *book) barren(p *poolState, now time.Time) bool {
	if !b.offlineSince.IsZero() {
		return now.Sub(b.offlineSince) >= statusGrace
	}
	return p.refusal != "" && now.Sub(p.refusedSince) >= statusGrace
}

// cooldown is how long an address rests that is freed now.
func (b *book) cooldown() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.settings.configuration().Cooldown
}

// known tells whether an attachment holds something or is being worked on.
func (b *book) known(k key) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entries[k] != nil
}

// covers tells whether an address is in an own block.
func (b *book) covers(addr netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.blockOf(addr) != nil
}
