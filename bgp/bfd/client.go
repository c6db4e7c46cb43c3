package bfd

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/clearway/clearway/bgp/route"
)

// Client is the agent's end: it says to the process which sessions there are to be, and hears how they stand.
type Client struct {
	path    string
	log     *slog.Logger
	changed chan struct{}
	wake    chan struct{}

	mu     sync.Mutex // guards all below
	wanted []route.Watch
	told   bool // Set was called
	latest []route.Liveness
	fault  string
}

const redial = 200 * time.Millisecond

// NewClient makes a Client of the process that serves a unix socket; Run makes it work.
func NewClient(path string, log *slog.Logger) *Client {
	return &Client{
		path: path, log: log, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		fault: "clearway-agent bfd has not been asked yet",
	}
}

// Set says which sessions there are to be. It returns at once; the latest wins. The argument is not changed afterwards.
func (c *Client) Set(wanted []route.Watch) {
	c.mu.Lock()
	c.wanted, c.told = wanted, true
	c.mu.Unlock()
	signal(c.wake)
}

// Changed gets a value when Sessions has something new.
func (c *Client) Changed() <-chan struct{} { return c.changed }

// Sessions tells how the sessions stand, as the process said last. Where it cannot be asked, there are none, and why.
func (c *Client) Sessions() (sessions []route.Liveness, fault string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.latest, c.fault
}

func signal(to chan struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// Run keeps a connection to the process until the context ends, once there are sessions to be wanted. The sessions go on
// when it ends.
func (c *Client) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if c.needed() {
			c.put(nil, c.connect(ctx))
		}
		select {
		case <-ctx.Done():
		case <-time.After(redial):
		}
	}
	return nil
}

// needed: a node without BFD does not look for the process, but for what an agent of before may have wanted.
func (c *Client) needed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.told
}

func (c *Client) put(sessions []route.Liveness, fault string) {
	c.mu.Lock()
	before := c.fault
	c.latest, c.fault = sessions, fault
	silent := fault == before || fault == "" || len(c.wanted) == 0
	c.mu.Unlock()
	if !silent {
		c.log.Warn("BFD does not watch the peers", "reason", fault)
	}
	signal(c.changed)
}

// connect talks to the process until one of the two is gone, and tells why.
func (c *Client) connect(ctx context.Context) string {
	conn, err := (&net.Dialer{Timeout: beat}).DialContext(ctx, "unix", c.path)
	if err != nil {
		return fmt.Sprintf("clearway-agent bfd does not answer: %v", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var telling sync.WaitGroup
	defer telling.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	signal(c.wake) // a new connection is told all
	telling.Go(func() {
		defer cancel()
		c.tell(ctx, conn)
	})
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, maxLine)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(deadAfter)) // an error of it is the read's
		if !lines.Scan() {
			break
		}
		var heard report
		if err := json.Unmarshal(lines.Bytes(), &heard); err != nil {
			return fmt.Sprintf("clearway-agent bfd cannot be understood: %v", err)
		}
		c.put(heard.Sessions, "")
	}
	return "clearway-agent bfd went away"
}

func (c *Client) tell(ctx context.Context, conn net.Conn) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		c.mu.Lock()
		wanted, told := c.wanted, c.told
		c.mu.Unlock()
		if !told {
			continue
		}
		_ = conn.SetWriteDeadline(time.Now().Add(deadAfter)) // an error of it is Write's
		if _, err := conn.Write(encode(wishes{wanted})); err != nil {
			return
		}
	}
}
