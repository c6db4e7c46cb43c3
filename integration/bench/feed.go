package bench

import (
	"encoding/binary"
	"net/netip"
)

// What is fed are /26 blocks out of 10.0.0.0/8, the size of Clearway's own, so that each prefix has a number.
const (
	feedBits = 26
	maxFeed  = 1 << (feedBits - 8)
	feedBase = 10 << 24
)

func feedPrefix(i int) netip.Prefix {
	var address [4]byte
	binary.BigEndian.PutUint32(address[:], feedBase|uint32(i)<<(32-feedBits))
	return netip.PrefixFrom(netip.AddrFrom4(address), feedBits)
}

// feedIndex is feedPrefix's inverse, on a destination as the kernel writes it.
func feedIndex(destination []byte, bits byte) (int, bool) {
	if bits != feedBits || len(destination) != 4 || destination[0] != feedBase>>24 {
		return 0, false
	}
	return int(binary.BigEndian.Uint32(destination)&^(0xff<<24)) >> (32 - feedBits), true
}

// feed is a whole table as bytes, made before the clock starts.
type feed struct {
	size               int
	announce, withdraw []byte
}

// newFeed makes n prefixes with perUpdate of them in each UPDATE, as far as they fit. Each UPDATE has the next hop of
// its number.
func newFeed(n, perUpdate int, asPath []uint32, nextHop func(update int) netip.Addr) feed {
	made := feed{size: n}
	for update, i := 0, 0; i < n; update++ {
		attributes := appendAttributes(nil, asPath, nextHop(update))
		room := (maxMessageLength - headerLength - 4 - len(attributes)) / (1 + 4)
		last := min(n, i+min(perUpdate, room))
		var prefixes []netip.Prefix
		for ; i < last; i++ {
			prefixes = append(prefixes, feedPrefix(i))
		}
		made.announce = appendUpdate(made.announce, nil, attributes, prefixes)
		made.withdraw = appendUpdate(made.withdraw, prefixes, nil, nil)
	}
	return made
}
