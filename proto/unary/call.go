package unary

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// messageHead is what comes before a message: whether it is compressed, and its size.
const messageHead = 5

// call is one call on its stream.
type call struct {
	conn     *Conn
	stream   uint32
	deadline time.Time

	rest   []byte // what of the request is not sent
	window int64  // how much of it the server takes on this stream

	block    []byte // a block of headers of which more is to come
	blockEnd bool   // it ends the stream
	inBlock  bool

	begun  bool   // the headers before the answer were read
	body   []byte // the answer's message, with its head
	done   bool   // the stream ended
	status *Status
}

// begin queues the request, as much as the server takes.
func (c *call) begin(method string, request []byte) error {
	left := time.Until(c.deadline)
	if left <= 0 {
		return fail(DeadlineExceeded, "no time is left for the call")
	}
	if len(method) > maxMethod {
		return fail(Internal, "the method's name has more than %d bytes", maxMethod)
	}
	conn := c.conn
	conn.next += 2
	conn.out = appendFrame(conn.out, frameHeaders, flagEndHeaders, c.stream, appendRequest(make([]byte, 0, 256), method, timeout(left)))
	conn.urgent = true
	c.rest = binary.BigEndian.AppendUint32(make([]byte, 1, messageHead+len(request)), uint32(len(request)))
	c.rest = append(c.rest, request...)
	return nil
}

// timeout is a duration as gRPC's header has it: at most 8 digits and a unit.
func timeout(left time.Duration) string {
	if ms := (left + time.Millisecond - 1) / time.Millisecond; ms < 1e8 {
		return strconv.FormatInt(int64(ms), 10) + "m"
	}
	return strconv.FormatInt(int64(min(left/time.Second, 1e8-1)), 10) + "S"
}

// step sends what may be sent, and reads a frame.
func (c *call) step() error {
	c.send()
	if c.conn.urgent {
		if err := c.conn.flush(c.deadline); err != nil {
			return err
		}
	}
	f, err := c.conn.read(c.deadline)
	if err != nil {
		return err
	}
	return c.handle(f)
}

// send queues what of the request the server takes now.
func (c *call) send() {
	conn := c.conn
	for len(c.rest) > 0 && min(c.window, conn.window) > 0 {
		n := int(min(int64(len(c.rest)), maxFrame, c.window, conn.window))
		var flags byte
		if n == len(c.rest) {
			flags = flagEndStream
		}
		conn.out = appendFrame(conn.out, frameData, flags, c.stream, c.rest[:n])
		c.rest = c.rest[n:]
		c.window -= int64(n)
		conn.window -= int64(n)
		conn.urgent = true
	}
}

// handle takes a frame. Its errors are the connection's end; a *Status among them is the call's, too.
func (c *call) handle(f frame) error {
	if c.inBlock != (f.kind == frameContinuation) {
		return errors.New("a block of headers is interrupted")
	}
	switch f.kind {
	case frameData:
		return c.data(f)
	case frameHeaders, frameContinuation:
		return c.headers(f)
	case frameReset:
		return c.reset(f)
	case frameSettings:
		change, err := c.conn.settings(f)
		if err != nil {
			return err
		}
		return widen(&c.window, change)
	case framePing:
		return c.conn.ping(f)
	case frameGoAway:
		return c.goAway(f)
	case frameWindow:
		return c.widened(f)
	case framePush:
		return errors.New("the server pushes what nobody asked for")
	}
	return nil // HTTP/2 grows by frames that may be overlooked
}

// data takes a piece of the answer.
func (c *call) data(f frame) error {
	content, err := f.content()
	if err != nil {
		return err
	}
	if err := c.conn.used(len(f.payload)); err != nil {
		return err
	}
	switch {
	case f.stream == 0 || f.stream > c.stream:
		return fmt.Errorf("data on stream %d, which is not open", f.stream)
	case f.stream < c.stream:
		return nil // of a call that was reset
	case !c.begun:
		return fail(Internal, "the answer begins without headers")
	case len(c.body)+len(content) > messageHead+MaxAnswer:
		return fail(ResourceExhausted, "the answer has more than %d bytes", MaxAnswer)
	}
	c.body = append(c.body, content...)
	if f.has(flagEndStream) {
		return fail(Internal, "the answer ends without a status")
	}
	return nil
}

