package integration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clearway/clearway/integration/lab"
)

// rawSpeaker is a BGP speaker that says what it is told to, byte by byte, and notes how it is answered.
type rawSpeaker struct {
	conn net.Conn
	open []byte // the other end's OPEN

	mu           sync.Mutex
	notification []byte // code, subcode, data; nil: none yet
	ended        chan struct{}
}

const (
	rawASN = 65099

	typeOpen, typeUpdate, typeNotification, typeKeepalive, typeRefresh = 1, 2, 3, 4, 5
)

// message is a whole BGP message (RFC 4271 section 4.1).
func message(kind byte, body []byte) []byte {
	m := slices.Repeat([]byte{0xff}, 16)
	m = binary.BigEndian.AppendUint16(m, uint16(19+len(body)))
	return append(append(m, kind), body...)
}

// rawOpen has IPv4 and IPv6 unicast, route refresh and four-octet AS numbers, and no graceful restart.
func rawOpen(asn uint32, id netip.Addr) []byte {
	capabilities := []byte{1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 65, 4}
	capabilities = binary.BigEndian.AppendUint32(capabilities, asn)
	body := []byte{4}
	body = binary.BigEndian.AppendUint16(body, uint16(min(asn, 23456)))
	if asn < 1<<16 {
		binary.BigEndian.PutUint16(body[1:], uint16(asn))
	}
	body = binary.BigEndian.AppendUint16(body, 90)
	four := id.As4()
	body = append(body, four[:]...)
	body = append(body, byte(2+len(capabilities)), 2, byte(len(capabilities)))
	return message(typeOpen, append(body, capabilities...))
}

