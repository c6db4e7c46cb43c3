package store

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/clearway/clearway/ipam/store/record"
)

// pageSize bounds one answer of etcd: its client takes 64 MiB, records are small.
const pageSize = 5000

// Load hands over every record that lasts (record.Loaded), as all were at one revision, which it returns. It is
// linearizable: a leader that loads after it took office sees all that was written before.
func (s *Store) Load(ctx context.Context, each func(record.Record) error) (int64, error) {
	var revision int64
	for _, room := range record.Loaded() {
		var err error
		if revision, err = s.scan(ctx, room, revision, each); err != nil {
			return 0, fmt.Errorf("load %s: %w", room, err)
		}
	}
	return revision, nil
}

// List hands over the records below a key, in the order of keys, as they are now.
func (s *Store) List(ctx context.Context, under record.Key, each func(record.Record) error) error {
	if _, err := s.scan(ctx, under, 0, each); err != nil {
		return fmt.Errorf("list %s: %w", under, err)
	}
	return nil
}

// scan reads a room page by page at a revision; 0: the newest. It returns the revision it read.
func (s *Store) scan(
	ctx context.Context, room record.Key, revision int64, each func(record.Record) error,
) (int64, error) {
	start, end := string(room), clientv3.GetPrefixRangeEnd(string(room))
	for {
		call, cancel := s.bound(ctx)
		page, err := s.kv.Get(call, start, clientv3.WithRange(end), clientv3.WithLimit(pageSize),
			clientv3.WithRev(revision), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
		cancel()
		if err != nil {
			return 0, compacted(err)
		}
		if revision == 0 {
			revision = page.Header.Revision
		}
		for _, kv := range page.Kvs {
			if err := each(recordOf(kv)); err != nil {
				return 0, err
			}
		}
		if !page.More || len(page.Kvs) == 0 {
			return revision, nil
		}
		start = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

// Get reads one record; ok is false where there is none.
func (s *Store) Get(ctx context.Context, key record.Key) (_ record.Record, ok bool, err error) {
	call, cancel := s.bound(ctx)
	defer cancel()
	answer, err := s.kv.Get(call, string(key))
	if err != nil {
		return record.Record{}, false, fmt.Errorf("get %s: %w", key, err)
	}
	if len(answer.Kvs) == 0 {
		return record.Record{}, false, nil
	}
	return recordOf(answer.Kvs[0]), true, nil
}

// Watch streams all changes after a revision, until ctx ends or a batch carries an error; then the channel closes.
func (s *Store) Watch(ctx context.Context, after int64) <-chan record.Batch {
	out := make(chan record.Batch)
	answers := s.watcher.Watch(clientv3.WithRequireLeader(ctx), "", clientv3.WithPrefix(),
		clientv3.WithRev(after+1), clientv3.WithProgressNotify())
	go func() {
		defer close(out)
		for answer := range answers {
			batch := batchOf(&answer)
			select {
			case out <- batch:
			case <-ctx.Done():
				return
			}
			if batch.Err != nil {
				return
			}
		}
	}()
	return out
}

func batchOf(answer *clientv3.WatchResponse) record.Batch {
	if err := answer.Err(); err != nil {
		return record.Batch{Err: fmt.Errorf("watch: %w", compacted(err))}
	}
	if len(answer.Events) == 0 {
		return record.Batch{Revision: answer.Header.Revision} // progress: all before it was told
	}
	batch := record.Batch{Records: make([]record.Record, 0, len(answer.Events))}
	for _, event := range answer.Events {
		one := recordOf(event.Kv)
		if event.Type == mvccpb.Event_DELETE {
			one.Value = nil
		}
		batch.Records = append(batch.Records, one)
		batch.Revision = event.Kv.ModRevision
	}
	return batch
}

func recordOf(kv *mvccpb.KeyValue) record.Record {
	value := kv.Value
	if value == nil {
		value = []byte{} // nil means deleted; an empty message is a value
	}
	return record.Record{
		Key: record.Key(kv.Key), Value: value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
	}
}

func compacted(err error) error {
	if errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("%w: %w", record.ErrCompacted, err)
	}
	return err
}
