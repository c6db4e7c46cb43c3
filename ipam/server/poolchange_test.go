package server_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/clearway/clearway/ipam/cidr"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// refused applies a pool and wants one fault of a field.
func (d *ipamd) refused(field, words string, resource *clearwayv1.Resource) {
	d.t.Helper()
	_, err := d.Apply(testContext(d.t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{resource}})
	if found := violations(err); len(found) != 1 || found[0].GetField() != field || !strings.Contains(found[0].GetMessage(), words) {
		d.t.Errorf("got %v; want %s: %s", err, field, words)
	}
}

// TestPoolGrowsAndShrinks: with blocks in it, and back to where it was.
func TestPoolGrowsAndShrinks(t *testing.T) {
	records := newFake()
	d := start(t, records)
	d.apply(ipPool("pods", "10.244.1.0/24"))
	a := d.agent("n1")
	first := a.mustClaim("pods", "k1")
	if first.GetCidr() != "10.244.1.0/26" {
		t.Fatal(first)
	}

	d.apply(ipPool("pods", "10.244.0.0/16"))
	grown := d.pool("pods")
	if got := grown.GetSpec().GetGateway(); got != "10.244.1.1" {
		t.Errorf("the gateway of Pods that run became %q", got)
	}
	if got := fmt.Sprint(grown.GetStatus().GetFormerCidrs(), grown.GetStatus().GetFormerGateways()); got != "[10.244.1.0/24] []" {
		t.Errorf("former: %s", got)
	}
	if got := d.apply(ipPool("pods", "10.244.0.0/16")).GetResults()[0].GetAction(); got != clearwayv1.ApplyResult_ACTION_UNCHANGED {
		t.Errorf("applied again: %s", got)
	}
	for i := range 4 { // those of the old range first: they are the smallest hole
		a.mustClaim("pods", fmt.Sprint("old", i))
	}
	outside := d.block(t, "10.244.0.0/26").GetSpec()

	// A changed gateway must be nobody's, and the old one stays nobody's.
	gateway := func(text string) *clearwayv1.Resource {
		return ipPool("pods", "10.244.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.Gateway = text })
	}
	d.refused("spec.gateway", "is in block 10.244.1.0/26 of node n1", gateway("10.244.1.2"))
	d.apply(gateway("10.244.255.1"))
	if got := d.pool("pods").GetStatus(); fmt.Sprint(got.GetFormerCidrs(), got.GetFormerGateways()) != "[10.244.1.0/24] [10.244.1.1]" {
		t.Errorf("former: %v", got)
	}
	d.apply(gateway("10.244.1.1")) // back, although it is in a block: nobody was given it
	if got := d.pool("pods").GetStatus(); fmt.Sprint(got.GetFormerGateways()) != "[10.244.255.1]" {
		t.Errorf("former: %v", got)
	}

	d.refused("spec.cidr", "leaves out 1 blocks on 1 nodes with 0 addresses assigned; drain what is to go first (spec.drainCIDRs: [10.244.0.0/24, 10.244.2.0/23,",
		ipPool("pods", "10.244.1.0/24"))
	draining := ipPool("pods", "10.244.0.0/16", func(s *clearwayv1.IPPoolSpec) {
		s.DrainCidrs = []string{"10.244.0.0/24", "10.244.2.0/23", "10.244.4.0/22"}
	})
	d.apply(draining)
	if got := d.pool("pods"); got.GetStatus().GetPhase() != "Active" || !strings.Contains(conditions(got), "Drained=False BlocksRemain: 1 blocks on 1 nodes") {
		t.Errorf("draining in part: %v", got.GetStatus())
	}
	if next := a.mustClaim("pods", "elsewhere"); next.GetCidr() != "10.244.8.0/26" {
		t.Errorf("claimed %s while its part was drained", next.GetCidr())
	} else {
		a.must(a.release(next))
	}
	a.must(a.release(outside))
	if got := conditions(d.pool("pods")); !strings.Contains(got, "Drained=True Empty") {
		t.Errorf("when it is empty: %s", got)
	}
	d.apply(ipPool("pods", "10.244.1.0/24")) // blocks that rest outside are nobody's
	if got := d.pool("pods"); got.GetSpec().GetGateway() != "" || fmt.Sprint(got.GetStatus().GetFormerCidrs()) != "[10.244.0.0/16]" {
		t.Errorf("shrunk: %v", got)
	}
	_, err := a.claim("pods", "full")
	wantCode(t, err, codes.ResourceExhausted)
	d.refused("spec.cidr", `overlaps block 10.244.`, ipPool("other", "10.244.0.0/24"))

	d.stop()
	d = start(t, records) // the next leader reads the same
	_, err = d.agent("n1").claim("pods", "full2")
	wantCode(t, err, codes.ResourceExhausted)
	d.clock.Advance(time.Hour)
	d.eventually("what rests is free", func() bool {
		found, _ := d.list(&clearwayv1.ListRequest{Kind: "Block"})
		return len(found) == 4
	})
	d.apply(ipPool("other", "10.244.0.0/24"))
	d.refused("spec.cidr", "overlaps IPPool/other", ipPool("pods", "10.244.0.0/16"))
}

func TestShrinkingLeavesNoPodAtTheEnd(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/24", func(s *clearwayv1.IPPoolSpec) { s.BlockSize = 27 }))
	a := d.agent("n1")
	for i := range 4 {
		a.mustClaim("pods", fmt.Sprint(i))
	}
	last := assignment("n1", "10.244.0.127", 7)
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 7, Assigned: []*clearwayv1.AssignmentSpec{last}})
	half := ipPool("pods", "10.244.0.0/25", func(s *clearwayv1.IPPoolSpec) { s.BlockSize = 27 })
	d.refused("spec.cidr", "has 10.244.0.127 at its end, which Pod default/pod7 (eth0) holds on node n1", half)
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{AfterNumber: 7, ThroughNumber: 8, Released: []*clearwayv1.ReleasedAddress{{Address: "10.244.0.127", JournalNumber: 7}}})
	d.apply(half)
}

