package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/clearway/clearway/ipam/store/record"
)

// Fake is a store in memory. The zero value is not ready; use New.
type Fake struct {
	mu       sync.Mutex // guards all below
	revision int64
	records  map[record.Key]record.Record
	history  []record.Batch // one a revision
	leader   string
	term     int64
	lost     chan struct{}
	changed  chan struct{} // closed and replaced at each change
	commits  int
	cluster  uint64
	applied  uint64 // writes since the cluster was made
	restores int
	fault    func(record.Txn) Fault
}

// Fault is what becomes of one transaction.
type Fault int

// The faults.
const (
	// None: it is done.
	None Fault = iota
	// LostReply: it is written, and the answer is ErrUnknown.
	LostReply
	// LostRequest: it is not written, and the answer is ErrUnknown.
	LostRequest
)

// New returns an empty store.
func New() *Fake {
	return &Fake{revision: 1, cluster: 1, records: map[record.Key]record.Record{}, changed: make(chan struct{})}
}

// Inject makes choose decide what becomes of each transaction from now on; nil: nothing is wrong.
func (f *Fake) Inject(choose func(record.Txn) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = choose
}

// Commits counts the transactions that were written.
func (f *Fake) Commits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.commits
}

// Depose ends the present term, as when a lease expires.
func (f *Fake) Depose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.vacateLocked()
}

// Load implements the store.
func (f *Fake) Load(_ context.Context, each func(record.Record) error) (int64, error) {
	f.mu.Lock()
	revision, all := f.revision, f.sortedLocked("")
	f.mu.Unlock()
	for _, room := range record.Loaded() {
		for _, one := range all {
			if !strings.HasPrefix(string(one.Key), string(room)) {
				continue
			}
			if err := each(one); err != nil {
				return 0, err
			}
		}
	}
	return revision, nil
}

