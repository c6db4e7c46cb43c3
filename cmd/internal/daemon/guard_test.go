package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func newGuard(t *testing.T, uids ...uint32) (*SocketGuard, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	guard, err := NewSocketGuard(uids, slog.New(slog.DiscardHandler), registry)
	if err != nil {
		t.Fatal(err)
	}
	return guard, registry
}

// Root, the own user and the named ones are let in, and nobody else, least of all one who is not known.
func TestSocketGuardUsers(t *testing.T) {
	guard, _ := newGuard(t, 1000)
	guard.own = 7
	for _, c := range []struct {
		from process
		in   bool
	}{
		{process{known: true, uid: 0}, true}, {process{known: true, uid: 7}, true}, {process{known: true, uid: 1000}, true},
		{process{known: true, uid: 1001}, false}, {process{known: true, uid: 1<<32 - 2}, false}, {process{}, false},
	} {
		_, err := guard.judge(c.from)
		if (err == nil) != c.in {
			t.Errorf("%s: %v", c.from, err)
		}
		if err != nil && !strings.Contains(err.Error(), "uid 0, 7, 1000 may; --socket-uids names others") {
			t.Errorf("told %v", err)
		}
	}
}

// A further user who calls on and on is held back; root is not.
func TestSocketGuardRate(t *testing.T) {
	guard, _ := newGuard(t, 1000)
	refused := 0
	for range 10 * guardOthersBurst {
		if reason, err := guard.judge(process{known: true, uid: 1000}); status.Code(err) == codes.ResourceExhausted && reason == "rate" {
			refused++
		}
		if _, err := guard.judge(process{known: true}); err != nil {
			t.Fatal(err)
		}
	}
	if refused == 0 {
		t.Error("it is never refused")
	}
}

// Calls under way are bounded, and one that ends makes room.
func TestSocketGuardBusy(t *testing.T) {
	guard, registry := newGuard(t)
	guard.own = 7
	ctx := peerContext(t, process{known: true, uid: 7})
	for range guardMaxLists {
		if err := guard.admit(ctx, "/s/List", &guard.lists, guardMaxLists); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if err := guard.admit(ctx, "/s/List", &guard.lists, guardMaxLists); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("one too many: %v", err)
		}
	}
	guard.lists.Add(-1)
	if err := guard.admit(ctx, "/s/List", &guard.lists, guardMaxLists); err != nil {
		t.Error(err)
	}
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || families[0].GetMetric()[0].GetCounter().GetValue() != 3 {
		t.Errorf("counted %v, %v", families, err)
	}
}

// The kernel's word is read from a real socket.
func TestReadProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := ListenUnix(path, SocketGuarded)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	from, err := readProcess(conn)
	if err != nil || !from.known || from.uid != uint32(os.Geteuid()) || from.pid != int32(os.Getpid()) {
		t.Errorf("%s, %v", from, err)
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	if from, err := readProcess(ours); err == nil || from.known {
		t.Errorf("a pipe has a user: %s", from)
	}
}

func TestParseUIDs(t *testing.T) {
	if got, err := ParseUIDs("0, 1000,4294967294"); err != nil || fmt.Sprint(got) != "[0 1000 4294967294]" {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"-1", "root", "4294967295", "1.5"} {
		if _, err := ParseUIDs(bad); err == nil || !strings.Contains(err.Error(), "no user's number") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func peerContext(t *testing.T, from process) context.Context {
	return peer.NewContext(t.Context(), &peer.Peer{AuthInfo: from})
}
