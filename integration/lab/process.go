package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// command prepares a command for the node. It is started inside, where its path is looked up too.
func (n *Node) command(ctx context.Context, argv, env []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Err = nil // the host's PATH has no say
	cmd.Path = argv[0]
	cmd.Dir = "/"
	cmd.Env = append(n.environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// nodePATH has Clearway's binaries first.
const nodePATH = binPath + ":" + binPath + "/cni:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/frr"

func (n *Node) environ() []string {
	env := []string{"PATH=" + nodePATH, "HOME=/", "LANG=C.UTF-8"}
	if term := os.Getenv("TERM"); term != "" {
		env = append(env, "TERM="+term)
	}
	for key, value := range n.Spec.Env {
		env = append(env, key+"="+value)
	}
	return env
}

func (n *Node) startInside(network *os.File, cmd *exec.Cmd) error {
	child, err := n.running()
	if err != nil {
		return err
	}
	return child.inside(network, func() error {
		path, err := lookPath(cmd.Path)
		if err != nil {
			return err
		}
		cmd.Path = path
		return cmd.Start()
	})
}

// lookPath finds a program as the node sees it.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(nodePATH, ":") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w (looked in %s)", name, exec.ErrNotFound, nodePATH)
}

// ExitError is a command in a node that did not succeed, with what it wrote.
type ExitError struct {
	Node           string
	Argv           []string
	Err            error
	Stdout, Stderr string
}

// Error shows the command and the end of what it wrote.
func (e *ExitError) Error() string {
	text := fmt.Sprintf("%s: %s: %v", e.Node, strings.Join(e.Argv, " "), e.Err)
	for _, output := range []string{e.Stdout, e.Stderr} {
		if output = strings.TrimSpace(tail(output, 2000)); output != "" {
			text += "\n" + output
		}
	}
	return text
}

// Unwrap gives the cause, an *exec.ExitError for a command that ran and failed.
func (e *ExitError) Unwrap() error { return e.Err }

// Code is the command's exit code, or -1 when it did not exit by itself.
func (e *ExitError) Code() int {
	if exit := (*exec.ExitError)(nil); errors.As(e.Err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

func tail(text string, size int) string {
	if len(text) <= size {
		return text
	}
	return "... " + text[len(text)-size:]
}

// Exec runs a command in the node and returns what it wrote to standard output. One that fails is an *ExitError.
func (n *Node) Exec(ctx context.Context, argv ...string) (string, error) {
	return n.run(ctx, nil, nil, nil, argv)
}

// ExecWith is Exec with something to read on standard input, and further variables ("NAME=value").
func (n *Node) ExecWith(ctx context.Context, stdin []byte, env []string, argv ...string) (string, error) {
	return n.run(ctx, nil, stdin, env, argv)
}

func (n *Node) run(ctx context.Context, network *os.File, stdin []byte, env, argv []string) (string, error) {
	if len(argv) == 0 {
		return "", fmt.Errorf("%s: no command given", n.Spec.Name)
	}
	var stdout, stderr bytes.Buffer
	cmd := n.command(ctx, argv, env)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	err := n.startInside(network, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err == nil {
		return stdout.String(), nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", ctx.Err(), err)
	}
	return stdout.String(), &ExitError{Node: n.Spec.Name, Argv: argv, Err: err, Stdout: stdout.String(), Stderr: stderr.String()}
}

// Process is a program that was started in a node and is left running.
type Process struct {
	Name string
	// Log is the file that holds what it writes, on the host.
	Log string

	node *Node
	argv []string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended; err is set before
	err  error
}

// Start runs a program in the node and leaves it running. A name is for one program at a time; what it writes is
// appended to the name's log.
func (n *Node) Start(name string, argv ...string) (*Process, error) {
	if len(argv) == 0 {
		return nil, fmt.Errorf("%s: %s: no command given", n.Spec.Name, name)
	}
	n.mu.Lock()
	old := n.processes[name]
	n.mu.Unlock()
	if old != nil && old.Running() {
		return nil, fmt.Errorf("%s: %s is running already", n.Spec.Name, name)
	}
	log := filepath.Join(n.dir, "log", name+".log")
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.Spec.Name, err)
	}
	defer file.Close()
	p := &Process{Name: name, Log: log, node: n, argv: argv, done: make(chan struct{})}
	p.cmd = n.command(context.Background(), argv, nil)
	p.cmd.Cancel, p.cmd.WaitDelay = nil, 0
	p.cmd.Stdout, p.cmd.Stderr = file, file
	if err := n.startInside(nil, p.cmd); err != nil {
		return nil, fmt.Errorf("%s: start %s: %w", n.Spec.Name, name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	n.mu.Lock()
	n.processes[name] = p
	n.mu.Unlock()
	return p, nil
}

// PID is the process's number on the host.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Running tells whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Kill sends a signal and, when it is one that ends a process, waits until it has.
func (p *Process) Kill(ctx context.Context, signal syscall.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: signal %s: %w", p.node.Spec.Name, p.Name, err)
	}
	if signal != syscall.SIGKILL && signal != syscall.SIGTERM && signal != syscall.SIGINT {
		return nil
	}
	return p.Wait(ctx)
}

// Wait returns when the process has ended, however it did.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %s goes on running: %w", p.node.Spec.Name, p.Name, ctx.Err())
	}
}

// Restart starts the ended process again, with the same command.
func (p *Process) Restart() (*Process, error) { return p.node.Start(p.Name, p.argv...) }

// Tail returns the last lines of the process's log.
func (p *Process) Tail(lines int) string {
	file, err := os.Open(p.Log)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > 64<<10 {
		_, _ = file.Seek(-64<<10, io.SeekEnd)
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
