package manifest

import (
	"fmt"
	"slices"
	"strings"
)

// maxFaults is how many faults are told at once, nobody reads more; maxKept is how many are counted.
const (
	maxFaults = 20
	maxKept   = 1000
)

// Fault is one thing that is wrong in a file.
type Fault struct {
	File         string
	Line, Column int    // from 1; 0: not known
	Resource     string // "IPPool/pods", or empty
	Field        string // "spec.blockSize", or empty
	Message      string // what is wrong and what would be right
}

// Error writes it in one line: "pools.yaml:7:3: IPPool/pods: spec.blockSzie: unknown field".
func (f *Fault) Error() string {
	var text strings.Builder
	text.WriteString(f.File)
	for _, number := range []int{f.Line, f.Column} {
		if number > 0 {
			fmt.Fprintf(&text, ":%d", number)
		}
	}
	for _, part := range []string{f.Resource, f.Field, f.Message} {
		if part != "" {
			text.WriteString(": " + part)
		}
	}
	return text.String()
}

// Faults are all that is wrong, one a line, in the order of the file.
type Faults []*Fault

// Error writes the first of them and how many more there are.
func (f Faults) Error() string {
	var lines []string
	for i, fault := range f {
		if i == maxFaults {
			lines = append(lines, fmt.Sprintf("and %d more", len(f)-maxFaults))
			break
		}
		lines = append(lines, fault.Error())
	}
	return strings.Join(lines, "\n")
}

// result orders the faults by place; no fault is no error.
func (f Faults) result() error {
	if len(f) == 0 {
		return nil
	}
	slices.SortStableFunc(f, func(a, b *Fault) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return f
}
