package unary_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/proto/unary"
)

// raw is a codec of messages that are bytes already.
type raw struct{}

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (raw) Name() string { return "raw" }

// soon is long enough for anything that does not hang.
func soon() time.Time { return time.Now().Add(20 * time.Second) }

// pair is a connection's two ends.
func pair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if client, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// server is a scripted one's end of a connection.
type server struct {
	*http2.Framer
	conn   net.Conn
	packed bytes.Buffer
	packer *hpack.Encoder
	stream uint32
}

func newServer(conn net.Conn) *server {
	s := &server{Framer: http2.NewFramer(conn, conn), conn: conn}
	s.packer = hpack.NewEncoder(&s.packed)
	s.packer.SetMaxDynamicTableSizeLimit(0) // the client keeps no table
	return s
}

// greet reads the client's preface and sends settings.
func (s *server) greet(settings ...http2.Setting) error {
	if _, err := io.ReadFull(s.conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return err
	}
	return s.WriteSettings(settings...)
}

// until reads frames until one is as wanted.
func (s *server) until(wanted func(http2.Frame) bool) error {
	for {
		f, err := s.ReadFrame()
		if err != nil {
			return err
		}
		if f.Header().StreamID != 0 {
			s.stream = f.Header().StreamID
		}
		if wanted(f) {
			return nil
		}
	}
}

// request reads a whole request.
func (s *server) request() error {
	return s.until(func(f http2.Frame) bool {
		data, ok := f.(*http2.DataFrame)
		return ok && data.StreamEnded()
	})
}

// pack packs headers, given as name and value in turn.
func (s *server) pack(fields ...string) []byte {
	s.packed.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = s.packer.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(s.packed.Bytes())
}

func (s *server) headers(end bool, fields ...string) {
	_ = s.WriteHeaders(http2.HeadersFrameParam{StreamID: s.stream, BlockFragment: s.pack(fields...), EndHeaders: true, EndStream: end})
}

func (s *server) begin() {
	s.headers(false, ":status", "200", "content-type", "application/grpc")
}

// message sends a message in one frame.
func (s *server) message(content string) { _ = s.WriteData(s.stream, false, framed(content)) }

func framed(content string) []byte {
	return append([]byte{0, byte(len(content) >> 24), byte(len(content) >> 16), byte(len(content) >> 8), byte(len(content))}, content...)
}

// plainCall makes a call with the client of this package.
func plainCall(conn net.Conn, deadline time.Time) (string, codes.Code, string) {
	answer, err := unary.New(conn).Call("/t/echo", []byte("question"), deadline)
	var failed *unary.Status
	if errors.As(err, &failed) {
		return "", codes.Code(failed.Code), failed.Message
	}
	return string(answer), codes.OK, ""
}

// grpcCall makes it with gRPC's own, over the one connection alone.
func grpcCall(conn net.Conn, deadline time.Time) (string, codes.Code, string) {
	first := make(chan net.Conn, 1)
	first <- conn
	client, err := grpc.NewClient("passthrough:///t", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry(), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case conn := <-first:
				return conn, nil
			default:
				return nil, errors.New("there was one connection")
			}
		}))
	if err != nil {
		return "", codes.Unknown, err.Error()
	}
	defer client.Close()
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	question, answer := []byte("question"), []byte(nil)
	err = client.Invoke(ctx, "/t/echo", &question, &answer)
	return string(answer), status.Code(err), status.Convert(err).Message()
}

