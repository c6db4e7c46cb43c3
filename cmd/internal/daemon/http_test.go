package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestHTTPServer(t *testing.T) {
	defer goleak.VerifyNone(t)
	defer http.DefaultClient.CloseIdleConnections()
	var ready atomic.Bool
	options := HTTPOptions{
		Listen: "127.0.0.1:0", Gatherer: NewRegistry(), Logger: slog.New(slog.DiscardHandler),
		Ready: func() error {
			if ready.Load() {
				return nil
			}
			return errors.New("no leader is known")
		},
	}
	server, err := ListenHTTP(options)
	if err != nil {
		t.Fatal(err)
	}
	taken := options
	taken.Listen = server.Addr().String()
	if _, err := ListenHTTP(taken); err == nil || !strings.HasPrefix(err.Error(), "--metrics-listen: ") {
		t.Errorf("an address in use: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	get := func(path string) (int, string) {
		t.Helper()
		response, err := http.Get("http://" + server.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	for range 2 {
		if code, body := get("/healthz"); code != 200 || body != "ok\n" {
			t.Errorf("healthz: %d %q", code, body)
		}
		want, text := 503, "no leader is known\n"
		if ready.Load() {
			want, text = 200, "ok\n"
		}
		if code, body := get("/readyz"); code != want || body != text {
			t.Errorf("readyz: %d %q", code, body)
		}
		ready.Store(true)
	}
	if code, body := get("/metrics"); code != 200 || !strings.Contains(body, "clearway_build_info{") ||
		!strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics: %d %.200q", code, body)
	}
	if code, _ := get("/other"); code != 404 {
		t.Errorf("other: %d", code)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestHTTPServerOff(t *testing.T) {
	server, err := ListenHTTP(HTTPOptions{})
	if err != nil || server.Addr() != nil {
		t.Fatalf("%v, %v", server.Addr(), err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := server.Run(ctx); err != nil {
		t.Error(err)
	}
}
