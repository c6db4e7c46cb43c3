//go:build race

package ipamtest_test

import (
	"flag"
	"os"
	"testing"
)

// TestMain draws a quarter of what the tests draw without the race detector, under which each takes many times as long. The
// command line's -rapid.checks goes before it.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "25"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
