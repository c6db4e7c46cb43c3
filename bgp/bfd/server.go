package bfd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/clearway/clearway/bgp/route"
)

const (
	// beat is how often a report is sent though nothing changed, so that the agent knows that the process lives.
	beat = time.Second
	// deadAfter is how long the agent waits for one.
	deadAfter = 5 * time.Second
	// callers are served at once: the agent, and one that takes its place.
	maxCallers = 8
)

// Server lets the agent say which sessions there are to be, and tells it how they stand. Sessions stay as they are when
// the agent goes away: its end is not theirs.
type Server struct {
	Engine *Engine
	// File keeps what is wanted, for the next process.
	File   string
	Logger *slog.Logger

	mu      sync.Mutex // guards callers
	callers map[*caller]bool
}

type caller struct {
	conn net.Conn
	news chan struct{}
}

// Serve answers on a listener until the context ends.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	s.mu.Lock()
	s.callers = map[*caller]bool{}
	s.mu.Unlock()
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	running.Go(func() { s.spread(ctx) })
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		c := &caller{conn: conn, news: make(chan struct{}, 1)}
		if !s.add(c) {
			conn.Close()
			continue
		}
		running.Go(func() { s.write(ctx, c) })
		running.Go(func() { s.read(c) })
	}
}

func (s *Server) add(c *caller) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.callers) >= maxCallers {
		return false
	}
	s.callers[c] = true
	return true
}

func (s *Server) remove(c *caller) {
	c.conn.Close()
	s.mu.Lock()
	delete(s.callers, c)
	s.mu.Unlock()
}

// spread tells every caller that there is news.
func (s *Server) spread(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.Engine.Changed():
		}
		s.mu.Lock()
		for c := range s.callers {
			select {
			case c.news <- struct{}{}:
			default:
			}
		}
		s.mu.Unlock()
	}
}

func (s *Server) write(ctx context.Context, c *caller) {
	defer s.remove(c)
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		_ = c.conn.SetWriteDeadline(time.Now().Add(beat)) // an error of it is Write's
		if _, err := c.conn.Write(encode(report{s.Engine.Sessions()})); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-c.news:
		case <-tick.C:
		}
	}
}

// read takes wishes until the caller is gone.
func (s *Server) read(c *caller) {
	defer s.remove(c)
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var wanted wishes
		if err := json.Unmarshal(lines.Bytes(), &wanted); err != nil {
			s.Logger.Error("the agent's wishes cannot be read", "error", err)
			return
		}
		if err := check(wanted.Sessions); err != nil {
			s.Logger.Error("the agent's wishes are refused", "error", err)
			return
		}
		if err := save(s.File, state{wishes: wanted}); err != nil {
			s.Logger.Error("the next process will wait for the agent", "error", err)
		}
		s.Engine.Set(wanted.Sessions)
	}
}

// check keeps what no session can be made of from the engine.
func check(wanted []route.Watch) error {
	for _, w := range wanted {
		if !w.Peer.IsValid() || w.Multiplier == 0 || w.MinTx < time.Millisecond || w.MinRx < time.Millisecond {
			return errors.New("a session needs a peer, intervals of at least 1ms and a multiplier of at least 1")
		}
	}
	return nil
}