// call opens a session from a place: TCP, OPEN, KEEPALIVE, both ways.
func call(ctx context.Context, from *lab.Node, source, to string, asn uint32) (*rawSpeaker, error) {
	s := &rawSpeaker{ended: make(chan struct{})}
	err := from.Do(func() (err error) {
		local := &net.TCPAddr{IP: net.ParseIP(source)}
		dialer := net.Dialer{LocalAddr: local, Timeout: 2 * time.Second}
		s.conn, err = dialer.DialContext(ctx, "tcp", net.JoinHostPort(to, "179"))
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.shake(asn, netip.MustParseAddr(source)); err != nil {
		s.conn.Close()
		return nil, err
	}
	go s.listen()
	return s, nil
}

func (s *rawSpeaker) shake(asn uint32, id netip.Addr) error {
	s.conn.SetDeadline(time.Now().Add(3 * time.Second))
	defer s.conn.SetDeadline(time.Time{})
	if _, err := s.conn.Write(rawOpen(asn, id)); err != nil {
		return err
	}
	for _, want := range []byte{typeOpen, typeKeepalive} {
		kind, body, err := s.read()
		switch {
		case err != nil:
			return err
		case kind == typeNotification:
			return fmt.Errorf("a NOTIFICATION %v instead of message type %d", body, want)
		case kind != want:
			return fmt.Errorf("message type %d instead of %d", kind, want)
		}
		if kind == typeOpen {
			s.open = body
			if _, err := s.conn.Write(message(typeKeepalive, nil)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *rawSpeaker) read() (kind byte, body []byte, err error) {
	header := make([]byte, 19)
	if _, err := io.ReadFull(s.conn, header); err != nil {
		return 0, nil, err
	}
	body = make([]byte, int(binary.BigEndian.Uint16(header[16:]))-19)
	_, err = io.ReadFull(s.conn, body)
	return header[18], body, err
}

func (s *rawSpeaker) listen() {
	defer close(s.ended)
	for {
		kind, body, err := s.read()
		if err != nil {
			return
		}
		if kind == typeNotification {
			s.mu.Lock()
			s.notification = body
			s.mu.Unlock()
		}
	}
}

func (s *rawSpeaker) send(raw []byte) error {
	s.conn.SetWriteDeadline(time.Now().Add(3 * time.Second))
	_, err := s.conn.Write(raw)
	return err
}

func (s *rawSpeaker) close() {
	s.conn.Close()
	<-s.ended
}

func (s *rawSpeaker) alive() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// told waits for the end of the session and returns the NOTIFICATION that ended it.
func (s *rawSpeaker) told(t *testing.T) []byte {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(soon):
		t.Fatal("the session did not end")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notification
}

// attribute is one path attribute with a short length.
func attribute(flags, kind byte, value ...byte) []byte {
	return append([]byte{flags, kind, byte(len(value))}, value...)
}

// The attributes of an ordinary path. Flags: 0x40 well-known, 0xc0 optional transitive, 0x80 optional.
var (
	originIGP = attribute(0x40, 1, 0)
	asPath    = attribute(0x40, 2, append([]byte{2, 1}, binary.BigEndian.AppendUint32(nil, rawASN)...)...)
	nextHop   = attribute(0x40, 3, 198, 51, 100, 2)
	ordinary  = slices.Concat(originIGP, asPath, nextHop)
)

// nlri is a prefix as it is written in messages.
func nlri(prefix netip.Prefix) []byte {
	return append([]byte{byte(prefix.Bits())}, prefix.Addr().AsSlice()[:(prefix.Bits()+7)/8]...)
}

// update is an UPDATE of IPv4 prefixes with the attributes as given.
func update(attributes []byte, prefixes ...netip.Prefix) []byte {
	body := []byte{0, 0}
	body = binary.BigEndian.AppendUint16(body, uint16(len(attributes)))
	body = append(body, attributes...)
	for _, prefix := range prefixes {
		body = append(body, nlri(prefix)...)
	}
	return message(typeUpdate, body)
}

// callers: whoever calls from the range is a peer, up to the limit, and none of our own AS.
func (r *road) callers(t *testing.T) {
	raw := r.Node("raw")
	var open []*rawSpeaker
	for _, source := range []string{"198.51.100.2", "198.51.100.3"} {
		s := r.call(t, source)
		open = append(open, s)
		r.established(t, "callers", source)
	}
	third, err := call(t.Context(), raw, "198.51.100.4", "198.51.100.1", rawASN)
	if err == nil {
		third.told(t)
		third.close()
	}
	for _, s := range open {
		if !s.alive() {
			t.Error("a session ended when one too many called")
		}
		s.close()
	}
	r.gone(t, "callers", "198.51.100")
	own, err := call(t.Context(), raw, "198.51.100.4", "198.51.100.1", 65001)
	if err == nil {
		if why := own.told(t); len(why) < 2 || why[0] != 6 {
			t.Errorf("the NOTIFICATION to a peer of our own AS is %v, no Cease", why)
		}
		own.close()
	}
	lab.Eventually(t, soon, "the reason", func() error {
		s, err := r.sessionOf(t.Context(), "callers", "198.51.100.4")
		if err == nil && !strings.Contains(s.Reason, "our own") {
			err = errors.New(s.Reason)
		}
		return err
	})
}

func (r *road) call(t *testing.T, source string) *rawSpeaker {
	t.Helper()
	var s *rawSpeaker
	lab.Eventually(t, soon, "a session from "+source, func() (err error) {
		s, err = call(t.Context(), r.Node("raw"), source, "198.51.100.1", rawASN)
		return err
	})
	return s
}

// gone waits until nobody of these addresses who called has a session.
func (r *road) gone(t *testing.T, origin, part string) {
	t.Helper()
	lab.Eventually(t, soon, "the sessions of "+origin+" to go", func() error {
		if s, err := r.sessionOf(t.Context(), origin, part); err == nil {
			return fmt.Errorf("there is one: %+v", s)
		}
		return nil
	})
}

// limited: a peer that tells more than it may is sent away with Cease/Maximum Number of Prefixes Reached or its like, and all
// it told is gone.
func (r *road) limited(t *testing.T) {
	s := r.call(t, "198.51.100.2")
	defer s.close()
	var many []netip.Prefix
	for i := range 1001 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 1, byte(i >> 6), byte(i << 2)}), 30))
	}
	for part := range slices.Chunk(many, 500) {
		must(t, s.send(update(ordinary, part...)))
	}
	if why := s.told(t); len(why) < 2 || why[0] != 6 {
		t.Errorf("the NOTIFICATION is %v, no Cease", why)
	}
	lab.Eventually(t, soon, "the reason, and no route left", func() error {
		text, err := r.Node("n1").Exec(t.Context(), "ip", "route", "show", "proto", "73", "root", "203.1.0.0/16")
		if err == nil && text != "" {
			err = fmt.Errorf("routes are left: %.100s", text)
		}
		return err
	})
	again := r.call(t, "198.51.100.2") // after restartAfter
	again.close()
	r.gone(t, "callers", "198.51.100.2")
}
