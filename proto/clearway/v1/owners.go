package clearwayv1

import (
	"fmt"
	"hash/fnv"
)

// OwnersDigest stands for what the ownership log says of blocks, in any order. Its zero value is that of an empty log.
type OwnersDigest uint64

// Add takes one block in. Each block is taken once.
func (d *OwnersDigest) Add(cidr, node string, state BlockState) {
	hash := fnv.New64a()
	_, _ = fmt.Fprintf(hash, "%s %s %d", cidr, node, state) // a hash has no errors
	*d += OwnersDigest(hash.Sum64())
}
