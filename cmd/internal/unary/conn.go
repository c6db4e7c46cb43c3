package unary

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

const (
	// maxStreams is how many calls a connection may have under way at once.
	maxStreams = 256
	// maxHeaderBytes bounds a request's headers, as HTTP/2 counts them.
	maxHeaderBytes = 64 << 10
	// maxGreetingBytes bounds what is kept of a connection until its first request tells whose it is.
	maxGreetingBytes = 64 << 10
	// defaultWindow is HTTP/2's: how many bytes a side may send before the other has said that it took them.
	defaultWindow = 65535
	// giveBackBytes is from how many bytes on the client is told that we took them.
	giveBackBytes = 32 << 10
	// writeTimeout bounds a write to a client that does not read; see extendDeadline.
	writeTimeout = 10 * time.Second
)

// conn is one connection. Its reader is the goroutine that serves it.
type conn struct {
	server *Server
	net    net.Conn
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc

	idle *time.Timer

	// The reader's own:
	info       credentials.AuthInfo
	calls      context.Context // ctx with the client's peer in it: those of calls come from it
	greeting   *greeting
	framer     *http2.Framer
	last       uint32 // the latest stream that the client opened
	settings   int    // SETTINGS that are not acknowledged yet
	unreturned uint32 // bytes of DATA that the client does not know to be taken

	writeBy atomic.Int64 // the present write deadline, in Unix nanoseconds
	used    atomic.Bool  // since idle fired last

	mu            sync.Mutex // guards all below
	streams       map[uint32]*stream
	opened        uint32 // the latest of streams
	window        int64  // bytes of DATA that may be sent; a stream has its own besides
	initialWindow int64  // of streams to come
	maxFrame      int
	grown         chan struct{} // closed when a window has grown; nil: nobody waits
	leaving       bool          // no new streams: it is closed when the last one ends
}

// greeting keeps what is read from a connection, until it is known that it stays here.
type greeting struct {
	net.Conn
	kept []byte
	over bool
}

// Read implements io.Reader.
func (g *greeting) Read(into []byte) (int, error) {
	n, err := g.Conn.Read(into)
	if !g.over {
		g.kept = append(g.kept, into[:n]...)
	}
	return n, err
}

