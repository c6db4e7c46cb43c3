package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// notebook is an Owner that keeps the payloads in order.
type notebook struct {
	mu    sync.Mutex
	lines []string
}

func (n *notebook) Apply(records []Applied) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range records {
		n.lines = append(n.lines, string(r.Payload))
	}
}

func (n *notebook) Snapshot() []Entry {
	n.mu.Lock()
	defer n.mu.Unlock()
	var entries []Entry
	for _, line := range n.lines {
		entries = append(entries, Entry{Type: 9, Payload: []byte(line)})
	}
	return entries
}

func (n *notebook) load(c Contents) {
	for _, r := range slices.Concat(c.Snapshot, c.Records) {
		n.lines = append(n.lines, string(r.Payload))
	}
}

func start(t testing.TB, dir string, options Options) (*Journal, *notebook) {
	t.Helper()
	j, contents, err := Open(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	owner := &notebook{}
	owner.load(contents)
	if err := j.Start(owner); err != nil {
		t.Fatal(err)
	}
	return j, owner
}

func write(t testing.TB, j *Journal, text string) uint64 {
	t.Helper()
	number, err := j.Append(context.Background(), Entry{Type: 1, Payload: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func closeJournal(t testing.TB, j *Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRecordsAndNumbersSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	j, _ := start(t, dir, Options{})
	id := j.ID()
	for i := range 10 {
		if got := write(t, j, fmt.Sprint(i)); got != uint64(i+1) {
			t.Fatalf("record %d has number %d", i, got)
		}
	}
	closeJournal(t, j)
	j, owner := start(t, dir, Options{})
	defer closeJournal(t, j)
	if j.ID() != id {
		t.Error("the id changed")
	}
	if got := write(t, j, "next"); got != 11 {
		t.Errorf("number %d after the restart", got)
	}
	if len(owner.lines) != 11 || owner.lines[9] != "9" {
		t.Errorf("%q", owner.lines)
	}
}

func TestFolderIsForOneProcess(t *testing.T) {
	dir := t.TempDir()
	j, _ := start(t, dir, Options{})
	defer closeJournal(t, j)
	if _, _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
}

func TestFileStaysBoundedAndKeepsAll(t *testing.T) {
	dir := t.TempDir()
	j, owner := start(t, dir, Options{CompactBytes: 4096, ahead: 1000})
	owner.lines = []string{"kept"}
	for i := range 2000 {
		write(t, j, fmt.Sprintf("%0100d", i))
		owner.mu.Lock()
		owner.lines = []string{"kept", owner.lines[len(owner.lines)-1]} // the memory is small
		owner.mu.Unlock()
		if info, err := os.Stat(filepath.Join(dir, fileName)); err != nil || info.Size() > 4096+200+1000 || j.Bytes() > 4096+200 {
			t.Fatalf("file has %d bytes: %v", info.Size(), err)
		}
	}
	closeJournal(t, j)
	j, owner = start(t, dir, Options{})
	defer closeJournal(t, j)
	if j.last != 2000 || len(owner.lines) < 2 || owner.lines[0] != "kept" || owner.lines[len(owner.lines)-1] != fmt.Sprintf("%0100d", 1999) {
		t.Fatalf("last %d, %d lines", j.last, len(owner.lines))
	}
}

func TestManyCallersShareAWrite(t *testing.T) {
	var writes, records int
	j, owner := start(t, t.TempDir(), Options{Observe: func(n int, _ time.Duration) { writes++; records += n }})
	var all sync.WaitGroup
	for caller := range 32 {
		all.Go(func() {
			for i := range 20 {
				write(t, j, fmt.Sprintf("%d/%d", caller, i))
			}
		})
	}
	all.Wait()
	closeJournal(t, j)
	if records != 640 || writes >= records || len(owner.lines) != 640 {
		t.Fatalf("%d records in %d writes, %d applied", records, writes, len(owner.lines))
	}
	t.Logf("%d records in %d writes", records, writes)
}

func TestAppendEndsWithItsContextAndAfterClose(t *testing.T) {
	j, _ := start(t, t.TempDir(), Options{})
	closeJournal(t, j)
	if _, err := j.Append(context.Background(), Entry{}); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, err := j.Append(context.Background(), Entry{Payload: make([]byte, MaxPayload+1)}); err == nil {
		t.Fatal("an endless record was taken")
	}
}

// image makes a file of several batches, and the end of each batch.
func image(t interface{ Fatal(...any) }, batches [][]string) (data []byte, ends []int, counts []int) {
	data = appendHeader(nil, [16]byte{7}, 5, 1)
	data = appendRecord(data, Record{Number: 5, Type: 9, Payload: []byte("snapshot")})
	number, count := uint64(5), 0
	ends, counts = append(ends, len(data)), append(counts, 0)
	for _, batch := range batches {
		first := number + 1
		for _, text := range batch {
			number++
			data = appendRecord(data, Record{Number: number, Type: 1, Payload: []byte(text), batch: first})
		}
		count += len(batch)
		ends, counts = append(ends, len(data)), append(counts, count)
	}
	return data, ends, counts
}

// TestCutAtEveryByte: whatever the length that reached the disk, recovery gives a prefix of what was written, with all
// that had been acknowledged at that length.
func TestCutAtEveryByte(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		batches := rapid.SliceOfN(rapid.SliceOfN(rapid.StringN(0, 20, 40), 1, 4), 1, 6).Draw(rt, "batches")
		data, ends, counts := image(rt, batches)
		all := slices.Concat(batches...)
		for cut := ends[0]; cut <= len(data); cut++ {
			contents, err := Decode(data[:cut])
			if err != nil {
				rt.Fatalf("cut at %d: %v", cut, err)
			}
			acknowledged := 0
			for i, end := range ends {
				if end <= cut {
					acknowledged = counts[i]
				}
			}
			if len(contents.Records) < acknowledged {
				rt.Fatalf("cut at %d: %d records, %d were acknowledged", cut, len(contents.Records), acknowledged)
			}
			for i, r := range contents.Records {
				if string(r.Payload) != all[i] || r.Number != uint64(6+i) {
					rt.Fatalf("cut at %d: record %d is %q", cut, r.Number, r.Payload)
				}
			}
		}
		for cut := range ends[0] { // header and snapshot were durable before the file had its name
			var corrupt *CorruptError
			if _, err := Decode(data[:cut]); !errors.As(err, &corrupt) {
				rt.Fatalf("cut at %d: %v", cut, err)
			}
		}
	})
}

// TestDamageInTheMiddleIsRefused: one flipped bit in any batch but the last is never taken for a torn tail; in the last
// one, which may have been torn, the result is a prefix.
func TestDamageInTheMiddleIsRefused(t *testing.T) {
	batches := [][]string{{"one"}, {"two", "three"}, {"four"}, {"five", "six", "seven"}}
	data, ends, _ := image(t, batches)
	last := ends[len(ends)-2]
	for i := range data {
		damaged := bytes.Clone(data)
		damaged[i] ^= 0x10
		contents, err := Decode(damaged)
		var corrupt *CorruptError
		switch {
		case i < last && !errors.As(err, &corrupt) && !errors.Is(err, ErrVersion):
			t.Errorf("byte %d: %v", i, err)
		case i >= last && err != nil:
			t.Errorf("byte %d of the last batch: %v", i, err)
		case i >= last && (len(contents.Records) < 4 || contents.Torn == 0):
			t.Errorf("byte %d: %d records", i, len(contents.Records))
		}
	}
}

// A torn batch may have a hole: the disk wrote its later pages first. Nothing of it was acknowledged.
func TestHoleInTheLastBatchIsATornTail(t *testing.T) {
	data, ends, _ := image(t, [][]string{{"one"}, {"two", "three", "four"}})
	clear(data[ends[1] : ends[1]+recordSize])
	contents, err := Decode(data)
	if err != nil || len(contents.Records) != 1 || contents.Torn != len(data)-ends[1] {
		t.Fatalf("%d records, torn %d: %v", len(contents.Records), contents.Torn, err)
	}
}

// TestRoomForRecordsIsNoTornTail: the zeros at the end mean nothing, whatever the last record ends with.
func TestRoomForRecordsIsNoTornTail(t *testing.T) {
	data, _, _ := image(t, [][]string{{"one"}, {"two\x00\x00"}})
	contents, err := Decode(append(data, zeros[:]...))
	if err != nil || len(contents.Records) != 2 || contents.Torn != 0 || contents.Size != len(data) {
		t.Fatalf("%d records, %d bytes of %d, torn %d: %v", len(contents.Records), contents.Size, len(data), contents.Torn, err)
	}
}

// TestFullDiskForZerosIsNoneForRecords: no caller is told of a disk that has room for records and for no more.
func TestFullDiskForZerosIsNoneForRecords(t *testing.T) {
	dir := t.TempDir()
	j, _ := start(t, dir, Options{open: func(path string) (file, error) {
		inner, err := openFile(path)
		return narrow{inner}, err
	}})
	write(t, j, "one")
	write(t, j, "two")
	closeJournal(t, j)
	if info, err := os.Stat(filepath.Join(dir, fileName)); err != nil || info.Size() != j.Bytes() {
		t.Errorf("file has %d bytes of %d: %v", info.Size(), j.Bytes(), err)
	}
	j, owner := start(t, dir, Options{})
	closeJournal(t, j)
	if !slices.Equal(owner.lines, []string{"one", "two"}) {
		t.Fatalf("%q", owner.lines)
	}
}

// narrow has room for records alone.
type narrow struct{ file }

func (n narrow) WriteAt(data []byte, at int64) (int, error) {
	if bytes.Count(data, zeros[:1]) == len(data) {
		return 0, unix.ENOSPC
	}
	return n.file.WriteAt(data, at)
}

func TestTornTailIsGoneAfterTheNextStart(t *testing.T) {
	dir := t.TempDir()
	j, _ := start(t, dir, Options{})
	write(t, j, "whole")
	closeJournal(t, j)
	path := filepath.Join(dir, fileName)
	data, _ := os.ReadFile(path)
	copy(data[j.Bytes():], appendRecord(nil, Record{Number: 2, batch: 2, Payload: []byte("torn")})[:20])
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	j, _ = start(t, dir, Options{})
	if got := write(t, j, "after"); got != 2 {
		t.Fatalf("number %d", got)
	}
	closeJournal(t, j)
	j, owner := start(t, dir, Options{})
	closeJournal(t, j)
	if !slices.Equal(owner.lines, []string{"whole", "after"}) {
		t.Fatalf("%q", owner.lines)
	}
}

// TestCrashWhileReplacing: the folder as it is after each step of a replacement opens with all records.
func TestCrashWhileReplacing(t *testing.T) {
	dir := t.TempDir()
	j, _ := start(t, dir, Options{})
	write(t, j, "one")
	write(t, j, "two")
	closeJournal(t, j)
	old, _ := os.ReadFile(filepath.Join(dir, fileName))
	fresh := appendHeader(nil, j.ID(), 2, 2)
	for _, text := range []string{"one", "two"} {
		fresh = appendRecord(fresh, Record{Number: 2, Payload: []byte(text)})
	}
	steps := map[string]func(dir string) error{
		"created": func(dir string) error { return os.WriteFile(filepath.Join(dir, newName), nil, 0o600) },
		"half":    func(dir string) error { return os.WriteFile(filepath.Join(dir, newName), fresh[:len(fresh)/2], 0o600) },
		"written": func(dir string) error { return os.WriteFile(filepath.Join(dir, newName), fresh, 0o600) },
		"renamed": func(dir string) error { return os.WriteFile(filepath.Join(dir, fileName), fresh, 0o600) },
	}
	for name, step := range steps {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.WriteFile(filepath.Join(dir, fileName), old, 0o600), step(dir)); err != nil {
				t.Fatal(err)
			}
			j, owner := start(t, dir, Options{})
			defer closeJournal(t, j)
			if !slices.Equal(owner.lines, []string{"one", "two"}) || write(t, j, "three") != 3 {
				t.Fatalf("%q", owner.lines)
			}
			if _, err := os.Stat(filepath.Join(dir, newName)); err == nil {
				t.Error("an unfinished file is left")
			}
		})
	}
}

