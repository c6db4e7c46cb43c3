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
	// ErrNotAllowed: a pool that was asked for is not for this node, or not for Pods.
	ErrNotAllowed = errors.New("pool may not be used here")
	// ErrDisabled: a pool that was asked for is disabled.
	ErrDisabled = errors.New("pool is disabled")
	// ErrNone: no pool was asked for, and none is for this node.
	ErrNone = errors.New("no pool is for this node")
)

// Choice is the pools a Pod may draw from, of each family in the order in which they are to be tried: one of them
// gives the family's address. A family that has none is not for this Pod.
type Choice struct {
	IPv4, IPv6 []Pool
}

// Choose finds the pools for a Pod on a node of these labels. With names, they are those pools, in that order: each
// must exist and be for this node, and of each family of theirs one must be enabled. Without, they are all enabled
// Block pools whose selector takes the node, by descending priority, then by name.
func Choose(pools []Pool, nodeLabels map[string]string, wanted []string) (Choice, error) {
	if len(wanted) > 0 {
		return chooseNamed(pools, nodeLabels, wanted)
	}
	var choice Choice
	sorted := slices.SortedFunc(slices.Values(pools), func(a, b Pool) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Name, b.Name))
	})
	for _, pool := range sorted {
		if refusal(pool, nodeLabels) == nil {
			choice.add(pool)
		}
	}
	if choice.empty() {
		return Choice{}, noneFor(sorted, nodeLabels)
	}
	return choice, nil
}

func chooseNamed(pools []Pool, nodeLabels map[string]string, wanted []string) (Choice, error) {
	var choice, disabled Choice
	for i, name := range wanted {
		if slices.Contains(wanted[:i], name) {
			continue
		}
		at := slices.IndexFunc(pools, func(p Pool) bool { return p.Name == name })
		if at < 0 {
			return Choice{}, fmt.Errorf("pool %q: %w", name, ErrUnknown)
		}
		switch err := refusal(pools[at], nodeLabels); {
		case errors.Is(err, ErrDisabled):
			disabled.add(pools[at])
		case err != nil:
			return Choice{}, err
		default:
			choice.add(pools[at])
		}
	}
	for _, family := range [][2][]Pool{{disabled.IPv4, choice.IPv4}, {disabled.IPv6, choice.IPv6}} {
		if len(family[0]) > 0 && len(family[1]) == 0 {
			return Choice{}, refusal(family[0][0], nodeLabels)
		}
	}
	return choice, nil
}

func (c *Choice) add(pool Pool) {
	if pool.CIDR.Addr().Is4() {
		c.IPv4 = append(c.IPv4, pool)
	} else {
		c.IPv6 = append(c.IPv6, pool)
	}
}

func (c *Choice) empty() bool { return len(c.IPv4)+len(c.IPv6) == 0 }

// refusal is why Pods of a node may not draw from a pool, or nil. A disabled pool is refused as that only when it
// would serve otherwise.
func refusal(pool Pool, nodeLabels map[string]string) error {
	switch {
	case pool.Kind != Block:
		return fmt.Errorf("%w: pool %q is of kind %s, and Pods draw from kind %s", ErrNotAllowed, pool.Name, pool.Kind, Block)
	case !pool.Selects(nodeLabels):
		return fmt.Errorf("%w: the nodeSelector of pool %q (%s) does not take this node", ErrNotAllowed, pool.Name, pool.NodeSelector)
	case pool.Disabled:
		return fmt.Errorf("%w: %q", ErrDisabled, pool.Name)
	}
	return nil
}

// noneFor tells of the first few pools why they are not for this node.
func noneFor(pools []Pool, nodeLabels map[string]string) error {
	if len(pools) == 0 {
		return fmt.Errorf("%w: there are no pools at all; apply an IPPool", ErrNone)
	}
	const told = 5
	var reasons []string
	for _, pool := range pools[:min(told, len(pools))] {
		reasons = append(reasons, refusal(pool, nodeLabels).Error())
	}
	if more := len(pools) - told; more > 0 {
		reasons = append(reasons, fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("%w: %s", ErrNone, strings.Join(reasons, "; "))
}
