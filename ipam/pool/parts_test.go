package pool_test

import (
	"net/netip"
	"slices"
	"testing"

	"go4.org/netipx"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/pool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestPartsAgreeWithTwin: the parts of a pool are all its blocks of a length but those that overlap what is drained, and
// those that have no address to give. The twin looks at block after block, and address after address.
func TestPartsAgreeWithTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := netip.MustParsePrefix(rapid.SampledFrom([]string{"10.0.0.0/24", "10.7.255.128/25", "fd00::/120", "fd00:0:0:ffff::ff80/121"}).Draw(t, "cidr"))
		family := whole.Addr().BitLen()
		within := func(name string) netip.Prefix {
			length := rapid.IntRange(whole.Bits()+1, family).Draw(t, name+" length")
			prefix, _ := cidr.Nth(whole, length, rapid.Uint64Range(0, cidr.Blocks(whole, length)-1).Draw(t, name))
			return prefix
		}
		spec := &clearwayv1.IPPoolSpec{
			Cidr: whole.String(), BlockSize: int32(rapid.IntRange(whole.Bits(), family).Draw(t, "blockSize")),
			ReservedFirst: proto.Int32(rapid.Int32Range(0, 40).Draw(t, "first")), ReservedLast: proto.Int32(rapid.Int32Range(0, 40).Draw(t, "last")),
		}
		for range rapid.IntRange(0, 3).Draw(t, "drains") {
			spec.DrainCidrs = append(spec.DrainCidrs, within("drained").String())
		}
		p, faults := pool.Parse(&clearwayv1.IPPool{Metadata: &clearwayv1.ObjectMeta{Name: "pods"}, Spec: spec})
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		var reserved []netipx.IPRange
		for range rapid.IntRange(0, 4).Draw(t, "reservations") {
			from := within("reserved")
			reserved = append(reserved, netipx.IPRangeFrom(from.Addr(), cidr.Last(from)))
		}
		length := int(spec.GetBlockSize())
		parts := p.Parts(length, reserved)
		for i, part := range parts {
			if slices.ContainsFunc(parts[:i], part.Overlaps) {
				t.Fatalf("parts overlap: %v", parts)
			}
		}
		for n := range cidr.Blocks(whole, length) {
			block, _ := cidr.Nth(whole, length, n)
			given := slices.ContainsFunc(parts, func(part netip.Prefix) bool { return cidr.Contains(part, block) })
			if want := !p.Drains(block) && givesAny(p, block, reserved); given != want {
				t.Fatalf("block %s is in the parts %v: %v; want %v", block, parts, given, want)
			}
		}
	})
}

// givesAny looks for an address of a block that is given out.
func givesAny(p pool.Pool, block netip.Prefix, reserved []netipx.IPRange) bool {
	for addr := block.Addr(); block.Contains(addr); addr = addr.Next() {
		first, last := cidr.Distance(p.CIDR.Addr(), addr), cidr.Distance(addr, cidr.Last(p.CIDR))
		kept := addr == p.Gateway || first < uint64(p.ReservedFirst) || last < uint64(p.ReservedLast)
		for _, one := range reserved {
			kept = kept || one.Contains(addr)
		}
		if !kept {
			return true
		}
	}
	return false
}
