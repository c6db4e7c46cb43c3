package clearwayv1

import (
	"fmt"
	"strings"
)

// longestValue is how much of a value, in bytes, an error repeats.
const longestValue = 100

// Sentence is the faulty value and what is wrong with it; without the value where there is none, or where the message
// has it already.
func (v *FieldViolation) Sentence() string {
	value := v.GetValue()
	if value == "" || strings.Contains(v.GetMessage(), value) {
		return v.GetMessage()
	}
	if len(value) > longestValue {
		value = value[:longestValue] + "..."
	}
	return fmt.Sprintf("%q: %s", value, v.GetMessage())
}
