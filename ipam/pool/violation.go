package pool

import (
	"fmt"
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
