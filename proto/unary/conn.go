package unary

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Bounds of what a server may send: an answer, and the names and values at either end of it (packed, and unpacked).
const (
	MaxAnswer  = 1 << 20
	maxHeaders = 64 << 10
)

// window is how much the server may send before it is told that it was read: an answer of the largest size, at any time.
const window = 2 * (MaxAnswer + messageHead)

// lull is how long a server waits for its acknowledgements when there is nothing else to send. gRPC servers give a
// connection up when a ping is not answered for seconds.
const lull = 100 * time.Millisecond

// Transport carries the bytes of a connection; a net.Conn does. Its Read fails with os.ErrDeadlineExceeded when its
// deadline passes, and may be tried again then.
type Transport interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Conn is a client's end of one connection. It belongs to one goroutine. Between calls nobody reads it, so that a server
// that pings idle connections gives it up.
type Conn struct {
	transport Transport
	broken    error

	in       []byte // what was read and is not used yet
	space    []byte // where it lies
	out      []byte // what waits to be sent
	greeted  bool   // the server's first frame, its settings, was read
	urgent   bool   // some of out is a request
	owed     bool   // some of out is what the server waits for
	consumed uint32 // bytes of the connection's window that the server does not know to be read

	next         uint32 // the next call's stream
	window       int64  // how much may be sent on the connection
	streamWindow int64  // how much may be sent on a new stream
}

// New makes a client of a connection to a gRPC server. Nothing is sent before the first call.
func New(transport Transport) *Conn {
	c := &Conn{transport: transport, next: 1, window: firstWindow, streamWindow: firstWindow}
	c.space = make([]byte, 4096)
	c.out = append(make([]byte, 0, 1024), preface...)
	c.out = appendHead(c.out, 4*6, frameSettings, 0, 0)
	c.out = appendSetting(c.out, settingTableSize, 0)
	c.out = appendSetting(c.out, settingPush, 0)
	c.out = appendSetting(c.out, settingWindow, window)
	c.out = appendSetting(c.out, settingMaxHeaderList, maxHeaders)
	c.out = appendWindow(c.out, 0, window-firstWindow)
	return c
}

// Call makes one call of a method ("/package.Service/Method") with an encoded message, and returns the answer's. Its
// error is a *Status. The server is told the deadline. A connection that a call left unfinished is broken.
func (c *Conn) Call(method string, request []byte, deadline time.Time) ([]byte, error) {
	if c.broken != nil {
		return nil, fail(Unavailable, "the connection broke: %v", c.broken)
	}
	call := &call{conn: c, stream: c.next, deadline: deadline, window: c.streamWindow}
	if err := call.begin(method, request); err != nil {
		return nil, err
	}
	for !call.done {
		if err := call.step(); err != nil {
			c.broken = err
			return nil, call.fault(err)
		}
	}
	return call.result()
}

// flush sends what waits to be sent.
func (c *Conn) flush(deadline time.Time) error {
	if err := c.transport.SetWriteDeadline(deadline); err != nil {
		return err
	}
	_, err := c.transport.Write(c.out)
	c.out, c.urgent, c.owed = c.out[:0], false, false
	return err
}

// read reads the next frame. Acknowledgements that are owed go out after a lull.
func (c *Conn) read(deadline time.Time) (frame, error) {
	head, err := c.take(headSize, deadline)
	if err != nil {
		return frame{}, err
	}
	size := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
	f := frame{kind: head[3], flags: head[4], stream: binary.BigEndian.Uint32(head[5:]) &^ (1 << 31)}
	switch {
	case !c.greeted && (f.kind != frameSettings || f.has(flagAck)):
		return frame{}, errors.New("what answers is no gRPC server")
	case size > maxFrame:
		return frame{}, fmt.Errorf("a frame has %d bytes, more than %d", size, maxFrame)
	}
	c.greeted = true
	f.payload, err = c.take(size, deadline)
	return f, err
}

// take takes so many bytes off the connection.
func (c *Conn) take(n int, deadline time.Time) ([]byte, error) {
	if err := c.fill(n, deadline); err != nil {
		return nil, err
	}
	taken := c.in[:n]
	c.in = c.in[n:]
	return taken, nil
}

// fill reads until so many bytes are there.
func (c *Conn) fill(n int, deadline time.Time) error {
	if len(c.in) >= n {
		return nil
	}
	if n > len(c.space) {
		c.space = make([]byte, headSize+maxFrame)
	}
	have := copy(c.space, c.in)
	for have < n {
		got, err := c.receive(c.space[have:], deadline)
		have += got
		if err != nil && have < n {
			return err
		}
	}
	c.in = c.space[:have]
	return nil
}

func (c *Conn) receive(into []byte, deadline time.Time) (int, error) {
	if c.owed {
		until := time.Now().Add(lull)
		if until.Before(deadline) {
			if err := c.transport.SetReadDeadline(until); err != nil {
				return 0, err
			}
			if got, err := c.transport.Read(into); got > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				return got, err
			}
		}
		if err := c.flush(deadline); err != nil {
			return 0, err
		}
	}
	if err := c.transport.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	return c.transport.Read(into)
}

// owe queues what the server waits for.
func (c *Conn) owe(kind, flags byte, payload []byte) error {
	// A server that asks for more than anyone needs within a call is up to no good.
	if len(c.out) > maxFrame {
		return errors.New("the server pings without end")
	}
	c.out = appendFrame(c.out, kind, flags, 0, payload)
	c.owed = true
	return nil
}

// settings takes the server's settings and returns by how much they change the windows of streams.
func (c *Conn) settings(f frame) (change int64, err error) {
	switch {
	case f.stream != 0 || len(f.payload)%6 != 0 || f.has(flagAck) && len(f.payload) > 0:
		return 0, errors.New("a frame of settings is malformed")
	case f.has(flagAck):
		return 0, nil
	}
	for rest := f.payload; len(rest) > 0; rest = rest[6:] {
		value := binary.BigEndian.Uint32(rest[2:])
		if binary.BigEndian.Uint16(rest) != settingWindow {
			continue // what is sent here fits the least of any other limit
		}
		if value > maxWindow {
			return 0, fmt.Errorf("a window of %d bytes is too large", value)
		}
		change += int64(value) - c.streamWindow
		c.streamWindow = int64(value)
	}
	return change, c.owe(frameSettings, flagAck, nil)
}

// ping answers a ping.
func (c *Conn) ping(f frame) error {
	if f.stream != 0 || len(f.payload) != 8 {
		return errors.New("a ping is malformed")
	}
	if f.has(flagAck) {
		return nil
	}
	return c.owe(framePing, flagAck, f.payload)
}

// used tells the server that its bytes were read, once they are many.
func (c *Conn) used(n int) error {
	c.consumed += uint32(n)
	if c.consumed < window/2 {
		return nil
	}
	increment := binary.BigEndian.AppendUint32(nil, c.consumed)
	c.consumed = 0
	return c.owe(frameWindow, 0, increment)
}
