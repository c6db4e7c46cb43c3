package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	// atOnce bounds the probes that are under way.
	atOnce = 64
	// patience is how long one address has to answer.
	patience = time.Second
	// port is what is connected to: discard's, which hardly anybody serves. A refusal is an answer.
	port = 9
)

// Result is what became of one probe.
type Result struct {
	Address netip.Addr
	Reached bool
	Why     string // why it was not, in a sentence
}

// Reach probes the addresses, in their order, 64 at once with a second for each. Sources are addresses of this machine, at
// most one a family: what is probed must know a road back to it. Where there is none, the kernel chooses. What the context
// ends before its turn is left out of the results.
func Reach(ctx context.Context, sources, addresses []netip.Addr) []Result {
	results := make([]*Result, len(addresses))
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i, address := range addresses {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		all.Go(func() {
			defer func() { <-slots }()
			results[i] = reach(ctx, sourceFor(address, sources), address)
		})
	}
	all.Wait()
	var done []Result
	for _, result := range results {
		if result != nil {
			done = append(done, *result)
		}
	}
	return done
}

// reach asks by both ways at once; the first answer is enough. It is nil when the context ended first.
func reach(ctx context.Context, source, address netip.Addr) *Result {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answers := make(chan error, 2)
	go func() { answers <- echo(limited, source, address) }()
	go func() { answers <- connect(limited, source, address) }()
	var whys []error
	for range cap(answers) {
		err := <-answers
		if err == nil {
			cancel() // the other way is over with it; its answer has a place to go
			return &Result{Address: address, Reached: true}
		}
		whys = append(whys, err)
	}
	if ctx.Err() != nil {
		return nil
	}
	return &Result{Address: address, Why: errors.Join(whys...).Error()}
}

// sourceFor is the source of the address's family; unspecified where there is none.
func sourceFor(address netip.Addr, sources []netip.Addr) netip.Addr {
	for _, source := range sources {
		if source.IsValid() && source.Is4() == address.Is4() {
			return source
		}
	}
	if address.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func connect(ctx context.Context, source, address netip.Addr) error {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: source.AsSlice()}}
	conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(address, port).String())
	switch {
	case err == nil:
		return conn.Close()
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("no answer by TCP within %s", patience)
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fmt.Errorf("TCP: %w", errno)
	}
	return fmt.Errorf("TCP: %w", err)
}

// echo sends an ICMP echo request (RFC 792, RFC 4443) and waits for the reply with its payload.
func echo(ctx context.Context, source, address netip.Addr) error {
	conn, raw, err := open(source)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is written that must arrive
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	payload := []byte(fmt.Sprintf("clearway %d %s", os.Getpid(), address))
	var kind, wanted icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if address.Is6() {
		kind, wanted = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	request, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: 1, Data: payload}}).Marshal(nil)
	if err != nil {
		return fmt.Errorf("ICMP: %w", err)
	}
	var to net.Addr = &net.UDPAddr{IP: address.AsSlice()}
	if raw {
		to = &net.IPAddr{IP: address.AsSlice()}
	}
	if _, err := conn.WriteTo(request, to); err != nil {
		return fmt.Errorf("ICMP: %w", err)
	}
	answer := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(answer)
		if err != nil {
			return fmt.Errorf("no answer by ICMP within %s", patience)
		}
		message, err := icmp.ParseMessage(wanted.Protocol(), answer[:n])
		if err != nil || message.Type != wanted {
			continue // to a raw socket comes what is meant for others too
		}
		if reply, ok := message.Body.(*icmp.Echo); ok && string(reply.Data) == string(payload) {
			return nil
		}
	}
}

// open prefers the kernel's socket for echoes alone, which needs no capability, but a group that net.ipv4.ping_group_range
// names.
func open(source netip.Addr) (conn *icmp.PacketConn, raw bool, err error) {
	ping, full := "udp4", "ip4:icmp"
	if source.Is6() {
		ping, full = "udp6", "ip6:ipv6-icmp"
	}
	if conn, err = icmp.ListenPacket(ping, source.String()); err == nil {
		return conn, false, nil
	}
	if conn, err = icmp.ListenPacket(full, source.String()); err == nil {
		return conn, true, nil
	}
	return nil, false, errors.New("no right to send ICMP")
}
