package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// Limits of the writer.
const (
	// queueLength is how many records may wait. More callers than that wait to be let in.
	queueLength = 1024
	// maxBatch and maxBatchBytes bound what one write holds, so that no caller waits for long.
	maxBatch      = 512
	maxBatchBytes = 1 << 20
	// aheadBytes is how far the file is filled with zeros before records take their place: a sync of bytes that the file
	// already has is one write to the disk, one of a file that grew is two or three, one after the other (its length, and
	// where the new blocks are, go to another place). At 1 MiB the filling is on one caller in thousands.
	aheadBytes = 1 << 20
	// DefaultCompactBytes is the size from which on the file is replaced: some seconds of the fastest churn, and a file
	// that is read back in a fraction of a second.
	DefaultCompactBytes = 8 << 20
)

// The files of the folder.
const (
	fileName = "journal"
	newName  = "journal.new"
	lockName = "journal.lock"
)

// What Append answers beside the disk's own errors.
var (
	// ErrPoisoned: an fdatasync failed. Whether the record is on disk is not known, and nothing more will be written.
	ErrPoisoned = errors.New("journal is poisoned by a failed fsync")
	// ErrClosed: the record was not written.
	ErrClosed = errors.New("journal is closed")
	// ErrLocked: another process has the folder.
	ErrLocked = errors.New("folder is in use by another process")
)

// Entry is a record to be written.
type Entry struct {
	Type    uint8
	Payload []byte
	// Value is handed to Apply beside the payload and is not stored: it spares the decoding.
	Value any
}

// Applied is a record that has just been made durable.
type Applied struct {
	Record
	Value any
}

// Options of a journal.
type Options struct {
	// CompactBytes is the size from which on the file is replaced, at least; 0: DefaultCompactBytes. A file whose
	// snapshot alone is large may grow to four times the snapshot.
	CompactBytes int64
	// Observe, where not nil, is told of each write: how many records, and how long write and fdatasync took.
	Observe func(records int, took time.Duration)
	// OnCompactError, where not nil, is told when the file could not be replaced. The old one goes on.
	OnCompactError func(error)

	open  func(path string) (file, error)
	ahead int64 // 0: aheadBytes
}

// Owner is whose memory the journal keeps. Both are called by the writer alone, one at a time, so that Snapshot is
// asked for exactly what was applied.
type Owner interface {
	// Apply takes records in order, after they are durable and before their callers are answered.
	Apply([]Applied)
	// Snapshot returns records that make the present memory out of nothing.
	Snapshot() []Entry
}

// Journal is an open journal.
type Journal struct {
	dir     string
	id      uuid.UUID
	options Options
	lock    *os.File
	owner   Owner

	spare    sync.Pool // of requests
	requests chan *request
	closing  chan struct{}
	done     chan struct{}
	once     sync.Once
	poisoned chan struct{}

	bytes atomic.Int64 // size, for others than the writer

	// Below: the writer's own.
	file      file
	size      int64 // of what is durable
	ahead     int64 // of the file: zeros up to here
	compactAt int64
	last      uint64
	cause     error // why it is poisoned; written before poisoned is closed
	buffer    []byte
	batch     []*request
	applied   []Applied
}

type request struct {
	entry  Entry
	answer chan answer
}

type answer struct {
	number uint64
	err    error
}

// Open locks the folder and reads its journal, or makes an empty one. The folder must exist. An error may be a
// *CorruptError; the contents then are what comes before the damage, and Quarantine puts the file out of the way.
func Open(dir string, options Options) (*Journal, Contents, error) {
	if options.CompactBytes == 0 {
		options.CompactBytes = DefaultCompactBytes
	}
	if options.ahead == 0 {
		options.ahead = aheadBytes
	}
	if options.open == nil {
		options.open = openFile
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, Contents{}, err
	}
	j := &Journal{
		dir: dir, options: options, lock: lock,
		requests: make(chan *request, queueLength), closing: make(chan struct{}), done: make(chan struct{}),
		poisoned: make(chan struct{}),
		spare:    sync.Pool{New: func() any { return &request{answer: make(chan answer, 1)} }},
	}
	contents, err := j.read()
	if err != nil {
		lock.Close()
		return nil, contents, err
	}
	return j, contents, nil
}

