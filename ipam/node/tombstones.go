package node

import (
	"time"

	"golang.org/x/sys/unix"
)

// How long and how many DELs are remembered. A plugin's ADD lasts half a minute at most.
const (
	keepTombstone = 2 * time.Minute
	maxTombstones = 4096
)

// tombstones remember for a while which attachments a DEL came for: an ADD that began before it must not get anything,
// however late it is looked at. Times are of the machine's clock since boot, which plugin and agent share.
//
// They are memory alone: a runtime ends an ADD's process before it calls DEL, so that no ADD outlives the connection to
// an agent that ended, and asks the next one.
type tombstones struct {
	at    map[key]time.Duration
	order []tombstone // by time
}

type tombstone struct {
	key key
	at  time.Duration
}

func (t *tombstones) bury(k key, now time.Duration) {
	if t.at == nil {
		t.at = map[key]time.Duration{}
	}
	t.at[k] = now
	t.order = append(t.order, tombstone{k, now})
	drop := 0
	for _, old := range t.order {
		if len(t.order)-drop <= maxTombstones && now-old.at <= keepTombstone {
			break
		}
		if t.at[old.key] == old.at { // else a later DEL came for it
			delete(t.at, old.key)
		}
		drop++
	}
	t.order = t.order[drop:]
}

// covers tells whether a DEL came after something that began at a time; 0: it does not say when.
func (t *tombstones) covers(k key, began time.Duration) bool {
	at, there := t.at[k]
	return there && began > 0 && began < at
}

// bury notes that a DEL came for an attachment.
func (b *book) bury(k key) {
	now := sinceBoot()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tombstones.bury(k, now)
}

// buried tells whether a DEL came after an ADD began.
func (b *book) buried(r request) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tombstones.covers(r.key, r.started)
}

// sinceBoot is the machine's clock that no one sets; 0 where the kernel has none.
func sinceBoot() time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	return time.Duration(now.Nano())
}
