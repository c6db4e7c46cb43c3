package daemon

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
)

// pipes is a listener whose connections come from the hosts that a test names.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	conn, open := <-p
	if !open {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (pipes) Close() error   { return nil }
func (pipes) Addr() net.Addr { return host("") }

type host string

func (host) Network() string  { return "pipe" }
func (h host) String() string { return string(h) }

type from struct {
	net.Conn
	host host
}

func (f from) RemoteAddr() net.Addr { return f.host }

// A host with too many connections is turned away; others are not, and it may come again when one has ended.
func TestLimitPerHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arrive := make(pipes)
		var accepted []net.Conn
		limited := LimitPerHost(arrive, 2, slog.New(slog.DiscardHandler))
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := limited.Accept()
				if err != nil {
					return
				}
				accepted = append(accepted, conn)
			}
		}()
		come := func(address host) (turnedAway bool) {
			ours, theirs := net.Pipe()
			before := len(accepted)
			arrive <- from{theirs, address}
			synctest.Wait()
			if len(accepted) > before {
				return false
			}
			if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("the connection is neither taken nor closed: %v", err)
			}
			return true
		}
		for i, c := range []struct {
			address host
			away    bool
		}{{"a:1", false}, {"a:2", false}, {"a:3", true}, {"b:1", false}, {"[2001:db8::1]:1", false}, {"a:4", true}} {
			if got := come(c.address); got != c.away {
				t.Errorf("%d: %s turned away: %v", i, c.address, got)
			}
		}
		accepted[0].Close()
		accepted[0].Close() // counts once
		if come("a:5") || !come("a:6") {
			t.Error("a place that became free is not one place")
		}
		for _, conn := range accepted {
			conn.Close()
		}
		if left := limited.(*crowd).byHost; len(left) > 0 {
			t.Errorf("%v are remembered", left)
		}
		close(arrive)
		<-done
	})
}
