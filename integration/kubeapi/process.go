package kubeapi

import (
	"bytes"
	"context"
	"net"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// FreeAddress is an address of loopback with a port that nobody listens at now.
func FreeAddress(t testing.TB) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// Process is a program that goes on running until the test ends.
type Process struct {
	cmd  *exec.Cmd
	log  *lines
	done chan struct{} // closed when it has ended
}

// lines take what a process writes while the test reads it. Only the end is kept.
type lines struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

// keptLog is how much of a process's log is kept at least.
const keptLog = 1 << 20

func (l *lines) Write(part []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() > 2*keptLog {
		l.text.Next(l.text.Len() - keptLog)
	}
	return l.text.Write(part)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// command prepares a program, in a network namespace by its file, or in ours. Launch ends it.
func command(network string, argv ...string) *exec.Cmd {
	if network != "" {
		argv = append([]string{"nsenter", "--net=" + network, "--"}, argv...)
	}
	return exec.CommandContext(context.Background(), argv[0], argv[1:]...)
}

// Launch runs a command until the test ends, at the latest; a failed test shows the end of what it wrote.
func Launch(t testing.TB, name string, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{cmd: cmd, log: &lines{}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if cmd.Dir == "" {
		cmd.Dir = t.TempDir()
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// Pdeathsig goes by the thread that forks, and threads of a lab come and go: this one stays as long as the process does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in ProcessState
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			text := p.log.String()
			t.Logf("--- %s: %v\n%s", name, cmd.ProcessState, text[max(len(text)-8<<10, 0):])
		}
	})
	return p
}

// Kill ends it as the kernel would, without warning, and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// Signal sends it a signal.
func (p *Process) Signal(signal syscall.Signal) { _ = p.cmd.Process.Signal(signal) }

// Log is the end of what it has written.
func (p *Process) Log() string { return p.log.String() }

// Ended tells whether it has.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Eventually waits until look returns nil, and fails the test with what it said last when that takes too long.
func Eventually(t testing.TB, within time.Duration, what string, look func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, within, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
