package unary

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// wire is a client that sends what a test wants, frame by frame.
type wire struct {
	t      testing.TB
	conn   net.Conn
	framer *http2.Framer
	block  bytes.Buffer
	table  *hpack.Encoder
}

func connectWire(t testing.TB, path string) *wire {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(testLimit)); err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, conn: conn, framer: http2.NewFramer(conn, conn)}
	w.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.framer.AllowIllegalWrites = true
	w.table = hpack.NewEncoder(&w.block)
	return w
}

// greet sends the preface, and reads the server's settings.
func (w *wire) greet(settings ...http2.Setting) *wire {
	w.t.Helper()
	w.bytes([]byte(http2.ClientPreface))
	w.must(w.framer.WriteSettings(settings...))
	if frame, ok := w.next().(*http2.SettingsFrame); !ok || frame.IsAck() {
		w.t.Fatalf("the server began with %v", frame)
	}
	return w
}

func (w *wire) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) bytes(data []byte) {
	w.t.Helper()
	_, err := w.conn.Write(data)
	w.must(err)
}

func (w *wire) next() http2.Frame {
	w.t.Helper()
	frame, err := w.framer.ReadFrame()
	w.must(err)
	return frame
}

// until reads to the first frame of a type.
func until[F http2.Frame](w *wire) F {
	w.t.Helper()
	for {
		if frame, ok := w.next().(F); ok {
			return frame
		}
	}
}

// ended waits for the server to hang up, and tells why it said that it did.
func (w *wire) ended() http2.ErrCode {
	w.t.Helper()
	code := http2.ErrCodeNo
	for {
		frame, err := w.framer.ReadFrame()
		if err != nil {
			if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
				w.t.Fatal(err)
			}
			return code
		}
		if away, ok := frame.(*http2.GoAwayFrame); ok {
			code = away.ErrCode
		}
	}
}

// headers encodes a request's.
func (w *wire) headers(more ...string) []byte {
	w.block.Reset()
	fields := []string{
		":method", "POST", ":scheme", "http", ":path", "/clearway.v1.AddressService/Add", ":authority", "localhost",
		"content-type", "application/grpc", "te", "trailers",
	}
	for fields = append(fields, more...); len(fields) > 0; fields = fields[2:] {
		w.must(w.table.WriteField(hpack.HeaderField{Name: fields[0], Value: fields[1]}))
	}
	return w.block.Bytes()
}

func (w *wire) open(id uint32, more ...string) {
	w.must(w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.headers(more...), EndHeaders: true}))
}

// answered reads an answer, and tells the message and the status.
func (w *wire) answered(id uint32) (body []byte, status string) {
	w.t.Helper()
	for {
		switch frame := w.next().(type) {
		case *http2.DataFrame:
			if frame.StreamID == id {
				body = append(body, frame.Data()...)
			}
		case *http2.MetaHeadersFrame:
			if frame.StreamID == id && frame.StreamEnded() {
				for _, field := range frame.Fields {
					if field.Name == "grpc-status" {
						status = field.Value
					}
				}
				return body, status
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == id {
				w.t.Fatal(frame)
			}
		case *http2.GoAwayFrame:
			w.t.Fatal(frame)
		}
	}
}

// message is a request with gRPC's prefix.
func message(t testing.TB, names ...string) []byte {
	t.Helper()
	data, err := proto.Marshal(named(names...))
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(data))), data...)
}

// whole is what a client sends for one call, from the beginning of its connection.
func whole(t testing.TB) []byte {
	var sent bytes.Buffer
	w := &wire{t: t, framer: http2.NewFramer(&sent, nil)}
	w.table = hpack.NewEncoder(&w.block)
	sent.WriteString(http2.ClientPreface)
	w.must(w.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}))
	w.must(w.framer.WriteWindowUpdate(0, 1<<20))
	w.open(1)
	w.must(w.framer.WriteData(1, true, message(t, "x")))
	return sent.Bytes()
}

func TestRequestInOneByteAtATime(t *testing.T) {
	_, path := open(t, &desk{add: echo})
	w := connectWire(t, path)
	for _, b := range whole(t) {
		w.bytes([]byte{b})
	}
	if _, status := w.answered(1); status != "0" {
		t.Fatal(status)
	}
}

