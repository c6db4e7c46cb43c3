package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a daemon that a part runs in a namespace.
type process struct {
	name    string
	command *exec.Cmd
	log     string
	exited  chan struct{}
}

// start runs a daemon in a namespace, with its output in dir. The daemon has a process group of its own, so that
// Ctrl-C reaches the run alone, which then ends its daemons; and it dies with the run should that be killed.
func start(in *namespace, dir, path string, arguments ...string) (*process, error) {
	name := filepath.Base(path)
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	//nolint:noctx // stop ends it: a daemon first gets SIGTERM, which a context's end would not give it
	command := exec.Command(path, arguments...)
	command.Dir, command.Stdout, command.Stderr = dir, log, log
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// The daemon has a copy of the log's descriptor.
	if err := errors.Join(in.do(command.Start), log.Close()); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	started := &process{name: name, command: command, log: log.Name(), exited: make(chan struct{})}
	go func() {
		_ = command.Wait() // how it ended is in its log
		close(started.exited)
	}()
	return started, nil
}

// stop ends the daemon: it asks, then insists.
func (p *process) stop() {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		_ = syscall.Kill(-p.command.Process.Pid, signal) // it may have ended by itself
		select {
		case <-p.exited:
			return
		case <-time.After(5 * time.Second):
		}
	}
}

// check fails when the daemon has ended, with the end of its log.
func (p *process) check() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s has ended: %s", p.name, p.tail())
	default:
		return nil
	}
}

func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}

// residentBytes is what the process holds in memory (proc_pid_status(5), VmRSS).
func (p *process) residentBytes() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("memory of %s: %w", p.name, err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmRSS:" {
			kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
			return kilobytes << 10, err
		}
	}
	return 0, fmt.Errorf("memory of %s: no VmRSS", p.name)
}

// ticks is the CPU time that the process has used, in units of 10 ms (proc_pid_stat(5), utime and stime).
func (p *process) ticks() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.command.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("CPU time of %s: %w", p.name, err)
	}
	// The command's name may hold spaces; what follows its last parenthesis does not.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("CPU time of %s: stat has %d fields", p.name, len(fields))
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return user + system, errors.Join(err, err2)
}

// quiesce waits until none of the processes works any more, at most limit: what one contender does after a round must
// not slow the next one's.
func quiesce(ctx context.Context, limit time.Duration, processes ...*process) error {
	const window = 150 * time.Millisecond
	deadline := time.Now().Add(limit)
	last := int64(-1)
	for time.Now().Before(deadline) {
		var sum int64
		for _, each := range processes {
			used, err := each.ticks()
			if err != nil {
				return errors.Join(each.check(), err)
			}
			sum += used
		}
		if last >= 0 && sum-last <= 1 {
			return nil
		}
		last = sum
		if err := pause(ctx, window); err != nil {
			return err
		}
	}
	return nil
}

// pause waits for a while, or for the context's end, and says why it ended.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// eventually tries until it works, a process has ended, or the time is over; then it says what was wrong last.
func eventually(ctx context.Context, limit time.Duration, what string, of *process, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if ended := of.check(); ended != nil {
			return fmt.Errorf("%s: %w", what, ended)
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("%s, after %s: %w (%s)", what, limit, err, of.tail())
		}
	}
}
