package node

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/clearway/clearway/ipam/pool"
)

// statusGrace is how long it must have been so that no address can be given before STATUS says so. The kubelet marks
// the node NotReady by it, which is worse than a few ADDs that are tried again.
const statusGrace = 30 * time.Second

// able tells why an ADD from these pools would fail, once it would have for the grace period. That no address is free
// is told where the configuration wants it.
func (b *book) able(pools []string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.settings == nil {
		return refuse(cniUnavailable, "ipamd has not been heard yet, so no pool is known")
	}
	choice, err := b.settings.choose(pool.Query{Wanted: networkPools(pools)})
	now := b.now()
	if err != nil {
		if b.unableSince.IsZero() {
			b.unableSince = now
		}
		if now.Sub(b.unableSince) < statusGrace {
			return nil
		}
		return &cniError{code: cniUnavailable, msg: "no address can be given", err: err}
	}
	b.unableSince = time.Time{}
	if !b.settings.ipam.StatusFailsWhenFull {
		return nil
	}
	for _, family := range [][]pool.Pool{choice.IPv4, choice.IPv6} {
		if len(family) > 0 && b.exhausted(family, now) {
			return refuse(cniUnavailable, "no address is free: %s", b.shortageOf(family, now).text)
		}
	}
	return nil
}

// limited is the error of a STATUS where Pods that run are cut off besides: their addresses are in no block of the node
// any more (CNI's code 51).
func (b *book) limited(err error) error {
	failed := new(cniError)
	if !errors.As(err, &failed) || failed.code != cniUnavailable {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	cut := 0
	for addr := range b.holders {
		if b.blockOf(addr) == nil {
			cut++
		}
	}
	if cut == 0 {
		return err
	}
	return &cniError{code: cniUnavailableLimited, msg: fmt.Sprintf("%s; %d addresses that Pods have are in no block of this node any more",
		failed.msg, cut), err: failed.err}
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
