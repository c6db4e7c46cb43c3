package node

import (
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestReservationEndsByItself: the agent gives a reserved address when its time is over, and ipamd has no part in it.
func TestReservationEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(slog.New(slog.DiscardHandler), time.Now)
		snapshot := &clearwayv1.NodeSnapshot{
			Pools: []*clearwayv1.IPPool{{Metadata: &clearwayv1.ObjectMeta{Name: "pods"}, Spec: &clearwayv1.IPPoolSpec{Cidr: "10.0.0.0/24", BlockSize: 29}}},
			Reservations: []*clearwayv1.IPReservation{
				{Metadata: &clearwayv1.ObjectMeta{Name: "later"}, Spec: &clearwayv1.IPReservationSpec{Cidrs: []string{"10.0.0.3"}, Until: time.Now().Add(2 * time.Hour).Format(time.RFC3339)}},
				{Metadata: &clearwayv1.ObjectMeta{Name: "soon"}, Spec: &clearwayv1.IPReservationSpec{Cidrs: []string{"10.0.0.2"}, Until: time.Now().Add(time.Hour).Format(time.RFC3339)}},
				{Metadata: &clearwayv1.ObjectMeta{Name: "over"}, Spec: &clearwayv1.IPReservationSpec{Cidrs: []string{"10.0.0.4"}, Until: time.Now().Add(-time.Hour).Format(time.RFC3339)}},
				{Metadata: &clearwayv1.ObjectMeta{Name: "ever"}, Spec: &clearwayv1.IPReservationSpec{Cidrs: []string{"10.0.0.5"}}},
			},
		}
		made, faults := newSettings(snapshot, nil)
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		b.configure(made)
		b.applyLocked(1, blockRecord{CIDR: netip.MustParsePrefix("10.0.0.0/29"), Pool: "pods", Generation: 1})
		ready := func() int {
			b.endReserved()
			return b.blocks[0].Count(time.Now()).Ready
		}
		for i, want := range []int{3, 3, 4, 4, 5, 5} { // .2 to .7, less those in force
			if got := ready(); got != want {
				t.Errorf("after %d half hours %d are ready, want %d", i, got, want)
			}
			time.Sleep(30 * time.Minute)
		}
	})
}
