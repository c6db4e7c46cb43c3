package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	watchBuffer = 256 << 20
	// How often the notifications are read: the resolution of every time that is measured with them.
	watchEvery = 200 * time.Microsecond
)

// routeWatch knows which fed prefixes a namespace's kernel has, by the kernel's own notifications. They cost each
// contender the same: one copy a route. Nobody sleeps on the socket, so no writer of routes has to wake a reader; the
// buffer holds more than the greatest feed, and is emptied on a clock.
type routeWatch struct {
	socket  int
	present []bool
	count   int
	buffer  []byte
}

func watchRoutes(in *namespace) (*routeWatch, error) {
	made := &routeWatch{present: make([]bool, maxFeed), buffer: make([]byte, 64<<10)}
	err := in.do(func() (err error) {
		made.socket, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("netlink socket: %w", err)
		}
		err = errors.Join(
			unix.SetsockoptInt(made.socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer),
			unix.Bind(made.socket, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_IPV4_ROUTE}),
		)
		if err != nil {
			return errors.Join(fmt.Errorf("subscribe to routes: %w", err), unix.Close(made.socket))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

func (w *routeWatch) close() { _ = unix.Close(w.socket) } // nothing can be done about it

// await waits until the kernel has exactly want of the fed prefixes, and gives the time when it did. alive is asked
// now and then whether there is still reason to wait.
func (w *routeWatch) await(ctx context.Context, want int, limit time.Duration, alive func() error) (time.Time, error) {
	deadline := time.Now().Add(limit)
	for turn := 0; ; turn++ {
		if err := w.drain(); err != nil {
			return time.Time{}, err
		}
		now := time.Now()
		if w.count == want {
			return now, nil
		}
		if turn%256 == 0 {
			if err := errors.Join(context.Cause(ctx), alive()); err != nil {
				return time.Time{}, fmt.Errorf("at %d of %d routes: %w", w.count, want, err)
			}
			if now.After(deadline) {
				return time.Time{}, fmt.Errorf("%d of %d routes after %s", w.count, want, limit)
			}
		}
		// Not time.Sleep, which is no finer than a millisecond. An early end only makes the next look earlier.
		_ = unix.Nanosleep(&unix.Timespec{Nsec: int64(watchEvery)}, nil)
	}
}

// drain reads all the notifications that there are.
func (w *routeWatch) drain() error {
	for {
		n, err := unix.Read(w.socket, w.buffer)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			return errors.New("the kernel dropped route notifications: the buffer is too small")
		case err != nil:
			return fmt.Errorf("read route notifications: %w", err)
		default:
			w.take(w.buffer[:n])
		}
	}
}

// take counts the messages of one read (netlink(7), rtnetlink(7)).
func (w *routeWatch) take(messages []byte) {
	for len(messages) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(messages))
		if length < unix.SizeofNlMsghdr || length > len(messages) {
			return
		}
		kind := binary.NativeEndian.Uint16(messages[4:])
		if kind == unix.RTM_NEWROUTE || kind == unix.RTM_DELROUTE {
			w.note(messages[unix.SizeofNlMsghdr:length], kind == unix.RTM_NEWROUTE)
		}
		messages = messages[min(len(messages), (length+3)&^3):]
	}
}

func (w *routeWatch) note(message []byte, present bool) {
	if len(message) < unix.SizeofRtMsg {
		return
	}
	index, ours := feedIndex(destinationOf(message[unix.SizeofRtMsg:]), message[1])
	if !ours || w.present[index] == present {
		return
	}
	w.present[index] = present
	if present {
		w.count++
	} else {
		w.count--
	}
}

func destinationOf(attributes []byte) []byte {
	for len(attributes) >= unix.SizeofRtAttr {
		length := int(binary.NativeEndian.Uint16(attributes))
		if length < unix.SizeofRtAttr || length > len(attributes) {
			return nil
		}
		if binary.NativeEndian.Uint16(attributes[2:]) == unix.RTA_DST {
			return attributes[unix.SizeofRtAttr:length]
		}
		attributes = attributes[min(len(attributes), (length+3)&^3):]
	}
	return nil
}
