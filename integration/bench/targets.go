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

// timesAtLeast is a target on the ratio of a rate to a rival's.
func timesAtLeast(what, rival string, ratio, limit float64) Target {
	return Target{
		Name: what,
		Want: fmt.Sprintf("at least %sx %s's", formatNumber(limit), rival),
		Got:  formatRatio(ratio),
		Met:  ratio >= limit,
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

// atLeast is a target on a rate.
func atLeast(what string, rate, limit float64) Target {
	return Target{
		Name: what,
		Want: "at least " + formatNumber(limit),
		Got:  formatNumber(rate),
		Met:  rate >= limit,
	}
}
