package daemon

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	idleEvery = 3 * time.Second
	// idleBytes of free memory, and an eighth of what is live, are worth a collection to give them back: with 200,000
	// routes a tenth of a second's work, so not again for restEvery; where it is worth more, for restShort.
	idleBytes = 16 << 20
	restEvery = 30 * time.Second
	restShort = 5 * time.Second
)

// KeepMemory holds a ballast of so many bytes until the context ends, and gives memory back to the system once a burst is
// over. The ballast is never touched, so it takes no memory, but the collector counts it as live and lets as much garbage
// again come up before it looks: a heap as small as that of an idle program would be gone over all the time in a burst.
func KeepMemory(ctx context.Context, ballastBytes int) error {
	ballast := make([]byte, ballastBytes)
	tick := time.NewTicker(idleEvery)
	defer tick.Stop()
	before := memoryUse(ballastBytes)
	var gave time.Time
	for {
		select {
		case <-ctx.Done():
			runtime.KeepAlive(ballast)
			return nil
		case <-tick.C:
		}
		now := memoryUse(ballastBytes)
		made := now.allocated - before.allocated
		rest := restEvery
		if now.spare > now.live/4 {
			rest = restShort
		}
		if made < idleBytes && now.spare > max(idleBytes, now.live/8) && time.Since(gave) >= rest {
			debug.FreeOSMemory()
			gave = time.Now()
		}
		before = now
	}
}

type memory struct {
	allocated uint64 // since the start
	spare     uint64 // garbage and free, of what the process has from the system
	live      uint64 // found live by the last collection, without the ballast
}

func memoryUse(ballastBytes int) memory {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	value := func(i int) uint64 { return samples[i].Value.Uint64() }
	garbage, live := value(1)-min(value(1), value(2)), value(2)
	return memory{allocated: value(0), spare: garbage + value(3), live: live - min(live, uint64(ballastBytes))}
}