// List implements the store.
func (f *Fake) List(_ context.Context, under record.Key, each func(record.Record) error) error {
	f.mu.Lock()
	all := f.sortedLocked(under)
	f.mu.Unlock()
	for _, one := range all {
		if err := each(one); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fake) sortedLocked(under record.Key) []record.Record {
	var all []record.Record
	for key, one := range f.records {
		if strings.HasPrefix(string(key), string(under)) {
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b record.Record) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return all
}

// Get implements the store.
func (f *Fake) Get(_ context.Context, key record.Key) (record.Record, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	one, ok := f.records[key]
	return one, ok, nil
}

// Watch implements the store.
func (f *Fake) Watch(ctx context.Context, after int64) <-chan record.Batch {
	out := make(chan record.Batch)
	f.mu.Lock()
	life := f.restores
	f.mu.Unlock()
	go func() {
		defer close(out)
		for {
			batch, changed := f.next(life, after)
			if changed != nil {
				select {
				case <-changed:
					continue
				case <-ctx.Done():
					return
				}
			}
			select {
			case out <- batch:
				if batch.Err != nil {
					return
				}
				after = batch.Revision
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// next returns the first batch after a revision, or what tells that there may be one.
func (f *Fake) next(life int, after int64) (record.Batch, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if life != f.restores {
		return record.Batch{Err: errors.New("watch: the store was restored")}, nil
	}
	i, _ := slices.BinarySearchFunc(f.history, after+1, func(b record.Batch, revision int64) int {
		return int(b.Revision - revision)
	})
	if i < len(f.history) {
		return f.history[i], nil
	}
	return record.Batch{}, f.changed
}

// Commit implements the store.
func (f *Fake) Commit(ctx context.Context, term record.Term, txn record.Txn) (int64, error) {
	if len(txn.Ops) > record.MaxOps || len(txn.Guards) > record.MaxOps {
		return 0, fmt.Errorf("commit: %d writes and %d guards are more than %d",
			len(txn.Ops), len(txn.Guards), record.MaxOps)
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("commit: %w: %w", record.ErrUnknown, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fault := None
	if f.fault != nil {
		fault = f.fault(txn)
	}
	if fault == LostRequest {
		return 0, fmt.Errorf("commit: %w: request lost", record.ErrUnknown)
	}
	revision, err := f.commitLocked(term, txn)
	if fault == LostReply {
		return 0, fmt.Errorf("commit: %w: reply lost", record.ErrUnknown)
	}
	return revision, err
}

func (f *Fake) commitLocked(term record.Term, txn record.Txn) (int64, error) {
	if f.term == 0 || f.term != term.Revision {
		return 0, fmt.Errorf("commit: %w", record.ErrNotLeader)
	}
	for _, guard := range txn.Guards {
		if f.records[guard.Key].ModRevision != guard.ModRevision {
			return 0, fmt.Errorf("commit: %w", record.ErrConflict)
		}
	}
	touched := map[record.Key]bool{}
	for _, op := range txn.Ops {
		if touched[op.Key] {
			return 0, fmt.Errorf("commit: key %s is written twice", op.Key)
		}
		touched[op.Key] = true
	}
	f.writeLocked(txn.Ops)
	f.commits++
	return f.revision, nil
}

func (f *Fake) writeLocked(ops []record.Op) {
	f.revision++
	f.applied++
	batch := record.Batch{Revision: f.revision}
	for _, op := range ops {
		switch {
		case op.Under:
			for _, one := range f.sortedLocked(op.Key) {
				batch.Records = append(batch.Records, f.deleteLocked(one.Key))
			}
		case op.Value == nil:
			if _, ok := f.records[op.Key]; ok {
				batch.Records = append(batch.Records, f.deleteLocked(op.Key))
			}
		default:
			batch.Records = append(batch.Records, f.putLocked(op.Key, op.Value))
		}
	}
	if len(batch.Records) == 0 {
		f.revision-- // as etcd: what changes nothing has no revision of its own
		return
	}
	f.history = append(f.history, batch)
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *Fake) deleteLocked(key record.Key) record.Record {
	delete(f.records, key)
	return record.Record{Key: key, ModRevision: f.revision}
}

func (f *Fake) putLocked(key record.Key, value []byte) record.Record {
	one := f.records[key]
	if one.CreateRevision == 0 {
		one.CreateRevision = f.revision
	}
	one.Key, one.Value, one.ModRevision = key, append([]byte{}, value...), f.revision
	f.records[key] = one
	return one
}

// Campaign implements the store.
func (f *Fake) Campaign(ctx context.Context, address string) (record.Term, error) {
	for {
		f.mu.Lock()
		if f.term == 0 {
			defer f.mu.Unlock()
			f.writeLocked([]record.Op{{Key: record.Leader, Value: []byte(address)}})
			f.term, f.leader, f.lost = f.revision, address, make(chan struct{})
			return record.Term{Revision: f.term, Lost: f.lost}, nil
		}
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return record.Term{}, fmt.Errorf("campaign: %w", ctx.Err())
		}
	}
}

// Resign implements the store.
func (f *Fake) Resign(_ context.Context, term record.Term) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.term == term.Revision {
		f.vacateLocked()
	}
	return nil
}

func (f *Fake) vacateLocked() {
	if f.term == 0 {
		return
	}
	close(f.lost)
	f.term, f.leader = 0, ""
	f.writeLocked([]record.Op{{Key: record.Leader}})
}

// Leader implements the store.
func (f *Fake) Leader(context.Context) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leader, nil
}

// Backup is a store's content as it was at a revision.
type Backup struct {
	revision int64
	records  map[record.Key]record.Record
}

// Backup takes a copy of what there is, without the office.
func (f *Fake) Backup() Backup {
	f.mu.Lock()
	defer f.mu.Unlock()
	copied := maps.Clone(f.records)
	delete(copied, record.Leader)
	return Backup{f.revision, copied}
}

// Restore puts a backup in the place of what there is, as etcdctl does in a new cluster, or, with sameCluster, as one who
// copies the folder back does. Watches break off, and the office is vacant.
func (f *Fake) Restore(backup Backup, sameCluster bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.term != 0 {
		close(f.lost)
		f.term, f.leader = 0, ""
	}
	f.revision, f.records, f.history = backup.revision, maps.Clone(backup.records), nil
	f.restores++
	if !sameCluster {
		f.cluster++
		f.applied = 0
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// Identity implements the store.
func (f *Fake) Identity(context.Context) (record.Identity, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return record.Identity{Cluster: f.cluster, LogIndex: f.applied + 1, Revision: f.revision}, nil
}

// Health implements the store.
func (f *Fake) Health(context.Context) (record.Health, error) {
	return record.Health{Answering: 1, Members: 1, Version: "fake"}, nil
}

// Put writes a record past the leader, as a person with etcdctl does.
func (f *Fake) Put(key record.Key, value []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writeLocked([]record.Op{{Key: key, Value: value}})
}
