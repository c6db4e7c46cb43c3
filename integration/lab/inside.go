package lab

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inside runs fn on a thread of its own that is in the node's namespaces, and, when network is given, in that network
// namespace. What fn opens there (sockets, netlink handles, processes) stays there and may be used from anywhere.
// The thread is thrown away afterwards: it could not be brought back.
func (c *child) inside(network *os.File, fn func() error) error {
	return onThread(func() error {
		// A thread that shares its working folder with others may not change its mount namespace.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Setns(int(c.pidfd.Fd()), childNamespaces); err != nil {
			return fmt.Errorf("enter namespaces: %w", err)
		}
		if network != nil {
			if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network namespace: %w", err)
			}
		}
		return fn()
	})
}

// inNetwork runs fn on a thread that is in a network namespace and otherwise where the lab is.
func inNetwork(network *os.File, fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// The main thread is the one that cannot be thrown away: the runtime parks it for good, and with it the namespaces it is
// in. The main goroutine keeps it, so that no other is ever run on it.
func init() { runtime.LockOSThread() }

func onThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		defer close(result)    // a Goexit within fn (t.FailNow) must not leave us waiting
		result <- fn()
	}()
	return <-result
}

// newNetwork makes a network namespace that lives as long as the file is open.
func newNetwork() (*os.File, error) {
	var file *os.File
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		var err error
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return file, err
}
