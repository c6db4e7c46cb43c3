package server

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Limits of what is kept of a store's lives.
const (
	// maxIncarnations is how many incarnations before the present one are known by name.
	maxIncarnations = 16
	// maxTerms is how many terms of office are known. Who was away for more is judged by revisions alone.
	maxTerms = 64
	// youngFor is how long after an incarnation was minted for an empty store agents of another one are taken for those
	// of a store that was lost, and not for strangers.
	youngFor = time.Hour
	// lifeEvery is how often it is noted how far the cluster's log is.
	lifeEvery = 10 * time.Minute
)

func (s *state) applyLife(one record.Record) error {
	if one.Value == nil {
		s.life = nil
		return nil
	}
	life := &clearwayv1.StoreLife{}
	if err := proto.Unmarshal(one.Value, life); err != nil {
		return err
	}
	s.life = life
	return nil
}

// recovering tells whether claims wait for the nodes' reports.
func (s *state) recovering() bool { return s.life.GetRecovery() != nil }

// generationAt is the generation of a block whose record was first written at a revision.
func (s *state) generationAt(revision int64) int64 {
	number := int64(0)
	for _, epoch := range s.life.GetEpochs() {
		if epoch.GetFromRevision() <= revision {
			number = epoch.GetNumber()
		}
	}
	return clearwayv1.Generation(number, revision)
}

// epoch is the number of the present one.
func epochOf(life *clearwayv1.StoreLife) int64 {
	if n := len(life.GetEpochs()); n > 0 {
		return life.GetEpochs()[n-1].GetNumber()
	}
	return 0
}

// beginEpoch makes a life's generations from a revision on greater than all of a number and below.
func beginEpoch(life *clearwayv1.StoreLife, from, above int64) {
	number := min(max(epochOf(life), above)+1, clearwayv1.MaxEpoch)
	life.Epochs = append(life.Epochs, &clearwayv1.StoreEpoch{FromRevision: from, Number: number})
}

// beginTerm notes a new term of office.
func beginTerm(life *clearwayv1.StoreLife, term record.Term) {
	life.Terms = append(life.GetTerms(), &clearwayv1.StoreTerm{Id: rand.Uint64() | 1, Revision: term.Revision})
	if over := len(life.GetTerms()) - maxTerms; over > 0 {
		life.Terms = life.GetTerms()[over:]
	}
}

// term is the id of the present one; 0: none is known.
func (s *state) term() uint64 {
	if n := len(s.life.GetTerms()); n > 0 {
		return s.life.GetTerms()[n-1].GetId()
	}
	return 0
}

// denies tells whether what was told at a revision in a term cannot be of this store's past: the term had ended before,
// or is not one of ours.
func (s *state) denies(term uint64, revision int64) bool {
	terms := s.life.GetTerms()
	i := slices.IndexFunc(terms, func(one *clearwayv1.StoreTerm) bool { return one.GetId() == term })
	switch {
	case i < 0:
		return len(terms) > 0 && revision >= terms[0].GetRevision()
	case i+1 < len(terms):
		return revision >= terms[i+1].GetRevision()
	}
	return false
}

// young tells whether the store was made a short time ago, or gave out nothing yet.
func (s *state) young(now time.Time) bool {
	minted := s.life.GetMintedTime()
	return len(s.blocks) == 0 || (minted != nil && len(s.life.GetFormer()) == 0 && now.Sub(minted.AsTime()) < youngFor)
}

// remember adds an incarnation to those that are known, of which the oldest go.
func remember(known []string, incarnation string) []string {
	if incarnation == "" || slices.Contains(known, incarnation) {
		return known
	}
	known = append(known, incarnation)
	return known[max(0, len(known)-maxIncarnations):]
}

// knows tells whether an incarnation is one of this store's lives.
func (s *state) knows(incarnation string) bool {
	return incarnation == s.incarnation || slices.Contains(s.life.GetFormer(), incarnation) ||
		slices.Contains(s.life.GetBrought(), incarnation)
}

// reported tells whether a node has told its blocks in this incarnation.
func (s *state) reported(node string) bool {
	return s.nodes[node].GetStatus().GetIncarnation() == s.incarnation
}

// awaited are the known nodes that a recovery waits for, by name.
func (s *state) awaited() []string {
	if !s.recovering() {
		return nil
	}
	var names []string
	for _, name := range sortedNames(s.nodes) {
		if !s.reported(name) {
			names = append(names, name)
		}
	}
	return names
}

// wentBack tells by the store itself why it is not the one it says it is; "" when it is.
func wentBack(life *clearwayv1.StoreLife, now record.Identity) string {
	switch {
	case life.GetCluster() == 0:
		return ""
	case life.GetCluster() != now.Cluster:
		return fmt.Sprintf("it was last led in etcd cluster %x, and is in cluster %x", life.GetCluster(), now.Cluster)
	case life.GetLogIndex() > now.LogIndex:
		return fmt.Sprintf("its etcd cluster's log had %d entries, and has %d", life.GetLogIndex(), now.LogIndex)
	}
	return ""
}

// restored is a life after a restore: of another incarnation, recovering.
func restored(life *clearwayv1.StoreLife, was, reason string, from, above int64, now time.Time) *clearwayv1.StoreLife {
	next := proto.CloneOf(life)
	if next == nil {
		next = &clearwayv1.StoreLife{}
	}
	next.Former = remember(next.GetFormer(), was)
	next.MintedTime = timestamppb.New(now)
	next.Recovery = &clearwayv1.StoreRecovery{StartedTime: timestamppb.New(now), Reason: reason}
	beginEpoch(next, from, above)
	return next
}

// remade is the life of a store that was made anew in another's place: of the same incarnation, recovering. What is
// reported to it goes before what it gave out itself.
func remade(life *clearwayv1.StoreLife, reason string, from, above int64, now time.Time) *clearwayv1.StoreLife {
	next := proto.CloneOf(life)
	lift := min(max(epochOf(life), above)+1, clearwayv1.MaxEpoch)
	next.Recovery = &clearwayv1.StoreRecovery{StartedTime: timestamppb.New(now), Reason: reason, Lift: lift}
	beginEpoch(next, from, lift+above)
	return next
}

func lifeOp(life *clearwayv1.StoreLife) record.Op {
	return record.Op{Key: record.Life, Value: mustMarshal(life)}
}
