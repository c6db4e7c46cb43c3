package pki

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ParseTime reads a time in days as "365d", or as Go writes durations ("12h", "1h30m").
func ParseTime(text string) (time.Duration, error) {
	if days, found := strings.CutSuffix(text, "d"); found {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is no number of days as 365d", text)
		}
		return time.Duration(n) * day, nil
	}
	length, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is no time as 365d or 12h", text)
	}
	return length, nil
}

// WriteTime writes whole days as ParseTime reads them.
func WriteTime(length time.Duration) string {
	if length != 0 && length%day == 0 {
		return fmt.Sprintf("%dd", length/day)
	}
	return length.String()
}
