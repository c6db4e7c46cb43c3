package node

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/clearway/clearway/ipam/node/nodetest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestReportsOrphans: the agent looks for the orphaned blocks of its ownership log among what its peers tell, and says
// which ones it has looked for. What it cannot look for it does not claim to have.
func TestReportsOrphans(t *testing.T) {
	d := nodetest.New(t)
	fail := errors.New("no answer")
	var asked []netip.Prefix
	a := run(t, d, t.TempDir(), func(o *Options) {
		o.Heard = func(prefixes []netip.Prefix) ([]netip.Prefix, error) {
			asked = prefixes
			return []netip.Prefix{netip.MustParsePrefix("10.1.0.5/32")}, fail
		}
	})
	l := &link{Node: a.Node}
	report := func() *clearwayv1.ReportStatusRequest {
		request := &clearwayv1.ReportStatusRequest{}
		l.reportOrphans(request)
		return request
	}
	if got := report(); got.GetOrphansDigest() != clearwayv1.OrphansDigest(nil) || len(got.GetHeldOrphans()) > 0 || asked != nil {
		t.Errorf("without orphans: %v, asked for %v", got, asked)
	}
	a.Node.mu.Lock()
	a.owners.apply([]*clearwayv1.WatchOwnershipResponse{{Complete: true, Entries: []*clearwayv1.OwnershipEntry{
		owner("10.1.0.0/26", clearwayv1.BlockState_BLOCK_STATE_ORPHANED), owner("10.1.0.64/26", clearwayv1.BlockState_BLOCK_STATE_OWNED),
	}}})
	a.Node.mu.Unlock()
	if got := report(); got.GetOrphansDigest() != 0 {
		t.Errorf("without an answer: %v", got)
	}
	fail = nil
	got := report()
	if want := clearwayv1.OrphansDigest([]clearwayv1.Orphan{{CIDR: "10.1.0.0/26", Generation: 7}}); got.GetOrphansDigest() != want ||
		!slices.Equal(got.GetHeldOrphans(), []string{"10.1.0.5/32"}) || len(asked) != 1 {
		t.Errorf("%v, asked for %v", got, asked)
	}
}

func owner(cidr string, state clearwayv1.BlockState) *clearwayv1.OwnershipEntry {
	return &clearwayv1.OwnershipEntry{Entry: &clearwayv1.OwnershipEntry_Block{Block: &clearwayv1.BlockOwner{
		Cidr: cidr, Node: "gone", State: state, Generation: 7,
	}}}
}
