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
		choice, err := pool.Choose(pools, pool.Query{
			NodeLabels: map[string]string{"rack": test.rack}, Wanted: []pool.Wanted{{Where: "pools", Names: strings.Fields(test.wanted)}},
		})
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
	_, err := pool.Choose(pools, pool.Query{})
	want := `no pool is for this node: pool is disabled: "off"; pool may not be used here: the nodeSelector of pool "rack" (rack=r1) does not take this node; ` +
		`pool may not be used here: pool "vips" is of kind LoadBalancer, and Pods draw from kinds Block and Floating`
	if !errors.Is(err, pool.ErrNone) || err.Error() != want {
		t.Errorf("got %v", err)
	}
	if _, err := pool.Choose(nil, pool.Query{}); !errors.Is(err, pool.ErrNone) || !strings.Contains(err.Error(), "apply an IPPool") {
		t.Errorf("without pools: %v", err)
	}
}

func TestChooseDoesNotReorderItsInput(t *testing.T) {
	pools := []pool.Pool{parsed(t, "b", `{"cidr": "10.2.0.0/16"}`), parsed(t, "a", `{"cidr": "10.1.0.0/16"}`)}
	before := slices.Clone(pools)
	if _, err := pool.Choose(pools, pool.Query{}); err != nil || names(pools) != names(before) {
		t.Errorf("%s, %v", names(pools), err)
	}
}

func TestChooseByPlaces(t *testing.T) {
	pools := []pool.Pool{
		parsed(t, "a", `{"cidr": "10.1.0.0/16"}`), parsed(t, "b", `{"cidr": "10.2.0.0/16"}`),
		parsed(t, "six", `{"cidr": "fd00::/48"}`), parsed(t, "seven", `{"cidr": "fd07::/48"}`),
		parsed(t, "float", `{"cidr": "10.9.0.0/24", "kind": "Floating"}`),
	}
	both := func(names ...string) pool.Wanted { return pool.Wanted{Where: "both", Names: names} }
	only := func(family pool.Families, names ...string) pool.Wanted {
		return pool.Wanted{Where: "only", Names: names, Only: family}
	}
	for name, test := range map[string]struct {
		wanted    []pool.Wanted
		families  pool.Families
		four, six string
		err       error
	}{
		"selectors":                        {four: "a b", six: "seven six"},
		"one list rules both families":     {wanted: []pool.Wanted{both("b")}, four: "b"},
		"the first place rules":            {wanted: []pool.Wanted{both("six"), both("b")}, six: "six"},
		"a family's list leaves the other": {wanted: []pool.Wanted{only(pool.IPv4, "b"), both("a", "six")}, four: "b", six: "six"},
		"a family's list and selectors":    {wanted: []pool.Wanted{only(pool.IPv6, "six")}, four: "a b", six: "six"},
		"a list that is overruled may err": {wanted: []pool.Wanted{both("b"), both("nowhere")}, four: "b"},
		"of the wrong family":              {wanted: []pool.Wanted{only(pool.IPv6, "b")}, err: pool.ErrFamily},
		"floating, by name":                {wanted: []pool.Wanted{both("float", "six")}, four: "float", six: "six"},
		"floating beside another":          {wanted: []pool.Wanted{both("float", "b", "six")}, err: pool.ErrKinds},
		"one family":                       {families: pool.IPv6, six: "seven six"},
		"both, and one cannot be":          {wanted: []pool.Wanted{both("b")}, families: pool.IPv4 | pool.IPv6, err: pool.ErrNone},
		"a list of the family not wanted":  {wanted: []pool.Wanted{only(pool.IPv6, "nowhere")}, families: pool.IPv4, four: "a b"},
	} {
		choice, err := pool.Choose(pools, pool.Query{Wanted: test.wanted, Families: test.families})
		if !errors.Is(err, test.err) || names(choice.IPv4) != test.four || names(choice.IPv6) != test.six {
			t.Errorf("%s: %q %q, %v", name, names(choice.IPv4), names(choice.IPv6), err)
		}
	}
}

func TestChooseByPod(t *testing.T) {
	pools := []pool.Pool{
		parsed(t, "all", `{"cidr": "10.1.0.0/16"}`),
		parsed(t, "named", `{"cidr": "10.2.0.0/16", "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "edge"}}}`),
		parsed(t, "team", `{"cidr": "10.3.0.0/16", "namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["b"]}]}}`),
		parsed(t, "web", `{"cidr": "10.4.0.0/16", "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}}`),
		parsed(t, "neither", `{"cidr": "10.5.0.0/16", "podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}`),
	}
	type set = map[string]string
	for name, test := range map[string]struct {
		pod   *pool.Subject
		pools string
		named map[string]string // pool: why it is refused
	}{
		"nobody in particular": {nil, "neither web named team all", nil},
		"nothing is known": {&pool.Subject{}, "all", map[string]string{
			"named": `the namespaceSelector of pool "named" (kubernetes.io/metadata.name=edge) cannot be judged: the Pod's namespace is not known here (CNI_ARGS has no K8S_POD_NAMESPACE)`,
			"web":   `the podSelector of pool "web" (app in (web)) cannot be judged: the Pod's labels are not known here`,
		}},
		"its namespace's name": {&pool.Subject{Namespace: "edge"}, "named all", map[string]string{
			"team":    `the namespaceSelector of pool "team" (team notin (b)) cannot be judged: of namespace "edge" nothing but its name is known here`,
			"neither": `cannot be judged`,
		}},
		"another namespace": {&pool.Subject{Namespace: "shop", NamespaceLabels: set{"team": "b"}, Labels: set{"app": "db"}}, "all", map[string]string{
			"named": `does not take namespace "shop" (kubernetes.io/metadata.name=shop,team=b)`,
			"team":  `does not take namespace "shop" (kubernetes.io/metadata.name=shop,team=b)`,
			"web":   `does not take the Pod's labels (app=db)`,
		}},
		"a namespace cannot claim another's name": {
			&pool.Subject{Namespace: "shop", NamespaceLabels: set{"kubernetes.io/metadata.name": "edge"}}, "team all",
			map[string]string{"named": `does not take namespace "shop" (kubernetes.io/metadata.name=shop)`},
		},
		"all is known": {&pool.Subject{Namespace: "edge", NamespaceLabels: set{"team": "a"}, Labels: set{"app": "web"}}, "web named team all", nil},
	} {
		choice, err := pool.Choose(pools, pool.Query{Pod: test.pod})
		if err != nil || names(choice.IPv4) != test.pools {
			t.Errorf("%s: %q, %v", name, names(choice.IPv4), err)
		}
		for wanted, why := range test.named {
			_, err := pool.Choose(pools, pool.Query{Pod: test.pod, Wanted: []pool.Wanted{{Where: "here", Names: []string{wanted}}}})
			if !errors.Is(err, pool.ErrNotAllowed) || !strings.Contains(err.Error(), why) || !strings.HasPrefix(err.Error(), "here: ") {
				t.Errorf("%s: pool %s: %v; want %s", name, wanted, err, why)
			}
		}
	}
	_, err := pool.Choose(pools[1:], pool.Query{Pod: &pool.Subject{Namespace: "shop"}})
	if !errors.Is(err, pool.ErrNone) || !errors.Is(err, pool.ErrNotAllowed) {
		t.Errorf("a Pod that no pool takes: %v", err)
	}
}
