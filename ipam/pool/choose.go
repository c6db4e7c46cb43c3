package pool

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Errors of Choose. Those returned wrap one of these and tell why, pool by pool.
var (
	// ErrUnknown: a pool that was asked for does not exist.
	ErrUnknown = errors.New("there is no such pool")
	// ErrFamily: a pool that was asked for is not of the family that it was asked for.
	ErrFamily = errors.New("pool is of the other family")
	// ErrKinds: of the pools that were asked for in one family some are Floating, and some are not.
	ErrKinds = errors.New("pools of one family must be of one kind")
	// ErrNotAllowed: a pool that was asked for is not for this node, not for this Pod, or not for Pods.
	ErrNotAllowed = errors.New("pool may not be used here")
	// ErrDisabled: a pool that was asked for is disabled.
	ErrDisabled = errors.New("pool is disabled")
	// ErrDraining: a pool that was asked for is being emptied, or deleted.
	ErrDraining = errors.New("pool is being drained")
	// ErrNone: no pool was asked for, and none is for this node and Pod.
	ErrNone = errors.New("no pool is for this node")
)

// Families are those that addresses are wanted of.
type Families uint8

// The families. The zero value leaves it to the pools.
const (
	IPv4 Families = 1 << iota
	IPv6
)

// Wanted are pools asked for by name at one place, such as an annotation.
type Wanted struct {
	// Where it stands, for errors.
	Where string
	Names []string
	// Only is the family that it speaks of; zero: of both, and one of which it names no pool gets no address.
	Only Families
}

// Query is what pools are chosen by.
type Query struct {
	NodeLabels map[string]string
	// Pod is who asks; nil: nobody in particular, and then what selectors say of Pods is left open.
	Pod *Subject
	// Wanted goes before the selectors' choice, and what stands first in it before the rest, family by family.
	Wanted []Wanted
	// Families, where not zero, are exactly those that the Pod is to have.
	Families Families
}

// Choice is the pools a Pod may draw from, of each family in the order in which they are to be tried: one of them
// gives the family's address. A family that has none is not for this Pod.
type Choice struct {
	IPv4, IPv6 []Pool
}

// Choose finds the pools for a Pod on a node. Of a family for which pools are asked for by name it is those, in that
// order, or those that they are drained to: each must exist and be for this node and Pod, and one must be enabled and not
// drained. Floating pools are chosen by name only, and not beside others of the family. Else it is all such Block pools whose selectors take node and Pod, by descending priority, then the more
// closely selected, then by name.
func Choose(pools []Pool, query Query) (Choice, error) {
	four, err := query.family(pools, IPv4)
	if err != nil {
		return Choice{}, err
	}
	six, err := query.family(pools, IPv6)
	if err != nil {
		return Choice{}, err
	}
	choice := Choice{IPv4: four.IPv4, IPv6: six.IPv6}
	switch {
	case query.Families&IPv4 != 0 && len(four.IPv4) == 0:
		return Choice{}, query.noneFor(pools, "IPv4 was asked for: ")
	case query.Families&IPv6 != 0 && len(six.IPv6) == 0:
		return Choice{}, query.noneFor(pools, "IPv6 was asked for: ")
	case choice.empty():
		return Choice{}, query.noneFor(pools, "")
	}
	return choice, nil
}

// family is the choice by what holds for one family; of the other it may have pools too, which do not count.
func (q Query) family(pools []Pool, family Families) (Choice, error) {
	if q.Families != 0 && q.Families&family == 0 {
		return Choice{}, nil
	}
	for _, wanted := range q.Wanted {
		if len(wanted.Names) > 0 && (wanted.Only == 0 || wanted.Only == family) {
			choice, err := q.named(pools, wanted)
			if err != nil {
				return Choice{}, fmt.Errorf("%s: %w", wanted.Where, err)
			}
			return choice, nil
		}
	}
	var choice Choice
	for _, pool := range sorted(pools) {
		if q.refusal(pool, false) == nil {
			choice.add(pool)
		}
	}
	return choice, nil
}

// sorted is pools in the order in which they are tried.
func sorted(pools []Pool) []Pool {
	return slices.SortedFunc(slices.Values(pools), func(a, b Pool) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(b.closeness(), a.closeness()), cmp.Compare(a.Name, b.Name))
	})
}

// closeness is how closely a pool selects who may draw from it: a podSelector more so than a namespaceSelector.
func (p Pool) closeness() int {
	switch {
	case !p.PodSelector.Empty():
		return 2
	case !p.NamespaceSelector.Empty():
		return 1
	}
	return 0
}