// TestBlockSizesChangeWhileBlocksLive: blocks keep theirs, new ones have the new size.
func TestBlockSizesChangeWhileBlocksLive(t *testing.T) {
	d := start(t, newFake())
	a := d.agent("n1")
	var got []string
	for i, size := range []int32{26, 28, 24, 16, 27} {
		d.apply(ipPool("pods", "10.244.0.0/15", func(s *clearwayv1.IPPoolSpec) { s.BlockSize, s.MinBlockSize = size, 30 }))
		got = append(got, a.mustClaim("pods", fmt.Sprint(i)).GetCidr())
	}
	want := "10.244.0.0/26 10.244.0.64/28 10.244.1.0/24 10.245.0.0/16 10.244.0.96/27"
	if strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	if kept := a.comeBack(func(r *clearwayv1.RegisterRequest) {}).registered.GetBlocks(); len(kept) != 5 {
		t.Errorf("%d blocks are left", len(kept))
	}
}

// TestNoOverlapThroughPoolChanges: pools grow, shrink, drain and go at random while nodes claim and release. A change
// is let through exactly when no node has a block that it leaves out, and no two blocks ever overlap.
func TestNoOverlapThroughPoolChanges(t *testing.T) {
	cidrs := []string{"10.0.0.0/24", "10.0.0.0/25", "10.0.0.128/25", "10.0.0.64/26", "10.0.0.0/23", "10.0.2.0/24", "10.0.1.0/24", "10.0.0.0/22"}
	rapid.Check(t, func(r *rapid.T) {
		d := start(t, newFake())
		defer d.stop()
		nodes := []*agent{d.agent("n1"), d.agent("n2")}
		owned := map[netip.Prefix]*clearwayv1.BlockSpec{} // the twin
		keys := 0
		r.Repeat(map[string]func(*rapid.T){
			"apply": func(r *rapid.T) {
				name, text := rapid.SampledFrom([]string{"a", "b"}).Draw(r, "name"), rapid.SampledFrom(cidrs).Draw(r, "cidr")
				made := ipPool(name, text, func(s *clearwayv1.IPPoolSpec) {
					s.BlockSize, s.Gateway = rapid.Int32Range(26, 28).Draw(r, "size"), ""
					if rapid.Bool().Draw(r, "drain") {
						s.DrainCidrs = []string{netip.PrefixFrom(netip.MustParsePrefix(text).Addr(), 27).String()}
					}
				})
				before := d.pool(name)
				_, err := d.Apply(testContext(t), &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{made}})
				for prefix, block := range owned {
					if block.GetPool() == name && !cidr.Contains(netip.MustParsePrefix(text), prefix) && err == nil {
						r.Fatalf("%s became %s, which leaves out %s", name, text, prefix)
					}
				}
				if before != nil && before.GetSpec().GetCidr() == text && err != nil {
					r.Fatalf("%s with the cidr that it has: %v", name, err)
				}
			},
			"delete": func(r *rapid.T) {
				name := rapid.SampledFrom([]string{"a", "b"}).Draw(r, "name")
				answer, err := d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "IPPool", Name: name})
				has := slices.ContainsFunc(values(owned), func(b *clearwayv1.BlockSpec) bool { return b.GetPool() == name })
				if err == nil && (answer.GetRemaining() != nil) != has {
					r.Fatalf("deleted %s, with blocks %v: %v", name, has, answer)
				}
			},
			"claim": func(r *rapid.T) {
				keys++
				answer, err := rapid.SampledFrom(nodes).Draw(r, "node").claim(rapid.SampledFrom([]string{"a", "b"}).Draw(r, "pool"), fmt.Sprint(keys))
				if status.Code(err) == codes.Internal {
					r.Fatal(err)
				}
				if err != nil {
					return
				}
				prefix := netip.MustParsePrefix(answer.GetBlock().GetCidr())
				for other := range owned {
					if other.Overlaps(prefix) {
						r.Fatalf("claimed %s, which overlaps %s", prefix, other)
					}
				}
				from := d.pool(answer.GetBlock().GetPool())
				if !cidr.Contains(netip.MustParsePrefix(from.GetSpec().GetCidr()), prefix) {
					r.Fatalf("claimed %s out of %s", prefix, from.GetSpec().GetCidr())
				}
				for _, text := range from.GetSpec().GetDrainCidrs() {
					if netip.MustParsePrefix(text).Overlaps(prefix) {
						r.Fatalf("claimed %s, of which %s is drained", prefix, text)
					}
				}
				owned[prefix] = answer.GetBlock()
			},
			"release": func(r *rapid.T) {
				if len(owned) == 0 {
					r.Skip("nothing to release")
				}
				block := rapid.SampledFrom(values(owned)).Draw(r, "block")
				for _, node := range nodes {
					if node.request.GetNode() == block.GetNode() {
						node.must(node.release(block))
					}
				}
				delete(owned, netip.MustParsePrefix(block.GetCidr()))
			},
			"time": func(*rapid.T) { d.clock.Advance(time.Minute) },
		})
	})
}

// values are a map's values in the order of their keys.
func values(of map[netip.Prefix]*clearwayv1.BlockSpec) (all []*clearwayv1.BlockSpec) {
	for _, prefix := range sorted(keysOf(of)) {
		all = append(all, of[prefix])
	}
	return all
}

func keysOf(of map[netip.Prefix]*clearwayv1.BlockSpec) (all []netip.Prefix) {
	for prefix := range of {
		all = append(all, prefix)
	}
	return all
}

// TestNoOverlapOfChangedPools: a pool that is not carved is not moved over the blocks of a pool that has gone.
func TestNoOverlapOfChangedPools(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/24"))
	a := d.agent("n1")
	a.must(a.release(a.mustClaim("pods", "k1")))
	d.deletePool("pods")
	lb := func(cidr string) *clearwayv1.Resource {
		return ipPool("lb", cidr, func(s *clearwayv1.IPPoolSpec) { s.Kind = "LoadBalancer" })
	}
	d.apply(lb("10.245.0.0/24"))
	d.refused("spec.cidr", "overlaps block 10.244.0.0/26 of pool \"pods\"", lb("10.244.0.0/24"))
}
