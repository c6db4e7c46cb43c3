package cni

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// socket is a connected unix socket whose system calls block. The net package's does not: it has a poller wait on its
// behalf, which takes a process of one call more system calls, and more threads, than the call.
type socket struct {
	fd          int
	read, write time.Time // deadlines
}

// connect connects to a listening unix socket. Where its backlog stays full until the given time, the error is EAGAIN.
func connect(path string, until time.Time) (*socket, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &socket{fd: fd}
	err = s.wait(syscall.SO_SNDTIMEO, until)
	if err == nil {
		err = os.NewSyscallError("connect", again(func() error { return syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}) }))
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *socket) close() { _ = syscall.Close(s.fd) } // nothing is lost with it

// SetReadDeadline implements unary.Transport.
func (s *socket) SetReadDeadline(at time.Time) error {
	s.read = at
	return nil
}

// SetWriteDeadline implements unary.Transport.
func (s *socket) SetWriteDeadline(at time.Time) error {
	s.write = at
	return nil
}

// Read implements io.Reader.
func (s *socket) Read(into []byte) (n int, err error) {
	if err := s.wait(syscall.SO_RCVTIMEO, s.read); err != nil {
		return 0, err
	}
	err = again(func() (err error) { n, err = syscall.Read(s.fd, into); return err })
	switch {
	case err != nil:
		return 0, timedOut("read", err)
	case n == 0 && len(into) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements io.Writer.
func (s *socket) Write(from []byte) (int, error) {
	written := 0
	for written < len(from) {
		if err := s.wait(syscall.SO_SNDTIMEO, s.write); err != nil {
			return written, err
		}
		var n int
		err := again(func() (err error) { n, err = syscall.Write(s.fd, from[written:]); return err })
		if err != nil {
			return written, timedOut("write", err)
		}
		written += n
	}
	return written, nil
}

// wait limits how long the next system call may take.
func (s *socket) wait(option int, until time.Time) error {
	left := time.Until(until)
	if left <= 0 {
		return os.ErrDeadlineExceeded
	}
	// Zero would be no limit.
	limit := syscall.NsecToTimeval(int64(max(left, time.Microsecond)))
	return os.NewSyscallError("setsockopt", syscall.SetsockoptTimeval(s.fd, syscall.SOL_SOCKET, option, &limit))
}

// timedOut tells of a limit that passed as unary.Transport wants it.
func timedOut(call string, err error) error {
	if errors.Is(err, syscall.EAGAIN) {
		return os.ErrDeadlineExceeded
	}
	return os.NewSyscallError(call, err)
}

// again does a system call until no signal interrupts it: the runtime sends itself some.
func again(do func() error) error {
	for {
		if err := do(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