// TestFramesOfEveryShape: padding, priorities, pieces, empty pieces, trailers, what nobody knows.
func TestFramesOfEveryShape(t *testing.T) {
	_, path := open(t, &desk{add: echo})
	w := connectWire(t, path).greet(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
	w.must(w.framer.WritePing(false, [8]byte{1, 2, 3}))
	if pong := until[*http2.PingFrame](w); !pong.IsAck() || pong.Data != [8]byte{1, 2, 3} {
		t.Fatal(pong)
	}
	w.must(w.framer.WriteRawFrame(0x77, 0, 3, []byte("unknown")))
	block := w.headers("x", strings.Repeat("long", 10))
	w.must(w.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 3, BlockFragment: block[:5], PadLength: 9, Priority: http2.PriorityParam{Weight: 7},
	}))
	w.must(w.framer.WriteContinuation(3, false, block[5:20]))
	w.must(w.framer.WriteContinuation(3, true, block[20:]))
	w.must(w.framer.WritePriority(3, http2.PriorityParam{Weight: 8}))
	text := message(t, "in", "pieces")
	w.must(w.framer.WriteData(3, false, nil))
	w.must(w.framer.WriteDataPadded(3, false, text[:2], make([]byte, 200)))
	w.must(w.framer.WriteData(3, false, text[2:]))
	w.must(w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: nil, EndHeaders: true, EndStream: true}))
	if settings := until[*http2.SettingsFrame](w); !settings.IsAck() {
		t.Fatal(settings)
	}
	body, status := w.answered(3)
	answer := &clearwayv1.AddResponse{}
	if err := proto.Unmarshal(body[prefixSize:], answer); err != nil || status != "0" || len(answer.GetAddresses()) != 2 {
		t.Fatal(answer, status, err)
	}
	w.must(w.framer.WriteData(3, true, nil)) // the stream has ended
	w.open(5)
	w.must(w.framer.WriteData(5, true, text))
	if _, status := w.answered(5); status != "0" {
		t.Fatal(status)
	}
}

func TestBadMessagesAreRefused(t *testing.T) {
	_, path := open(t, &desk{add: echo})
	w := connectWire(t, path).greet()
	good := message(t, "x")
	for i, body := range [][]byte{
		nil, good[:3], good[:len(good)-1], append(good[:len(good):len(good)], 0), append([]byte{1}, good[1:]...),
		{0, 0, 0, 0, 1, 0xff}, {0, 0xff, 0xff, 0xff, 0xff, 0},
	} {
		id := uint32(2*i + 1)
		w.open(id)
		w.must(w.framer.WriteData(id, true, body))
		if _, status := w.answered(id); status != "13" { // Internal
			t.Errorf("%v: status %s", body, status)
		}
	}
}

func TestBrokenProtocolEndsTheConnection(t *testing.T) {
	cases := map[string]struct {
		send func(w *wire) error
		want http2.ErrCode
	}{
		"even stream":         {func(w *wire) error { w.open(2); return nil }, http2.ErrCodeProtocol},
		"data of no stream":   {func(w *wire) error { return w.framer.WriteData(7, true, nil) }, http2.ErrCodeProtocol},
		"window of no stream": {func(w *wire) error { return w.framer.WriteWindowUpdate(7, 1) }, http2.ErrCodeProtocol},
		"window of nothing":   {func(w *wire) error { return w.framer.WriteWindowUpdate(0, 0) }, http2.ErrCodeProtocol},
		"window too large":    {func(w *wire) error { return w.framer.WriteWindowUpdate(0, 1<<31-1) }, http2.ErrCodeFlowControl},
		"frame too large": {func(w *wire) error {
			return w.framer.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, minMaxFrame+1))
		}, http2.ErrCodeFrameSize},
		"push promise": {func(w *wire) error {
			return w.framer.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}, http2.ErrCodeProtocol},
		"headers that are none": {func(w *wire) error {
			return w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff}, EndHeaders: true})
		}, http2.ErrCodeCompression},
		"continuation of nothing": {func(w *wire) error { return w.framer.WriteContinuation(1, true, nil) }, http2.ErrCodeProtocol},
		"no request for ever": {func(w *wire) error {
			for range maxGreetingBytes / 14 {
				_ = w.framer.WritePriority(1, http2.PriorityParam{}) // it hangs up at some time
			}
			return nil
		}, http2.ErrCodeEnhanceYourCalm},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, path := open(t, &desk{add: echo})
			w := connectWire(t, path).greet()
			w.must(c.send(w))
			if got := w.ended(); got != c.want {
				t.Errorf("ended by %v, not %v", got, c.want)
			}
		})
	}
}

