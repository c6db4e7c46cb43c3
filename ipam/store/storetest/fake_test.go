package storetest

import "testing"

func TestFakeConforms(t *testing.T) {
	Run(t, func(*testing.T) Store { return New() })
}
