package clearwayv1

import (
	"fmt"
	"hash/fnv"
	"slices"
)

// Orphan names an ownership that ended without word: a block, and the generation of who had it.
type Orphan struct {
	CIDR       string
	Generation int64
}

// OrphansDigest stands for a set of orphaned blocks, in any order: an agent tells by it which ones it has looked for. It
// is never 0.
func OrphansDigest(orphans []Orphan) uint64 {
	texts := make([]string, len(orphans))
	for i, one := range orphans {
		texts[i] = fmt.Sprintf("%s %d\n", one.CIDR, one.Generation)
	}
	slices.Sort(texts)
	hash := fnv.New64a()
	for _, text := range texts {
		_, _ = hash.Write([]byte(text)) // a hash has no errors
	}
	return max(hash.Sum64(), 1)
}
