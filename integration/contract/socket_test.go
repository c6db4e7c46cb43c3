package contract

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSocketUsers: the agent's socket is root's alone, by its mode, and by who calls where somebody has opened it; further
// users are let in when they are named.
func TestSocketUsers(t *testing.T) {
	const stranger = 4711
	i := readyIpamd(t)
	as := func(uid uint32, socket string) answer {
		reachable(t, binaries.path(t, ctlProgram), socket)
		return command{uid: uid}.run(t, ctlProgram, "--socket", socket, "--timeout=3s", "get", "blocks")
	}
	a := startAgent(t, "n1", i.address, "--insecure")
	ready(t, a.process, a.metrics)
	if info, err := os.Stat(a.socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v, %v", info.Mode(), err)
	}
	as(0, a.socket).says(t, 0)
	as(stranger, a.socket).says(t, 1, "permission denied")
	if err := os.Chmod(a.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	as(stranger, a.socket).says(t, 1, "does not allow", "uid 4711", "may not use this socket: uid 0 may", "--socket-uids")
	as(0, a.socket).says(t, 0)
	a.logs(t, "a call at the socket is refused", "reason=uid", "uid 4711")
	if text := scrape(t, a.metrics); !strings.Contains(text, `clearway_socket_refusals_total{method="/clearway.v1.ResourceService/List",reason="uid"} 1`) {
		t.Error("the refusal is not counted")
	}
	a.kill()

	open := startAgent(t, "n2", i.address, "--insecure", "--socket-uids", "4711")
	ready(t, open.process, open.metrics)
	if info, err := os.Stat(open.socket); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("the socket's mode is %v, %v", info.Mode(), err)
	}
	as(stranger, open.socket).says(t, 0)
	as(stranger+1, open.socket).says(t, 1, "uid 4712", "uid 0, 4711 may")
	run(t, agentProgram, "--node=n3", "--insecure", "--socket-uids=alice").says(t, 2, "--socket-uids", `"alice" is no user's number`)
}

// reachable lets every user into the temporary folders on the way to files.
func reachable(t testing.TB, files ...string) {
	t.Helper()
	for _, file := range files {
		for dir := filepath.Dir(file); strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
}
