package bfd

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/clearway/clearway/bgp/route"
)

// serve serves an engine on a socket in a folder until the test ends, and returns the socket's path.
func serve(t *testing.T, engine *Engine, folder string) string {
	t.Helper()
	path := filepath.Join(folder, "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	server := &Server{Engine: engine, File: filepath.Join(folder, "bfd.json"), Logger: slog.New(slog.DiscardHandler)}
	go func() { ended <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestCheckRefuses(t *testing.T) {
	good := watches(2, 1, false)[0]
	for name, spoil := range map[string]func(*route.Watch){
		"no peer":        func(w *route.Watch) { w.Peer = route.Watch{}.Peer },
		"multiplier 0":   func(w *route.Watch) { w.Multiplier = 0 },
		"no interval":    func(w *route.Watch) { w.MinTx = 0 },
		"a negative one": func(w *route.Watch) { w.MinRx = -time.Second },
	} {
		bad := good
		spoil(&bad)
		if check([]route.Watch{good, bad}) == nil {
			t.Errorf("%s is let through", name)
		}
	}
	if err := check([]route.Watch{good}); err != nil {
		t.Error(err)
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bfd.json")
	if left, err := load(file); err != nil || left.Sessions != nil {
		t.Errorf("no file: %+v, %v", left, err)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load(file); err == nil {
		t.Error("half a file is read")
	}
}
