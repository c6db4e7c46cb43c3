package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// listen serves health with the TLS files, and notes each call's authorization.
func listen(t *testing.T, files TLS) (address string, heard chan []string) {
	t.Helper()
	heard = make(chan []string, 10)
	creds, err := files.ServerCredentials(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	address = serveWith(t, append(ServerOptions(creds), grpc.UnaryInterceptor(
		func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			heard <- metadata.ValueFromIncomingContext(ctx, "authorization")
			return handle(ctx, request)
		})))
	return address, heard
}

// callWithToken makes one call over a new connection with what the flags say.
func callWithToken(t *testing.T, address string, files TLS) error {
	t.Helper()
	creds, err := files.ClientCredentials(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := Dial(address, creds, files.CallOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	return err
}

func TestTokenInPlaceOfACertificate(t *testing.T) {
	authority := newAuthority(t, "one")
	server := authority.issue(t, t.TempDir(), "server")
	server.AcceptTokens = true
	address, heard := listen(t, server)
	token := filepath.Join(t.TempDir(), "token")
	writeToken := func(text string) {
		if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	client := TLS{CA: server.CA, TokenFile: token}
	if err := callWithToken(t, address, client); err == nil || !strings.Contains(err.Error(), "--token-file: open") {
		t.Errorf("without the file: %v", err)
	}
	writeToken("one.two.three\n")
	if err := callWithToken(t, address, client); err != nil {
		t.Fatal(err)
	}
	if got := <-heard; len(got) != 1 || got[0] != "Bearer one.two.three" {
		t.Errorf("heard %q", got)
	}
	// A certificate is taken as before; one of another authority is not.
	if err := callWithToken(t, address, authority.issue(t, t.TempDir(), "client")); err != nil {
		t.Error(err)
	}
	<-heard
	stranger := newAuthority(t, "other").issue(t, t.TempDir(), "client")
	stranger.CA = server.CA
	if err := callWithToken(t, address, stranger); err == nil {
		t.Error("a certificate of another authority was taken")
	}
	// A server that takes no tokens says so before it hears one.
	server.AcceptTokens = false
	strict, heard := listen(t, server)
	err := callWithToken(t, strict, client)
	if err == nil || !strings.Contains(status.Convert(err).Message(), "the server takes no caller without a certificate") {
		t.Errorf("a strict server: %v", err)
	}
	if len(heard) != 0 {
		t.Error("it heard the token")
	}
}

func TestTokenFileIsReadAgain(t *testing.T) {
	name := filepath.Join(t.TempDir(), "token")
	file, now := &tokenFile{name: name}, time.Now()
	for _, step := range []struct {
		content string // "-": the file is not there
		later   time.Duration
		want    string
		fault   string
	}{
		{"-", 0, "", "no such file"},
		{"", 0, "", "it is empty"},
		{"two words", 0, "", "a token is one word"},
		{strings.Repeat("x", maxTokenBytes+1), 0, "", "it has more than 8192 bytes"},
		{"first\n", 0, "first", ""},
		{"second", tokenEvery / 2, "first", ""},
		{"second", tokenEvery, "second", ""},
		{"-", tokenEvery, "second", ""}, // in the middle of a rotation
	} {
		now = now.Add(step.later)
		if step.content == "-" {
			_ = os.Remove(name)
		} else if err := os.WriteFile(name, []byte(step.content), 0o600); err != nil {
			t.Fatal(err)
		}
		token, err := file.current(now)
		if token != step.want || (err == nil) != (step.fault == "") || err != nil && !strings.Contains(err.Error(), step.fault) {
			t.Errorf("%.20q: %q, %v", step.content, token, err)
		}
	}
}

func TestTokenFlags(t *testing.T) {
	for _, c := range []struct {
		flags TLS
		want  string
	}{
		{TLS{TokenFile: "t", CA: "c"}, ""},
		{TLS{TokenFile: "t"}, "--token-file also wants --tls-ca"},
		{TLS{TokenFile: "t", CA: "c", Insecure: true}, "--insecure and --token-file exclude each other"},
		{TLS{TokenFile: "t", CA: "c", Cert: "x", Key: "y"}, "--token-file and --tls-cert with --tls-key exclude each other"},
	} {
		err := c.flags.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.flags, err)
		}
	}
}
