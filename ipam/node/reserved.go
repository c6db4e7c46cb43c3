package node

import (
	"context"
	"time"

	"github.com/clearway/clearway/ipam/pool"
)

// lookReserved is how often it is looked whether a reservation ended: clocks jump, so that no timer is trusted for long.
const lookReserved = time.Second

// endReservations gives the addresses of reservations free whose time is over, whether ipamd answers or not.
func (n *Node) endReservations(ctx context.Context) error {
	tick := time.NewTicker(lookReserved)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.book.endReserved()
		case <-ctx.Done():
			return nil
		}
	}
}

// endReserved excludes anew what is not to be given out, when the time of a reservation is over.
func (b *book) endReserved() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if b.reservedUntil.IsZero() || now.Before(b.reservedUntil) {
		return
	}
	_, b.reservedUntil = pool.Reserved(b.settings.reserved, now)
	for _, o := range b.blocks {
		o.Exclude(b.settings.excluded(o.Pool, o.CIDR, now))
	}
	b.wakeLocked()
}
