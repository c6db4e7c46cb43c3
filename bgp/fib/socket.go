package fib

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// monitorBuffer holds some ten thousand notifications while the writer is busy; more end in a resync.
	monitorBuffer = 16 << 20
	// replyBuffer holds the errors of a batch in which every request is refused.
	replyBuffer = 4 << 20
	// replyTimeout bounds the wait for the kernel. It answers before sendto returns, a dump within milliseconds.
	replyTimeout = 5 * time.Second
	readSize     = 64 << 10
)

// socket is a netlink route socket for requests. It belongs to one goroutine at a time.
type socket struct {
	fd   int
	port uint32
	seq  uint32
	read []byte
	buf  buffer
}

// openSocket opens a socket in the calling thread's network namespace; it stays there whatever thread uses it.
func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	s := &socket{fd: fd, read: make([]byte, readSize)}
	if err := s.prepare(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare netlink socket: %w", err)
	}
	return s, nil
}

func (s *socket) prepare() error {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	name, err := unix.Getsockname(s.fd)
	if err != nil {
		return err
	}
	s.port = name.(*unix.SockaddrNetlink).Pid
	err = conveniences(func(option int) error { return unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, option, 1) })
	if err != nil {
		return err
	}
	timeout := unix.NsecToTimeval(int64(replyTimeout))
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
		return err
	}
	if err := bufferSize(s.fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, replyBuffer); err != nil {
		return err
	}
	return bufferSize(s.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, replyBuffer)
}

// conveniences asks for what old kernels lack (before 4.3, 4.12 and 4.20): there a refusal comes with the whole request,
// or without words, and a dump tells the routes of all tables, of which takeRoute picks the ones in question.
func conveniences(ask func(option int) error) error {
	for _, option := range []int{unix.NETLINK_CAP_ACK, unix.NETLINK_EXT_ACK, unix.NETLINK_GET_STRICT_CHK} {
		if err := ask(option); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
			return err
		}
	}
	return nil
}

// bufferSize asks for a size past the system's limit, which takes CAP_NET_ADMIN, or else for what the limit grants.
func bufferSize(fd, force, polite, size int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size); err == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, polite, size)
}

func (s *socket) close() error { return unix.Close(s.fd) }

func (s *socket) nextSeq() uint32 {
	s.seq++
	return s.seq
}

// send hands the kernel what buf holds. The kernel has worked all of it off when send returns.
func (s *socket) send() error {
	for {
		err := unix.Sendto(s.fd, s.buf.b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err != unix.EINTR {
			return err
		}
	}
}

// receive reads one datagram of messages; the bytes are valid until the next call.
func (s *socket) receive() ([]byte, error) { return receive(s.fd, &s.read, 0) }

// errTruncated: a datagram was longer than the buffer, and is lost. The buffer has been grown.
var errTruncated = errors.New("netlink message was longer than the buffer")

// receive reads one datagram from the kernel.
func receive(fd int, into *[]byte, flags int) ([]byte, error) {
	for {
		n, _, _, from, err := unix.Recvmsg(fd, *into, nil, unix.MSG_TRUNC|flags)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if sender, ok := from.(*unix.SockaddrNetlink); ok && sender.Pid != 0 {
			continue // another process may send to us; only the kernel is believed
		}
		if n > len(*into) {
			*into = make([]byte, 2*align(n))
			return nil, errTruncated
		}
		return (*into)[:n], nil
	}
}

// errInterrupted: the kernel's tables changed while they were being dumped, so that something may be missing.
var errInterrupted = errors.New("dump was interrupted by changes")

// dump sends the request in buf and hands each message of the answer to take.
func (s *socket) dump(take func(message) error) error {
	want := s.seq
	if err := s.send(); err != nil {
		return err
	}
	interrupted := false
	for {
		b, err := s.receive()
		if err != nil {
			return err
		}
		for len(b) >= headerLen {
			var m message
			if m, b, err = nextMessage(b); err != nil {
				return err
			}
			if m.seq != want || m.port != s.port {
				continue // the tail of an earlier dump that was given up
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.kind {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				if errno, words := parseError(m); errno != 0 {
					return kernelError{errno, words}
				}
				if interrupted {
					return errInterrupted
				}
				return nil
			default:
				if err := take(m); err != nil {
					return err
				}
			}
		}
	}
}

// monitor is the socket on which the kernel tells of changes. receive never blocks; wait does.
type monitor struct {
	fd   int
	file *os.File
	raw  syscall.RawConn
	read []byte
	// objects: it hears of nexthop objects too, which Linux has had since 5.3.
	objects bool
	lost    atomic.Bool // wait took the kernel's word that notifications were lost
}

// openMonitor subscribes to links, addresses and routes. Notifications of requests that came from port mute are
// dropped in the kernel: the writer knows by their acknowledgements what its own requests did.
func openMonitor(mute uint32) (*monitor, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink monitor: %w", err)
	}
	m := &monitor{fd: fd, file: os.NewFile(uintptr(fd), "netlink"), read: make([]byte, readSize)}
	if err := m.prepare(mute); err != nil {
		m.file.Close()
		return nil, fmt.Errorf("prepare netlink monitor: %w", err)
	}
	return m, nil
}

func (m *monitor) prepare(mute uint32) (err error) {
	if err := muteFilter(m.fd, mute); err != nil {
		return err
	}
	if err := unix.Bind(m.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	if err := bufferSize(m.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, monitorBuffer); err != nil {
		return err
	}
	groups := []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	}
	for _, group := range groups {
		if err := unix.SetsockoptInt(m.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			return err
		}
	}
	err = unix.SetsockoptInt(m.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_NEXTHOP)
	if m.objects = err == nil; err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	m.raw, err = m.file.SyscallConn()
	return err
}

// muteFilter attaches a socket filter that drops messages whose nlmsg_pid is port.
func muteFilter(fd int, port uint32) error {
	const portAt = 12 // nlmsghdr: len 4, type 2, flags 2, seq 4, pid
	code := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: portAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: networkOrder(port), Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
}

// networkOrder is a host-order word as a socket filter loads it.
func networkOrder(v uint32) uint32 {
	var b [4]byte
	native.PutUint32(b[:], v)
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// receive reads one datagram, or answers EAGAIN when there is none. ENOBUFS and errTruncated mean that some are lost.
func (m *monitor) receive() ([]byte, error) {
	if m.lost.Swap(false) {
		return nil, unix.ENOBUFS
	}
	return receive(m.fd, &m.read, unix.MSG_DONTWAIT)
}

// wait blocks until there is something to receive, an overrun included, or the monitor is closed.
func (m *monitor) wait() error {
	var one [1]byte
	return m.raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err == unix.ENOBUFS {
			m.lost.Store(true) // the kernel says it once
		}
		return err != unix.EAGAIN && err != unix.EINTR
	})
}

func (m *monitor) close() error { return m.file.Close() }

// interrupt makes wait return at once, or wait again.
func (m *monitor) interrupt(now bool) {
	var deadline time.Time
	if now {
		deadline = time.Unix(1, 0)
	}
	// An error would mean that the socket is closed, and then wait has ended anyway.
	_ = m.file.SetReadDeadline(deadline)
}
