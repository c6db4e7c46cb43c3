package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/clearway/clearway/ipam/store/record"
)

// Store is what the suite holds to account: server.Store, said again so that this package needs no server.
type Store interface {
	Load(ctx context.Context, each func(record.Record) error) (int64, error)
	List(ctx context.Context, under record.Key, each func(record.Record) error) error
	Get(ctx context.Context, key record.Key) (record.Record, bool, error)
	Watch(ctx context.Context, after int64) <-chan record.Batch
	Commit(ctx context.Context, term record.Term, txn record.Txn) (int64, error)
	Campaign(ctx context.Context, address string) (record.Term, error)
	Resign(ctx context.Context, term record.Term) error
	Leader(ctx context.Context) (string, error)
	Identity(ctx context.Context) (record.Identity, error)
	Health(ctx context.Context) (record.Health, error)
}

// Run holds a store to what its users rely on. open returns an empty one.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, context.Context, Store)
	}{
		{"FencedOldTermWritesNothing", oldTermWritesNothing},
		{"OfficeIsHeldByOne", officeIsHeldByOne},
		{"GuardsHoldOrNothingIsWritten", guardsHold},
		{"LoadShowsOneRevision", loadShowsOneRevision},
		{"DeleteUnder", deleteUnder},
		{"WatchTellsAllInOrder", watchTellsAll},
		{"TooManyOpsAreRefused", tooManyOps},
		{"EmptyValueIsAValue", emptyValue},
		{"ExpiringRecordsAreNotLoaded", expiringRecords},
		{"IdentityGoesOn", identityGoesOn},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			test.run(t, ctx, open(t))
		})
	}
}

func identityGoesOn(t *testing.T, ctx context.Context, s Store) {
	term := campaign(t, ctx, s, "a:1")
	first, err := s.Identity(ctx)
	if err != nil {
		t.Fatal(err)
	}
	revision := put(t, ctx, s, term, "nodes/a", "v")
	next, err := s.Identity(ctx)
	if err != nil || next.Cluster != first.Cluster || next.LogIndex <= first.LogIndex || next.Revision < revision {
		t.Errorf("got %+v after %+v and a write at %d, %v", next, first, revision, err)
	}
	if health, err := s.Health(ctx); err != nil || health.Answering != 1 || health.Members != 1 || len(health.Faults) != 0 {
		t.Errorf("got %+v, %v", health, err)
	}
}

