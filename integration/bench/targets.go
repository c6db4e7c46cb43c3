package bench

import "fmt"

// atMost is a target on a ratio to a rival.
func atMost(what, rival string, ratio, limit float64) Target {
	return Target{
		Name: what,
		Want: fmt.Sprintf("at most %sx %s's", formatNumber(limit), rival),
		Got:  formatRatio(ratio),
		Met:  ratio <= limit,
	}
}

// below is a target on a time in milliseconds.
func below(what string, milliseconds, limit float64) Target {
	return Target{
		Name: what,
		Want: fmt.Sprintf("under %s ms", formatNumber(limit)),
		Got:  formatNumber(milliseconds) + " ms",
		Met:  milliseconds < limit,
	}
}
