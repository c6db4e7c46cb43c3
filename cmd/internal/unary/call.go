package unary

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// request is what a call's headers say.
type request struct {
	method  method
	timeout time.Duration // negative: none
}

// parse reads a request's headers; false: it is not for us.
func (s *Server) parse(frame *http2.MetaHeadersFrame) (asked request, ours bool) {
	asked.timeout = -1
	var found, post, grpc bool
	for _, field := range frame.Fields {
		switch field.Name {
		case ":path":
			asked.method, found = s.methods[field.Value]
		case ":method":
			post = field.Value == "POST"
		case "content-type":
			grpc = field.Value == "application/grpc" || field.Value == "application/grpc+proto"
		case "grpc-encoding":
			if field.Value != "identity" {
				return asked, false
			}
		case "grpc-timeout":
			timeout, ok := parseTimeout(field.Value)
			if !ok {
				return asked, false
			}
			asked.timeout = timeout
		}
	}
	return asked, found && post && grpc
}

// parseTimeout reads gRPC's form of a duration: at most 8 digits and a unit.
func parseTimeout(text string) (time.Duration, bool) {
	if len(text) < 2 || len(text) > 9 {
		return 0, false
	}
	digits := text[:len(text)-1]
	var unit time.Duration
	switch text[len(text)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	count := int64(0)
	for _, digit := range []byte(digits) {
		if digit < '0' || digit > '9' {
			return 0, false
		}
		count = count*10 + int64(digit-'0')
	}
	if count > math.MaxInt64/int64(unit) {
		return math.MaxInt64, true
	}
	return time.Duration(count) * unit, true
}

// stream is one call.
type stream struct {
	conn   *conn
	id     uint32
	method method
	ctx    context.Context
	cancel context.CancelFunc

	// The reader's own, until it is complete; then the worker's.
	body       []byte // with gRPC's prefix
	tooLong    bool   // body is only the beginning
	complete   bool   // the reader's for good
	unreturned uint32

	window int64 // guarded by conn.mu: bytes of DATA that may be sent
}

func newStream(c *conn, id uint32, asked request, window int64) *stream {
	st := &stream{conn: c, id: id, method: asked.method, window: window}
	if asked.timeout < 0 {
		st.ctx, st.cancel = context.WithCancel(c.calls)
	} else {
		st.ctx, st.cancel = context.WithTimeout(c.calls, asked.timeout)
	}
	return st
}

// take adds to the request's body. What is too long is read to its end, so that the client reads why it was refused.
func (st *stream) take(data []byte, last bool) {
	switch {
	case st.tooLong || len(st.body)+len(data) > prefixSize+st.conn.server.options.MaxMessage:
		st.tooLong = true
	case st.body == nil && !last && len(data) >= prefixSize:
		announced := int(binary.BigEndian.Uint32(data[1:]))
		st.body = append(make([]byte, 0, prefixSize+min(announced, st.conn.server.options.MaxMessage)), data...)
	default:
		st.body = append(st.body, data...)
	}
}

// finish has the call run: the client has said all.
func (st *stream) finish() {
	st.complete = true
	st.conn.server.dispatch(st)
}

// run calls the method and answers.
func (st *stream) run() {
	defer st.conn.end(st.id)
	defer st.cancel()
	reply, err := st.call()
	if err == nil {
		err = st.send(reply)
	}
	if err != nil && st.conn.ctx.Err() == nil {
		st.conn.write(appendFailure(nil, st.id, statusOf(err)))
	}
}

func (st *stream) call() (proto.Message, error) {
	message, err := st.message()
	if err != nil {
		return nil, err
	}
	decode := func(into any) error {
		if err := proto.Unmarshal(message, into.(proto.Message)); err != nil {
			return status.Errorf(codes.Internal, "request cannot be read: %v", err)
		}
		return nil
	}
	reply, err := st.method.handle(st.method.service, st.ctx, decode, st.conn.server.options.Intercept)
	if err != nil {
		return nil, err
	}
	return reply.(proto.Message), nil
}

// prefixSize is gRPC's: a byte that tells whether the message is compressed, and its length.
const prefixSize = 5

// message is the one in the request's body.
func (st *stream) message() ([]byte, error) {
	switch {
	case st.tooLong:
		return nil, status.Errorf(codes.ResourceExhausted, "request is longer than %d bytes", st.conn.server.options.MaxMessage)
	case len(st.body) < prefixSize:
		return nil, status.Error(codes.Internal, "request has no message")
	case st.body[0] != 0:
		return nil, status.Error(codes.Internal, "request is compressed, and its headers do not say how")
	}
	length, message := binary.BigEndian.Uint32(st.body[1:]), st.body[prefixSize:]
	if uint64(length) != uint64(len(message)) {
		return nil, status.Errorf(codes.Internal, "request says that it has %d bytes, and has %d", length, len(message))
	}
	return message, nil
}

// statusOf is the status that a handler's error stands for.
func statusOf(err error) *status.Status {
	if answer, ok := status.FromError(err); ok {
		return answer
	}
	return status.FromContextError(err)
}

// buffers are those of answers.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// send answers with a message: in one write where the client's windows have room for it, as they mostly do. On error
// nothing was sent.
func (st *stream) send(reply proto.Message) error {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	size := proto.Size(reply)
	if size > st.conn.server.options.MaxMessage {
		return status.Errorf(codes.ResourceExhausted, "answer of %d bytes is longer than %d", size, st.conn.server.options.MaxMessage)
	}
	whole := prefixSize+size <= minMaxFrame && st.reserve(prefixSize+size, true) > 0
	frames := appendAnswer((*buffer)[:0], st.id)
	if whole {
		frames = appendFrameHeader(frames, prefixSize+size, http2.FrameData, 0, st.id)
	}
	begin := len(frames)
	frames = binary.BigEndian.AppendUint32(append(frames, 0), uint32(size))
	frames, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(frames, reply)
	if err != nil {
		return fmt.Errorf("answer cannot be written: %w", err)
	}
	if *buffer = frames; cap(frames) > maxKeptBuffer {
		*buffer = nil
	}
	if whole {
		*buffer = appendSuccess(frames, st.id)
		st.conn.write(*buffer)
		return nil
	}
	st.conn.write(frames[:begin])
	st.sendPieces(frames[begin:])
	return nil
}

// maxKeptBuffer keeps one large answer from taking its memory for ever.
const maxKeptBuffer = 64 << 10

// sendPieces sends a message as the client's windows let it, and the end.
func (st *stream) sendPieces(data []byte) {
	for len(data) > 0 {
		n := st.await(len(data))
		if n == 0 { // canceled, or over its deadline: the client knows
			st.conn.write(appendReset(nil, st.id, http2.ErrCodeCancel))
			return
		}
		st.conn.write(append(appendFrameHeader(nil, n, http2.FrameData, 0, st.id), data[:n]...))
		data = data[n:]
	}
	st.conn.write(appendSuccess(nil, st.id))
}

// reserve takes as much of the windows as there is, at most n and a frame; or, where it must be all of n, nothing.
func (st *stream) reserve(n int, all bool) int {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	have := int(max(0, min(int64(n), int64(c.maxFrame), c.window, st.window)))
	if all && have < n {
		return 0
	}
	c.window -= int64(have)
	st.window -= int64(have)
	return have
}

// await is reserve that waits until there is some; 0: the call was over before.
func (st *stream) await(n int) int {
	for {
		grown := st.conn.growing()
		if have := st.reserve(n, false); have > 0 {
			return have
		}
		select {
		case <-grown:
		case <-st.ctx.Done():
			return 0
		}
	}
}

// growing is closed when a window grows.
func (c *conn) growing() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.grown == nil {
		c.grown = make(chan struct{})
	}
	return c.grown
}

