package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/clearway/clearway/ipam/store/record"
)

// Campaign waits for the office and takes it; address is where others find this leader. The term lasts until Lost is
// closed, Resign, or the end of the store. It returns early only with ctx, or when etcd does not answer.
func (s *Store) Campaign(ctx context.Context, address string) (record.Term, error) {
	for {
		term, holder, err := s.takeOffice(ctx, address)
		if err != nil {
			return record.Term{}, fmt.Errorf("campaign: %w", err)
		}
		if holder == nil {
			return term, nil
		}
		if err := s.awaitVacancy(ctx, holder); err != nil {
			return record.Term{}, fmt.Errorf("campaign: %w", err)
		}
	}
}

// takeOffice makes the leader's key, or returns the one there is.
func (s *Store) takeOffice(ctx context.Context, address string) (record.Term, *mvccpb.KeyValue, error) {
	call, cancel := s.bound(ctx)
	defer cancel()
	lease, err := s.client.Grant(call, max(1, int64(s.ttl/time.Second)))
	if err != nil {
		return record.Term{}, nil, fmt.Errorf("grant lease: %w", err)
	}
	key := string(record.Leader)
	answer, err := s.kv.Txn(call).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, address+"\n"+s.instance, clientv3.WithLease(lease.ID))).
		Else(clientv3.OpGet(key)).
		Commit()
	if err != nil {
		s.revoke(lease.ID) // whatever became of the key, it goes with its lease
		return record.Term{}, nil, fmt.Errorf("take office: %w", err)
	}
	if !answer.Succeeded {
		s.revoke(lease.ID)
		return record.Term{}, answer.Responses[0].GetResponseRange().Kvs[0], nil
	}
	lost, err := s.holdLease(lease.ID)
	if err != nil {
		s.revoke(lease.ID)
		return record.Term{}, nil, err
	}
	return record.Term{Revision: answer.Header.Revision, Lost: lost}, nil, nil
}

// holdLease keeps a lease alive; the channel closes when it is lost. The client counts the time to live from its last
// answer, so it knows no later than etcd does.
func (s *Store) holdLease(lease clientv3.LeaseID) (<-chan struct{}, error) {
	alive, err := s.client.KeepAlive(s.client.Ctx(), lease)
	if err != nil {
		return nil, fmt.Errorf("keep lease: %w", err)
	}
	lost := make(chan struct{})
	go func() {
		defer close(lost)
		for range alive { //nolint:revive // the answers themselves tell nothing
		}
	}()
	return lost, nil
}

// awaitVacancy waits until the holder's key is gone. A holder that ran here before us is dead: its lease is revoked.
func (s *Store) awaitVacancy(ctx context.Context, holder *mvccpb.KeyValue) error {
	_, instance := splitLeader(holder.Value)
	if instance != "" && instance == s.instance {
		s.log.Info("giving up the office that an earlier process of this place still holds")
		return s.revokeNow(ctx, clientv3.LeaseID(holder.Lease))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := s.watcher.Watch(clientv3.WithRequireLeader(ctx), string(record.Leader),
		clientv3.WithRev(holder.ModRevision+1), clientv3.WithFilterPut())
	for answer := range changes {
		if err := answer.Err(); err != nil {
			if errors.Is(err, rpctypes.ErrCompacted) {
				return nil
			}
			return fmt.Errorf("watch the office: %w", err)
		}
		if len(answer.Events) > 0 {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.New("watch the office: broken off")
}

// Resign gives the office back, so that another takes it at once.
func (s *Store) Resign(ctx context.Context, term record.Term) error {
	call, cancel := s.bound(ctx)
	defer cancel()
	answer, err := s.kv.Get(call, string(record.Leader))
	if err != nil {
		return fmt.Errorf("resign: %w", err)
	}
	if len(answer.Kvs) == 0 || answer.Kvs[0].CreateRevision != term.Revision {
		return nil
	}
	if err := s.revokeNow(ctx, clientv3.LeaseID(answer.Kvs[0].Lease)); err != nil {
		return fmt.Errorf("resign: %w", err)
	}
	return nil
}

// Leader tells where the leader is; "" when there is none.
func (s *Store) Leader(ctx context.Context) (string, error) {
	call, cancel := s.bound(ctx)
	defer cancel()
	answer, err := s.kv.Get(call, string(record.Leader))
	if err != nil {
		return "", fmt.Errorf("read leader: %w", err)
	}
	if len(answer.Kvs) == 0 {
		return "", nil
	}
	address, _ := splitLeader(answer.Kvs[0].Value)
	return address, nil
}

func splitLeader(value []byte) (address, instance string) {
	address, instance, _ = strings.Cut(string(value), "\n")
	return address, instance
}

func (s *Store) revokeNow(ctx context.Context, lease clientv3.LeaseID) error {
	call, cancel := s.bound(ctx)
	defer cancel()
	_, err := s.client.Revoke(call, lease)
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("revoke lease: %w", err)
	}
	return nil
}

// revoke is for a lease that nobody needs: should it fail, the lease ends by itself.
func (s *Store) revoke(lease clientv3.LeaseID) {
	if err := s.revokeNow(context.Background(), lease); err != nil {
		s.log.Debug("lease is left to expire", "error", err)
	}
}