// faulty is a disk that fails when told to.
type faulty struct {
	file
	faults *faults
}

type faults struct {
	mu                    sync.Mutex
	write, sync, truncate error
	syncs                 int
}

func (f *faults) set(change func(*faults)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *faults) open(path string) (file, error) {
	inner, err := openFile(path)
	return faulty{inner, f}, err
}

func (f faulty) WriteAt(data []byte, at int64) (int, error) {
	f.faults.mu.Lock()
	defer f.faults.mu.Unlock()
	if err := f.faults.write; err != nil {
		n, _ := f.file.WriteAt(data[:len(data)/2], at)
		return n, err
	}
	return f.file.WriteAt(data, at)
}

func (f faulty) Sync() error {
	f.faults.mu.Lock()
	defer f.faults.mu.Unlock()
	f.faults.syncs++
	return errors.Join(f.faults.sync, f.file.Sync())
}

func (f faulty) Truncate(size int64) error {
	f.faults.mu.Lock()
	defer f.faults.mu.Unlock()
	return errors.Join(f.faults.truncate, f.file.Truncate(size))
}

func TestFullDiskIsACleanError(t *testing.T) {
	dir, disk := t.TempDir(), &faults{}
	j, owner := start(t, dir, Options{open: disk.open})
	write(t, j, "one")
	disk.set(func(f *faults) { f.write = unix.ENOSPC })
	for range 3 {
		if _, err := j.Append(context.Background(), Entry{Payload: []byte("refused")}); !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	disk.set(func(f *faults) { f.write = nil })
	if got := write(t, j, "two"); got != 2 {
		t.Fatalf("number %d", got)
	}
	closeJournal(t, j)
	if !slices.Equal(owner.lines, []string{"one", "two"}) {
		t.Fatalf("%q", owner.lines)
	}
	j, owner = start(t, dir, Options{})
	closeJournal(t, j)
	if !slices.Equal(owner.lines, []string{"one", "two"}) {
		t.Fatalf("after a restart: %q", owner.lines)
	}
}

// A disk that was full before the start: what is there is read, and the old file goes on.
func TestStartOnAFullDisk(t *testing.T) {
	dir, disk := t.TempDir(), &faults{}
	j, _ := start(t, dir, Options{})
	write(t, j, "one")
	closeJournal(t, j)
	var complaint error
	disk.write = unix.ENOSPC
	j, owner := start(t, dir, Options{open: disk.open, OnCompactError: func(err error) { complaint = err }})
	if !errors.Is(complaint, unix.ENOSPC) || !slices.Equal(owner.lines, []string{"one"}) {
		t.Fatalf("%v %q", complaint, owner.lines)
	}
	disk.set(func(f *faults) { f.write = nil })
	if got := write(t, j, "two"); got != 2 {
		t.Fatalf("number %d", got)
	}
	closeJournal(t, j)
}

func TestFailedSyncPoisons(t *testing.T) {
	disk := &faults{}
	j, owner := start(t, t.TempDir(), Options{open: disk.open})
	write(t, j, "one")
	disk.set(func(f *faults) { f.sync = unix.EIO })
	if _, err := j.Append(context.Background(), Entry{}); !errors.Is(err, ErrPoisoned) || !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	<-j.Failed()
	var before int
	disk.set(func(f *faults) { f.sync = nil; before = f.syncs })
	if _, err := j.Append(context.Background(), Entry{}); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("after the disk got well: %v", err)
	}
	disk.set(func(f *faults) {
		if f.syncs != before {
			t.Error("the sync was repeated")
		}
	})
	if !errors.Is(j.Cause(), unix.EIO) || len(owner.lines) != 1 {
		t.Fatalf("%v %q", j.Cause(), owner.lines)
	}
	closeJournal(t, j)
}

