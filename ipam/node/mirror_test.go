package node

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearway/clearway/ipam/node/nodetest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestMirrorYields: while addresses change faster than pieces can carry, few pieces are sent; the mirror has all
// afterwards, at its own pace.
func TestMirrorYields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := nodetest.New(t)
		d.Configure(&clearwayv1.IPAMConfigurationSpec{Cooldown: "0s"})
		d.Pool("pods", &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/16"})
		a := run(t, d, t.TempDir())
		a.mustAdd("stays")
		time.Sleep(5 * time.Second)
		calls := func(during func()) int {
			before := d.Calls("MirrorAssignments")
			during()
			return d.Calls("MirrorAssignments") - before
		}
		churn := func(each int) func() {
			return func() { // 2 s, each times 200 changes a second
				for i := range 200 {
					for range each {
						name := fmt.Sprintf("pod%d", i)
						a.mustAdd(name)
						a.mustDel(name)
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
		}
		if n := calls(churn(1)); n < 6 {
			t.Errorf("%d pieces in 2 s at 200 changes a second", n)
		}
		time.Sleep(5 * time.Second)
		if n := calls(churn(8)); n > 4 {
			t.Errorf("%d pieces in 2 s at 1600 changes a second", n)
		}
		a.mustAdd("last")
		time.Sleep(12 * time.Second) // 100 changes a piece, 4 pieces a second
		if mirror, through := d.Mirror("n1"); len(mirror) != 2 || uint64(through) != a.book.number() {
			t.Errorf("the mirror has %d addresses, through %d of %d", len(mirror), through, a.book.number())
		}
		a.stop()
		d.Stop()
	})
}
