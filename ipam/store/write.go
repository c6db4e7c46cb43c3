package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/ipam/store/record"
)

// Commit writes a transaction for the term, whole or not at all, and returns its revision. The errors to branch on
// are record's; with ErrUnknown the caller must end its term, for only a new one settles what became of it.
func (s *Store) Commit(ctx context.Context, term record.Term, txn record.Txn) (int64, error) {
	if len(txn.Ops) > record.MaxOps || len(txn.Guards) > record.MaxOps {
		return 0, fmt.Errorf("commit: %d writes and %d guards are more than %d",
			len(txn.Ops), len(txn.Guards), record.MaxOps)
	}
	ops, err := s.translate(ctx, txn.Ops)
	if err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	fence := clientv3.Compare(clientv3.CreateRevision(string(record.Leader)), "=", term.Revision)
	call, cancel := s.bound(ctx)
	defer cancel()
	answer, err := s.kv.Txn(call).
		If(append(guards(txn.Guards), fence)...).
		Then(ops...).
		Else(clientv3.OpGet(string(record.Leader))).
		Commit()
	if err != nil {
		return 0, fmt.Errorf("commit: %w", judge(err))
	}
	if answer.Succeeded {
		return answer.Header.Revision, nil
	}
	leader := answer.Responses[0].GetResponseRange().Kvs
	if len(leader) == 0 || leader[0].CreateRevision != term.Revision {
		return 0, fmt.Errorf("commit: %w", record.ErrNotLeader)
	}
	return 0, fmt.Errorf("commit: %w", record.ErrConflict)
}

func guards(wanted []record.Guard) []clientv3.Cmp {
	cmps := make([]clientv3.Cmp, 0, len(wanted)+1)
	for _, guard := range wanted {
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(string(guard.Key)), "=", guard.ModRevision))
	}
	return cmps
}

func (s *Store) translate(ctx context.Context, ops []record.Op) ([]clientv3.Op, error) {
	out := make([]clientv3.Op, 0, len(ops))
	for _, op := range ops {
		switch {
		case op.Under:
			out = append(out, clientv3.OpDelete(string(op.Key), clientv3.WithPrefix()))
		case op.Value == nil:
			out = append(out, clientv3.OpDelete(string(op.Key)))
		case op.Expires:
			lease, err := s.expiry.lease(ctx, s)
			if err != nil {
				return nil, err
			}
			out = append(out, clientv3.OpPut(string(op.Key), string(op.Value), clientv3.WithLease(lease)))
		default:
			out = append(out, clientv3.OpPut(string(op.Key), string(op.Value)))
		}
	}
	return out, nil
}

// judge tells errors after which nothing was written from those that leave it open.
func judge(err error) error {
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return fmt.Errorf("%w: %w", record.ErrNoSpace, err)
	}
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return err
	}
	code := status.Code(err)
	var etcd rpctypes.EtcdError
	if errors.As(err, &etcd) {
		code = etcd.Code()
	}
	switch code {
	case codes.InvalidArgument, codes.ResourceExhausted, codes.PermissionDenied, codes.Unauthenticated,
		codes.FailedPrecondition, codes.OutOfRange, codes.NotFound:
		return err
	}
	return fmt.Errorf("%w: %w", record.ErrUnknown, err)
}

// How long expiring records stay: at least keepFor; records within shareFor share one lease.
const (
	keepFor  = time.Hour
	shareFor = 10 * time.Minute
)

// expiry holds the lease of expiring records. turn is a lock that is held over a call of etcd and given up with ctx.
type expiry struct {
	turn  chan struct{}
	id    clientv3.LeaseID
	until time.Time
}

func (e *expiry) lease(ctx context.Context, s *Store) (clientv3.LeaseID, error) {
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if time.Now().Before(e.until) {
		return e.id, nil
	}
	call, cancel := s.bound(ctx)
	defer cancel()
	lease, err := s.client.Grant(call, int64((keepFor+shareFor)/time.Second))
	if err != nil {
		return 0, fmt.Errorf("grant lease: %w", err)
	}
	e.id, e.until = lease.ID, time.Now().Add(shareFor)
	return e.id, nil
}
