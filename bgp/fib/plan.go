package fib

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// A step is the next thing to do about one prefix. Doing steps until there is none makes the kernel as desired. One
// step is one request, or several of which any may fail without harm; so a delete never rides on an add that might
// be refused.
type step struct {
	kind   stepKind
	reject uint8 // of stepCreate, stepReplace, stepAppend, stepDrop
	legs   []leg // likewise
}

type stepKind uint8

const (
	// stepNone: nothing to do.
	stepNone stepKind = iota
	// stepCreate makes the whole route, where there is none of anybody (NLM_F_EXCL).
	stepCreate
	// stepReplace puts the whole IPv4 route in the place of ours, in one go.
	stepReplace
	// stepAppend adds hops to our IPv6 route.
	stepAppend
	// stepDrop removes hops, each by name, from our IPv6 route.
	stepDrop
	// stepDelete removes our IPv4 route.
	stepDelete
	// stepObject makes a nexthop object, and stepForget removes it. They are no steps of a prefix.
	stepObject
	stepForget
)

func (k stepKind) String() string {
	return [...]string{"none", "create", "replace", "append", "drop", "delete", "object", "forget"}[k]
}

// removes tells whether the step takes something away. Such steps wait until no step that adds is due: a covering
// prefix goes after the more specific ones that take its place have come.
func (k stepKind) removes() bool { return k == stepDrop || k == stepDelete }

// trusts tells whether the step is harmless to others only if what we know of the prefix is true: that the route there
// is ours. The others can't touch a route of another's whatever we know.
func (k stepKind) trusts() bool { return k == stepReplace || k == stepAppend }

// flags are what makes each request safe beside the routes of others.
func (k stepKind) flags() uint16 {
	switch k {
	case stepCreate:
		return unix.NLM_F_CREATE | unix.NLM_F_EXCL
	case stepReplace:
		return unix.NLM_F_REPLACE // without NLM_F_CREATE: if ours is gone, the kernel says so
	case stepAppend:
		return unix.NLM_F_CREATE | unix.NLM_F_APPEND
	}
	return 0
}

// next is the planner: what to do about prefix when target is desired (nil: no route), the kernel has `have` of ours
// (nil: none), and another's route stands at the same place (foreign).
//
// IPv4 keeps a route as one thing, so that a replace is one request. The kernel replaces by destination and metric,
// whoever wrote the route, so it is only done where ours stands alone. IPv6 keeps a set of hops, each with its own
// protocol number; it is changed hop by hop, adding first. That can't touch another's hop, it leaves no gap, and it
// fails safely (a refused replace of several hops takes the old route away).
//
// Where another's route stands at the same place, ours is not written; if ours stands there too and is not as
// desired, ours steps aside.
func next(prefix netip.Prefix, target, have *group, foreign bool) step {
	switch {
	case target == have:
		return step{}
	case have == nil && foreign:
		return step{}
	case have == nil:
		return step{stepCreate, target.reject, target.legs}
	case prefix.Addr().Is4() && (target == nil || foreign):
		return step{kind: stepDelete}
	case prefix.Addr().Is4():
		return step{stepReplace, target.reject, target.legs}
	case target == nil:
		return step{stepDrop, have.reject, have.legs}
	}
	return nextHops(target, have, foreign)
}

// nextHops plans the change of an IPv6 route.
func nextHops(target, have *group, foreign bool) step {
	add := step{kind: stepAppend, legs: hopsWithout(target.legs, have.legs)}
	drop := step{kind: stepDrop, legs: hopsWithout(have.legs, target.legs)}
	if target.reject != have.reject {
		add.reject, drop.reject = target.reject, have.reject
	}
	switch adds, drops := add.reject != 0 || len(add.legs) > 0, drop.reject != 0 || len(drop.legs) > 0; {
	case adds && foreign:
		return step{stepDrop, have.reject, have.legs}
	case adds && add.reject != 0:
		return step{kind: stepAppend, reject: add.reject}
	case adds:
		return add
	case drops:
		return drop
	}
	return reweigh(target, have)
}

// reweigh takes one hop of the wrong weight out, to come back with the right one. The others carry the traffic.
func reweigh(target, have *group) step {
	for i, l := range have.legs {
		if target.legs[i].weight != l.weight || target.legs[i].onlink != l.onlink {
			if len(have.legs) == 1 {
				return step{}
			}
			return step{kind: stepDrop, legs: have.legs[i : i+1]}
		}
	}
	return step{}
}

// hopsWithout are the legs whose hop is not among others.
func hopsWithout(legs, others []leg) []leg {
	var left []leg
	for _, l := range legs {
		if !slices.ContainsFunc(others, l.sameHop) {
			left = append(left, l)
		}
	}
	return left
}
