package speaker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clearway/clearway/bgp/config"
)

// lab is two network namespaces with a link between them: "tor" (192.0.2.1, 2001:db8::1) and "node" (192.0.2.2,
// 2001:db8::2).
type lab struct {
	t         *testing.T
	tor, node string
	dir       string
}

var labs atomic.Int64

func newLab(t *testing.T) *lab {
	t.Helper()
	need(t, os.Geteuid() == 0, "root (for network namespaces)")
	id := fmt.Sprintf("cws%d-%d", os.Getpid(), labs.Add(1))
	l := &lab{t: t, tor: id + "t", node: id + "n", dir: t.TempDir()}
	for _, ns := range []string{l.tor, l.node} {
		l.must("ip", "netns", "add", ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
	}
	l.must("ip", "link", "add", "up0", "netns", l.tor, "type", "veth", "peer", "name", "up0", "netns", l.node)
	for i, ns := range []string{l.tor, l.node} {
		l.must("ip", "-n", ns, "addr", "add", fmt.Sprintf("192.0.2.%d/24", i+1), "dev", "up0")
		l.must("ip", "-n", ns, "addr", "add", fmt.Sprintf("2001:db8::%d/64", i+1), "dev", "up0", "nodad")
		l.must("ip", "-n", ns, "link", "set", "lo", "up")
		l.must("ip", "-n", ns, "link", "set", "up0", "up")
	}
	return l
}

// need skips loudly what the machine does not give, and fails where it must give it.
func need(t *testing.T, there bool, what string) {
	t.Helper()
	switch {
	case there:
	case os.Getenv("CI") == "true":
		t.Fatalf("this test needs %s, and CI=true", what)
	default:
		t.Skipf("SKIPPED: this test needs %s", what)
	}
}

func (l *lab) must(name string, args ...string) string {
	l.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// start runs a program in a namespace until the test ends.
func (l *lab) start(ns string, env []string, name string, args ...string) (*exec.Cmd, io.WriteCloser, *bufio.Scanner, *syncBuffer) {
	l.t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", ns, name}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	log := &syncBuffer{}
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if l.t.Failed() {
			l.t.Logf("%s in %s said:\n%s", name, ns, log)
		}
	})
	return cmd, in, bufio.NewScanner(out), log
}

// syncBuffer is a bytes.Buffer that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// bird starts BIRD as the router.
func (l *lab) bird(conf string) {
	l.t.Helper()
	bird, err := exec.LookPath("bird")
	if err != nil {
		bird = "/usr/sbin/bird"
	}
	_, err = os.Stat(bird)
	need(l.t, err == nil, "BIRD 2 (Debian's bird2)")
	file := filepath.Join(l.dir, "bird.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.start(l.tor, nil, bird, "-f", "-c", file, "-s", filepath.Join(l.dir, "bird.ctl"), "-P", filepath.Join(l.dir, "bird.pid"))
}

func (l *lab) birdc(command ...string) string {
	out, _ := exec.Command("birdc", append([]string{"-s", filepath.Join(l.dir, "bird.ctl")}, command...)...).CombinedOutput()
	return string(out)
}

// kernel are the routes that BIRD gave the router's kernel, of both families.
func (l *lab) kernel() string {
	return l.must("ip", "-n", l.tor, "-4", "route", "show", "proto", "bird") + l.must("ip", "-n", l.tor, "-6", "route", "show", "proto", "bird")
}

// child is a speaker in the node's namespace.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	mu    sync.Mutex
	view  childView
	log   *syncBuffer
}

func (l *lab) speaker(restarting bool) *child {
	l.t.Helper()
	return l.speakerIn(l.node, restarting)
}

func (l *lab) speakerIn(ns string, restarting bool) *child {
	l.t.Helper()
	start, _ := json.Marshal(childStart{Restarting: restarting})
	c := &child{}
	var lines *bufio.Scanner
	c.cmd, c.stdin, lines, c.log = l.start(ns, []string{childEnv + "=" + string(start)}, os.Args[0])
	go func() {
		lines.Buffer(nil, 1<<24)
		for lines.Scan() {
			var view childView
			if json.Unmarshal(lines.Bytes(), &view) == nil {
				c.mu.Lock()
				c.view = view
				c.mu.Unlock()
			}
		}
	}()
	return c
}

func (c *child) set(t *testing.T, desired config.Desired) {
	t.Helper()
	if err := json.NewEncoder(c.stdin).Encode(desired); err != nil {
		t.Fatal(err)
	}
}

func (c *child) sees() childView {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.view
}

// eventually waits until a condition holds; what tells what was seen instead.
func eventually(t *testing.T, within time.Duration, condition func() bool, what func() any) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s; seen last:\n%+v", within, what())
		}
		time.Sleep(10 * time.Millisecond)
	}
}
