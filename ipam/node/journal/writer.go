package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// file is what the journal needs of one; tests put faults in.
type file interface {
	WriteAt([]byte, int64) (int, error)
	Truncate(size int64) error
	// Sync makes data and length durable.
	Sync() error
	Close() error
}

type diskFile struct{ *os.File }

func openFile(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

// Sync is fdatasync(2): it writes the length too where it has changed, but not the times.
func (f diskFile) Sync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

func (j *Journal) run() {
	defer close(j.done)
	for {
		select {
		case r := <-j.requests:
			// Whoever was answered goes first: the system calls to come hold this processor and what waits for it. What
			// they are asked next shares the write.
			runtime.Gosched()
			j.collect(r)
			j.commit()
		case <-j.closing:
			j.drain()
			return
		}
		if j.size >= j.compactAt && j.cause == nil {
			j.compact()
		}
	}
}

func (j *Journal) drain() {
	for {
		select {
		case r := <-j.requests:
			j.collect(r)
			j.commit()
		default:
			return
		}
	}
}

// collect makes a batch of one request and of what has queued up behind it.
func (j *Journal) collect(first *request) {
	j.batch = append(j.batch[:0], first)
	for bytes := len(first.entry.Payload); len(j.batch) < maxBatch && bytes < maxBatchBytes; {
		select {
		case r := <-j.requests:
			j.batch = append(j.batch, r)
			bytes += len(r.entry.Payload)
		default:
			return
		}
	}
}

// commit writes the batch, makes it durable, applies it and answers.
func (j *Journal) commit() {
	began := time.Now()
	j.buffer, j.applied = j.buffer[:0], j.applied[:0]
	for i, r := range j.batch {
		record := Record{Number: j.last + 1 + uint64(i), Type: r.entry.Type, Payload: r.entry.Payload, batch: j.last + 1}
		j.buffer = appendRecord(j.buffer, record)
		j.applied = append(j.applied, Applied{record, r.entry.Value})
	}
	if err := j.write(); err != nil {
		j.answer(func(int) answer { return answer{err: err} })
		return
	}
	first := j.last + 1
	j.last += uint64(len(j.batch))
	j.size += int64(len(j.buffer))
	j.bytes.Store(j.size)
	if j.options.Observe != nil {
		j.options.Observe(len(j.batch), time.Since(began))
	}
	j.owner.Apply(j.applied)
	j.answer(func(i int) answer { return answer{number: first + uint64(i)} })
}

func (j *Journal) answer(to func(i int) answer) {
	for i, r := range j.batch {
		r.answer <- to(i)
	}
	clear(j.batch)
	clear(j.applied)
}

// write puts the buffer behind what is durable. A failed write is undone, a failed sync poisons.
func (j *Journal) write() error {
	if j.cause != nil {
		return fmt.Errorf("%w: %w", ErrPoisoned, j.cause)
	}
	if _, err := j.file.WriteAt(j.buffer, j.size); err != nil {
		// What got there must not be found by a later start behind other records: it was refused.
		if cutErr := j.cut(); cutErr != nil {
			return j.poison(cutErr)
		}
		return fmt.Errorf("write journal: %w", err)
	}
	j.fill()
	if err := j.file.Sync(); err != nil {
		return j.poison(err)
	}
	return nil
}

var zeros [64 << 10]byte

// fill puts zeros behind the buffer's place once it reaches behind those that were there; the sync to come takes them
// along. A disk that is too full for them is not too full for records: the file then grows by these alone.
func (j *Journal) fill() {
	end := j.size + int64(len(j.buffer))
	if end <= j.ahead {
		return
	}
	j.ahead = end
	for upTo := end + j.options.ahead; j.ahead < upTo; {
		part := zeros[:min(int64(len(zeros)), upTo-j.ahead)]
		if _, err := j.file.WriteAt(part, j.ahead); err != nil {
			return
		}
		j.ahead += int64(len(part))
	}
}

// cut ends the file behind what is durable.
func (j *Journal) cut() error {
	if err := j.file.Truncate(j.size); err != nil {
		return err
	}
	j.ahead = j.size
	return j.file.Sync()
}

func (j *Journal) poison(err error) error {
	j.cause = err
	close(j.poisoned)
	return fmt.Errorf("%w: %w", ErrPoisoned, err)
}

func (j *Journal) compact() {
	if err := j.replace(j.owner.Snapshot()); err != nil {
		j.compactAt = j.size + j.options.CompactBytes/4 // not at every write from now on
		if j.options.OnCompactError != nil {
			j.options.OnCompactError(err)
		}
	}
}

// replace makes a new file that holds the snapshot and goes on with it. The new one is durable before it gets the name,
// and the name before anything is written behind it. On error the old file is in place, unless the folder's own sync
// failed: then it is not known which one is, and the journal is poisoned.
func (j *Journal) replace(snapshot []Entry) error {
	data := appendHeader(nil, j.id, j.last, len(snapshot))
	for _, entry := range snapshot {
		if len(entry.Payload) > MaxPayload {
			return fmt.Errorf("replace journal: snapshot record of %d bytes is longer than %d", len(entry.Payload), MaxPayload)
		}
		data = appendRecord(data, Record{Number: j.last, Type: entry.Type, Payload: entry.Payload})
	}
	fresh, err := j.writeNew(data)
	if err != nil {
		return fmt.Errorf("replace journal: %w", err)
	}
	if err := os.Rename(filepath.Join(j.dir, newName), filepath.Join(j.dir, fileName)); err != nil {
		_ = fresh.Close()
		return fmt.Errorf("replace journal: %w", err)
	}
	if j.file != nil {
		_ = j.file.Close() // nothing of it is needed any more
	}
	j.file, j.size = fresh, int64(len(data))
	j.ahead = j.size
	j.bytes.Store(j.size)
	j.compactAt = max(j.options.CompactBytes, 4*j.size)
	if err := syncFolder(j.dir); err != nil {
		return j.poison(err)
	}
	return nil
}

func (j *Journal) writeNew(data []byte) (file, error) {
	path := filepath.Join(j.dir, newName)
	fresh, err := j.options.open(path)
	if err != nil {
		return nil, err
	}
	err = fresh.Truncate(0) // one that an earlier attempt could not remove
	if err == nil {
		_, err = fresh.WriteAt(data, 0)
	}
	if err == nil {
		err = fresh.Sync()
	}
	if err != nil {
		_ = fresh.Close()
		os.Remove(path) // gives the space back; a rest that stays is removed by the next Open
		return nil, err
	}
	return fresh, nil
}

func syncFolder(dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
