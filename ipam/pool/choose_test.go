package pool_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/clearway/clearway/ipam/pool"
)

func TestChoose(t *testing.T) {
	pools := []pool.Pool{
		parsed(t, "b", `{"cidr": "10.2.0.0/16"}`),
		parsed(t, "a", `{"cidr": "10.1.0.0/16"}`),
		parsed(t, "rack", `{"cidr": "10.3.0.0/16", "priority": 5, "nodeSelector": {"matchLabels": {"rack": "r1"}}}`),
		parsed(t, "off", `{"cidr": "10.4.0.0/16", "priority": 9, "disabled": true}`),
		parsed(t, "last", `{"cidr": "10.5.0.0/16", "priority": -1}`),
		parsed(t, "six", `{"cidr": "fd00::/48"}`),
		parsed(t, "off6", `{"cidr": "fd01::/48", "disabled": true}`),
		parsed(t, "vips", `{"cidr": "203.0.113.0/24", "kind": "LoadBalancer", "priority": 99}`),
	}
	for _, test := range []struct {
		rack, wanted, four, six string
		err                     error
	}{
		{rack: "r1", four: "rack a b last", six: "six"},
		{rack: "r2", four: "a b last", six: "six"},
		{rack: "r2", wanted: "b", four: "b"},
		{rack: "r2", wanted: "last a six last", four: "last a", six: "six"},
		{rack: "r2", wanted: "off a", four: "a"},
		{rack: "r2", wanted: "off", err: pool.ErrDisabled},
		{rack: "r2", wanted: "a off6", err: pool.ErrDisabled},
		{rack: "r2", wanted: "rack", err: pool.ErrNotAllowed},
		{rack: "r2", wanted: "a vips", err: pool.ErrNotAllowed},
		{rack: "r2", wanted: "a nowhere", err: pool.ErrUnknown},
	} {
		choice, err := pool.Choose(pools, map[string]string{"rack": test.rack}, strings.Fields(test.wanted))
		if !errors.Is(err, test.err) || names(choice.IPv4) != test.four || names(choice.IPv6) != test.six {
			t.Errorf("%s %q: %q %q, %v", test.rack, test.wanted, names(choice.IPv4), names(choice.IPv6), err)
		}
	}
}

func names(pools []pool.Pool) string {
	var all []string
	for _, p := range pools {
		all = append(all, p.Name)
	}
	return strings.Join(all, " ")
}

func TestChooseTellsWhyThereIsNone(t *testing.T) {
	pools := []pool.Pool{
		parsed(t, "off", `{"cidr": "10.4.0.0/16", "disabled": true}`),
		parsed(t, "rack", `{"cidr": "10.3.0.0/16", "nodeSelector": {"matchLabels": {"rack": "r1"}}}`),
		parsed(t, "vips", `{"cidr": "203.0.113.0/24", "kind": "LoadBalancer"}`),
	}
	_, err := pool.Choose(pools, nil, nil)
	want := `no pool is for this node: pool is disabled: "off"; pool may not be used here: the nodeSelector of pool "rack" (rack=r1) does not take this node; ` +
		`pool may not be used here: pool "vips" is of kind LoadBalancer, and Pods draw from kind Block`
	if !errors.Is(err, pool.ErrNone) || err.Error() != want {
		t.Errorf("got %v", err)
	}
	if _, err := pool.Choose(nil, nil, nil); !errors.Is(err, pool.ErrNone) || !strings.Contains(err.Error(), "apply an IPPool") {
		t.Errorf("without pools: %v", err)
	}
}

func TestChooseDoesNotReorderItsInput(t *testing.T) {
	pools := []pool.Pool{parsed(t, "b", `{"cidr": "10.2.0.0/16"}`), parsed(t, "a", `{"cidr": "10.1.0.0/16"}`)}
	before := slices.Clone(pools)
	if _, err := pool.Choose(pools, nil, nil); err != nil || names(pools) != names(before) {
		t.Errorf("%s, %v", names(pools), err)
	}
}