func campaign(t *testing.T, ctx context.Context, s Store, address string) record.Term {
	t.Helper()
	term, err := s.Campaign(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	return term
}

func put(t *testing.T, ctx context.Context, s Store, term record.Term, key record.Key, value string) int64 {
	t.Helper()
	revision, err := s.Commit(ctx, term, record.Txn{Ops: []record.Op{{Key: key, Value: []byte(value)}}})
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func oldTermWritesNothing(t *testing.T, ctx context.Context, s Store) {
	old := campaign(t, ctx, s, "a:1")
	key := record.NodeKey("n1")
	put(t, ctx, s, old, key, "old")
	if err := s.Resign(ctx, old); err != nil {
		t.Fatal(err)
	}
	select {
	case <-old.Lost:
	case <-ctx.Done():
		t.Fatal("the term did not end")
	}
	write := record.Txn{Ops: []record.Op{{Key: key, Value: []byte("late")}}}
	if _, err := s.Commit(ctx, old, write); !errors.Is(err, record.ErrNotLeader) {
		t.Fatalf("without a leader: got %v, want ErrNotLeader", err)
	}
	campaign(t, ctx, s, "b:1")
	if _, err := s.Commit(ctx, old, write); !errors.Is(err, record.ErrNotLeader) {
		t.Fatalf("with another leader: got %v, want ErrNotLeader", err)
	}
	if got, _, _ := s.Get(ctx, key); string(got.Value) != "old" {
		t.Fatalf("an old leader wrote: %q", got.Value)
	}
}

func officeIsHeldByOne(t *testing.T, ctx context.Context, s Store) {
	if leader, err := s.Leader(ctx); err != nil || leader != "" {
		t.Fatalf("at first: %q, %v", leader, err)
	}
	first := campaign(t, ctx, s, "a:1")
	if leader, err := s.Leader(ctx); err != nil || leader != "a:1" {
		t.Fatalf("the leader is %q, %v", leader, err)
	}
	won := make(chan record.Term, 1)
	go func() {
		if second, err := s.Campaign(ctx, "b:1"); err == nil {
			won <- second
		}
	}()
	put(t, ctx, s, first, record.NodeKey("n1"), "x") // the office is taken: the other waits
	select {
	case <-won:
		t.Fatal("two in office")
	default:
	}
	if err := s.Resign(ctx, first); err != nil {
		t.Fatal(err)
	}
	select {
	case second := <-won:
		put(t, ctx, s, second, record.NodeKey("n1"), "y")
	case <-ctx.Done():
		t.Fatal("the second never came to office")
	}
}

func guardsHold(t *testing.T, ctx context.Context, s Store) {
	term := campaign(t, ctx, s, "a:1")
	a, b := record.NodeKey("a"), record.NodeKey("b")
	revision := put(t, ctx, s, term, a, "1")
	txn := record.Txn{
		Guards: []record.Guard{{Key: a, ModRevision: revision}, {Key: b}},
		Ops:    []record.Op{{Key: a, Value: []byte("2")}, {Key: b, Value: []byte("2")}},
	}
	if _, err := s.Commit(ctx, term, txn); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(ctx, term, txn); !errors.Is(err, record.ErrConflict) {
		t.Fatalf("got %v, want ErrConflict", err)
	}
	got, ok, err := s.Get(ctx, a)
	if err != nil || !ok || string(got.Value) != "2" || got.CreateRevision != revision || got.ModRevision <= revision {
		t.Fatalf("got %+v %v %v", got, ok, err)
	}
}

func loadShowsOneRevision(t *testing.T, ctx context.Context, s Store) {
	term := campaign(t, ctx, s, "a:1")
	var last int64
	want := []record.Key{"config/IPPool/a", "nodes/a", "nodes/b", "blocks/4/00000000-26", "assignments/a/00"}
	for _, key := range want {
		last = put(t, ctx, s, term, key, "v")
	}
	var got []record.Key
	revision, err := s.Load(ctx, func(one record.Record) error {
		got = append(got, one.Key)
		return nil
	})
	if err != nil || revision < last || !slices.Equal(got, want) {
		t.Fatalf("got %q at %d (last write %d), %v", got, revision, last, err)
	}
	stop := errors.New("stop")
	if _, err := s.Load(ctx, func(record.Record) error { return stop }); !errors.Is(err, stop) {
		t.Fatalf("got %v, want the reader's own error", err)
	}
}

func deleteUnder(t *testing.T, ctx context.Context, s Store) {
	term := campaign(t, ctx, s, "a:1")
	for _, key := range []record.Key{"assignments/a/1", "assignments/a/2", "assignments/ab/1"} {
		put(t, ctx, s, term, key, "v")
	}
	txn := record.Txn{Ops: []record.Op{{Key: record.AssignmentsOf("a"), Under: true}, {Key: "mirror/a", Value: []byte("m")}}}
	if _, err := s.Commit(ctx, term, txn); err != nil {
		t.Fatal(err)
	}
	var left []record.Key
	if err := s.List(ctx, "assignments/", func(one record.Record) error {
		left = append(left, one.Key)
		return nil
	}); err != nil || !slices.Equal(left, []record.Key{"assignments/ab/1"}) {
		t.Fatalf("left are %q, %v", left, err)
	}
}

func watchTellsAll(t *testing.T, ctx context.Context, s Store) {
	term := campaign(t, ctx, s, "a:1")
	start := put(t, ctx, s, term, "nodes/a", "1")
	changes := s.Watch(ctx, start)
	put(t, ctx, s, term, "nodes/a", "2")
	put(t, ctx, s, term, "nodes/b", "1")
	end, err := s.Commit(ctx, term, record.Txn{Ops: []record.Op{{Key: "nodes/a"}}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for at := start; at < end; {
		batch, ok := <-changes
		if !ok || batch.Err != nil {
			t.Fatalf("the watch ended: %v", batch.Err)
		}
		for _, one := range batch.Records {
			got = append(got, fmt.Sprintf("%s=%s/%v", one.Key, one.Value, one.Value == nil))
		}
		at = batch.Revision
	}
	want := []string{"nodes/a=2/false", "nodes/b=1/false", "nodes/a=/true"}
	if !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func tooManyOps(t *testing.T, ctx context.Context, s Store) {
	term := campaign(t, ctx, s, "a:1")
	txn := record.Txn{}
	for i := range record.MaxOps {
		txn.Ops = append(txn.Ops, record.Op{Key: record.NodeKey(fmt.Sprint(i)), Value: []byte("v")})
	}
	if _, err := s.Commit(ctx, term, txn); err != nil {
		t.Fatalf("as many as are allowed: %v", err)
	}
	txn.Ops = append(txn.Ops, record.Op{Key: "nodes/more", Value: []byte("v")})
	if _, err := s.Commit(ctx, term, txn); err == nil || errors.Is(err, record.ErrUnknown) {
		t.Fatalf("one more: got %v, want a definite refusal", err)
	}
	if _, ok, _ := s.Get(ctx, "nodes/more"); ok {
		t.Fatal("something was written")
	}
}

func emptyValue(t *testing.T, ctx context.Context, s Store) {
	term := campaign(t, ctx, s, "a:1")
	put(t, ctx, s, term, "nodes/a", "")
	if got, ok, err := s.Get(ctx, "nodes/a"); err != nil || !ok || got.Value == nil {
		t.Fatalf("got %+v %v %v", got, ok, err)
	}
}

func expiringRecords(t *testing.T, ctx context.Context, s Store) {
	term := campaign(t, ctx, s, "a:1")
	key := record.EventKey(time.Unix(1, 0), 1)
	txn := record.Txn{Ops: []record.Op{{Key: key, Value: []byte("e"), Expires: true}}}
	if _, err := s.Commit(ctx, term, txn); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(ctx, func(one record.Record) error {
		return fmt.Errorf("loaded %s", one.Key)
	}); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := s.Get(ctx, key); err != nil || !ok || string(got.Value) != "e" {
		t.Fatalf("got %+v %v %v", got, ok, err)
	}
}
