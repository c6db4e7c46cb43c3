package pool

import (
	"fmt"
	"math"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Unlimited is the limit of a quota that has none.
const Unlimited int64 = -1

// Quota is an IPQuota. It is a value: to change one, make another.
type Quota struct {
	Name, UID string
	Created   time.Time
	// NamespaceSelector, PodSelector and NodeSelector are never nil; empty: everything counts.
	NamespaceSelector, PodSelector, NodeSelector labels.Selector
	// Pools are those that count; empty: all.
	Pools []string
	// Addresses and Blocks are how many there may be; Unlimited: any number.
	Addresses, Blocks int64
}

// Bounds of an IPQuota.
const (
	maxQuotaPools = 100
	maxQuota      = math.MaxInt32 // a JSON number of the gRPC API and of the API server alike
)

// ParseQuota reads a quota and tells every fault of it; the Quota is of use only when there is none.
func ParseQuota(object *clearwayv1.IPQuota) (Quota, []*clearwayv1.FieldViolation) {
	var faults violations
	spec, metadata := object.GetSpec(), object.GetMetadata()
	q := Quota{
		Name: metadata.GetName(), UID: metadata.GetUid(), Created: metadata.GetCreationTimestamp().AsTime(), Pools: spec.GetPools(),
		NamespaceSelector: parseSelector(&faults, "spec.namespaceSelector", spec.GetNamespaceSelector()),
		PodSelector:       parseSelector(&faults, "spec.podSelector", spec.GetPodSelector()),
		NodeSelector:      parseSelector(&faults, "spec.nodeSelector", spec.GetNodeSelector()),
		Addresses:         Unlimited, Blocks: Unlimited,
	}
	if spec == nil || spec.Addresses == nil && spec.Blocks == nil {
		faults.add("spec.addresses", "", "or spec.blocks is required: how many there may be at most")
		return q, faults
	}
	if spec.Addresses != nil {
		q.Addresses = parseLimit(&faults, "spec.addresses", spec.GetAddresses())
	}
	if spec.Blocks != nil {
		q.Blocks = parseLimit(&faults, "spec.blocks", spec.GetBlocks())
	}
	switch {
	case spec.Addresses == nil && (spec.NamespaceSelector != nil || spec.PodSelector != nil):
		faults.add("spec.addresses", "", "is required with a namespaceSelector or podSelector: blocks are nodes', not Pods'")
	case spec.Blocks == nil && spec.NodeSelector != nil:
		faults.add("spec.blocks", "", "is required with a nodeSelector: addresses are counted by Pods, wherever they run")
	case len(q.Pools) > maxQuotaPools:
		faults.add("spec.pools", fmt.Sprintf("%d entries", len(q.Pools)), "must have at most %d entries", maxQuotaPools)
	}
	if at := slices.Index(q.Pools, ""); at >= 0 {
		faults.add(fmt.Sprintf("spec.pools[%d]", at), "", "must be the name of an IPPool")
	}
	return q, faults
}

func parseLimit(faults *violations, field string, limit int32) int64 {
	if limit < 0 {
		faults.add(field, limit, "must be from 0 to %d; leave it out for any number", maxQuota)
	}
	return int64(limit)
}

// Of tells whether addresses and blocks of a pool count.
func (q Quota) Of(pool string) bool { return len(q.Pools) == 0 || slices.Contains(q.Pools, pool) }

// Takes tells whether a Pod's addresses count. What is not known counts: nobody gets out of a quota by withholding it.
func (q Quota) Takes(pod Subject) bool {
	if !q.NamespaceSelector.Empty() && pod.Namespace != "" && (len(pod.NamespaceLabels) > 0 || byName(q.NamespaceSelector)) {
		if pod.namespaceRefusal(q.NamespaceSelector) != "" {
			return false
		}
	}
	return q.PodSelector.Empty() || len(pod.Labels) == 0 || q.PodSelector.Matches(labels.Set(pod.Labels))
}
