package cni

import (
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot is the machine's clock that no one sets, which the agent reads as well; 0 where the kernel has none.
func sinceBoot() time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	return time.Duration(now.Nano())
}
