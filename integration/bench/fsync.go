package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// measureFsync appends 256 bytes and waits for the disk, n times, and gives each time in milliseconds: the least that
// any durable answer costs on this disk. fdatasync is what logs use; a file that grows writes its size as well.
func measureFsync(ctx context.Context, dir string, n int) (times []float64, err error) {
	file, err := os.CreateTemp(dir, "fsync-")
	if err != nil {
		return nil, fmt.Errorf("fsync's file: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	record := make([]byte, 256)
	for range n {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		began := time.Now()
		if _, err := file.Write(record); err != nil {
			return nil, fmt.Errorf("fsync's file: %w", err)
		}
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return nil, fmt.Errorf("fdatasync: %w", err)
		}
		times = append(times, milliseconds(time.Since(began)))
	}
	return times, nil
}
