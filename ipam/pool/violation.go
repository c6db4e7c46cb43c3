package pool

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// violations gathers the faults of one object.
type violations []*clearwayv1.FieldViolation

// add notes a fault: the message tells what is wrong and what would be right.
func (v *violations) add(field string, value any, message string, args ...any) {
	*v = append(*v, &clearwayv1.FieldViolation{
		Field: field, Value: fmt.Sprint(value), Message: fmt.Sprintf(message, args...),
	})
}

// bytes reads a quantity of bytes between two bounds; absent is the default.
func (v *violations) bytes(field, text string, fallback, lowest, highest int64) int64 {
	if text == "" {
		return fallback
	}
	size, ok := parseBytes(text)
	switch {
	case !ok:
		v.add(field, text, "is not a quantity of bytes; write it like 256Mi, from %dMi to %dMi", lowest>>20, highest>>20)
	case size < lowest || size > highest:
		v.add(field, text, "must be from %dMi to %dMi", lowest>>20, highest>>20)
	default:
		return size
	}
	return fallback
}

// parseBytes reads a whole number with one of a Kubernetes quantity's suffixes, or none. What is too large is the largest.
func parseBytes(text string) (int64, bool) {
	digits := strings.TrimRight(text, "kKMGTi")
	unit, ok := map[string]int64{
		"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
	}[text[len(digits):]]
	number, err := strconv.ParseUint(digits, 10, 63)
	if !ok || err != nil {
		return 0, false
	}
	if int64(number) > math.MaxInt64/unit {
		return math.MaxInt64, true
	}
	return int64(number) * unit, true
}

// duration reads a duration between two bounds; absent is the default.
func (v *violations) duration(field, text string, fallback, lowest, highest time.Duration) time.Duration {
	if text == "" {
		return fallback
	}
	duration, err := time.ParseDuration(text)
	switch {
	case err != nil:
		v.add(field, text, "is not a duration; write it like 130s or 1m30s, from %s to %s", lowest, highest)
	case duration < lowest || duration > highest:
		v.add(field, text, "must be from %s to %s", lowest, highest)
	default:
		return duration
	}
	return fallback
}