func newConn(s *Server, accepted net.Conn) *conn {
	c := &conn{
		server: s, net: accepted, greeting: &greeting{Conn: accepted}, streams: map[uint32]*stream{},
		window: defaultWindow, initialWindow: defaultWindow, maxFrame: minMaxFrame,
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// serve reads until the connection ends, or is the rest's.
func (c *conn) serve() {
	defer c.server.remove(c)
	reader := bufio.NewReader(c.greeting)
	if !c.greet(reader) {
		c.close()
		return
	}
	c.watchIdle()
	defer c.idle.Stop()
	c.framer = http2.NewFramer(nil, reader)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil) // the size that HTTP/2 begins with
	c.framer.MaxHeaderListSize = maxHeaderBytes
	c.framer.SetMaxReadFrameSize(minMaxFrame)
	c.framer.SetReuseFrames()
	for {
		frame, err := c.framer.ReadFrame()
		if err == nil {
			err = c.take(frame)
		}
		var ofStream http2.StreamError
		switch {
		case err == nil:
		case errors.Is(err, errForeign):
			c.passOn()
			return
		case errors.As(err, &ofStream):
			c.reset(ofStream.StreamID, ofStream.Code)
		default:
			c.fail(err)
			return
		}
	}
}

func (c *conn) watchIdle() {
	c.mu.Lock() // endIdle has to wait until idle is set
	defer c.mu.Unlock()
	c.idle = time.AfterFunc(c.server.options.MaxIdle, c.endIdle)
}

// endIdle leaves a connection that was not used since it was called last.
func (c *conn) endIdle() {
	c.mu.Lock()
	idle, busy, last := c.idle, len(c.streams) > 0, c.opened
	c.mu.Unlock()
	if c.used.Swap(false) || busy {
		idle.Reset(c.server.options.MaxIdle)
		return
	}
	c.leave(last)
}

// greet says who we are, and takes the client's preface. Clients wait for our settings before they ask anything.
func (c *conn) greet(reader io.Reader) bool {
	_, info, err := c.server.options.Credentials.ServerHandshake(c.net)
	if err != nil {
		return false
	}
	c.know(info)
	c.write(greetingFrame)
	if c.net.SetReadDeadline(time.Now().Add(greetingTimeout)) != nil {
		return false
	}
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(reader, preface); err != nil || !bytes.Equal(preface, []byte(http2.ClientPreface)) {
		return false
	}
	return c.net.SetReadDeadline(time.Time{}) == nil
}

// know notes who the client is.
func (c *conn) know(info credentials.AuthInfo) {
	c.info = info
	c.calls = peer.NewContext(c.ctx, &peer.Peer{Addr: c.net.RemoteAddr(), LocalAddr: c.net.LocalAddr(), AuthInfo: info})
}

// errForeign: the first request is not for us, and so is the connection.
var errForeign = errors.New("connection is for the rest")

// passOn gives the connection to the rest, which reads from its beginning. Nothing but our settings, which are the
// defaults with limits, and answers to pings was written by then.
func (c *conn) passOn() {
	kept := net.Conn(&replayed{c.net, c.info, bytes.NewReader(c.greeting.kept)})
	c.greeting = nil
	defer c.cancel()
	if !c.depart() || c.net.SetWriteDeadline(time.Time{}) != nil || !c.server.handed.pass(c.ctx, kept) {
		c.close()
	}
}

// replayed is a connection of which some bytes have been read, and are read again.
type replayed struct {
	net.Conn
	info credentials.AuthInfo
	kept *bytes.Reader
}

// Read implements io.Reader.
func (r *replayed) Read(into []byte) (int, error) {
	if r.kept.Len() > 0 {
		return r.kept.Read(into)
	}
	return r.Conn.Read(into)
}

// fail ends the connection. A client that broke the protocol is told how.
func (c *conn) fail(err error) {
	var broken http2.ConnectionError
	switch {
	case errors.As(err, &broken):
		c.write(appendGoAway(nil, c.last, http2.ErrCode(broken)))
	case errors.Is(err, http2.ErrFrameTooLarge):
		c.write(appendGoAway(nil, c.last, http2.ErrCodeFrameSize))
	}
	c.close()
}

// close ends the connection, and the contexts of all its calls.
func (c *conn) close() {
	c.cancel()
	_ = c.net.Close() // what was written is with the client, or is given up
}

// take handles a frame. A stream's error resets it, any other ends the connection.
func (c *conn) take(frame http2.Frame) error {
	if c.greeting != nil && len(c.greeting.kept) > maxGreetingBytes {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	switch frame := frame.(type) {
	case *http2.MetaHeadersFrame:
		return c.takeHeaders(frame)
	case *http2.DataFrame:
		return c.takeData(frame)
	case *http2.RSTStreamFrame:
		c.drop(frame.StreamID)
	case *http2.SettingsFrame:
		return c.takeSettings(frame)
	case *http2.WindowUpdateFrame:
		return c.takeWindow(frame)
	case *http2.PingFrame:
		if !frame.IsAck() {
			c.write(appendPong(nil, frame.Data))
		}
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil // priorities, a client's GOAWAY, and whatever may be invented
}

func (c *conn) takeHeaders(frame *http2.MetaHeadersFrame) error {
	id := frame.StreamID
	if id <= c.last {
		return c.takeTrailers(frame)
	}
	if id%2 == 0 {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	before := c.last
	c.last = id
	if frame.Truncated {
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeEnhanceYourCalm}
	}
	asked, ours := c.server.parse(frame)
	if c.greeting != nil {
		if !ours {
			return errForeign
		}
		c.stay()
	}
	st := c.open(id, asked, ours)
	switch {
	case st == nil && !ours:
		c.leave(before)
		return nil
	case st == nil:
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeRefusedStream}
	case frame.StreamEnded():
		c.server.dispatch(st)
	}
	return nil
}

// stay makes the connection ours for good.
func (c *conn) stay() {
	c.greeting.kept, c.greeting.over = nil, true
	c.greeting = nil
	c.acknowledge()
}

// acknowledge answers the settings that were taken. The rest would answer them as well, so it waits until they are
// ours to answer.
func (c *conn) acknowledge() {
	if c.greeting != nil {
		return
	}
	for ; c.settings > 0; c.settings-- {
		c.write(settingsAck)
	}
}

// open begins a call; nil: there are too many, or the connection is being left, or the call is not for us.
func (c *conn) open(id uint32, asked request, ours bool) *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	// As many again may have been answered, and not be forgotten yet.
	if !ours || c.leaving || len(c.streams) >= 2*maxStreams {
		return nil
	}
	st := newStream(c, id, asked, c.initialWindow)
	c.streams[id], c.opened = st, id
	c.used.Store(true)
	return st
}

// leave has the client take another connection for what it asks from now on.
func (c *conn) leave(last uint32) {
	if !c.depart() {
		return
	}
	c.write(appendGoAway(nil, last, http2.ErrCodeNo))
	c.closeIdle()
}

// depart makes a connection take no more streams; false: it takes none already.
func (c *conn) depart() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.leaving
	c.leaving = true
	return !before
}

