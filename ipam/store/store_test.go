package store

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/clearway/clearway/ipam/store/record"
	"github.com/clearway/clearway/ipam/store/storetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// etcd never stops its process-wide logger of gRPC's old tracing, nor lumberjack's.
		goleak.IgnoreTopFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"),
	)
}

func openEmbeddedIn(t *testing.T, dir string) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := Open(ctx, Options{DataDir: dir, Logger: slog.New(slog.DiscardHandler), OfficeTTL: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEmbeddedConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Store {
		s := openEmbeddedIn(t, t.TempDir())
		t.Cleanup(func() { _ = s.Close() })
		return s
	})
}

func TestRestartTakesOfficeAtOnce(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	first := openEmbeddedIn(t, dir)
	old, err := first.Campaign(ctx, "a:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Commit(ctx, old, record.Txn{Ops: []record.Op{{Key: "nodes/a", Value: []byte("x")}}}); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil { // without Resign: the key stays, on a lease of 30 s
		t.Fatal(err)
	}
	start := time.Now()
	second := openEmbeddedIn(t, dir)
	defer func() { _ = second.Close() }()
	opened := time.Since(start)
	term, err := second.Campaign(ctx, "a:1")
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("in office after %s", took)
	} else {
		t.Logf("open after %s, in office after %s", opened, took)
	}
	if got, ok, err := second.Get(ctx, "nodes/a"); err != nil || !ok || string(got.Value) != "x" {
		t.Errorf("what was written is lost: %+v %v %v", got, ok, err)
	}
	if term.Revision <= old.Revision {
		t.Errorf("terms do not rise: %d after %d", term.Revision, old.Revision)
	}
}

func TestDataFolderIsForOneProcessAndItsOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := openEmbeddedIn(t, dir)
	defer func() { _ = s.Close() }()
	_, err := Open(context.Background(), Options{DataDir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second process: got %v", err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder is %v, %v", info.Mode(), err)
	}
}

func TestOneOfFolderAndEndpoints(t *testing.T) {
	for _, options := range []Options{{}, {DataDir: "x", Endpoints: []string{"http://127.0.0.1:1"}}} {
		options.Logger = slog.New(slog.DiscardHandler)
		if _, err := Open(context.Background(), options); err == nil {
			t.Errorf("%+v was taken", options)
		}
	}
}

func TestUnreachableClusterIsAnErrorInTime(t *testing.T) {
	s, err := Open(context.Background(), Options{
		Endpoints: []string{"http://127.0.0.1:1"}, CallTimeout: 200 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	start := time.Now()
	if _, _, err := s.Get(context.Background(), "nodes/a"); err == nil {
		t.Error("no error")
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}
