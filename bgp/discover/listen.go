package discover

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
)

const (
	advertiseEvery = 10 * time.Second // as FRR has it for interfaces with BGP
	solicitEvery   = time.Minute
	early          = 3               // the first few go out a second apart: one may be lost, or come before the other end is up
	answerGap      = time.Second / 2 // the least time between answers to those who ask
)

var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
)

// listener is one link's socket and its two goroutines: one reads, one sends.
type listener struct {
	link   net.Interface
	conn   *ndp.Conn
	note   func(router netip.Addr)
	asked  chan struct{}
	done   chan struct{} // the reader has ended
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func listen(link net.Interface, note func(netip.Addr)) (*listener, error) {
	conn, _, err := ndp.Listen(&link, ndp.LinkLocal)
	if err != nil {
		return nil, fmt.Errorf("listen for routers on %s: %w", link.Name, err)
	}
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	for _, set := range []func() error{
		func() error { return conn.SetICMPFilter(&filter) },
		func() error { return conn.SetControlMessage(ipv6.FlagHopLimit, true) },
		func() error { return conn.JoinGroup(allNodes) },
		func() error { return conn.JoinGroup(allRouters) },
	} {
		if err := set(); err != nil {
			_ = conn.Close() // it was never used
			return nil, fmt.Errorf("listen for routers on %s: %w", link.Name, err)
		}
	}
	return &listener{link: link, conn: conn, note: note, asked: make(chan struct{}, 1), done: make(chan struct{})}, nil
}

func (l *listener) start(ctx context.Context) {
	ctx, l.cancel = context.WithCancel(ctx)
	l.wg.Add(2)
	go func() {
		defer l.wg.Done()
		defer close(l.done)
		l.read()
	}()
	go func() {
		defer l.wg.Done()
		l.send(ctx)
	}()
}

func (l *listener) stop() {
	l.cancel()
	_ = l.conn.Close() // its reader ends by it
	l.wg.Wait()
}

func (l *listener) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// read hears until the socket is closed or fails. A message that came over a router (its hop limit is less) is nobody's
// on this link (RFC 4861 section 6.1).
func (l *listener) read() {
	for {
		message, control, from, err := l.conn.ReadFrom()
		if err != nil {
			return
		}
		if control == nil || control.HopLimit != ndp.HopLimit {
			continue
		}
		switch message.(type) {
		case *ndp.RouterAdvertisement:
			if from.IsLinkLocalUnicast() {
				l.note(from)
			}
		case *ndp.RouterSolicitation:
			select {
			case l.asked <- struct{}{}:
			default:
			}
		}
	}
}

// send advertises and asks, at first often. What cannot be sent is sent the next time.
func (l *listener) send(ctx context.Context) {
	var answered time.Time
	tick := time.NewTimer(0)
	defer tick.Stop()
	for sent := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-l.asked:
			if time.Since(answered) < answerGap {
				continue
			}
			answered = time.Now()
			l.advertise()
		case <-tick.C:
			l.advertise()
			every := int(solicitEvery / advertiseEvery)
			if sent < early || sent%every == 0 {
				l.write(&ndp.RouterSolicitation{Options: l.source()}, allRouters)
			}
			sent++
			if sent < early {
				tick.Reset(time.Second)
			} else {
				tick.Reset(advertiseEvery)
			}
		}
	}
}

func (l *listener) advertise() {
	l.write(&ndp.RouterAdvertisement{RouterLifetime: 0, Options: l.source()}, allNodes)
}

// source is the link's hardware address, where it has one.
func (l *listener) source() []ndp.Option {
	if len(l.link.HardwareAddr) != 6 {
		return nil
	}
	return []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: l.link.HardwareAddr}}
}

func (l *listener) write(message ndp.Message, to netip.Addr) {
	if l.conn.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
		_ = l.conn.WriteTo(message, nil, to)
	}
}