// headers takes a block of headers, or a piece of one.
func (c *call) headers(f frame) error {
	piece := f.payload
	if f.kind == frameHeaders {
		var err error
		if piece, err = f.content(); err != nil {
			return err
		}
		c.block, c.blockEnd = c.block[:0], f.has(flagEndStream)
	}
	if f.stream == 0 || f.stream > c.stream {
		return fmt.Errorf("headers on stream %d, which is not open", f.stream)
	}
	if len(c.block)+len(piece) > maxHeaders {
		return fmt.Errorf("headers have more than %d bytes", maxHeaders)
	}
	c.block = append(c.block, piece...)
	if c.inBlock = !f.has(flagEndHeaders); c.inBlock {
		return nil
	}
	fields, err := unpackFields(c.block)
	if err != nil || f.stream < c.stream {
		return err
	}
	return c.fields(fields, c.blockEnd)
}

// fields takes the headers before the answer, or those after it, or both in one.
func (c *call) fields(f *fields, last bool) error {
	if !c.begun {
		if f.informs() && !last {
			return nil
		}
		if err := f.check(); err != nil {
			return err
		}
	}
	switch {
	case last:
		c.end(f.verdict())
	case c.begun:
		return fail(Internal, "headers in the middle of the answer")
	}
	c.begun = true
	return nil
}

// reset takes the server's giving up of a stream.
func (c *call) reset(f frame) error {
	reason, err := f.number()
	switch {
	case err != nil:
		return err
	case f.stream == 0 || f.stream > c.stream:
		return fmt.Errorf("stream %d is reset, which is not open", f.stream)
	case f.stream < c.stream:
		return nil // it was done before
	}
	code := ofReset(reason)
	if code == Canceled && !time.Now().Before(c.deadline) {
		code = DeadlineExceeded
	}
	c.rest = nil // the stream is closed both ways
	c.end(fail(code, "the stream was reset with HTTP/2 code %d", reason))
	return nil
}

// goAway takes the server's farewell: calls that it has begun it ends, others are never answered.
func (c *call) goAway(f frame) error {
	if f.stream != 0 || len(f.payload) < 8 {
		return errors.New("a GOAWAY is malformed")
	}
	if binary.BigEndian.Uint32(f.payload)&^(1<<31) < c.stream {
		return errors.New("the server goes away")
	}
	return nil
}

// widened takes the server's leave to send more.
func (c *call) widened(f frame) error {
	increment, err := f.number()
	if err != nil {
		return err
	}
	switch increment &^= 1 << 31; {
	case increment == 0:
		return errors.New("a window is widened by nothing")
	case f.stream == 0:
		return widen(&c.conn.window, int64(increment))
	case f.stream == c.stream:
		return widen(&c.window, int64(increment))
	}
	return nil // of a call that is done
}

func widen(window *int64, change int64) error {
	*window += change
	if *window > maxWindow {
		return errors.New("a window is too large")
	}
	return nil
}

// end is the end of the stream, as the server wants it. The rest of a request that the server did not wait for is never sent, which it is told.
func (c *call) end(status *Status) {
	c.done, c.status = true, status
	if len(c.rest) > 0 {
		c.rest = nil
		c.conn.out = binary.BigEndian.AppendUint32(appendHead(c.conn.out, 4, frameReset, 0, c.stream), resetNoError)
	}
}

// result is the answer's message, or why there is none.
func (c *call) result() ([]byte, error) {
	switch {
	case c.status != nil:
		return nil, c.status
	case len(c.body) == 0:
		return nil, fail(Internal, "the answer has no message")
	case len(c.body) < messageHead:
		return nil, fail(Internal, "the answer's message is cut short")
	case c.body[0] != 0:
		return nil, fail(Internal, "the answer is compressed, which was not asked for")
	}
	size := binary.BigEndian.Uint32(c.body[1:])
	message := c.body[messageHead:]
	switch {
	case size > MaxAnswer:
		return nil, fail(ResourceExhausted, "the answer has %d bytes, more than %d", size, MaxAnswer)
	case uint64(len(message)) < uint64(size):
		return nil, fail(Internal, "the answer's message is cut short")
	case uint64(len(message)) > uint64(size):
		return nil, fail(Internal, "the answer has more than one message")
	}
	return message, nil
}

// fault is the status of a call whose connection broke.
func (c *call) fault(err error) *Status {
	var status *Status
	switch {
	case errors.As(err, &status):
		return status
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fail(DeadlineExceeded, "no answer came in time")
	case errors.Is(err, io.EOF):
		return fail(Unavailable, "the connection was closed before the answer")
	}
	return fail(Unavailable, "the connection broke: %v", err)
}

// decodeMessage undoes the percent-encoding of a status message. What is not encoded is left as it is.
func decodeMessage(text string) string {
	if !strings.Contains(text, "%") {
		return text
	}
	decoded := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			if value, err := strconv.ParseUint(text[i+1:i+3], 16, 8); err == nil {
				decoded = append(decoded, byte(value))
				i += 2
				continue
			}
		}
		decoded = append(decoded, text[i])
	}
	return string(decoded)
}
