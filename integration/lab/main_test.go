package lab

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	ServeChild()
	code := m.Run()
	if code == 0 {
		code = leftovers()
	}
	os.Exit(code)
}

func leftovers() int {
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := Leftovers(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
