package node

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/clearway/clearway/ipam/node/nodetest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestDrain: a drained pool gives no address, who names it gets one of the pool that it is drained to, and its blocks go
// back as they empty, although the idle time is far off.
func TestDrain(t *testing.T) {
	d := nodetest.New(t)
	d.Pool("old", &clearwayv1.IPPoolSpec{Cidr: "10.1.0.0/24", BlockSize: 30})
	d.Pool("new", &clearwayv1.IPPoolSpec{Cidr: "10.2.0.0/24", Priority: -1})
	dir := t.TempDir()
	a := run(t, d, dir)
	kept := a.mustAdd("c1")
	gone := []string{"c2", "c3", "c4", "c5"}
	for _, one := range gone {
		a.mustAdd(one)
	}
	d.Pool("old", &clearwayv1.IPPoolSpec{Cidr: "10.1.0.0/24", BlockSize: 30, Drain: true, DrainTo: "new"})
	nodetest.Eventually(t, "the node knows", func() bool {
		defer a.mustDel("probe")
		return a.mustAdd("probe")[0][:5] == "10.2."
	})
	if got := a.mustAdd("c6", func(r *clearwayv1.AddRequest) { r.Pools = []string{"old"} }); got[0][:5] != "10.2." {
		t.Errorf("who names the drained pool got %v", got)
	}
	if got := a.mustAdd("c1"); got[0] != kept[0] {
		t.Errorf("who holds an address of it got %v, not %v", got, kept)
	}
	_, err := a.add("c7", func(r *clearwayv1.AddRequest) { r.Addresses = []string{"10.1.0.9"} })
	wantCode(t, err, cniBadConfig, "in no pool that the Pod may use")

	a.stop() // in the middle of it
	a = run(t, d, dir)
	for _, one := range gone {
		a.mustDel(one)
	}
	ofOld := func() (count int) {
		for _, cidr := range d.Blocks("n1") {
			if cidr[:5] == "10.1." {
				count++
			}
		}
		return count
	}
	nodetest.Eventually(t, "all blocks but the one with an address have gone back", func() bool { return ofOld() == 1 })
	if got := a.mustAdd("c1"); got[0] != kept[0] {
		t.Errorf("who holds an address of it got %v, not %v", got, kept)
	}
	a.mustDel("c1")
	nodetest.Eventually(t, "the last one has gone back", func() bool { return ofOld() == 0 })
}

// TestDrainOfAPoolWithoutAnother: who names it is told.
func TestDrainOfAPoolWithoutAnother(t *testing.T) {
	d := dualStack(t)
	d.Pool("v4", &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/16", Drain: true})
	a := run(t, d, t.TempDir())
	_, err := a.add("c1", func(r *clearwayv1.AddRequest) { r.Pools = []string{"v4"} })
	wantCode(t, err, cniTryLater, `pool is being drained: "v4"`)
	if got := a.mustAdd("c2"); len(got) != 1 || got[0][:4] != "fd00" {
		t.Errorf("by selectors: %v", got)
	}
}

// TestPoolGrows: who runs keeps its answer, who comes gets the new prefix length and the gateway that Pods have already;
// the ends of the old subnet are given to nobody. A part that is drained goes back block by block.
func TestPoolGrows(t *testing.T) {
	d := nodetest.New(t)
	d.Pool("pods", &clearwayv1.IPPoolSpec{Cidr: "10.1.1.0/29", BlockSize: 29})
	a := run(t, d, t.TempDir())
	kept := a.mustAdd("c1")
	d.PoolWas("pods", &clearwayv1.IPPoolSpec{Cidr: "10.1.0.0/16", BlockSize: 29, Gateway: "10.1.1.1"}, "10.1.1.0/29")
	nodetest.Eventually(t, "the node knows", func() bool {
		defer a.mustDel("probe")
		return strings.HasSuffix(a.mustAdd("probe")[0], "/16")
	})
	if again := a.mustAdd("c1"); again[0] != kept[0] || !strings.HasSuffix(kept[0], "/29") {
		t.Errorf("who held %v is told %v", kept, again)
	}
	var got []string
	for i := range 20 {
		answer, err := a.api.Add(t.Context(), &clearwayv1.AddRequest{Attachment: attachment(fmt.Sprint("more", i))})
		if err != nil {
			t.Fatal(err)
		}
		if gateway := answer.GetAddresses()[0].GetGateway(); gateway != "10.1.1.1" {
			t.Errorf("gateway %s", gateway)
		}
		got = append(got, answer.GetAddresses()[0].GetAddress())
	}
	for _, never := range []string{"10.1.0.0/16", "10.1.1.0/16", "10.1.1.1/16", "10.1.1.7/16"} {
		if slices.Contains(got, never) {
			t.Errorf("%s was given", never)
		}
	}
	d.PoolWas("pods", &clearwayv1.IPPoolSpec{
		Cidr: "10.1.0.0/16", BlockSize: 29, Gateway: "10.1.1.1", DrainCidrs: []string{"10.1.0.0/24", "10.1.2.0/23", "10.1.4.0/22"},
	}, "10.1.1.0/29")
	for i := range 20 {
		a.mustDel(fmt.Sprint("more", i))
	}
	nodetest.Eventually(t, "what is drained has gone back", func() bool {
		return !slices.ContainsFunc(d.Blocks("n1"), func(cidr string) bool { return strings.HasPrefix(cidr, "10.1.0.") })
	})
	if again := a.mustAdd("c1"); again[0] != kept[0] {
		t.Errorf("who held %v is told %v", kept, again)
	}
}