func (q Query) named(pools []Pool, wanted Wanted) (Choice, error) {
	var choice, unavailable Choice
	seen := map[string]bool{}
	for _, name := range wanted.Names {
		found, err := find(pools, name)
		if err != nil {
			return Choice{}, err
		}
		if seen[found.Name] {
			continue
		}
		seen[found.Name] = true
		if wanted.Only != 0 && wanted.Only != found.family() {
			return Choice{}, fmt.Errorf("%w: %q is %s", ErrFamily, found.Name, found.CIDR)
		}
		switch err := q.refusal(found, true); {
		case errors.Is(err, ErrDisabled), errors.Is(err, ErrDraining):
			unavailable.add(found)
		case err != nil:
			return Choice{}, err
		default:
			choice.add(found)
		}
	}
	for _, family := range [][2][]Pool{{unavailable.IPv4, choice.IPv4}, {unavailable.IPv6, choice.IPv6}} {
		if len(family[0]) > 0 && len(family[1]) == 0 {
			return Choice{}, q.refusal(family[0][0], true)
		}
		for _, other := range family[1] {
			if first := family[1][0]; other.Kind != first.Kind {
				return Choice{}, fmt.Errorf("%w: %q is of kind %s, and %q of kind %s", ErrKinds, first.Name, first.Kind, other.Name, other.Kind)
			}
		}
	}
	return choice, nil
}

// find is the pool of a name, or the one that it is drained to, which may be drained itself by now.
func find(pools []Pool, name string) (Pool, error) {
	at := slices.IndexFunc(pools, func(p Pool) bool { return p.Name == name })
	if at < 0 {
		return Pool{}, fmt.Errorf("pool %q: %w", name, ErrUnknown)
	}
	for range pools { // a circle ends somewhere
		to := pools[at].DrainTo
		instead := slices.IndexFunc(pools, func(p Pool) bool { return p.Name == to })
		if !pools[at].Draining() || instead < 0 {
			break
		}
		at = instead
	}
	return pools[at], nil
}

func (p Pool) family() Families {
	if p.CIDR.Addr().Is4() {
		return IPv4
	}
	return IPv6
}

func (c *Choice) add(pool Pool) {
	if pool.family() == IPv4 {
		c.IPv4 = append(c.IPv4, pool)
	} else {
		c.IPv6 = append(c.IPv6, pool)
	}
}

func (c *Choice) empty() bool { return len(c.IPv4)+len(c.IPv6) == 0 }

// refusal is why a Pod may not draw from a pool, or nil. A pool that is disabled or drained is refused as that only when
// it would serve otherwise, and one of kind Floating serves who names it.
func (q Query) refusal(pool Pool, named bool) error {
	switch {
	case pool.Kind == LoadBalancer:
		return fmt.Errorf("%w: pool %q is of kind %s, and Pods draw from kinds %s and %s", ErrNotAllowed, pool.Name, pool.Kind, Block, Floating)
	case pool.Kind == Floating && !named:
		return fmt.Errorf("%w: pool %q is of kind %s, which gives addresses to those who name it", ErrNotAllowed, pool.Name, pool.Kind)
	case !pool.Selects(q.NodeLabels):
		return fmt.Errorf("%w: the nodeSelector of pool %q (%s) does not take this node", ErrNotAllowed, pool.Name, pool.NodeSelector)
	}
	if q.Pod != nil {
		if why := q.Pod.refusal(pool); why != "" {
			return fmt.Errorf("%w: %s", ErrNotAllowed, why)
		}
	}
	switch {
	case pool.Draining():
		return fmt.Errorf("%w: %q", ErrDraining, pool.Name)
	case pool.Disabled:
		return fmt.Errorf("%w: %q", ErrDisabled, pool.Name)
	}
	return nil
}

// noneFor tells of the first few pools why they are not for this node and Pod. It is an ErrNotAllowed as well when the
// Pod is what a pool that would serve refuses.
func (q Query) noneFor(pools []Pool, asked string) error {
	if len(pools) == 0 {
		return fmt.Errorf("%s%w: there are no pools at all; apply an IPPool", asked, ErrNone)
	}
	const told = 5
	var reasons []string
	refused := false
	anybody := Query{NodeLabels: q.NodeLabels}
	for i, pool := range sorted(pools) {
		why := q.refusal(pool, false)
		refused = refused || why != nil && anybody.refusal(pool, false) == nil
		if why != nil && i < told {
			reasons = append(reasons, why.Error())
		}
	}
	if more := len(pools) - told; more > 0 {
		reasons = append(reasons, fmt.Sprintf("and %d more", more))
	}
	if len(reasons) == 0 {
		reasons = append(reasons, "those there are give addresses of the other family")
	}
	if refused {
		return fmt.Errorf("%s%w%w: %s", asked, ErrNone, also{ErrNotAllowed}, strings.Join(reasons, "; "))
	}
	return fmt.Errorf("%s%w: %s", asked, ErrNone, strings.Join(reasons, "; "))
}

// also is an error that adds nothing to the text of the one it stands beside.
type also struct{ err error }

func (a also) Error() string { return "" }
func (a also) Unwrap() error { return a.err }
