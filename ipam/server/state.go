package server

import (
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/pool"
	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// state is the store's records in memory, with the indices that decisions need. The messages in it are never changed:
// a change puts a new message in the old one's place, so that a reader may keep what it got.
//
// It is a value without lock, clock or I/O; Server.mu guards the one in use.
type state struct {
	revision    int64
	incarnation string
	// life is nil for a store that an earlier version made.
	life *clearwayv1.StoreLife

	config    map[string]map[string]stored // kind, name
	pools     map[string]*poolState
	reserved  []pool.Reservation          // by name
	nodes     map[string]*clearwayv1.Node // registrations
	gone      map[string]*clearwayv1.Node
	kube      kube
	mirrors   map[string]mirror
	sequences map[string]sequence

	blocks   map[netip.Prefix]*clearwayv1.BlockSpec
	blocksOf map[string]map[netip.Prefix]struct{} // by node
	claimed  map[claimKey]netip.Prefix
	// live has every block there is, of whatever pool (rule NoOverlap).
	live    [2]*pool.Space
	cooling map[netip.Prefix]time.Time
	// orphaned are the blocks in that state.
	orphaned map[netip.Prefix]struct{}
	// floats are the floating addresses by their owners.
	floats     floats
	allowances allowances
	// staleQuotas: a quota was changed since stale allowances were last looked for.
	staleQuotas bool
	// blockCounts are the blocks that somebody has, by pool and node.
	blockCounts map[blockCount]int64
	// called are the owned and withdrawing blocks with a call_back.
	called map[netip.Prefix]struct{}
	tally  map[string]*tally // by pool

	assignments map[string]map[netip.Addr]*clearwayv1.AssignmentSpec
	past        past
}

// stored is a resource with the revision of its last change.
type stored struct {
	object   clearwayv1.Object
	revision int64
}

// poolState is a pool's parsed form and the space that its blocks, or single addresses, are carved from; space is nil for
// kind LoadBalancer.
type poolState struct {
	pool.Pool
	space *pool.Space
	// parts are those that blocks of a length are carved from, as far as they were asked for; they hold until a time
	// (zero: for ever) and, empty, are worked out anew.
	parts      map[int][]netip.Prefix
	partsUntil time.Time
}

type mirror struct {
	*clearwayv1.NodeStatus
	revision int64
}

type sequence struct {
	number   int64
	revision int64
}

// claimKey is what a claim's request key is unique in.
type claimKey struct{ node, request string }

func newState() *state {
	return &state{
		config:      map[string]map[string]stored{},
		pools:       map[string]*poolState{},
		nodes:       map[string]*clearwayv1.Node{},
		gone:        map[string]*clearwayv1.Node{},
		kube:        newKube(),
		mirrors:     map[string]mirror{},
		sequences:   map[string]sequence{},
		blocks:      map[netip.Prefix]*clearwayv1.BlockSpec{},
		blocksOf:    map[string]map[netip.Prefix]struct{}{},
		claimed:     map[claimKey]netip.Prefix{},
		live:        [2]*pool.Space{pool.NewSpace(netip.PrefixFrom(netip.IPv4Unspecified(), 0)), pool.NewSpace(netip.PrefixFrom(netip.IPv6Unspecified(), 0))},
		cooling:     map[netip.Prefix]time.Time{},
		orphaned:    map[netip.Prefix]struct{}{},
		floats:      floats{},
		allowances:  allowances{},
		blockCounts: map[blockCount]int64{},
		called:      map[netip.Prefix]struct{}{},
		tally:       map[string]*tally{},
		assignments: map[string]map[netip.Addr]*clearwayv1.AssignmentSpec{},
		past:        past{bytes: map[record.Hour]int64{}},
	}
}

// change collects what a batch of records touched, for those who watch.
type change struct {
	config bool
	life   bool
	nodes  map[string]struct{} // whose snapshot or directory entry may differ
	blocks map[netip.Prefix]struct{}
	// tellers are nodes whose snapshot alone may differ; services are those whose entry may.
	tellers, services map[string]struct{}
}

func newChange() *change {
	return &change{nodes: map[string]struct{}{}, blocks: map[netip.Prefix]struct{}{}, tellers: map[string]struct{}{}, services: map[string]struct{}{}}
}

// apply brings one record into the state. An error means a record that this program did not write: nothing is changed.
func (s *state) apply(one record.Record, touched *change) error {
	var err error
	switch one.Key.Room() {
	case record.Config:
		err = s.applyConfig(one, touched)
	case record.Blocks:
		err = s.applyBlock(one, touched)
	case record.Nodes:
		err = s.applyNode(s.nodes, one, touched)
	case record.Gone:
		err = s.applyNode(s.gone, one, touched)
	case record.Kubernetes:
		err = s.applyKubernetes(one, touched)
	case record.Assignments:
		err = s.applyAssignment(one)
	case record.Allowances:
		err = s.applyAllowance(one, touched)
	case record.Mirrors:
		err = s.applyMirror(one)
	case record.Pools:
		err = s.applySequence(one)
	case record.History:
		err = s.past.applyTenure(one)
	case string(record.HistorySince):
		err = s.past.applySince(one)
	case string(record.Incarnation):
		s.incarnation = string(one.Value)
		touched.life = true
	case string(record.Life):
		err = s.applyLife(one)
		touched.life = true
	}
	if err != nil {
		return fmt.Errorf("record %s: %w", one.Key, err)
	}
	return nil
}

func (s *state) applyConfig(one record.Record, touched *change) error {
	kind, name, ok := one.Key.KindName()
	if !ok {
		return fmt.Errorf("no name")
	}
	if s.config[kind] == nil {
		s.config[kind] = map[string]stored{}
	}
	touched.config = true
	s.staleQuotas = s.staleQuotas || kind == kindQuota
	if one.Value == nil {
		delete(s.config[kind], name)
		switch kind {
		case kindPool:
			delete(s.pools, name)
		case kindReservation:
			s.putReservation(name, nil)
		}
		return nil
	}
	object, err := clearwayv1.New(kind)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(one.Value, object); err != nil {
		return err
	}
	object.GetMetadata().ResourceVersion = fmt.Sprint(one.ModRevision)
	s.config[kind][name] = stored{object, one.ModRevision}
	switch made := object.(type) {
	case *clearwayv1.IPPool:
		return s.putPool(made)
	case *clearwayv1.IPReservation:
		s.putReservation(name, made)
	}
	return nil
}

// putPool keeps the space of a pool that is there already, unless its CIDR is another now.
func (s *state) putPool(made *clearwayv1.IPPool) error {
	parsed, violations := pool.Parse(made)
	if len(violations) > 0 {
		return fmt.Errorf("%s: %s", violations[0].GetField(), violations[0].GetMessage())
	}
	next := &poolState{Pool: parsed}
	if before := s.pools[parsed.Name]; before != nil && before.CIDR == parsed.CIDR {
		next.space = before.space
	} else if parsed.Kind != pool.LoadBalancer {
		next.space = pool.NewSpace(parsed.CIDR)
		if err := s.takeLive(next.space); err != nil {
			return err
		}
	}
	s.pools[parsed.Name] = next
	return nil
}

// takeLive marks the blocks that lie in a pool's new space: its own, and those of an earlier pool of its name.
func (s *state) takeLive(space *pool.Space) error {
	for block := range s.blocks {
		if cidr.Contains(space.Prefix(), block) {
			if err := space.Take(block); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *state) liveOf(prefix netip.Prefix) *pool.Space {
	if prefix.Addr().Is4() {
		return s.live[0]
	}
	return s.live[1]
}
