package bench

import (
	"math"
	"slices"
	"time"
)

// missing marks a value that was not measured.
var missing = math.NaN()

// percentile is the smallest value that at least p percent of the values do not exceed (nearest rank). p is in
// (0, 100]. It is NaN when there are no values.
func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return missing
	}
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	rank := int(math.Ceil(p * float64(len(sorted)) / 100))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// median is the middle value, or the mean of the middle two: with few rounds, nearest rank would lean to one side.
func median(values []float64) float64 {
	if len(values) == 0 {
		return missing
	}
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// perSecond is a rate, or NaN where no time passed.
func perSecond(n int, elapsed time.Duration) float64 {
	if elapsed <= 0 {
		return missing
	}
	return float64(n) / elapsed.Seconds()
}
