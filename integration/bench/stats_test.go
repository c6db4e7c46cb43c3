package bench

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestPercentileIsNearestRank(t *testing.T) {
	values := []float64{50, 15, 40, 20, 35}
	for p, want := range map[float64]float64{1: 15, 5: 15, 20: 15, 30: 20, 40: 20, 50: 35, 99: 50, 100: 50} {
		if got := percentile(values, p); got != want {
			t.Errorf("percentile %v of %v is %v, want %v", p, values, got, want)
		}
	}
	if values[0] != 50 {
		t.Error("percentile sorted its caller's values")
	}
}

// The definition, said slowly: the smallest value that at least p percent of the values do not exceed.
func TestPercentileIsItsDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(-1000, 1000), 1, 200).Draw(t, "values")
		p := float64(rapid.IntRange(1, 100).Draw(t, "p"))
		want := math.Inf(1)
		for _, candidate := range values {
			below := 0
			for _, value := range values {
				if value <= candidate {
					below++
				}
			}
			if float64(below)*100 >= p*float64(len(values)) {
				want = min(want, candidate)
			}
		}
		if got := percentile(values, p); got != want {
			t.Fatalf("percentile %v is %v, want %v", p, got, want)
		}
	})
}

func TestMedian(t *testing.T) {
	for _, table := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 4}, 4}, {[]float64{4, 1, 9, 2}, 3}} {
		if got := median(table.values); got != table.want {
			t.Errorf("median of %v is %v, want %v", table.values, got, table.want)
		}
	}
}

func TestNothingMeasuredIsNoNumber(t *testing.T) {
	for name, value := range map[string]float64{
		"percentile": percentile(nil, 50), "median": median(nil), "rate": perSecond(5, 0),
	} {
		if !math.IsNaN(value) {
			t.Errorf("%s of nothing is %v", name, value)
		}
	}
	if got := perSecond(500, 250*time.Millisecond); got != 2000 {
		t.Errorf("500 in a quarter of a second are %v a second", got)
	}
}