// closeIdle closes a connection that is being left, once it has no streams.
func (c *conn) closeIdle() {
	c.mu.Lock()
	done := c.leaving && len(c.streams) == 0
	c.mu.Unlock()
	if done {
		c.close()
	}
}

// end forgets a stream.
func (c *conn) end(id uint32) {
	c.mu.Lock()
	delete(c.streams, id)
	c.mu.Unlock()
	c.closeIdle()
}

// stream finds one that has not ended; nil: there is none.
func (c *conn) stream(id uint32) *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

// takeTrailers ends a request. gRPC's clients send none; HTTP/2's may.
func (c *conn) takeTrailers(frame *http2.MetaHeadersFrame) error {
	st := c.stream(frame.StreamID)
	if st == nil || st.complete {
		return http2.StreamError{StreamID: frame.StreamID, Code: http2.ErrCodeStreamClosed}
	}
	if !frame.StreamEnded() {
		return http2.StreamError{StreamID: frame.StreamID, Code: http2.ErrCodeProtocol}
	}
	st.finish()
	return nil
}

func (c *conn) takeData(frame *http2.DataFrame) error {
	if frame.StreamID > c.last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.giveBack(&c.unreturned, 0, frame.Length)
	st := c.stream(frame.StreamID)
	if st == nil {
		return nil // it was reset, or refused, and the client did not know yet
	}
	if st.complete {
		return http2.StreamError{StreamID: frame.StreamID, Code: http2.ErrCodeStreamClosed}
	}
	st.take(frame.Data(), frame.StreamEnded())
	if frame.StreamEnded() {
		st.finish()
	} else {
		c.giveBack(&st.unreturned, frame.StreamID, frame.Length)
	}
	return nil
}

// giveBack lets the client send as much again as it sent, once it is worth a frame.
func (c *conn) giveBack(unreturned *uint32, id, n uint32) {
	if *unreturned += n; *unreturned >= giveBackBytes {
		c.write(appendWindowUpdate(nil, id, *unreturned))
		*unreturned = 0
	}
}

// reset ends a stream that the client has broken.
func (c *conn) reset(id uint32, code http2.ErrCode) {
	c.last = max(c.last, id)
	c.drop(id)
	c.write(appendReset(nil, id, code))
}

// drop ends a stream that nobody waits for any more. One whose handler runs is forgotten when that returns, so that a
// client cannot have more of them at work than streams.
func (c *conn) drop(id uint32) {
	st := c.stream(id)
	if st == nil {
		return
	}
	st.cancel()
	if !st.complete {
		c.end(id)
	}
}

