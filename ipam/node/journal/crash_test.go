package journal

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// forgetful is a disk that loses at a crash what was not synced, all of it or a part, and whose syncs fail from some time on.
type forgetful struct {
	mu    sync.Mutex
	syncs int // that succeed yet; two are the start's
}

// page is a file of a forgetful disk, beside the real one.
type page struct {
	file
	disk          *forgetful
	data, durable []byte
}

func (f *forgetful) open(path string) (file, error) {
	inner, err := openFile(path)
	return &page{file: inner, disk: f}, err
}

func (p *page) WriteAt(data []byte, at int64) (int, error) {
	if grow := int(at) + len(data) - len(p.data); grow > 0 {
		p.data = append(p.data, make([]byte, grow)...)
	}
	copy(p.data[at:], data)
	return p.file.WriteAt(data, at)
}

func (p *page) Truncate(size int64) error {
	p.data = p.data[:min(size, int64(len(p.data)))]
	return p.file.Truncate(size)
}

func (p *page) Sync() error {
	p.disk.mu.Lock()
	defer p.disk.mu.Unlock()
	if p.disk.syncs--; p.disk.syncs < 0 {
		return unix.EIO
	}
	p.durable = bytes.Clone(p.data)
	return nil
}

// crash is what the disk has after the machine stopped: what was durable, and of the pages that were written since any.
func (p *page) crash(rt *rapid.T) []byte {
	const size = 64 // bytes; small, so that a batch is on several
	image := bytes.Clone(p.durable)
	if rapid.Bool().Draw(rt, "length kept") {
		image = append(image, make([]byte, max(0, len(p.data)-len(image)))...)
	}
	for at := 0; at < min(len(image), len(p.data)); at += size {
		now, then := p.data[at:min(at+size, len(image), len(p.data))], image[at:]
		if !bytes.HasPrefix(then, now) && rapid.Bool().Draw(rt, "page kept") {
			copy(then, now)
		}
	}
	return image
}

// TestAcknowledgedSurvivesACrash: callers at once, a disk that fails at some sync, and the machine that stops there.
// Whatever was answered is found again, once and in the order of the numbers; what was not may be.
func TestAcknowledgedSurvivesACrash(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		disk := &forgetful{syncs: rapid.IntRange(2, 40).Draw(rt, "syncs")}
		dir := t.TempDir()
		j, _ := start(t, dir, Options{open: disk.open, CompactBytes: 600, ahead: 300})
		callers, each := rapid.IntRange(1, 8).Draw(rt, "callers"), rapid.IntRange(1, 12).Draw(rt, "each")
		answered := make([]map[uint64]string, callers)
		var all sync.WaitGroup
		for c := range callers {
			answered[c] = map[uint64]string{}
			all.Go(func() {
				for i := range each {
					line := fmt.Sprintf("caller %d line %d", c, i)
					number, err := j.Append(context.Background(), Entry{Type: 1, Payload: []byte(line)})
					if err != nil {
						return
					}
					answered[c][number] = line
				}
			})
		}
		all.Wait()
		_ = j.Close()
		last := j.file.(*page)
		found := reopen(t, last.crash(rt))
		numbers := map[uint64]string{}
		for _, of := range answered {
			for number, line := range of {
				if numbers[number] != "" || !slices.Contains(found, line) {
					rt.Fatalf("line %q, number %d, is lost or was not alone: %q", line, number, found)
				}
				numbers[number] = line
			}
		}
		for number, line := range numbers {
			if found[number-1] != line {
				rt.Fatalf("number %d is %q, not %q", number, found[number-1], line)
			}
		}
	})
}

// reopen starts from what a crash left, and tells the lines.
func reopen(t *testing.T, image []byte) []string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName), image, 0o600); err != nil {
		t.Fatal(err)
	}
	j, owner := start(t, dir, Options{})
	closeJournal(t, j)
	return owner.lines
}