// TestAsGRPC plays servers, good and bad, to both clients: both see the same.
func TestAsGRPC(t *testing.T) {
	trailers := func(s *server, fields ...string) { s.headers(true, append([]string{"grpc-status"}, fields...)...) }
	details := func(text string) string { return base64.RawStdEncoding.EncodeToString([]byte(text)) }
	for _, test := range []struct {
		name   string
		play   func(*server)
		answer string
		code   codes.Code
		words  string // in the message of this package's client; "=" before: the whole of both messages
	}{
		{"an answer", func(s *server) { s.begin(); s.message("answer"); trailers(s, "0") }, "answer", codes.OK, ""},
		{"an empty answer", func(s *server) { s.begin(); s.message(""); trailers(s, "0") }, "", codes.OK, ""},
		{"in pieces", func(s *server) {
			block := s.pack(":status", "200", "content-type", "application/grpc+proto", "grpc-encoding", "identity", "filler", strings.Repeat("x", 900))
			_ = s.WriteHeaders(http2.HeadersFrameParam{StreamID: s.stream, BlockFragment: block[:1], PadLength: 7,
				Priority: http2.PriorityParam{StreamDep: 3, Weight: 9}})
			_ = s.WriteContinuation(s.stream, false, block[1:20])
			_ = s.WriteContinuation(s.stream, true, block[20:])
			whole := framed("answer")
			for i := range whole {
				_ = s.WritePing(false, [8]byte{byte(i)})
				_ = s.WriteDataPadded(s.stream, false, whole[i:i+1], make([]byte, i))
			}
			_ = s.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
			_ = s.WriteRawFrame(0x77, 0xff, s.stream, []byte("later"))
			trailers(s, "0")
		}, "answer", codes.OK, ""},
		{"after information", func(s *server) {
			s.headers(false, ":status", "103")
			s.begin()
			s.message("answer")
			trailers(s, "0")
		}, "answer", codes.OK, ""},
		{"trailers only", func(s *server) {
			s.headers(true, ":status", "200", "content-type", "application/grpc", "grpc-status", "5", "grpc-message", "no%20such%zz%")
		}, "", codes.NotFound, "=no such%zz%"},
		{"trailers only, and OK", func(s *server) {
			s.headers(true, ":status", "200", "content-type", "application/grpc", "grpc-status", "0")
		}, "", codes.Internal, "no message"},
		{"a code of its own", func(s *server) { s.begin(); trailers(s, "99", "grpc-message", "odd") }, "", codes.Code(99), "=odd"},
		{"a status after a message", func(s *server) { s.begin(); s.message("x"); trailers(s, "8", "grpc-message", "full") }, "", codes.ResourceExhausted, "=full"},
		{"no status", func(s *server) { s.begin(); s.message("x"); s.headers(true, "else", "x") }, "", codes.Unknown, "without a status"},
		{"no number", func(s *server) { s.begin(); trailers(s, "fine") }, "", codes.Unknown, "no number"},
		{"details that are no base64", func(s *server) {
			s.begin()
			trailers(s, "5", "grpc-message", "x", "grpc-status-details-bin", "%")
		}, "", codes.Internal, "base64"},
		{"two details", func(s *server) {
			s.begin()
			trailers(s, "5", "grpc-message", "x", "grpc-status-details-bin", details("a"), "grpc-status-details-bin", details("b"))
		}, "", codes.NotFound, "=x"},
		{"no end", func(s *server) { s.begin(); _ = s.WriteData(s.stream, true, framed("x")) }, "", codes.Internal, "without a status"},
		{"no headers", func(s *server) { s.message("x"); trailers(s, "0") }, "", codes.Internal, "without headers"},
		{"headers twice", func(s *server) { s.begin(); s.begin() }, "", codes.Internal, "in the middle"},
		{"no message", func(s *server) { s.begin(); trailers(s, "0") }, "", codes.Internal, "no message"},
		{"two messages", func(s *server) { s.begin(); s.message("a"); s.message("b"); trailers(s, "0") }, "", codes.Internal, "more than one"},
		{"half a message", func(s *server) { s.begin(); _ = s.WriteData(s.stream, false, framed("answer")[:7]); trailers(s, "0") }, "", codes.Internal, "cut short"},
		{"half a head", func(s *server) { s.begin(); _ = s.WriteData(s.stream, false, []byte{0, 0}); trailers(s, "0") }, "", codes.Internal, "cut short"},
		{"compressed", func(s *server) { s.begin(); _ = s.WriteData(s.stream, false, []byte{1, 0, 0, 0, 0}); trailers(s, "0") }, "", codes.Internal, "compressed"},
		{"a message too large", func(s *server) {
			s.begin()
			_ = s.WriteData(s.stream, false, []byte{0, 0xff, 0, 0, 0})
			trailers(s, "0")
		}, "", codes.ResourceExhausted, "more than"},
		{"no gRPC", func(s *server) { s.headers(true, ":status", "404", "content-type", "text/html") }, "", codes.Unimplemented, "404"},
		{"no gRPC, and OK", func(s *server) { s.headers(true, ":status", "200", "content-type", "text/html") }, "", codes.Unknown, "text/html"},
		{"no gRPC, and busy", func(s *server) { s.headers(true, ":status", "503") }, "", codes.Unavailable, "503"},
		{"no gRPC, and bad", func(s *server) { s.headers(true, ":status", "400") }, "", codes.Internal, "400"},
		{"no gRPC, and who", func(s *server) { s.headers(true, ":status", "401") }, "", codes.Unauthenticated, "401"},
		{"no gRPC, and no", func(s *server) { s.headers(true, ":status", "403") }, "", codes.PermissionDenied, "403"},
		{"reset", func(s *server) { s.begin(); _ = s.WriteRSTStream(s.stream, http2.ErrCodeInternal) }, "", codes.Internal, "reset"},
		{"reset by a refusal", func(s *server) { _ = s.WriteRSTStream(s.stream, http2.ErrCodeRefusedStream) }, "", codes.Unavailable, "reset"},
		{"reset by flow", func(s *server) { _ = s.WriteRSTStream(s.stream, http2.ErrCodeFlowControl) }, "", codes.ResourceExhausted, "reset"},
		{"reset by calm", func(s *server) { _ = s.WriteRSTStream(s.stream, http2.ErrCodeEnhanceYourCalm) }, "", codes.ResourceExhausted, "reset"},
		{"reset by cancel", func(s *server) { _ = s.WriteRSTStream(s.stream, http2.ErrCodeCancel) }, "", codes.Canceled, "reset"},
		{"reset by security", func(s *server) { _ = s.WriteRSTStream(s.stream, http2.ErrCodeInadequateSecurity) }, "", codes.PermissionDenied, "reset"},
		{"reset by none", func(s *server) { _ = s.WriteRSTStream(s.stream, http2.ErrCodeNo) }, "", codes.Internal, "reset"},
		{"reset by a later code", func(s *server) { _ = s.WriteRSTStream(s.stream, 0x4711) }, "", codes.Unknown, "reset"},
		{"going away without the call", func(s *server) { _ = s.WriteGoAway(0, http2.ErrCodeNo, nil) }, "", codes.Unavailable, "goes away"},
		{"going away after the call", func(s *server) {
			_ = s.WriteGoAway(s.stream, http2.ErrCodeNo, []byte("bye"))
			s.begin()
			s.message("answer")
			trailers(s, "0")
		}, "answer", codes.OK, ""},
		{"closed before the answer", func(*server) {}, "", codes.Unavailable, "closed"},
		{"closed within the answer", func(s *server) { s.begin(); s.message("x") }, "", codes.Unavailable, "closed"},
		{"closed within a frame", func(s *server) { s.begin(); _, _ = s.conn.Write([]byte{0, 0, 9, 0, 0, 0, 0, 0, 1, 'x'}) }, "", codes.Unavailable, "closed"},
		{"garbage within the answer", func(s *server) { s.begin(); _, _ = io.WriteString(s.conn, strings.Repeat("garbage", 9)) }, "", codes.Unavailable, "broke"},
		{"headers that cannot be unpacked", func(s *server) {
			_ = s.WriteHeaders(http2.HeadersFrameParam{StreamID: s.stream, BlockFragment: []byte{0xff}, EndHeaders: true})
		}, "", codes.Unavailable, "headers"},
		{"headers interrupted", func(s *server) {
			_ = s.WriteHeaders(http2.HeadersFrameParam{StreamID: s.stream, BlockFragment: s.pack(":status", "200")})
			_ = s.WritePing(false, [8]byte{})
		}, "", codes.Unavailable, "interrupted"},
		{"a window too large", func(s *server) {
			_ = s.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		}, "", codes.Unavailable, "too large"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, call := range map[string]func(net.Conn, time.Time) (string, codes.Code, string){"plain": plainCall, "grpc": grpcCall} {
				client, conn := pair(t)
				played := make(chan error, 1)
				go func() {
					s := newServer(conn)
					err := s.greet()
					if err == nil {
						err = s.request()
					}
					if err == nil {
						test.play(s)
					}
					conn.(*net.TCPConn).CloseWrite()
					_, _ = io.Copy(io.Discard, conn) // closed with bytes unread it would be reset
					played <- err
				}()
				answer, code, message := call(client, soon())
				client.Close()
				if err := <-played; err != nil {
					t.Fatalf("%s: the server: %v", name, err)
				}
				if code == codes.OK && answer != test.answer || code != test.code {
					t.Errorf("%s: %q, %v %q; want %q, %v", name, answer, code, message, test.answer, test.code)
				}
				want, whole := strings.CutPrefix(test.words, "=")
				if whole && message != want || name == "plain" && !strings.Contains(message, want) {
					t.Errorf("%s says %q, want %q", name, message, test.words)
				}
			}
		})
	}
}

