package lab

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// Require ends the test when a lab cannot be made here: as a failure where CI is set, where nothing may be skipped,
// else as a skip that says what is missing.
func Require(t testing.TB, topology *Topology) {
	t.Helper()
	err := Capable()
	if err == nil && topology != nil {
		err = checkNeeds(topology)
	}
	if err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("the lab cannot run, and CI is set: %v", err)
	}
	if errors.Is(err, ErrIncapable) || errors.Is(err, ErrMissing) {
		// Seen without -v as well.
		fmt.Fprintf(os.Stderr, "\n*** SKIPPED %s: %v ***\n\n", t.Name(), err)
	}
	t.Skip(err)
}

// UpForTest raises a lab for a test and takes it down at its end. When the test has failed, it shows the logs first.
func UpForTest(t testing.TB, o Options) *Lab {
	t.Helper()
	Require(t, o.Topology)
	if o.Progress == nil {
		o.Progress = t.Logf
	}
	l, err := Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.Logs(40))
		}
		l.Down()
	})
	return l
}
