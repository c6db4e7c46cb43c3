package node

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"go4.org/netipx"

	"github.com/clearway/clearway/ipam/block"
	"github.com/clearway/clearway/ipam/pool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// settings are what a snapshot means for addresses. They are never changed once made.
type settings struct {
	pools    []pool.Pool
	reserved []pool.Reservation
	quotas   []pool.Quota // those with a limit of addresses
	ipam     pool.Configuration
	labels   map[string]string
}

// newSettings reads a snapshot. What ipamd accepted and this program cannot read is left out, and told: an older agent
// goes on with what it understands.
func newSettings(snapshot *clearwayv1.NodeSnapshot, ownLabels map[string]string) (*settings, []string) {
	s := &settings{labels: ownLabels}
	if labels := snapshot.GetNode().GetStatus().GetLabels(); len(labels) > 0 {
		s.labels = labels
	}
	var faults []string
	for _, object := range snapshot.GetPools() {
		p, violations := pool.Parse(object)
		if len(violations) > 0 {
			faults = append(faults, fault(object, violations))
			continue
		}
		s.pools = append(s.pools, p)
	}
	for _, object := range snapshot.GetReservations() {
		r, violations := pool.ParseReservation(object)
		if len(violations) > 0 {
			faults = append(faults, fault(object, violations))
		}
		s.reserved = append(s.reserved, r)
	}
	for _, object := range snapshot.GetQuotas() {
		q, violations := pool.ParseQuota(object)
		switch {
		case len(violations) > 0:
			faults = append(faults, fault(object, violations))
		case q.Addresses != pool.Unlimited:
			s.quotas = append(s.quotas, q)
		}
	}
	ipam, violations := pool.ParseIPAMConfiguration(snapshot.GetIpamConfiguration())
	if len(violations) > 0 {
		faults = append(faults, fault(snapshot.GetIpamConfiguration(), violations))
		ipam = pool.DefaultConfiguration()
	}
	s.ipam = ipam
	return s, faults
}

func fault(object clearwayv1.Object, violations []*clearwayv1.FieldViolation) string {
	texts := make([]string, 0, len(violations))
	for _, v := range violations {
		texts = append(texts, v.GetField()+": "+v.GetMessage())
	}
	return fmt.Sprintf("%s/%s: %s", object.GetKind(), object.GetMetadata().GetName(), strings.Join(texts, "; "))
}

// pool finds a pool by its name.
func (s *settings) pool(name string) (pool.Pool, bool) {
	if s != nil {
		for _, p := range s.pools {
			if p.Name == name {
				return p, true
			}
		}
	}
	return pool.Pool{}, false
}

// excluded are the addresses of a block that are not given out at a time.
func (s *settings) excluded(poolName string, block netip.Prefix, now time.Time) []netipx.IPRange {
	p, ok := s.pool(poolName)
	if !ok {
		return nil
	}
	ranges, _ := pool.Reserved(s.reserved, now)
	return pool.Excluded(p, block, ranges)
}

// drains tells whether a block is to be emptied and given back. Nothing is known of a pool that is not there.
func (s *settings) drains(poolName string, block netip.Prefix) bool {
	p, ok := s.pool(poolName)
	return ok && p.Drains(block)
}

// configuration is the IPAMConfiguration in force, also while no snapshot is known.
func (s *settings) configuration() pool.Configuration {
	if s == nil {
		return pool.DefaultConfiguration()
	}
	return s.ipam
}

// choose finds the pools a Pod may use, of each family in the order in which they are tried.
func (s *settings) choose(query pool.Query) (pool.Choice, error) {
	query.NodeLabels = s.labels
	choice, err := pool.Choose(s.pools, query)
	switch {
	case err == nil:
		return choice, nil
	case errors.Is(err, pool.ErrNotAllowed):
		return choice, &cniError{code: cniPoolNotAllowed, msg: "pool not allowed", err: err}
	case errors.Is(err, pool.ErrUnknown), errors.Is(err, pool.ErrFamily), errors.Is(err, pool.ErrKinds):
		return choice, &cniError{code: cniBadConfig, msg: "wrong pool", err: err}
	}
	return choice, &cniError{code: cniTryLater, msg: "no address can be given", err: err}
}

// staticCode is the CNI code of a refused address: later may help, or only another address.
func staticCode(err error) uint32 {
	if errors.Is(err, block.ErrAssigned) || errors.Is(err, block.ErrResting) || errors.Is(err, block.ErrSealed) {
		return cniTryLater
	}
	return cniBadConfig
}
