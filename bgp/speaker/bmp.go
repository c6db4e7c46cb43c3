package speaker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// GoBGP speaks BMP (RFC 7854), and writes to its collector without a deadline, from a queue without a limit: one that does
// not read would fill the memory. So it is given a collector on this machine, which hands all on, and only while the
// real one is connected and takes what it is given. When it does not, GoBGP's part ends with the connection, and the
// next one begins with all that is known.
const (
	bmpDial  = 5 * time.Second  // to the collector
	bmpWrite = 10 * time.Second // for it to take 64 KiB
	bmpFirst = time.Second      // between tries; doubled to bmpLast
	bmpLast  = time.Minute
	bmpStop  = 3 * time.Second
)

// exporter tells one collector what peers tell.
type exporter struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// export brings the exporters to those wanted.
func (e *engine) export(collectors []netip.AddrPort, routerID netip.Addr, log *slog.Logger) {
	for collector, one := range e.exporters {
		if !slices.Contains(collectors, collector) {
			one.stop()
			delete(e.exporters, collector)
		}
	}
	for _, collector := range collectors {
		if e.exporters[collector] != nil {
			continue
		}
		if e.exporters == nil {
			e.exporters = map[netip.AddrPort]*exporter{}
		}
		ctx, cancel := context.WithCancel(context.Background())
		one := &exporter{cancel: cancel, done: make(chan struct{})}
		e.exporters[collector] = one
		station := &station{bgp: e.bgp, collector: collector, name: routerID.String(), log: log.With("collector", collector)}
		go func() {
			defer close(one.done)
			station.run(ctx)
		}()
	}
}

// stop ends it, and waits a little until GoBGP has let go.
func (e *exporter) stop() {
	e.cancel()
	select {
	case <-e.done:
	case <-time.After(bmpStop):
	}
}

// station is one collector, as long as it is wanted.
type station struct {
	bgp       *server.BgpServer
	collector netip.AddrPort
	name      string
	log       *slog.Logger
}

func (s *station) run(ctx context.Context) {
	pause, said := bmpFirst, ""
	for ctx.Err() == nil {
		began := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > bmpLast {
			pause, said = bmpFirst, "" // it worked for a while
		}
		if text := err.Error(); text != said {
			said = text
			s.log.Warn("BMP collector does not hear what peers tell; trying again", "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, bmpLast)
	}
}

// once is one connection, until either end closes it.
func (s *station) once(ctx context.Context) error {
	dialer := net.Dialer{Timeout: bmpDial}
	far, err := dialer.DialContext(ctx, "tcp", s.collector.String())
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer far.Close()
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for GoBGP: %w", err)
	}
	defer door.Close()
	here := door.Addr().(*net.TCPAddr)
	call, cancel := context.WithTimeout(ctx, limits.operation)
	defer cancel()
	err = s.bgp.AddBmp(call, &api.AddBmpRequest{
		Address: "127.0.0.1", Port: uint32(here.Port), Policy: api.AddBmpRequest_MONITORING_POLICY_PRE,
		SysName: s.name, SysDescr: "clearway-agent",
	})
	if err != nil {
		return fmt.Errorf("start BMP: %w", err)
	}
	defer s.drop(here.Port)
	_ = door.(*net.TCPListener).SetDeadline(time.Now().Add(bmpDial))
	near, err := door.Accept()
	if err != nil {
		return fmt.Errorf("GoBGP does not call: %w", err)
	}
	defer near.Close()
	door.Close()
	stop := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, far) // a collector says nothing; its end of file is what is waited for
		near.Close()
	}()
	return relay(near, far)
}

// drop ends GoBGP's part. Its connection is closed by then, so that it is not in the midst of a write.
func (s *station) drop(port int) {
	ctx, cancel := context.WithTimeout(context.Background(), limits.operation)
	defer cancel()
	// An error says that GoBGP has stopped, and its BMP with it.
	_ = s.bgp.DeleteBmp(ctx, &api.DeleteBmpRequest{Address: "127.0.0.1", Port: uint32(port)})
}

// relay hands on what it reads. It reads no faster than the collector takes, and gives up on one that takes nothing.
func relay(from, to net.Conn) error {
	piece := make([]byte, 64<<10)
	for {
		n, err := from.Read(piece)
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return errors.New("the connection was closed")
		}
		if err != nil {
			return fmt.Errorf("read from GoBGP: %w", err)
		}
		_ = to.SetWriteDeadline(time.Now().Add(bmpWrite))
		if _, err := to.Write(piece[:n]); err != nil {
			return fmt.Errorf("write to the collector: %w", err)
		}
	}
}
