package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/clearway/clearway/ipam/store/record"
)

// Identity tells which life of the store this is, as it is after all that this process has written.
func (s *Store) Identity(ctx context.Context) (record.Identity, error) {
	call, cancel := s.bound(ctx)
	defer cancel()
	answer, err := s.kv.Get(call, string(record.Leader)) // linearizable: a member that lags does not answer it
	if err != nil {
		return record.Identity{}, fmt.Errorf("identify store: %w", err)
	}
	found := record.Identity{Cluster: answer.Header.GetClusterId(), Revision: answer.Header.GetRevision()}
	// The member that answered is one of these, and has the log up to what was just read.
	var failed error
	for _, endpoint := range s.endpoints() {
		status, err := s.client.Status(call, endpoint)
		if err != nil {
			failed = err
			continue
		}
		found.LogIndex = max(found.LogIndex, status.RaftIndex)
	}
	if found.LogIndex == 0 {
		return record.Identity{}, fmt.Errorf("identify store: %w", failed)
	}
	return found, nil
}

// endpoints are those of the cluster; the embedded member answers to any name.
func (s *Store) endpoints() []string {
	if s.embedded != nil {
		return []string{"embedded"}
	}
	return s.client.Endpoints()
}

// Health asks each member that is known how it is. An error means that none answered.
func (s *Store) Health(ctx context.Context) (record.Health, error) {
	call, cancel := s.bound(ctx)
	defer cancel()
	endpoints := s.endpoints()
	health := record.Health{Members: len(endpoints)}
	var failed error
	for _, endpoint := range endpoints {
		status, err := s.client.Status(call, endpoint)
		if err != nil {
			failed = err
			health.Faults = append(health.Faults, fmt.Sprintf("member at %s does not answer: %v", endpoint, err))
			continue
		}
		health.Answering++
		health.Version = status.Version
		health.Size, health.InUse = max(health.Size, status.DbSize), max(health.InUse, status.DbSizeInUse)
		health.Quota = max(health.Quota, status.DbSizeQuota)
		for _, fault := range status.Errors {
			health.Faults = append(health.Faults, fmt.Sprintf("member %x: %s", status.Header.GetMemberId(), fault))
		}
	}
	if health.Answering == 0 {
		return record.Health{}, fmt.Errorf("health of store: %w", errors.Join(failed, ctx.Err()))
	}
	alarms, err := s.client.AlarmList(call)
	if err != nil {
		return record.Health{}, fmt.Errorf("health of store: %w", err)
	}
	for _, alarm := range alarms.Alarms {
		if alarm.GetAlarm() != etcdserverpb.AlarmType_NONE {
			health.Faults = append(health.Faults, fmt.Sprintf("%s on member %x", alarm.GetAlarm(), alarm.GetMemberID()))
		}
	}
	slices.Sort(health.Faults)
	health.Faults = slices.Compact(health.Faults)
	return health, nil
}
