package netns

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/ipam/proof"
)

// procFolder is where processes are; what lies in it has no lasting number.
const procFolder = "/proc/"

// Finder finds network namespaces. Make it with New.
type Finder struct {
	device uint64       // of all namespaces' files
	caller atomic.Int32 // the process of the last call on the agent's socket; 0: there was none; -1: it is not in /proc
}

// New makes a Finder. An error means that this process cannot see its own namespace: /proc is not mounted.
func New() (*Finder, error) {
	self, err := stat("/proc/self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("find network namespaces: %w", err)
	}
	return &Finder{device: self.Device}, nil
}

// Identify looks where a runtime says that a namespace is. Where it cannot be seen, the answer has the path alone.
func (f *Finder) Identify(path string) proof.Namespace {
	found := proof.Namespace{Path: path}
	if !filepath.IsAbs(path) {
		return found
	}
	self, err := stat(path)
	if err != nil || self.Device != f.device {
		return found
	}
	if !strings.HasPrefix(path, procFolder) {
		if found.Folder, err = stat(filepath.Dir(path)); err != nil {
			return found
		}
	}
	found.Self = self
	return found
}

func stat(path string) (proof.File, error) {
	var info unix.Stat_t
	if err := unix.Stat(path, &info); err != nil {
		return proof.File{}, err
	}
	return proof.File{Device: info.Dev, Inode: info.Ino}, nil
}