// TestNoServer: what is no HTTP/2 at all is not taken for an agent that is down only by its garbage.
func TestNoServer(t *testing.T) {
	for _, said := range []string{"HTTP/1.1 400 Bad Request\r\n\r\n", "\x00", "", "\x00\x00\x00\x04\x01\x00\x00\x00\x00", strings.Repeat("\xff", 100)} {
		client, conn := pair(t)
		go func() {
			_, _ = io.WriteString(conn, said)
			conn.(*net.TCPConn).CloseWrite()
		}()
		if _, code, message := plainCall(client, soon()); code != codes.Unavailable {
			t.Errorf("%q: %v %s", said, code, message)
		}
	}
}

// TestDeadline: a server that says nothing, or never ends, is left when the time has come; what it is told of the
// deadline fits it.
func TestDeadline(t *testing.T) {
	for name, play := range map[string]func(*server){
		"silent":   func(*server) {},
		"unending": func(s *server) { s.begin() },
		"cancelled": func(s *server) {
			time.Sleep(200 * time.Millisecond)
			_ = s.WriteRSTStream(s.stream, http2.ErrCodeCancel)
		},
	} {
		client, conn := pair(t)
		go func() {
			s := newServer(conn)
			if s.greet() == nil && s.request() == nil {
				play(s)
			}
		}()
		if _, code, message := plainCall(client, time.Now().Add(150*time.Millisecond)); code != codes.DeadlineExceeded {
			t.Errorf("%s: %v %s", name, code, message)
		}
	}
	client, _ := pair(t)
	if _, code, message := plainCall(client, time.Now()); code != codes.DeadlineExceeded {
		t.Errorf("%v %s", code, message)
	}
}

