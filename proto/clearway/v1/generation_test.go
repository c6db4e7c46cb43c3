package clearwayv1

import "testing"

func TestGenerationsRiseOverRestores(t *testing.T) {
	if before, after := Generation(0, 1<<39), Generation(1, 1); before >= after {
		t.Errorf("%d is not below %d", before, after)
	}
	if epoch, revision := SplitGeneration(Generation(3, 77)); epoch != 3 || revision != 77 {
		t.Errorf("got %d, %d", epoch, revision)
	}
	if Generation(MaxEpoch, 0) < 0 {
		t.Error("the greatest epoch overflows")
	}
}
