package daemon

import (
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// LimitPerHost lets each host have at most a number of connections at once, so that one that opens them on and on leaves
// some for the others. A further one is closed unread, which is logged once in a while. 0 is no limit.
func LimitPerHost(listener net.Listener, most int, logger *slog.Logger) net.Listener {
	if most <= 0 {
		return listener
	}
	return &crowd{
		Listener: listener, most: most, logger: logger, byHost: map[string]int{},
		pace: rate.NewLimiter(rate.Every(crowdLogEvery), 1),
	}
}

const crowdLogEvery = 10 * time.Second

type crowd struct {
	net.Listener
	most   int
	logger *slog.Logger
	pace   *rate.Limiter

	// mu guards all following fields.
	mu     sync.Mutex
	byHost map[string]int
}

// Accept is net.Listener's.
func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host := hostOf(conn.RemoteAddr())
		if c.enter(host) {
			return &counted{Conn: conn, leave: sync.OnceFunc(func() { c.leave(host) })}, nil
		}
		conn.Close()
		if c.pace.Allow() {
			c.logger.Warn("a connection is refused: its host has too many", "host", host, "limit", c.most)
		}
	}
}

func (c *crowd) enter(host string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byHost[host] >= c.most {
		return false
	}
	c.byHost[host]++
	return true
}

func (c *crowd) leave(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byHost[host]--; c.byHost[host] == 0 {
		delete(c.byHost, host)
	}
}

func hostOf(address net.Addr) string {
	host, _, err := net.SplitHostPort(address.String())
	if err != nil {
		return address.String()
	}
	return host
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	leave func()
}

// Close is net.Conn's.
func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}
