package cni

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// listening is a unix socket on which somebody listens.
func listening(t *testing.T) (string, net.Listener) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return path, listener
}

func connected(t *testing.T) (*socket, net.Conn) {
	t.Helper()
	path, listener := listening(t)
	ours, err := connect(path, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.close(); theirs.Close() })
	_ = ours.SetReadDeadline(time.Now().Add(time.Minute))
	_ = ours.SetWriteDeadline(time.Now().Add(time.Minute))
	return ours, theirs
}

func TestSocketCarriesBytes(t *testing.T) {
	ours, theirs := connected(t)
	go func() { _, _ = io.Copy(theirs, theirs); theirs.Close() }()
	large := make([]byte, 4<<20) // far more than the kernel buffers
	got := make(chan int64, 1)
	go func() {
		n, err := io.Copy(io.Discard, io.LimitReader(ours, int64(len(large))))
		if err != nil {
			t.Error(err)
		}
		got <- n
	}()
	if n, err := ours.Write(large); n != len(large) || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if n := <-got; n != int64(len(large)) {
		t.Errorf("%d bytes came back", n)
	}
}

func TestSocketEnds(t *testing.T) {
	ours, theirs := connected(t)
	theirs.Close()
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read: %v", err)
	}
	if _, err := ours.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write: %v", err)
	}
}

// TestSocketDeadlines: a peer that does nothing, and one that never stops, are left in time.
func TestSocketDeadlines(t *testing.T) {
	ours, theirs := connected(t)
	for _, left := range []time.Duration{-time.Second, 0, 20 * time.Millisecond} {
		_ = ours.SetReadDeadline(time.Now().Add(left))
		if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read within %v: %v", left, err)
		}
	}
	_ = ours.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := ours.Write(make([]byte, 4<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 {
		t.Errorf("wrote %d, %v", n, err)
	}
	if _, err := theirs.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read what is there, too late: %v", err)
	}
}

// TestSocketWaitsForTheBacklog: an agent that is slow to accept is waited for, until the time has come.
func TestSocketWaitsForTheBacklog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(fd) }()
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	first, err := connect(path, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer first.close()
	if _, err := connect(path, time.Now().Add(20*time.Millisecond)); !comesUp(err) {
		t.Errorf("with a full backlog: %v", err)
	}
}

func TestSocketThatIsNone(t *testing.T) {
	for path, comes := range map[string]bool{filepath.Join(t.TempDir(), "none"): true, "/dev/null": true, "/dev/null/s": false} {
		if _, err := connect(path, time.Now().Add(time.Minute)); err == nil || comesUp(err) != comes {
			t.Errorf("%s: %v", path, err)
		}
	}
}