func lockFolder(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock journal: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return lock, nil
}

func (j *Journal) read() (Contents, error) {
	if err := os.Remove(filepath.Join(j.dir, newName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Contents{}, fmt.Errorf("remove unfinished journal: %w", err)
	}
	path := filepath.Join(j.dir, fileName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		j.id = uuid.New()
		return Contents{ID: j.id}, j.replace(nil)
	}
	if err != nil {
		return Contents{}, fmt.Errorf("read journal: %w", err)
	}
	contents, err := Decode(data)
	if err != nil {
		return contents, fmt.Errorf("%s: %w", path, err)
	}
	j.id, j.last, j.size = contents.ID, contents.Last, int64(contents.Size)
	j.ahead = j.size // what is behind is written over; Start makes a new file
	if j.file, err = j.options.open(path); err != nil {
		return contents, fmt.Errorf("open journal: %w", err)
	}
	return contents, nil
}

// Quarantine renames a damaged journal so that the next Open makes a new one, with a new id, and tells the new name.
func Quarantine(dir string, now time.Time) (string, error) {
	path := filepath.Join(dir, fileName)
	aside := path + ".damaged-" + now.UTC().Format("20060102T150405.000")
	if err := os.Rename(path, aside); err != nil {
		return "", fmt.Errorf("put damaged journal aside: %w", err)
	}
	return aside, syncFolder(dir)
}

// ID is the journal's, made when it was.
func (j *Journal) ID() uuid.UUID { return j.id }

// Start begins to write. The owner has taken the contents that Open returned. The file is replaced first: what follows
// then stands on data that this process wrote and made durable itself, whatever an earlier failed fsync left in the
// kernel's cache. Where that fails (a full disk) the old file goes on, its torn tail cut.
func (j *Journal) Start(owner Owner) error {
	j.owner = owner
	if err := j.replace(owner.Snapshot()); err != nil {
		if j.options.OnCompactError != nil {
			j.options.OnCompactError(err)
		}
		if j.cause != nil {
			return err
		}
		if err := j.cut(); err != nil {
			return fmt.Errorf("cut torn tail of journal: %w", err)
		}
		j.compactAt = j.size + j.options.CompactBytes
	}
	go j.run()
	return nil
}

// Append writes one record and returns its number once it is durable and applied. It waits for room in the queue no
// longer than ctx; once queued it waits for the disk. Any error but ErrPoisoned means that the record was not written.
func (j *Journal) Append(ctx context.Context, entry Entry) (uint64, error) {
	if len(entry.Payload) > MaxPayload {
		return 0, fmt.Errorf("journal record of %d bytes is longer than %d", len(entry.Payload), MaxPayload)
	}
	r := j.spare.Get().(*request)
	r.entry = entry
	select {
	case j.requests <- r:
	case <-j.done:
		return 0, ErrClosed
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for the journal: %w", context.Cause(ctx))
	}
	select {
	case a := <-r.answer:
		r.entry = Entry{}
		j.spare.Put(r)
		return a.number, a.err
	case <-j.done:
		select { // the writer may have answered before it ended
		case a := <-r.answer:
			return a.number, a.err
		default:
			return 0, ErrClosed
		}
	}
}

// Bytes is the size of what the file holds.
func (j *Journal) Bytes() int64 { return j.bytes.Load() }

// Failed is closed when the journal is poisoned.
func (j *Journal) Failed() <-chan struct{} { return j.poisoned }

// Cause is the error that poisoned the journal, once Failed is closed.
func (j *Journal) Cause() error {
	select {
	case <-j.poisoned:
		return j.cause
	default:
		return nil
	}
}

// Close writes what is queued, ends the writer and unlocks the folder.
func (j *Journal) Close() error {
	j.once.Do(func() { close(j.closing) })
	if j.owner != nil {
		<-j.done
	}
	return errors.Join(j.file.Close(), j.lock.Close())
}
