package node

import (
	"log/slog"
	"testing"
	"time"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestAllowanceOfALostAnswer: ipamd delegated addresses and the answer was lost with the process. The node asks what holds,
// and so can give it back when others need it.
func TestAllowanceOfALostAnswer(t *testing.T) {
	limit := int32(7)
	snapshot := &clearwayv1.NodeSnapshot{Quotas: []*clearwayv1.IPQuota{{
		Metadata: &clearwayv1.ObjectMeta{Name: "db", Uid: "u1"}, Spec: &clearwayv1.IPQuotaSpec{Addresses: &limit},
	}}}
	for name, journalled := range map[string]*allowanceRecord{
		"of the first one": nil,
		"of a later one":   {Quota: "db", UID: "u1", Amount: 2, Generation: 20},
	} {
		t.Run(name, func(t *testing.T) {
			told := []*clearwayv1.QuotaAllowance{{Quota: "db", QuotaUid: "u1", Amount: 7, Generation: 23}}
			b := newBook(slog.New(slog.DiscardHandler), time.Now)
			made, faults := newSettings(snapshot, nil)
			if len(faults) > 0 {
				t.Fatal(faults)
			}
			b.configure(made)
			b.setOnline(true)
			if journalled != nil {
				b.quotas.set(*journalled)
			}
			have := b.quotas.of(made.quotas[0])
			if lowered := b.hearAllowances(told, 30); len(lowered) > 0 {
				t.Errorf("lowered %v", lowered)
			}
			steps := b.quotaSteps()
			if len(steps) != 1 || steps[0].amount != have.Amount || steps[0].lowered != have {
				t.Fatalf("steps %+v; want one that tells %+v", steps, have)
			}
			b.allowanceSet(steps[0], &clearwayv1.SetAllowanceResponse{Allowance: told[0]}, time.Now())
			b.quotas.set(allowanceRecord{Quota: "db", UID: "u1", Amount: 7, Generation: 23})
			told[0].GiveBack = true
			b.hearAllowances(told, 31)
			if steps = b.quotaSteps(); len(steps) != 1 || !steps[0].less || steps[0].amount != 0 {
				t.Errorf("steps %+v; want all of it given back", steps)
			}
		})
	}
}
