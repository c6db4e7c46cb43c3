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

	config    map[string]map[string]stored // kind, name
	pools     map[string]*poolState
	nodes     map[string]*clearwayv1.Node // registrations
	gone      map[string]*clearwayv1.Node
	mirrors   map[string]mirror
	sequences map[string]sequence

	blocks   map[netip.Prefix]*clearwayv1.BlockSpec
	blocksOf map[string]map[netip.Prefix]struct{} // by node
	claimed  map[claimKey]netip.Prefix
	// live has every block there is, of whatever pool (rule NoOverlap).
	live    [2]*pool.Space
	cooling map[netip.Prefix]time.Time

	assignments map[string]map[netip.Addr]*clearwayv1.AssignmentSpec
}

// stored is a resource with the revision of its last change.
type stored struct {
	object   clearwayv1.Object
	revision int64
}

// poolState is a Block pool's parsed form and the space that blocks are carved from; space is nil for other kinds.
type poolState struct {
	pool.Pool
	space *pool.Space
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
		mirrors:     map[string]mirror{},
		sequences:   map[string]sequence{},
		blocks:      map[netip.Prefix]*clearwayv1.BlockSpec{},
		blocksOf:    map[string]map[netip.Prefix]struct{}{},
		claimed:     map[claimKey]netip.Prefix{},
		live:        [2]*pool.Space{pool.NewSpace(netip.PrefixFrom(netip.IPv4Unspecified(), 0)), pool.NewSpace(netip.PrefixFrom(netip.IPv6Unspecified(), 0))},
		cooling:     map[netip.Prefix]time.Time{},
		assignments: map[string]map[netip.Addr]*clearwayv1.AssignmentSpec{},
	}
}

// change collects what a batch of records touched, for those who watch.
type change struct {
	config bool
	nodes  map[string]struct{} // whose snapshot or directory entry may differ
	blocks map[netip.Prefix]struct{}
}

func newChange() *change {
	return &change{nodes: map[string]struct{}{}, blocks: map[netip.Prefix]struct{}{}}
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
	case record.Assignments:
		err = s.applyAssignment(one)
	case record.Mirrors:
		err = s.applyMirror(one)
	case record.Pools:
		err = s.applySequence(one)
	case string(record.Incarnation):
		s.incarnation = string(one.Value)
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
	if one.Value == nil {
		delete(s.config[kind], name)
		if kind == kindPool {
			delete(s.pools, name)
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
	if made, ok := object.(*clearwayv1.IPPool); ok {
		return s.putPool(made)
	}
	return nil
}

// putPool keeps the space of a pool that is there already: its CIDR never changes.
func (s *state) putPool(made *clearwayv1.IPPool) error {
	parsed, violations := pool.Parse(made)
	if len(violations) > 0 {
		return fmt.Errorf("%s: %s", violations[0].GetField(), violations[0].GetMessage())
	}
	next := &poolState{Pool: parsed}
	if before := s.pools[parsed.Name]; before != nil && before.CIDR == parsed.CIDR {
		next.space = before.space
	} else if parsed.Kind == pool.Block {
		next.space = pool.NewSpace(parsed.CIDR)
		if err := s.takeLive(next.space); err != nil {
			return err
		}
	}
	s.pools[parsed.Name] = next
	return nil
}

// takeLive marks the blocks that lie in a new pool's space: those of an earlier pool of the same CIDR.
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
