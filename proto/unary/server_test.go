package unary_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/clearway/clearway/proto/unary"
)

// serve is a gRPC server whose methods are named for what they do with a message of bytes; it returns a connection to
// it.
func serve(t testing.TB, options ...grpc.ServerOption) net.Conn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(append(options, grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(answer))...)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Stop(); <-served })
	return conn
}

func answer(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	var question []byte
	if err := stream.RecvMsg(&question); err != nil {
		return err
	}
	switch method {
	case "/t/echo":
		return stream.SendMsg(&question)
	case "/t/fail":
		code, text, _ := strings.Cut(string(question), " ")
		var number uint32
		_, _ = fmt.Sscan(code, &number)
		return status.Error(codes.Code(number), text)
	case "/t/chatter":
		_ = stream.SendHeader(metadata.Pairs("a", strings.Repeat("x", 9000)))
		stream.SetTrailer(metadata.Pairs("b-bin", "\x00"))
		return stream.SendMsg(&question)
	case "/t/timeout":
		until, _ := stream.Context().Deadline()
		left := fmt.Append(nil, time.Until(until) > 18*time.Second && time.Until(until) <= 20*time.Second)
		return stream.SendMsg(&left)
	case "/t/sleep":
		<-stream.Context().Done()
		return status.FromContextError(stream.Context().Err()).Err()
	}
	return status.Error(codes.Unimplemented, "no such method")
}

// TestStatuses: each code and any text arrive as they were sent.
func TestStatuses(t *testing.T) {
	calls := unary.New(serve(t))
	for code := range codes.Unauthenticated + 3 {
		if code == codes.OK {
			continue
		}
		text := "ü% \n" + code.String() + "\x00%41"
		_, err := calls.Call("/t/fail", fmt.Appendf(nil, "%d %s", uint32(code), text), soon())
		var failed *unary.Status
		if !errors.As(err, &failed) || uint32(failed.Code) != uint32(code) || failed.Message != text || failed.Code.String() != code.String() {
			t.Errorf("%v: %q", code, err)
		}
	}
	if answer, err := calls.Call("/t/echo", []byte("still here"), soon()); err != nil || string(answer) != "still here" {
		t.Errorf("%q, %v", answer, err)
	}
}

// TestCallsOfEverySize makes calls one after another on one connection, whatever the server's windows.
func TestCallsOfEverySize(t *testing.T) {
	for name, options := range map[string][]grpc.ServerOption{
		"default": nil,
		"large":   {grpc.InitialWindowSize(1 << 24), grpc.InitialConnWindowSize(1 << 24)},
		"packed":  {grpc.HeaderTableSize(0)},
	} {
		t.Run(name, func(t *testing.T) {
			calls := unary.New(serve(t, options...))
			rapid.Check(t, func(t *rapid.T) {
				size := rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(16_300, 16_500), rapid.IntRange(65_400, 65_600),
					rapid.IntRange(0, unary.MaxAnswer)).Draw(t, "size")
				method := rapid.SampledFrom([]string{"/t/echo", "/t/chatter"}).Draw(t, "method")
				question := make([]byte, size)
				_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(question)
				got, err := calls.Call(method, question, soon())
				if err != nil || !bytes.Equal(got, question) {
					t.Fatalf("%d bytes of %d, %v", len(got), size, err)
				}
			})
		})
	}
}

func TestAnswerTooLarge(t *testing.T) {
	_, err := unary.New(serve(t)).Call("/t/echo", make([]byte, unary.MaxAnswer+1), soon())
	var failed *unary.Status
	if !errors.As(err, &failed) || failed.Code != unary.ResourceExhausted {
		t.Errorf("%v", err)
	}
}

// TestServerKnowsTheDeadline: it is told, and its word on it is taken.
func TestServerKnowsTheDeadline(t *testing.T) {
	calls := unary.New(serve(t))
	if told, err := calls.Call("/t/timeout", nil, soon()); err != nil || string(told) != "true" {
		t.Errorf("%s, %v", told, err)
	}
	var failed *unary.Status
	if _, err := calls.Call("/t/sleep", nil, time.Now().Add(50*time.Millisecond)); !errors.As(err, &failed) || failed.Code != unary.DeadlineExceeded {
		t.Errorf("%v", err)
	}
}

// TestDetails: they are handed on as the server sent them.
func TestDetails(t *testing.T) {
	client, conn := pair(t)
	go func() {
		s := newServer(conn)
		if s.greet() == nil && s.request() == nil {
			s.headers(true, ":status", "200", "content-type", "application/grpc", "grpc-status", "5", "grpc-status-details-bin", "CAUSAXg=")
		}
	}()
	var failed *unary.Status
	if _, err := unary.New(client).Call("/t/echo", nil, soon()); !errors.As(err, &failed) || string(failed.Details) != "\x08\x05\x12\x01x" {
		t.Errorf("%v", err)
	}
}

// tape is a server that says what is on it, in pieces of some size, whatever it hears.
type tape struct {
	io.Reader
	piece int
}

func (t *tape) Read(into []byte) (int, error)       { return t.Reader.Read(into[:min(len(into), t.piece)]) }
func (*tape) Write(from []byte) (int, error)        { return len(from), nil }
func (*tape) SetReadDeadline(time.Time) error       { return nil }
func (*tape) SetWriteDeadline(time.Time) error      { return nil }
func listen(said []byte, piece int) unary.Transport { return &tape{bytes.NewReader(said), piece} }

// FuzzServer plays any bytes to the client: it ends, with an answer or a status, and the same however they are cut.
func FuzzServer(f *testing.F) {
	for _, play := range []func(*server){
		func(s *server) { s.begin(); s.message("answer"); s.headers(true, "grpc-status", "0") },
		func(s *server) {
			s.headers(true, ":status", "200", "content-type", "application/grpc", "grpc-status", "5", "grpc-message", "no%20such", "grpc-status-details-bin", "CAU")
		},
		func(s *server) {
			block := s.pack(":status", "200", "content-type", "application/grpc")
			_ = s.WritePing(false, [8]byte{1})
			_ = s.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:1], PadLength: 3, Priority: http2.PriorityParam{Weight: 1}})
			_ = s.WriteContinuation(1, true, block[1:])
			_ = s.WriteDataPadded(1, true, framed("x"), make([]byte, 5))
		},
		func(s *server) { _ = s.WriteWindowUpdate(0, 1<<31-1); _ = s.WriteRSTStream(1, 7) },
		func(s *server) { _ = s.WriteGoAway(1, 0, nil); _ = s.WriteGoAway(0, 0, nil) },
	} {
		var said bytes.Buffer
		s := newServer(nil)
		s.Framer, s.stream = http2.NewFramer(&said, nil), 1
		_ = s.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 70_000})
		play(s)
		f.Add(said.Bytes())
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		deadline := soon()
		whole, err := unary.New(listen(said, len(said)+1)).Call("/t/echo", []byte("question"), deadline)
		pieces, again := unary.New(listen(said, 1)).Call("/t/echo", []byte("question"), deadline)
		if !bytes.Equal(whole, pieces) || fmt.Sprint(err) != fmt.Sprint(again) {
			t.Fatalf("whole: %q, %v; in pieces: %q, %v", whole, err, pieces, again)
		}
		var failed *unary.Status
		if len(whole) > unary.MaxAnswer || err != nil && (!errors.As(err, &failed) || failed.Code == unary.OK) {
			t.Fatalf("%d bytes, %v", len(whole), err)
		}
	})
}
