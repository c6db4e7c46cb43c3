package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	bgpPort = 179
	// Long, so that no hold timer ends a session while a router is busy.
	feederHoldSeconds = 600
	keepaliveEvery    = 20 * time.Second
	writeLimit        = 2 * time.Minute
)

// feeder is the far side of a router's one session: it says prepared bytes and listens to nothing but NOTIFICATION.
type feeder struct {
	conn   net.Conn
	closed chan struct{}

	// Keepalives must not fall into the middle of a feed. It is held while a feed is written: that is its purpose.
	writing sync.Mutex

	failure error // why the session ended; read only after closed
}

// dialFeeder brings up a session from the namespace to a router that may only just have been started.
func dialFeeder(ctx context.Context, from *namespace, local, remote netip.Addr, asn uint32, router *process) (*feeder, error) {
	var made *feeder
	err := eventually(ctx, 30*time.Second, "BGP session", router, func(ctx context.Context) error {
		conn, err := dialFrom(ctx, from, local, remote)
		if err != nil {
			return err
		}
		if err := handshake(conn, asn, local); err != nil {
			_ = conn.Close() // the first error counts
			return err
		}
		made = &feeder{conn: conn, closed: make(chan struct{})}
		return nil
	})
	if err != nil {
		return nil, err
	}
	go made.listen()
	go made.keepAlive()
	// A router that waits for its peers' tables before it chooses routes (RFC 4724, section 4.1) need not wait for us.
	return made, made.write(appendUpdate(nil, nil, nil, nil))
}

func dialFrom(ctx context.Context, from *namespace, local, remote netip.Addr) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))}
	err = from.do(func() error {
		conn, err = dialer.DialContext(ctx, "tcp4", netip.AddrPortFrom(remote, bgpPort).String())
		return err
	})
	return conn, err
}

// handshake goes from an open connection to Established (RFC 4271, section 8).
func handshake(conn net.Conn, asn uint32, id netip.Addr) error {
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return fmt.Errorf("BGP handshake: %w", err)
	}
	if _, err := conn.Write(appendOpen(nil, asn, feederHoldSeconds, id)); err != nil {
		return fmt.Errorf("send OPEN: %w", err)
	}
	if err := expect(conn, messageOpen); err != nil {
		return err
	}
	if _, err := conn.Write(appendKeepalive(nil)); err != nil {
		return fmt.Errorf("send KEEPALIVE: %w", err)
	}
	if err := expect(conn, messageKeepalive); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

func expect(conn net.Conn, want byte) error {
	kind, body, err := readMessage(conn)
	if err != nil {
		return err
	}
	if kind == messageNotification {
		return errors.New("the router says " + describeNotification(body))
	}
	if kind != want {
		return fmt.Errorf("the router sent message type %d, not %d", kind, want)
	}
	return nil
}

func readMessage(r io.Reader) (kind byte, body []byte, err error) {
	var header [headerLength]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, fmt.Errorf("read BGP header: %w", err)
	}
	length := int(binary.BigEndian.Uint16(header[16:]))
	if length < headerLength || length > maxMessageLength {
		return 0, nil, fmt.Errorf("BGP message of %d bytes", length)
	}
	body = make([]byte, length-headerLength)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, fmt.Errorf("read BGP message: %w", err)
	}
	return header[18], body, nil
}

// listen reads what the router says, until the session ends.
func (f *feeder) listen() {
	defer close(f.closed)
	for {
		kind, body, err := readMessage(f.conn)
		if err == nil && kind == messageNotification {
			err = errors.New("the router says " + describeNotification(body))
		}
		if err != nil {
			f.failure = err
			return
		}
	}
}

func (f *feeder) keepAlive() {
	ticker := time.NewTicker(keepaliveEvery)
	defer ticker.Stop()
	for {
		select {
		case <-f.closed:
			return
		case <-ticker.C:
			if f.write(appendKeepalive(nil)) != nil {
				return // listen learns of it too, and says it
			}
		}
	}
}

func (f *feeder) write(messages []byte) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	if err := f.conn.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return fmt.Errorf("feed: %w", err)
	}
	if _, err := f.conn.Write(messages); err != nil {
		return fmt.Errorf("feed: %w", err)
	}
	return nil
}

// check fails when the session has ended.
func (f *feeder) check() error {
	select {
	case <-f.closed:
		return fmt.Errorf("BGP session ended: %w", f.failure)
	default:
		return nil
	}
}

func (f *feeder) close() {
	_ = f.conn.Close() // listen sees it
	<-f.closed
}
