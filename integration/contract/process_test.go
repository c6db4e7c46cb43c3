package contract

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/clearway/clearway/integration/lab"
)

// The four programs.
const (
	ipamdProgram = "clearway-ipamd"
	agentProgram = "clearway-agent"
	ctlProgram   = "clearwayctl"
	cniProgram   = "clearway-ipam"
)

// Deadlines: far beyond what a healthy program needs on a busy machine. Nothing is asserted of the time itself.
const (
	soon    = 30 * time.Second // until something that happens in the background is seen
	callEnd = 40 * time.Second // until a command that is to end has ended
)

// nextPort counts ports up from below the ephemeral ones: in this namespace nobody else takes any.
var nextPort atomic.Int32

func freeAddress() string { return fmt.Sprintf("127.0.0.1:%d", 20000+nextPort.Add(1)) }

// answer is what a command that ended left.
type answer struct {
	argv        []string
	code        int
	out, errOut string
}

func (a answer) String() string {
	return fmt.Sprintf("%s: exit %d\nstdout: %s\nstderr: %s", strings.Join(a.argv, " "), a.code, a.out, a.errOut)
}

// says fails the test unless the command ended with this code and its standard error holds each of the words.
func (a answer) says(t testing.TB, code int, words ...string) answer {
	t.Helper()
	if a.code != code {
		t.Fatalf("exit code %d is wanted: %s", code, a)
	}
	for _, word := range words {
		if !strings.Contains(a.errOut, word) {
			t.Errorf("stderr lacks %q: %s", word, a)
		}
	}
	return a
}

// shows fails the test unless the command succeeded and its standard output holds each of the words.
func (a answer) shows(t testing.TB, words ...string) answer {
	t.Helper()
	if err := a.lacks(words...); err != nil {
		t.Fatal(err)
	}
	return a
}

// lacks is nil when the command succeeded and its standard output holds each of the words.
func (a answer) lacks(words ...string) error {
	if a.code != 0 {
		return fmt.Errorf("it failed: %s", a)
	}
	for _, word := range words {
		if !strings.Contains(a.out, word) {
			return fmt.Errorf("stdout lacks %q: %s", word, a)
		}
	}
	return nil
}

// command is one call of a program that is to end by itself.
type command struct {
	stdin string
	env   []string // "NAME=value", beside PATH
	uid   uint32   // of the user who calls
}

// environ has no variable of Clearway's from outside.
func environ(more ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LANG=C.UTF-8"}, more...)
}

func (c command) run(t testing.TB, program string, argv ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callEnd)
	defer cancel()
	cmd := exec.CommandContext(ctx, binaries.path(t, program), argv...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.stdin), &out, &errOut
	cmd.Env, cmd.Dir, cmd.WaitDelay, cmd.SysProcAttr = environ(c.env...), t.TempDir(), time.Second, mortal()
	if c.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.uid, Gid: c.uid}
	}
	err := cmd.Run()
	got := answer{argv: append([]string{program}, argv...), out: out.String(), errOut: errOut.String()}
	if ctx.Err() != nil {
		t.Fatalf("it does not end: %s", got)
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got.code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return got
}

// mortal ends a program with the tests, also when those are killed.
func mortal() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// run calls a program with nothing on its standard input.
func run(t testing.TB, program string, argv ...string) answer {
	t.Helper()
	return command{}.run(t, program, argv...)
}

// process is a program that goes on running until the test ends.
type process struct {
	name string
	argv []string
	env  []string
	cmd  *exec.Cmd
	log  *lines
	done chan struct{} // closed when it has ended
}

// lines take what a process writes while the test reads it.
type lines struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *lines) Write(part []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(part)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// start runs a program until the test ends, at the latest; a failed test shows what it wrote.
func start(t testing.TB, env []string, program string, argv ...string) *process {
	t.Helper()
	cmd := exec.Command(binaries.path(t, program), argv...)
	cmd.Env = environ(env...)
	p := launch(t, program, cmd)
	p.argv, p.env = argv, env
	return p
}

// launch is start for any command.
func launch(t testing.TB, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{name: name, cmd: cmd, log: &lines{}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr, cmd.Dir = p.log, p.log, t.TempDir()
	cmd.SysProcAttr = mortal()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // its exit code is in ProcessState
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("--- %s %s: %v\n%s", p.name, strings.Join(p.argv, " "), p.cmd.ProcessState, p.log)
		}
	})
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// restart starts a program that has ended again.
func (p *process) restart(t testing.TB) *process {
	t.Helper()
	<-p.done
	return start(t, p.env, p.name, p.argv...)
}

// end sends a signal, waits for the end and returns the exit code.
func (p *process) end(t testing.TB, signal syscall.Signal) int {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	return p.exit(t)
}

// exit waits until the program ends by itself.
func (p *process) exit(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(soon):
		t.Fatalf("%s does not end", p.name)
		return -1
	}
}

// logs waits until the process has written each of the texts.
func (p *process) logs(t testing.TB, texts ...string) {
	t.Helper()
	for _, text := range texts {
		eventually(t, fmt.Sprintf("%s to log %q", p.name, text), func() error {
			if !strings.Contains(p.log.String(), text) {
				return errors.New("it has not")
			}
			return nil
		})
	}
}

func eventually(t testing.TB, what string, fn func() error) {
	t.Helper()
	lab.Eventually(t, soon, what, fn)
}

// get asks a process's metrics server.
func get(address, path string) (int, string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + address + path)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// ready waits until a process says that it is.
func ready(t testing.TB, p *process, metrics string) {
	t.Helper()
	eventually(t, p.name+" to be ready", func() error {
		code, text, err := get(metrics, "/readyz")
		if err == nil && code != http.StatusOK {
			err = errors.New(text)
		}
		return err
	})
}

// scrape reads a process's metrics.
func scrape(t testing.TB, metrics string) string {
	t.Helper()
	code, text, err := get(metrics, "/metrics")
	if err != nil || code != 200 {
		t.Fatalf("metrics: %d %v", code, err)
	}
	return text
}
