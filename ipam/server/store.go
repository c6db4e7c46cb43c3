package server

import (
	"context"

	"github.com/clearway/clearway/ipam/store/record"
)

// Store keeps the records. All calls have a deadline of their own and are safe for concurrent use. storetest holds
// those that there are to the same behaviour.
type Store interface {
	// Load hands over every record that lasts, as they were at one revision, and returns it. It sees all that was
	// committed before it was called.
	Load(ctx context.Context, each func(record.Record) error) (int64, error)
	// List hands over the records below a key, in the order of keys.
	List(ctx context.Context, under record.Key, each func(record.Record) error) error
	// Get reads one record, as it is after all that was committed before; ok is false where there is none.
	Get(ctx context.Context, key record.Key) (_ record.Record, ok bool, err error)
	// Watch streams what changes after a revision, until ctx ends or a batch carries an error.
	Watch(ctx context.Context, after int64) <-chan record.Batch
	// Commit writes whole or not at all, and only while the term lasts (rule Fenced). ErrNotLeader, ErrConflict and
	// every other error but ErrUnknown mean that nothing was written.
	Commit(ctx context.Context, term record.Term, txn record.Txn) (revision int64, err error)
	// Campaign waits for the office; address is where others find the leader.
	Campaign(ctx context.Context, address string) (record.Term, error)
	Resign(ctx context.Context, term record.Term) error
	// Leader is where the leader is; "" when there is none.
	Leader(ctx context.Context) (string, error)
	// Identity tells which life of the store this is, as it is after all that was committed before.
	Identity(ctx context.Context) (record.Identity, error)
	// Health asks the store's members how they are. An error means that none answered.
	Health(ctx context.Context) (record.Health, error)
}
