package ctl

import (
	"context"
	"testing"
	"time"
)

// What was done in the last moment is done.
func TestPollThatEndsWithItsTime(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := (&app{timeout: time.Minute}).poll(ctx, func(context.Context) (bool, error) {
		cancel()
		return true, nil
	})
	if err != nil {
		t.Error(err)
	}
}
