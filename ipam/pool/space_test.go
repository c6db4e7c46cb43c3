package pool_test

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"go4.org/netipx"
	"pgregory.net/rapid"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/ipamtest"
	"github.com/clearway/clearway/ipam/pool"
)

// pair is a Space beside its slow twin; its methods are the actions of TestSpaceAgreesWithTwin.
type pair struct {
	space *pool.Space
	twin  *ipamtest.Space
}

// within draws a prefix in the space, often near one that is taken already.
func (p *pair) within(t *rapid.T) netip.Prefix {
	space := p.twin.Prefix
	length := rapid.IntRange(space.Bits(), space.Addr().BitLen()).Draw(t, "length")
	if len(p.twin.Taken) > 0 && rapid.Bool().Draw(t, "near") {
		near := rapid.SampledFrom(p.twin.Taken).Draw(t, "taken")
		if rapid.Bool().Draw(t, "buddy") && near.Bits() > space.Bits() {
			near, _ = cidr.Buddy(near)
		}
		length = min(max(near.Bits()+rapid.IntRange(-2, 2).Draw(t, "delta"), space.Bits()), space.Addr().BitLen())
		return netip.PrefixFrom(near.Addr(), length).Masked()
	}
	count := min(cidr.Blocks(space, length), math.MaxUint64-1)
	prefix, _ := cidr.Nth(space, length, rapid.Uint64Range(0, count-1).Draw(t, "n"))
	return prefix
}

func (p *pair) Take(t *rapid.T) {
	prefix := p.within(t)
	err := p.space.Take(prefix)
	if ok := p.twin.Take(prefix); ok != (err == nil) {
		t.Fatalf("Take(%s): %v, the twin says %v", prefix, err, ok)
	}
	var overlap *pool.OverlapError
	if err != nil && (!errors.As(err, &overlap) || !overlap.Taken.Overlaps(prefix) || !slices.Contains(p.twin.Taken, overlap.Taken)) {
		t.Fatalf("Take(%s): %v names nothing that is taken and in the way", prefix, err)
	}
}

func (p *pair) Give(t *rapid.T) {
	prefix := p.within(t)
	if len(p.twin.Taken) > 0 && rapid.IntRange(0, 3).Draw(t, "kind") > 0 {
		prefix = rapid.SampledFrom(p.twin.Taken).Draw(t, "held")
	}
	if err, ok := p.space.Give(prefix), p.twin.Give(prefix); ok != (err == nil) {
		t.Fatalf("Give(%s): %v, the twin says %v", prefix, err, ok)
	}
}

func (p *pair) Carve(t *rapid.T) {
	length := rapid.IntRange(p.twin.Prefix.Bits()-1, p.twin.Prefix.Addr().BitLen()).Draw(t, "length")
	got, ok := p.space.Carve(length)
	want, wantOK := p.twin.Carve(length)
	if got != want || ok != wantOK {
		t.Fatalf("Carve(%d) = %s, %v; the twin says %s, %v", length, got, ok, want, wantOK)
	}
}

func (p *pair) CarveFrom(t *rapid.T) {
	var parts []netip.Prefix
	for range rapid.IntRange(0, 4).Draw(t, "parts") {
		if part := p.within(t); !slices.ContainsFunc(parts, part.Overlaps) {
			parts = append(parts, part)
		}
	}
	length := rapid.IntRange(p.twin.Prefix.Bits(), p.twin.Prefix.Addr().BitLen()).Draw(t, "length")
	got, ok := p.space.CarveFrom(parts, length)
	want, wantOK := p.twin.CarveFrom(parts, length)
	if got != want || ok != wantOK {
		t.Fatalf("CarveFrom(%v, %d) = %s, %v; the twin says %s, %v", parts, length, got, ok, want, wantOK)
	}
}

func (p *pair) Check(t *rapid.T) {
	if got, want := slices.Collect(p.space.All()), p.twin.Sorted(); !slices.Equal(got, want) || p.space.Len() != len(want) {
		t.Fatalf("taken (%d): %v, the twin has %v", p.space.Len(), got, want)
	}
	holes := map[int]uint64{}
	for _, hole := range p.twin.Holes() {
		holes[hole.Bits()]++
	}
	for length := 0; length <= p.twin.Prefix.Addr().BitLen(); length++ {
		want := p.twin.FreeBlocks(length)
		if limit := new(big.Int).SetUint64(math.MaxUint64); want.Cmp(limit) > 0 {
			want = limit
		}
		if got := p.space.FreeBlocks(length); want.Cmp(new(big.Int).SetUint64(got)) != 0 {
			t.Fatalf("FreeBlocks(%d) = %d, the twin says %d", length, got, want)
		}
	}
	part, length, most := p.within(t), rapid.IntRange(0, p.twin.Prefix.Addr().BitLen()).Draw(t, "length"), rapid.Uint64Range(0, 9).Draw(t, "most")
	want := p.twin.FreeIn(part, length)
	if limit := new(big.Int).SetUint64(most); want.Cmp(limit) > 0 {
		want = limit
	}
	if got := p.space.FreeIn(part, length, most); want.Cmp(new(big.Int).SetUint64(got)) != 0 {
		t.Fatalf("FreeIn(%s, %d, %d) = %d, the twin says %d", part, length, most, got, want)
	}
	for length, count := range p.space.Holes() {
		if holes[length] != count {
			t.Fatalf("%d holes of /%d, the twin has %d", count, length, holes[length])
		}
	}
	probe := p.within(t)
	met, found := p.space.Overlap(probe)
	i := slices.IndexFunc(p.twin.Sorted(), probe.Overlaps)
	if found != (i >= 0) || (found && met != p.twin.Sorted()[i]) {
		t.Fatalf("Overlap(%s) = %s, %v", probe, met, found)
	}
}

func TestSpaceAgreesWithTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := netip.MustParsePrefix(rapid.SampledFrom([]string{
			"10.0.0.0/28", "10.1.0.0/16", "0.0.0.0/0", "192.0.2.1/32", "2001:db8::/48", "::/0", "2001:db8::/122", "2001:db8::8000:0:0:0/65",
		}).Draw(t, "space"))
		p := &pair{pool.NewSpace(prefix), &ipamtest.Space{Prefix: prefix}}
		t.Repeat(rapid.StateMachineActions(p))
		for _, taken := range p.twin.Taken {
			if err := p.space.Give(taken); err != nil {
				t.Fatal(err)
			}
		}
		if got, ok := p.space.Carve(prefix.Bits()); !ok || got != prefix {
			t.Fatalf("all given back, and the whole is not free: %s, %v", got, ok)
		}
	})
}

// TestNoOverlapCarved carves mixed sizes until nothing is left: everything is covered once.
func TestNoOverlapCarved(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	space := pool.NewSpace(netip.MustParsePrefix("10.0.0.0/16"))
	var builder netipx.IPSetBuilder
	var addresses uint64
	for {
		carved, ok := space.Carve(24 + random.IntN(7))
		if !ok {
			if carved, ok = space.Carve(32); !ok {
				break
			}
		}
		builder.AddPrefix(carved)
		addresses += cidr.Count(carved)
	}
	set, err := builder.IPSet()
	if err != nil || len(set.Prefixes()) != 1 || set.Prefixes()[0] != space.Prefix() || addresses != 1<<16 {
		t.Fatalf("%d addresses in %v, %v", addresses, set.Prefixes(), err)
	}
}

func TestCarveTakesTheSmallestLowestHole(t *testing.T) {
	space := pool.NewSpace(netip.MustParsePrefix("10.0.0.0/24"))
	for _, taken := range []string{"10.0.0.0/26", "10.0.0.192/27", "10.0.0.96/27"} {
		if err := space.Take(netip.MustParsePrefix(taken)); err != nil {
			t.Fatal(err)
		}
	}
	// Holes: .64/27, .128/26, .224/27.
	for _, want := range []string{"10.0.0.64/28", "10.0.0.80/28", "10.0.0.224/28", "10.0.0.240/28", "10.0.0.128/28"} {
		if got, _ := space.Carve(28); got.String() != want {
			t.Fatalf("carved %s, want %s", got, want)
		}
	}
}

func TestSpaceErrorsNameThePrefixes(t *testing.T) {
	space := pool.NewSpace(netip.MustParsePrefix("10.0.0.0/16"))
	if err := space.Take(netip.MustParsePrefix("10.0.1.0/26")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		err  error
		is   error
		want string
	}{
		{space.Take(netip.MustParsePrefix("10.0.0.0/23")), pool.ErrOverlap, "10.0.0.0/23 overlaps 10.0.1.0/26, which is taken"},
		{space.Take(netip.MustParsePrefix("10.0.1.8/30")), pool.ErrOverlap, "10.0.1.8/30 overlaps 10.0.1.0/26, which is taken"},
		{space.Take(netip.MustParsePrefix("10.1.0.0/26")), pool.ErrOutside, "10.1.0.0/26 is outside of 10.0.0.0/16"},
		{space.Take(netip.MustParsePrefix("10.0.0.0/8")), pool.ErrOutside, "10.0.0.0/8 is outside of 10.0.0.0/16"},
		{space.Take(netip.MustParsePrefix("2001:db8::/64")), pool.ErrOutside, "2001:db8::/64 is outside of 10.0.0.0/16"},
		{space.Give(netip.MustParsePrefix("10.0.1.0/27")), pool.ErrNotTaken, "10.0.1.0/27 is not taken in 10.0.0.0/16"},
		{space.Give(netip.MustParsePrefix("10.0.0.0/16")), pool.ErrNotTaken, "10.0.0.0/16 is not taken in 10.0.0.0/16"},
	} {
		if !errors.Is(test.err, test.is) || test.err.Error() != test.want {
			t.Errorf("got %v, want %q", test.err, test.want)
		}
	}
}

// BenchmarkCarve is one Carve and one Give of another block, in a /8 with that many blocks of /28 (the IPv6 one: a /48
// with /122), where every eighth has been given back at random.
func BenchmarkCarve(b *testing.B) {
	for _, kind := range []struct {
		prefix string
		length int
	}{{"10.0.0.0/8", 28}, {"2001:db8::/48", 122}} {
		for _, blocks := range []int{1_000, 10_000, 100_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/blocks=%d", kind.prefix, blocks), func(b *testing.B) {
				benchmarkCarve(b, netip.MustParsePrefix(kind.prefix), kind.length, blocks)
			})
		}
	}
}

func benchmarkCarve(b *testing.B, prefix netip.Prefix, length, blocks int) {
	before := heap()
	space := pool.NewSpace(prefix)
	held := make([]netip.Prefix, 0, blocks)
	for range blocks {
		carved, _ := space.Carve(length)
		held = append(held, carved)
	}
	perBlock := float64(heap()-before)/float64(blocks) - 32 // held has a netip.Prefix for each
	random := rand.New(rand.NewPCG(1, 2))
	random.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
	for _, given := range held[:blocks/8] {
		_ = space.Give(given)
	}
	held = held[blocks/8:]
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		carved, ok := space.Carve(length)
		if !ok {
			b.Fatal("nothing is free")
		}
		given := &held[i%len(held)]
		_ = space.Give(*given)
		*given = carved
	}
	b.ReportMetric(perBlock, "B/block")
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
