package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Modes of a unix socket: for root and us alone, or for whoever a SocketGuard lets in.
const (
	SocketPrivate fs.FileMode = 0o600
	SocketGuarded fs.FileMode = 0o666
)

// ListenUnix listens on a unix socket of a mode. A socket left by a process that is gone is replaced in one step,
// so a client finds either the old one or a served one; one that somebody still serves is an error. Closing the
// listener leaves the socket file: during a restart clients retry it, and the next process replaces it.
func ListenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s is served by another process", path)
	}
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("folder of socket: %w", err)
	}
	// Made in a folder of our own, so that nobody can connect before the mode is set.
	private, err := os.MkdirTemp(folder, ".")
	if err != nil {
		return nil, fmt.Errorf("folder of socket: %w", err)
	}
	defer os.RemoveAll(private)
	made := filepath.Join(private, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on socket: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(made, mode), os.Rename(made, path)); err != nil {
		listener.Close()
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	return listener, nil
}