func TestRefusedBytesThatStayPoison(t *testing.T) {
	disk := &faults{}
	j, _ := start(t, t.TempDir(), Options{open: disk.open})
	defer closeJournal(t, j)
	disk.set(func(f *faults) { f.write, f.truncate = unix.ENOSPC, unix.EIO })
	if _, err := j.Append(context.Background(), Entry{Payload: []byte("x")}); !errors.Is(err, ErrPoisoned) {
		t.Fatal(err)
	}
}

func TestQuarantineMakesRoomForANewJournal(t *testing.T) {
	dir := t.TempDir()
	j, _ := start(t, dir, Options{})
	id := j.ID()
	write(t, j, "one")
	write(t, j, "two")
	closeJournal(t, j)
	path := filepath.Join(dir, fileName)
	data, _ := os.ReadFile(path)
	data[headerSize+recordSize] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	_, contents, err := Open(dir, Options{})
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) || contents.ID != id {
		t.Fatal(err)
	}
	aside, err := Quarantine(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := os.ReadFile(aside); err != nil || !bytes.Equal(kept, data) {
		t.Fatal("the damaged file was not kept", err)
	}
	j, _ = start(t, dir, Options{})
	defer closeJournal(t, j)
	if j.ID() == id {
		t.Fatal("the new journal has the old id")
	}
}

func FuzzDecode(f *testing.F) {
	data, ends, _ := image(f, [][]string{{"one"}, {"two", "three"}})
	for _, end := range ends {
		f.Add(data[:end])
		f.Add(data[:end-1])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		contents, err := Decode(data)
		if contents.Size > len(data) || err == nil && contents.Size+contents.Torn != len(data) {
			t.Fatalf("size %d and torn %d of %d", contents.Size, contents.Torn, len(data))
		}
		if err != nil {
			return
		}
		again, err := Decode(data[:contents.Size]) // what is whole stays so without the tail
		if err != nil || len(again.Records) != len(contents.Records) || again.Last != contents.Last || again.Torn != 0 {
			t.Fatalf("%v: %d records, then %d", err, len(contents.Records), len(again.Records))
		}
	})
}