func (c *conn) takeSettings(frame *http2.SettingsFrame) error {
	if frame.IsAck() {
		return nil
	}
	err := frame.ForeachSetting(func(setting http2.Setting) error {
		if err := setting.Valid(); err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		switch setting.ID {
		case http2.SettingInitialWindowSize:
			return c.resize(int64(setting.Val))
		case http2.SettingMaxFrameSize:
			c.maxFrame = int(setting.Val)
		}
		return nil // the header table's size is nothing to us: answers use none
	})
	if err != nil {
		return err
	}
	c.settings++
	c.acknowledge()
	return nil
}

// resize changes the window of all streams (RFC 9113 section 6.9.2). The caller has c.mu.
func (c *conn) resize(initial int64) error {
	for _, st := range c.streams {
		st.window += initial - c.initialWindow
		if st.window > math.MaxInt32 {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
	}
	c.initialWindow = initial
	c.wake()
	return nil
}

func (c *conn) takeWindow(frame *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.wake()
	if frame.StreamID == 0 {
		if c.window += int64(frame.Increment); c.window > math.MaxInt32 {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		return nil
	}
	if frame.StreamID > c.last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if st := c.streams[frame.StreamID]; st != nil {
		if st.window += int64(frame.Increment); st.window > math.MaxInt32 {
			return http2.StreamError{StreamID: frame.StreamID, Code: http2.ErrCodeFlowControl}
		}
	}
	return nil
}

// wake lets those look again who wait for a window. The caller has c.mu.
func (c *conn) wake() {
	if c.grown != nil {
		close(c.grown)
		c.grown = nil
	}
}

// write sends whole frames: one write of a net.Conn is never inside another. A client that does not take them is given
// up.
func (c *conn) write(frames []byte) {
	c.extendDeadline()
	if _, err := c.net.Write(frames); err != nil {
		c.close()
	}
}

// extendDeadline keeps the write deadline between the whole and the half of writeTimeout from now, so that most writes
// need not set it.
func (c *conn) extendDeadline() {
	now := time.Now()
	if now.Add(writeTimeout/2).UnixNano() <= c.writeBy.Load() {
		return
	}
	_ = c.net.SetWriteDeadline(now.Add(writeTimeout)) // of a closed connection: the write will say so
	c.writeBy.Store(now.Add(writeTimeout).UnixNano())
}

// The frames that do not change, and those with a number or two (RFC 9113 section 6).
var (
	greetingFrame = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(
		binary.BigEndian.AppendUint16(appendFrameHeader(nil, 12, http2.FrameSettings, 0, 0),
			uint16(http2.SettingMaxConcurrentStreams)), maxStreams),
		uint16(http2.SettingMaxHeaderListSize)), maxHeaderBytes)
	settingsAck = appendFrameHeader(nil, 0, http2.FrameSettings, http2.FlagSettingsAck, 0)
)

const minMaxFrame = 16 << 10 // of a client that said nothing else

func appendFrameHeader(to []byte, length int, kind http2.FrameType, flags http2.Flags, id uint32) []byte {
	return binary.BigEndian.AppendUint32(append(to, byte(length>>16), byte(length>>8), byte(length), byte(kind), byte(flags)), id)
}

func appendGoAway(to []byte, last uint32, code http2.ErrCode) []byte {
	to = appendFrameHeader(to, 8, http2.FrameGoAway, 0, 0)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(to, last), uint32(code))
}

func appendReset(to []byte, id uint32, code http2.ErrCode) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHeader(to, 4, http2.FrameRSTStream, 0, id), uint32(code))
}

func appendWindowUpdate(to []byte, id, increment uint32) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHeader(to, 4, http2.FrameWindowUpdate, 0, id), increment)
}

func appendPong(to []byte, data [8]byte) []byte {
	return slices.Concat(appendFrameHeader(to, 8, http2.FramePing, http2.FlagPingAck, 0), data[:])
}