// TestServerIsAcknowledged: a server that waits for its acknowledgements gets them, though the client has nothing else
// to say.
func TestServerIsAcknowledged(t *testing.T) {
	client, conn := pair(t)
	done := make(chan error, 1)
	go func() {
		s := newServer(conn)
		err := errors.Join(s.greet(), s.request(), s.WritePing(false, [8]byte{1, 2, 3}))
		settled := false
		err = errors.Join(err, s.until(func(f http2.Frame) bool {
			if settings, ok := f.(*http2.SettingsFrame); ok && settings.IsAck() {
				settled = true
			}
			ping, ok := f.(*http2.PingFrame)
			return ok && ping.IsAck() && ping.Data == [8]byte{1, 2, 3} && settled
		}))
		s.begin()
		s.message("answer")
		s.headers(true, "grpc-status", "0")
		done <- err
	}()
	answer, code, message := plainCall(client, soon())
	if err := <-done; err != nil || answer != "answer" {
		t.Errorf("%q, %v %s; the server: %v", answer, code, message, err)
	}
}

// TestPingsWithoutEnd: a server cannot make the client keep what it owes for ever.
func TestPingsWithoutEnd(t *testing.T) {
	client, conn := pair(t)
	go func() {
		s := newServer(conn)
		for err := errors.Join(s.greet(), s.request()); err == nil; {
			err = s.WritePing(false, [8]byte{})
		}
	}()
	if _, code, message := plainCall(client, soon()); code != codes.Unavailable || !strings.Contains(message, "pings without end") {
		t.Errorf("%v %s", code, message)
	}
}

