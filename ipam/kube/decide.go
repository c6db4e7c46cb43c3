package kube

import (
	"cmp"
	"maps"
	"slices"
	"time"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// key names a resource.
type key struct{ kind, name string }

func keyOf(object clearwayv1.Object) key {
	return key{object.GetKind(), object.GetMetadata().GetName()}
}

// less orders by kind, in the schema's order, and name.
func (k key) compare(other key) int {
	return cmp.Or(cmp.Compare(rank[k.kind], rank[other.kind]), cmp.Compare(k.name, other.name))
}

var rank = func() map[string]int {
	of := map[string]int{}
	for i, kind := range []string{
		"IPAMConfiguration", "BGPConfiguration", "IPPool", "IPReservation", "IPQuota", "Node", "BGPFilter", "BGPPeer",
	} {
		of[kind] = i
	}
	return of
}()

// refusal is why an object was not taken, and when that was tried last.
type refusal struct {
	of   *clearwayv1.Source // as it was then
	text string
	at   time.Time
}

// retryAfter is how soon an object that was refused is tried again where nothing has changed: what stands against it may
// lie in blocks and nodes, of which no change is told here.
const retryAfter = 30 * time.Second

// step is one thing to do: to take an object, or, with none, to drop what was copied from one.
type step struct {
	key
	take clearwayv1.Object // nil: drop
	uid  string            // of what is dropped
}

// steps are what brings the copies to what the API server has. wanted is the whole of it. What is dropped goes first, in
// reverse order, so that nothing is dropped while something names it, and a pool that takes another's place finds it free.
func steps(wanted, held map[key]clearwayv1.Object, refused map[key]refusal, now time.Time) []step {
	var all []step
	for _, k := range slices.SortedFunc(maps.Keys(held), func(a, b key) int { return b.compare(a) }) {
		source := held[k].GetMetadata().GetSource()
		if wanted[k] == nil && source != nil && held[k].GetMetadata().GetDeletionTimestamp() == nil {
			if before, ok := refused[k]; ok && now.Sub(before.at) < retryAfter {
				continue
			}
			all = append(all, step{key: k, uid: source.GetUid()})
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(wanted), key.compare) {
		object := wanted[k]
		if same(held[k], object) {
			continue
		}
		before, ok := refused[k]
		if ok && sameSource(before.of, object.GetMetadata().GetSource()) && now.Sub(before.at) < retryAfter {
			continue
		}
		all = append(all, step{key: k, take: object})
	}
	return all
}

// same tells whether a copy is of the object as it is now. One that ipamd is deleting is none.
func same(held, object clearwayv1.Object) bool {
	if held == nil || held.GetMetadata().GetDeletionTimestamp() != nil {
		return false
	}
	return sameSource(held.GetMetadata().GetSource(), object.GetMetadata().GetSource()) &&
		maps.Equal(held.GetMetadata().GetLabels(), object.GetMetadata().GetLabels()) &&
		maps.Equal(held.GetMetadata().GetAnnotations(), object.GetMetadata().GetAnnotations())
}

// sameSource compares by generation, which counts changes of the spec: the resourceVersion also changes with the status.
func sameSource(a, b *clearwayv1.Source) bool {
	return a != nil && b != nil && a.GetUid() == b.GetUid() && a.GetGeneration() == b.GetGeneration()
}
