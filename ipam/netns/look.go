package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/ipam/proof"
)

// Sight looks where a namespace was.
func (f *Finder) Sight(n proof.Namespace) proof.Sighting {
	var s proof.Sighting
	self, err := stat(n.Path)
	switch {
	case err == nil && self.Device == f.device:
		s.Self = self
	case err == nil:
	case missing(err):
		s.Missing = true
	default:
		s.Fault = err.Error()
	}
	if strings.HasPrefix(n.Path, procFolder) {
		return s
	}
	if s.Folder, err = stat(filepath.Dir(n.Path)); err != nil && !missing(err) {
		s.Fault = err.Error()
	}
	return s
}

// missing tells whether nothing has the name, or its process is gone.
func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

// Look looks at every network namespace of the machine, and at the host's routes and neighbours.
func (f *Finder) Look(ctx context.Context) proof.View {
	type result struct {
		view proof.View
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// The thread goes from namespace to namespace, and ends with this goroutine: nothing else ever runs on it.
		runtime.LockOSThread()
		view, err := f.look(ctx)
		done <- result{view, err}
	}()
	r := <-done
	if r.err != nil {
		r.view.Fault = r.err.Error()
	}
	return r.view
}

func (f *Finder) look(ctx context.Context) (proof.View, error) {
	var view proof.View
	if err := f.seesAll(); err != nil {
		return view, err
	}
	reached, err := reached() // before the thread leaves the host's namespace
	if err != nil {
		return view, err
	}
	view.Reached = reached
	found, err := f.survey(ctx)
	if err != nil {
		return view, err
	}
	places := places{}
	for self, paths := range found {
		if ctx.Err() != nil {
			return view, fmt.Errorf("it takes too long: %w", ctx.Err())
		}
		if err := places.visit(self, paths); err != nil {
			return view, err
		}
	}
	view.Places = places
	return view, nil
}

// firstProcesses is the number of the first process namespace's file (PROC_PID_INIT_INO): all processes are in it.
const firstProcesses = 0xEFFFFFFC

// seesAll is nil when the processes in /proc are all those that runtimes start.
func (f *Finder) seesAll() error {
	own, err := stat("/proc/self/ns/pid")
	if err != nil {
		return fmt.Errorf("the processes cannot be seen: %w", err)
	}
	switch caller := f.caller.Load(); {
	case caller < 0:
		return errors.New("processes of the host are not in this /proc: the agent needs the host's process namespace (hostPID)")
	case own.Inode != firstProcesses && caller == 0:
		return errors.New("this is not the machine's first process namespace, and no plugin has called yet that would show " +
			"whether its processes are visible here")
	}
	return nil
}

// Caller tells of a process that called on the agent's socket, by its number in this process namespace; 0 means that it
// has none here, and so that there are processes that cannot be seen.
func (f *Finder) Caller(pid int32) {
	if pid == 0 {
		pid = -1
	}
	f.caller.Store(pid)
}

// survey finds the network namespaces of all processes and mounts, each with the paths that lead to it.
func (f *Finder) survey(ctx context.Context) (map[proof.File][]string, error) {
	found := map[proof.File][]string{}
	processes, err := os.ReadDir(procFolder)
	if err != nil {
		return nil, fmt.Errorf("the processes cannot be listed: %w", err)
	}
	mounts := map[proof.File]bool{}
	// Our own mounts come first: paths by which the namespace can be found again.
	for _, process := range append([]string{"self"}, numbers(processes)...) {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("it takes too long: %w", ctx.Err())
		}
		folder := procFolder + process
		if err := f.surveyProcess(folder, found, mounts); err != nil {
			if _, gone := stat(folder); missing(gone) {
				continue // it ended meanwhile
			}
			return nil, err
		}
	}
	return found, nil
}

func numbers(entries []os.DirEntry) []string {
	var names []string
	for _, entry := range entries {
		if c := entry.Name()[0]; c >= '0' && c <= '9' {
			names = append(names, entry.Name())
		}
	}
	return names
}

func (f *Finder) surveyProcess(folder string, found map[proof.File][]string, mounts map[proof.File]bool) error {
	space, err := stat(folder + "/ns/mnt")
	if missing(err) {
		return nil // it has ended, and waits for its parent: it is in no namespace
	}
	if err != nil {
		return fmt.Errorf("the namespaces of process %s cannot be seen: %w", filepath.Base(folder), err)
	}
	if !mounts[space] {
		mounts[space] = true
		if err := f.surveyMounts(folder, found); err != nil {
			return err
		}
	}
	self, err := stat(folder + "/ns/net")
	if missing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the network namespace of process %s cannot be seen: %w", filepath.Base(folder), err)
	}
	if len(found[self]) < maxPaths {
		found[self] = append(found[self], folder+"/ns/net")
	}
	return nil
}

// maxPaths is how many paths to one namespace are kept: more than one, as any of them may go meanwhile.
const maxPaths = 4

// surveyMounts finds the namespaces that are mounted where a process sees mounts.
func (f *Finder) surveyMounts(folder string, found map[proof.File][]string) error {
	text, err := os.ReadFile(folder + "/mountinfo")
	if missing(err) || errors.Is(err, unix.EINVAL) { // EINVAL: it has ended
		return nil
	}
	if err != nil {
		return fmt.Errorf("the mounts of process %s cannot be seen: %w", filepath.Base(folder), err)
	}
	root := folder + "/root"
	if folder == procFolder+"self" {
		root = ""
	}
	for line := range strings.Lines(string(text)) {
		inode, point, ok := mounted(line)
		if !ok {
			continue
		}
		self := proof.File{Device: f.device, Inode: inode}
		if len(found[self]) < maxPaths {
			found[self] = append(found[self], root+point)
		}
	}
	return nil
}
