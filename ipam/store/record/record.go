package record

import "errors"

// MaxOps is how many operations one transaction may hold. etcd allows 128 by default; the rest is for the fence.
const MaxOps = 120

// Errors of a store that its callers branch on. Any other error of Commit is a definite failure: nothing was written.
var (
	// ErrNotLeader: the term is over, nothing was written (rule Fenced).
	ErrNotLeader = errors.New("no longer the leader")
	// ErrConflict: a guard did not hold, nothing was written.
	ErrConflict = errors.New("changed meanwhile")
	// ErrUnknown: nobody can say whether the transaction was or will be written. Only a new term settles it.
	ErrUnknown = errors.New("outcome unknown")
	// ErrNoSpace: the store is full and takes no writes until it is given space; nothing was written.
	ErrNoSpace = errors.New("etcd is full (NOSPACE): it takes no writes until it has been compacted and defragmented, " +
		"and the alarm disarmed")
	// ErrCompacted: the revision asked for is gone; everything is to be loaded again.
	ErrCompacted = errors.New("revision compacted")
)

// Record is one key's value at some revision. A nil value means that the key is no more.
type Record struct {
	Key            Key
	Value          []byte
	CreateRevision int64
	ModRevision    int64
}

// Batch is what changed, in order; the reader stands at Revision once it has applied it. Err ends a watch.
type Batch struct {
	Revision int64
	Records  []Record
	Err      error
}

// Op is one write.
type Op struct {
	Key Key
	// Value to put; nil deletes the key.
	Value []byte
	// Under deletes every key that begins with Key. Value must be nil.
	Under bool
	// Expires makes the record go by itself in about an hour.
	Expires bool
}

// Guard holds when the key's last change is ModRevision; 0: there is no such key.
type Guard struct {
	Key         Key
	ModRevision int64
}

// Txn is written whole or not at all. No two Ops may touch the same key.
type Txn struct {
	Guards []Guard
	Ops    []Op
}

// Identity is what tells one life of a store from another.
type Identity struct {
	// Cluster is the cluster's own id, and LogIndex how far its log is, which never goes back in one cluster.
	Cluster, LogIndex uint64
	// Revision is the newest.
	Revision int64
}

// Health is what a store's members say of themselves.
type Health struct {
	// Size and InUse are the greatest of the members', in bytes; Quota is 0 where it is not known.
	Size, InUse, Quota int64
	// Faults are alarms and errors, in words.
	Faults []string
	// Answering of Members did.
	Answering, Members int
	Version            string
}

// Term is one time in office. It is over when Lost is closed, or as soon as a Commit says ErrNotLeader.
type Term struct {
	// Revision at which the leader's key was made: what each transaction compares (rule Fenced).
	Revision int64
	Lost     <-chan struct{}
}