func TestOtherProtocolIsHungUpOn(t *testing.T) {
	_, path := open(t, &desk{add: echo})
	w := connectWire(t, path)
	w.bytes([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	w.ended()
}

func TestBrokenStreamLeavesOthersAlone(t *testing.T) {
	_, path := open(t, &desk{add: echo})
	w := connectWire(t, path).greet()
	w.open(1)
	w.must(w.framer.WriteHeaders(http2.HeadersFrameParam{ // a field's name in capitals
		StreamID: 3, BlockFragment: appendField(nil, "BAD", "x"), EndHeaders: true,
	}))
	if reset := until[*http2.RSTStreamFrame](w); reset.StreamID != 3 || reset.ErrCode != http2.ErrCodeProtocol {
		t.Fatal(reset)
	}
	w.open(5)
	w.must(w.framer.WriteRSTStream(5, http2.ErrCodeCancel))
	w.must(w.framer.WriteData(5, true, message(t, "late"))) // it did not know yet
	w.must(w.framer.WriteData(1, true, message(t, "x")))
	if _, status := w.answered(1); status != "0" {
		t.Fatal(status)
	}
}

func TestTooManyStreamsAreRefused(t *testing.T) {
	_, path := open(t, &desk{add: echo})
	w := connectWire(t, path).greet()
	const most = 2 * maxStreams
	for i := range uint32(most) {
		w.open(2*i + 1)
	}
	w.open(2*most + 1)
	if reset := until[*http2.RSTStreamFrame](w); reset.StreamID != 2*most+1 || reset.ErrCode != http2.ErrCodeRefusedStream {
		t.Fatal(reset)
	}
	w.must(w.framer.WriteData(1, true, message(t, "x")))
	if _, status := w.answered(1); status != "0" {
		t.Fatal(status)
	}
}

// TestClientsWindowIsKept: not a byte more than the client has allowed, for the connection and for the stream.
func TestClientsWindowIsKept(t *testing.T) {
	_, path := open(t, &desk{add: echo})
	w := connectWire(t, path).greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	name := strings.Repeat("x", 100)
	w.open(1)
	w.must(w.framer.WriteData(1, true, message(t, name)))
	var got []byte
	for allowed := 10; ; {
		frame, ok := w.next().(*http2.DataFrame)
		if !ok {
			continue
		}
		got = append(got, frame.Data()...)
		if len(got) > allowed {
			t.Fatalf("%d bytes, of %d allowed", len(got), allowed)
		}
		if len(got) < allowed {
			continue
		}
		if allowed >= 70 {
			break
		}
		allowed += 30
		w.must(w.framer.WriteWindowUpdate(1, 30))
	}
	w.must(w.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})) // for open streams, too
	rest, status := w.answered(1)
	if got = append(got, rest...); status != "0" || !bytes.Contains(got, []byte(name)) {
		t.Fatalf("%q %s", got, status)
	}
}

// TestGoingAwayFinishesWhatRuns: the call under way when a foreign one comes is answered, and then the server hangs up.
func TestGoingAwayFinishesWhatRuns(t *testing.T) {
	free := make(chan struct{})
	_, path := open(t, &desk{add: func(ctx context.Context, in *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error) {
		<-free
		return echo(ctx, in)
	}})
	w := connectWire(t, path).greet()
	w.open(1)
	w.must(w.framer.WriteData(1, true, message(t, "x")))
	w.open(3, "grpc-encoding", "gzip")
	away := until[*http2.GoAwayFrame](w)
	if away.LastStreamID != 1 || away.ErrCode != http2.ErrCodeNo {
		t.Fatal(away)
	}
	w.open(5) // it had not heard
	w.must(w.framer.WriteData(5, true, message(t, "x")))
	w.must(w.framer.WritePing(false, [8]byte{})) // read by then
	until[*http2.PingFrame](w)
	close(free)
	if _, status := w.answered(1); status != "0" {
		t.Fatal(status)
	}
	w.ended()
}

// TestDamagedBytesDoNoHarm: whatever a client sends, others are served, and the server can be stopped.
func TestDamagedBytesDoNoHarm(t *testing.T) {
	_, path := open(t, &desk{add: echo})
	sound := whole(t)
	rapid.Check(t, func(t *rapid.T) {
		data := bytes.Clone(sound)
		for range rapid.IntRange(0, 4).Draw(t, "changes") {
			data[rapid.IntRange(0, len(data)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write(data[:rapid.IntRange(0, len(data)).Draw(t, "length")])
	})
	if _, err := clearwayv1.NewAddressServiceClient(dial(t, path)).Add(limited(t), named("x")); err != nil {
		t.Fatal(err)
	}
}

func TestTimeouts(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "30S": 30 * time.Second, "29999m": 29999 * time.Millisecond, "5u": 5 * time.Microsecond,
		"99999999n": 99999999, "99999999H": 1<<63 - 1, "0S": 0,
	} {
		if got, ok := parseTimeout(text); !ok || got != want {
			t.Errorf("%s is %v %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "1", "S", "1s", "-1S", "123456789S", "1.5S"} {
		if got, ok := parseTimeout(text); ok {
			t.Errorf("%q is %v", text, got)
		}
	}
}