// The headers of answers (RFC 7541). None is put into the client's table, so they can be sent in any order; the first
// byte says that we use no table, which a client that wants a small one has to hear.
var (
	answerBlock  = appendField([]byte{0x20, 0x88}, "content-type", "application/grpc") // 0x88 is ":status: 200"
	successBlock = appendField(nil, "grpc-status", "0")
)

func appendAnswer(to []byte, id uint32) []byte {
	to = appendFrameHeader(to, len(answerBlock), http2.FrameHeaders, http2.FlagHeadersEndHeaders, id)
	return append(to, answerBlock...)
}

func appendSuccess(to []byte, id uint32) []byte {
	const end = http2.FlagHeadersEndHeaders | http2.FlagHeadersEndStream
	return append(appendFrameHeader(to, len(successBlock), http2.FrameHeaders, end, id), successBlock...)
}

// maxStatusBytes keeps a status within one frame, however its message is encoded.
const maxStatusBytes = 3 << 10

// appendFailure is an answer without a message.
func appendFailure(to []byte, id uint32, answer *status.Status) []byte {
	const end = http2.FlagHeadersEndHeaders | http2.FlagHeadersEndStream
	message := answer.Message()
	block := appendField(answerBlock[:len(answerBlock):len(answerBlock)], "grpc-status", fmt.Sprint(uint32(answer.Code())))
	block = appendField(block, "grpc-message", percentEncode(strings.ToValidUTF8(message[:min(len(message), maxStatusBytes)], "")))
	if details, err := proto.Marshal(answer.Proto()); err == nil && len(answer.Proto().GetDetails()) > 0 && len(details) <= maxStatusBytes {
		block = appendField(block, "grpc-status-details-bin", base64.RawStdEncoding.EncodeToString(details))
	}
	return append(appendFrameHeader(to, len(block), http2.FrameHeaders, end, id), block...)
}

// appendField is a literal that is not indexed (RFC 7541 section 6.2.2), its name spelt out.
func appendField(to []byte, name, value string) []byte {
	to = append(appendLength(append(to, 0), len(name)), name...)
	return append(appendLength(to, len(value)), value...)
}

// appendLength is an integer with a prefix of 7 bits (RFC 7541 section 5.1).
func appendLength(to []byte, n int) []byte {
	if n < 0x7f {
		return append(to, byte(n))
	}
	to = append(to, 0x7f)
	for n -= 0x7f; n >= 0x80; n >>= 7 {
		to = append(to, byte(n)|0x80)
	}
	return append(to, byte(n))
}

// percentEncode is gRPC's form of a message in a header.
func percentEncode(text string) string {
	var to strings.Builder
	for _, b := range []byte(text) {
		if b < ' ' || b > '~' || b == '%' {
			fmt.Fprintf(&to, "%%%02X", b)
		} else {
			to.WriteByte(b)
		}
	}
	return to.String()
}
