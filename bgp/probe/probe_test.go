package probe

import (
	"context"
	"net/netip"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestReach: a machine that answers, in both families, by whatever way; and addresses that nobody has (RFC 5737, RFC 3849):
// their results come in order, with why.
func TestReach(t *testing.T) {
	here, here6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	results := Reach(t.Context(), []netip.Addr{here}, []netip.Addr{here, netip.MustParseAddr("192.0.2.77"), here6})
	if len(results) != 3 {
		t.Fatalf("%d results: %+v", len(results), results)
	}
	for i, want := range []bool{true, false, true} {
		if results[i].Reached != want || results[i].Reached != (results[i].Why == "") {
			t.Errorf("%+v", results[i])
		}
	}
}

// TestReachEnds: what the context ends is left out, not told to be unreachable.
func TestReachEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if results := Reach(ctx, nil, []netip.Addr{netip.MustParseAddr("127.0.0.1")}); len(results) != 0 {
		t.Errorf("%+v", results)
	}
}