// TestSmallWindows: a large request is sent as the server takes it, also when its settings come late and are small.
func TestSmallWindows(t *testing.T) {
	client, conn := pair(t)
	request := bytes.Repeat([]byte("0123456789"), 20_000)
	got := make(chan []byte, 1)
	go func() {
		s := newServer(conn)
		var body []byte
		_ = s.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		_ = s.until(func(f http2.Frame) bool {
			data, ok := f.(*http2.DataFrame)
			if !ok {
				return false
			}
			body = append(body, data.Data()...)
			if n := uint32(len(data.Data())); n > 0 {
				_ = s.WriteWindowUpdate(0, n)
				_ = s.WriteWindowUpdate(s.stream, n)
			}
			// What was sent before the settings came is more than they allow: it is owed back first.
			if len(body) == 65535 {
				_ = s.WriteWindowUpdate(s.stream, 65535)
			}
			return data.StreamEnded()
		})
		s.begin()
		s.message("answer")
		s.headers(true, "grpc-status", "0")
		got <- body
	}()
	answer, err := unary.New(client).Call("/t/echo", request, soon())
	if err != nil || string(answer) != "answer" {
		t.Fatalf("%q, %v", answer, err)
	}
	if body := <-got; !bytes.Equal(body, framed(string(request))) {
		t.Errorf("the server got %d bytes of %d", len(body), len(request)+5)
	}
}

// TestAnswerBeforeTheRequest: a server that answers without having read all is not sent the rest, and the connection
// serves the next call.
func TestAnswerBeforeTheRequest(t *testing.T) {
	client, conn := pair(t)
	reset := make(chan error, 1)
	go func() {
		s := newServer(conn)
		err := errors.Join(s.greet(), s.until(func(f http2.Frame) bool { return f.Header().Type == http2.FrameData }))
		s.headers(true, ":status", "200", "content-type", "application/grpc", "grpc-status", "8", "grpc-message", "too large")
		err = errors.Join(err, s.until(func(f http2.Frame) bool { return f.Header().Type == http2.FrameRSTStream }))
		_ = s.WriteWindowUpdate(0, 1<<20)
		reset <- errors.Join(err, s.request())
		s.begin()
		s.message("answer")
		s.headers(true, "grpc-status", "0")
	}()
	calls := unary.New(client)
	var failed *unary.Status
	if _, err := calls.Call("/t/echo", make([]byte, 1<<20), soon()); !errors.As(err, &failed) || failed.Code != unary.ResourceExhausted {
		t.Errorf("%v", err)
	}
	answer, err := calls.Call("/t/echo", nil, soon())
	if err != nil || string(answer) != "answer" {
		t.Errorf("%q, %v", answer, err)
	}
	if err := <-reset; err != nil {
		t.Error(err)
	}
}

// TestBrokenStaysBroken: after a call that was left unfinished there is no other.
func TestBrokenStaysBroken(t *testing.T) {
	client, conn := pair(t)
	conn.Close()
	calls := unary.New(client)
	for range 2 {
		var failed *unary.Status
		if _, err := calls.Call("/t/echo", nil, soon()); !errors.As(err, &failed) || failed.Code != unary.Unavailable {
			t.Errorf("%v", err)
		}
	}
}
