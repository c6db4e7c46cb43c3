package pool_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go4.org/netipx"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/clearway/clearway/ipam/pool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// ipPool is a pool out of its spec in JSON.
func ipPool(t testing.TB, name, spec string) *clearwayv1.IPPool {
	t.Helper()
	object := &clearwayv1.IPPool{}
	if err := protojson.Unmarshal(fmt.Appendf(nil, `{"metadata": {"name": %q}, "spec": %s}`, name, spec), object); err != nil {
		t.Fatal(err)
	}
	return object
}

func parsed(t testing.TB, name, spec string) pool.Pool {
	t.Helper()
	p, faults := pool.Parse(ipPool(t, name, spec))
	if len(faults) > 0 {
		t.Fatalf("%s: %v", spec, faults)
	}
	return p
}

// written is faults as a person reads them, one a line.
func written(faults []*clearwayv1.FieldViolation) string {
	var lines []string
	for _, fault := range faults {
		lines = append(lines, fmt.Sprintf("%s %q: %s", fault.Field, fault.Value, fault.Message))
	}
	return strings.Join(lines, "\n")
}

func TestParseFillsInDefaults(t *testing.T) {
	for _, test := range []struct{ spec, want string }{
		{`{"cidr": "10.244.0.0/16"}`, "10.244.0.0/16 Block 26 26 10.244.0.1"},
		{`{"cidr": "fd00:10:244::/48"}`, "fd00:10:244::/48 Block 122 122 fd00:10:244::1"},
		{`{"cidr": "10.0.0.0/8", "blockSize": 24, "minBlockSize": 30, "gateway": "10.1.2.3"}`, "10.0.0.0/8 Block 24 30 10.1.2.3"},
		{`{"cidr": "10.0.0.0/30", "blockSize": 30}`, "10.0.0.0/30 Block 30 30 10.0.0.1"},
		{`{"cidr": "10.0.0.0/28", "kind": "Floating"}`, "10.0.0.0/28 Floating 32 32 10.0.0.1"},
		{`{"cidr": "203.0.113.7/32", "kind": "LoadBalancer"}`, "203.0.113.7/32 LoadBalancer 32 32 invalid IP"},
		{`{"cidr": "fd00::/64", "gateway": "fd00::ffff:ffff:ffff:ffff"}`, "fd00::/64 Block 122 122 fd00::ffff:ffff:ffff:ffff"},
	} {
		p := parsed(t, "pods", test.spec)
		if got := fmt.Sprintf("%s %s %d %d %s", p.CIDR, p.Kind, p.BlockBits, p.MinBlockBits, p.Gateway); got != test.want {
			t.Errorf("%s: %s, want %s", test.spec, got, test.want)
		}
	}
}

// TestNamedErrorsOfPools: each fault names its field and value and tells what would be right.
func TestNamedErrorsOfPools(t *testing.T) {
	for _, test := range []struct{ spec, want string }{
		{`{}`, `spec.cidr "": is required: the pool's prefix, such as 10.244.0.0/16 or fd00:10:244::/48`},
		{`{"cidr": "10.244.1.0/16"}`, `spec.cidr "10.244.1.0/16": host bits are set; the prefix is 10.244.0.0/16`},
		{`{"cidr": "pods"}`, `spec.cidr "pods": not an IPv4 or IPv6 address such as 192.0.2.1 or 2001:db8::1 (unable to parse IP)`},
		{`{"cidr": "127.0.0.0/16"}`, `spec.cidr "127.0.0.0/16": overlaps 127.0.0.0/8, which is loopback (RFC 1122); use private or assigned unicast space`},
		{`{"cidr": "fe80::/64"}`, `spec.cidr "fe80::/64": overlaps fe80::/10, which is link-local (RFC 4291); use private or assigned unicast space`},
		{`{"cidr": "10.0.0.0/31", "blockSize": 31}`, `spec.cidr "10.0.0.0/31": is too small: a pool needs at least a /30, for the network and broadcast address, the gateway, and one to give out`},
		{`{"cidr": "fd00::/127", "blockSize": 128}`, `spec.cidr "fd00::/127": is too small: a pool needs at least a /126, for the subnet-router anycast address, the gateway, and one to give out`},
		{`{"cidr": "10.244.0.0/16", "kind": "block"}`, `spec.kind "block": must be Block, Floating or LoadBalancer`},
		{`{"cidr": "10.244.0.0/16", "blockSize": 15}`, `spec.blockSize "15": must be a prefix length from 16 to 32 for IPv4`},
		{`{"cidr": "10.244.0.0/24", "blockSize": 33}`, `spec.blockSize "33": must be a prefix length from 24 to 32 for IPv4`},
		{`{"cidr": "10.244.0.0/24", "blockSize": -1}`, `spec.blockSize "-1": must be a prefix length from 24 to 32 for IPv4`},
		{`{"cidr": "fd00::/48", "blockSize": 26}`, `spec.blockSize "26": must be a prefix length from 112 to 128 for IPv6`},
		{`{"cidr": "10.244.0.0/28"}`, `spec.blockSize "26": the pool 10.244.0.0/28 is smaller than one block of /26 (the default); say 28 to 32, or a larger spec.cidr`},
		{`{"cidr": "10.244.0.0/28", "blockSize": 27}`, `spec.blockSize "27": the pool 10.244.0.0/28 is smaller than one block of /27; say 28 to 32, or a larger spec.cidr`},
		{`{"cidr": "10.244.0.0/16", "minBlockSize": 24}`, `spec.minBlockSize "24": must be a prefix length from blockSize, 26, to 32`},
		{`{"cidr": "10.244.0.0/16", "minBlockSize": 33}`, `spec.minBlockSize "33": must be a prefix length from blockSize, 26, to 32`},
		{`{"cidr": "10.244.0.0/16", "kind": "Floating", "blockSize": 26}`, `spec.blockSize "26": a pool of kind Floating is not carved into blocks; leave it out, or say kind: Block`},
		{`{"cidr": "10.244.0.0/16", "gateway": "10.245.0.1"}`, `spec.gateway "10.245.0.1": must be an address inside the pool 10.244.0.0/16`},
		{`{"cidr": "10.244.0.0/16", "gateway": "fd00::1"}`, `spec.gateway "fd00::1": must be an address inside the pool 10.244.0.0/16`},
		{`{"cidr": "10.244.0.0/16", "gateway": "10.244.0.0"}`, `spec.gateway "10.244.0.0": is the network address of 10.244.0.0/16; the next, 10.244.0.1, is the default`},
		{`{"cidr": "10.244.0.0/16", "gateway": "10.244.255.255"}`, `spec.gateway "10.244.255.255": is the broadcast address of 10.244.0.0/16; 10.244.0.1 is the default`},
		{`{"cidr": "fd00::/48", "gateway": "fd00::"}`, `spec.gateway "fd00::": is the subnet-router anycast address of fd00::/48 (RFC 4291 section 2.6.1); the next, fd00::1, is the default`},
		{`{"cidr": "10.244.0.0/16", "gateway": "10.244.0.1/16"}`, `spec.gateway "10.244.0.1/16": an address without prefix length is wanted`},
		{`{"cidr": "10.244.0.0/16", "kind": "LoadBalancer", "gateway": "10.244.0.1"}`, `spec.gateway "10.244.0.1": a pool of kind LoadBalancer has no gateway; leave it out`},
		{`{"cidr": "10.244.0.0/16", "reservedFirst": -1}`, `spec.reservedFirst "-1": must be from 0 to 65536, and less than the pool's addresses`},
		{`{"cidr": "10.244.0.0/24", "reservedLast": 256}`, `spec.reservedLast "256": must be from 0 to 65536, and less than the pool's addresses`},
		{`{"cidr": "10.244.0.0/24", "reservedFirst": 128, "reservedLast": 127}`, `spec.reservedFirst "128": with reservedLast, 127, and the gateway nothing is left of the 256 addresses of 10.244.0.0/24`},
		{`{"cidr": "10.244.0.0/16", "layout": "Rigid", "reservedFirst": 4}`, `spec.reservedFirst "4": of layout Rigid each block leaves out its own first and last address; leave it out`},
		{`{"cidr": "10.244.0.0/16", "blockSize": 32, "avoidBuggyIPs": true}`, `spec.avoidBuggyIPs "true": with blocks of a single address some would have none to give; say a minBlockSize of at most 31`},
		{`{"cidr": "10.244.0.0/16", "drainCIDRs": ["10.244.0.1/24"]}`, `spec.drainCIDRs[0] "10.244.0.1/24": host bits are set; the prefix is 10.244.0.0/24`},
		{`{"cidr": "10.244.0.0/16", "drainCIDRs": ["10.245.0.0/24"]}`, `spec.drainCIDRs[0] "10.245.0.0/24": is outside of the pool, 10.244.0.0/16; leave it out`},
		{`{"cidr": "10.244.0.0/16", "kind": "Floating", "drainCIDRs": ["10.244.0.0/24"]}`, `spec.drainCIDRs "10.244.0.0/24": a pool of kind Floating has no blocks to drain; leave it out`},
		{`{"cidr": "10.244.0.0/16", "kind": "LoadBalancer", "podSelector": {"matchLabels": {"a": "b"}}}`, `spec.podSelector "a=b": a pool of kind LoadBalancer is not for Pods; leave it out`},
		{`{"cidr": "10.244.0.0/16", "namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "in"}]}}`, `spec.namespaceSelector.matchExpressions[0].operator "in": must be In, NotIn, Exists or DoesNotExist`},
		{`{"cidr": "10.244.0.0/16", "layout": "rigid"}`, `spec.layout "rigid": must be Elastic or Rigid`},
		{`{"cidr": "10.244.0.0/16", "kind": "Floating", "layout": "Rigid"}`, `spec.layout "Rigid": a pool of kind Floating is not carved into blocks; leave it out, or say kind: Block`},
		{`{"cidr": "10.244.0.0/16", "usePodCIDR": true}`, `spec.usePodCIDR "true": is for pools of kind Block and layout Rigid: each block is a subnet of its own; say layout: Rigid`},
		{`{"cidr": "10.244.0.0/16", "layout": "Rigid", "blockSize": 31}`, `spec.blockSize "31": must be a prefix length from 16 to 30 for layout Rigid: each block is a subnet of its own, for the network and broadcast address, the gateway, and one to give out`},
		{`{"cidr": "10.244.0.0/16", "layout": "Rigid", "minBlockSize": 28}`, `spec.minBlockSize "28": blocks of layout Rigid are all of one size; leave it out`},
		{`{"cidr": "10.244.0.0/16", "layout": "Rigid", "gateway": "10.244.0.1"}`, `spec.gateway "10.244.0.1": of layout Rigid each block has its own, its first host address; leave it out`},
		{`{"cidr": "10.244.0.0/16", "nodeSelector": {"matchLabels": {"a b": "x"}}}`, `spec.nodeSelector.matchLabels[a b] "a b": is no label's name: ...`},
		{`{"cidr": "10.244.0.0/16", "nodeSelector": {"matchLabels": {"rack": "r 1"}}}`, `spec.nodeSelector.matchLabels[rack] "r 1": is no label's value: ...`},
		{`{"cidr": "10.244.0.0/16", "nodeSelector": {"matchExpressions": [{"key": "rack", "operator": "in", "values": ["r1"]}]}}`, `spec.nodeSelector.matchExpressions[0].operator "in": must be In, NotIn, Exists or DoesNotExist`},
		{`{"cidr": "10.244.0.0/16", "nodeSelector": {"matchExpressions": [{"key": "rack", "operator": "In"}]}}`, `spec.nodeSelector.matchExpressions[0].values "": operator In needs at least one value`},
		{`{"cidr": "10.244.0.0/16", "nodeSelector": {"matchExpressions": [{"key": "rack", "operator": "Exists", "values": ["r1"]}]}}`, `spec.nodeSelector.matchExpressions[0].values "r1": operator Exists takes no values; leave them out`},
		{`{"cidr": "10.244.0.0/16", "nodeSelector": {"matchExpressions": [{"operator": "Exists"}]}}`, `spec.nodeSelector.matchExpressions[0].key "": is required: a label's name, such as rack or topology.kubernetes.io/zone`},
	} {
		_, faults := pool.Parse(ipPool(t, "pods", test.spec))
		got := written(faults)
		if start, found := strings.CutSuffix(test.want, "..."); found && strings.HasPrefix(got, start) {
			continue // the rest is the library's
		}
		if got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.spec, got, test.want)
		}
	}
}

func TestParseTellsEveryFault(t *testing.T) {
	_, faults := pool.Parse(ipPool(t, "pods", `{"cidr": "10.0.0.0/16", "kind": "x", "blockSize": 40, "gateway": "1.1.1.1",
		"nodeSelector": {"matchExpressions": [{"key": "", "operator": ""}]}}`))
	var fields []string
	for _, fault := range faults {
		fields = append(fields, fault.Field)
	}
	want := []string{"spec.kind", "spec.nodeSelector.matchExpressions[0].key", "spec.nodeSelector.matchExpressions[0].operator", "spec.blockSize", "spec.gateway"}
	if !slices.Equal(fields, want) {
		t.Errorf("faults in %v, want %v", fields, want)
	}
}

func TestNilPoolIsFaultyOnly(t *testing.T) {
	if _, faults := pool.Parse(nil); len(faults) != 1 || faults[0].Field != "spec.cidr" {
		t.Errorf("%v", faults)
	}
}

func TestSelectors(t *testing.T) {
	labels := map[string]string{"rack": "r1", "zone": "a"}
	for _, test := range []struct {
		selector string
		want     bool
	}{
		{`{}`, true},
		{`{"matchLabels": {"rack": "r1"}}`, true},
		{`{"matchLabels": {"rack": "r1", "zone": "b"}}`, false},
		{`{"matchExpressions": [{"key": "rack", "operator": "In", "values": ["r1", "r2"]}]}`, true},
		{`{"matchExpressions": [{"key": "rack", "operator": "NotIn", "values": ["r1"]}]}`, false},
		{`{"matchExpressions": [{"key": "gpu", "operator": "NotIn", "values": ["yes"]}]}`, true},
		{`{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}`, false},
		{`{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}`, true},
		{`{"matchLabels": {"rack": "r1"}, "matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}`, false},
	} {
		p := parsed(t, "pods", `{"cidr": "10.0.0.0/16", "nodeSelector": `+test.selector+`}`)
		if got := p.Selects(labels); got != test.want {
			t.Errorf("%s: %v", test.selector, got)
		}
	}
}

// TestNoOverlapOfPools: one fault names the other pool.
func TestNoOverlapOfPools(t *testing.T) {
	pools := []pool.Pool{
		parsed(t, "a", `{"cidr": "10.0.0.0/16"}`), parsed(t, "b", `{"cidr": "10.1.0.0/16"}`), parsed(t, "six", `{"cidr": "fd00::/48"}`),
	}
	for _, test := range []struct{ name, cidr, want string }{
		{"c", "10.2.0.0/16", ""},
		{"a", "10.0.0.0/16", ""},
		{"a", "10.0.0.0/15", `spec.cidr "10.0.0.0/15": overlaps IPPool/b, 10.1.0.0/16; no two pools may overlap`},
		{"c", "10.0.0.0/8", `spec.cidr "10.0.0.0/8": overlaps IPPool/a, 10.0.0.0/16 and 1 more; no two pools may overlap`},
		{"c", "10.1.4.0/24", `spec.cidr "10.1.4.0/24": overlaps IPPool/b, 10.1.0.0/16; no two pools may overlap`},
		{"c", "fd00:0:0:1::/64", `spec.cidr "fd00:0:0:1::/64": overlaps IPPool/six, fd00::/48; no two pools may overlap`},
	} {
		if got := written(pool.CheckOverlap(pools, parsed(t, test.name, `{"cidr": "`+test.cidr+`"}`))); got != test.want {
			t.Errorf("%s %s: %s, want %s", test.name, test.cidr, got, test.want)
		}
	}
}

func TestChangeKeepsWhatIsInUse(t *testing.T) {
	was := parsed(t, "pods", `{"cidr": "10.0.0.0/16"}`)
	for _, test := range []struct{ spec, want string }{
		{`{"cidr": "10.0.0.0/16", "blockSize": 28, "priority": 3, "disabled": true}`, ""},
		{`{"cidr": "10.0.0.0/14"}`, ""},
		{`{"cidr": "10.0.0.0/16", "kind": "Floating"}`, `spec.kind "Floating": is Block, and nodes have 1 blocks of the pool; make another pool`},
		{`{"cidr": "10.0.0.0/16", "layout": "Rigid"}`, `spec.layout "Rigid": is Elastic, and nodes have 1 blocks of the pool; make another pool`},
	} {
		candidate := parsed(t, "pods", test.spec)
		if got := written(pool.CheckChange(was, candidate, 1)); got != test.want {
			t.Errorf("%s: %s, want %s", test.spec, got, test.want)
		}
		if faults := pool.CheckChange(was, candidate, 0); len(faults) > 0 {
			t.Errorf("%s with nothing in use: %s", test.spec, written(faults))
		}
	}
}

func TestLinkIsThePoolsOrOfARigidPoolTheBlocks(t *testing.T) {
	block := netip.MustParsePrefix("10.244.3.64/26")
	for spec, want := range map[string]string{
		`{"cidr": "10.244.0.0/16"}`: "16 10.244.0.1", `{"cidr": "10.244.0.0/16", "layout": "Rigid"}`: "26 10.244.3.65",
	} {
		if bits, gateway := parsed(t, "pods", spec).Link(block); fmt.Sprint(bits, " ", gateway) != want {
			t.Errorf("%s: %d %s, want %s", spec, bits, gateway, want)
		}
	}
}

func TestExcluded(t *testing.T) {
	four, six := `{"cidr": "10.0.0.0/16", "gateway": "10.0.0.9"}`, `{"cidr": "fd00::/48"}`
	for _, test := range []struct{ pool, block, want string }{
		{four, "10.0.0.0/26", "[10.0.0.0-10.0.0.0 10.0.0.9-10.0.0.9 10.0.0.60-10.0.0.63]"},
		{four, "10.0.0.64/26", "[10.0.0.64-10.0.0.70]"},
		{four, "10.0.1.0/24", "[]"},
		{four, "10.0.255.0/24", "[10.0.255.255-10.0.255.255]"},
		{`{"cidr": "10.0.0.0/16"}`, "10.0.0.0/30", "[10.0.0.0-10.0.0.1]"},
		{six, "fd00::/122", "[fd00::-fd00::1]"},
		{six, "fd00::40/122", "[fd00::7f-fd00::7f]"},
		{six, "fd00:0:0:ffff:ffff:ffff:ffff:ffc0/122", "[]"},
		{`{"cidr": "10.0.0.0/24", "kind": "LoadBalancer"}`, "10.0.0.0/28", "[]"},
		{`{"cidr": "10.0.0.0/24", "kind": "LoadBalancer", "reservedFirst": 2}`, "10.0.0.0/28", "[10.0.0.0-10.0.0.1]"},
		{`{"cidr": "10.0.0.0/16", "reservedFirst": 10, "reservedLast": 3}`, "10.0.0.0/28", "[10.0.0.0-10.0.0.9]"},
		{`{"cidr": "10.0.0.0/16", "reservedFirst": 10, "reservedLast": 3}`, "10.0.255.240/28", "[10.0.255.253-10.0.255.255]"},
		{`{"cidr": "10.0.0.0/16", "reservedFirst": 0, "reservedLast": 0}`, "10.0.0.0/29", "[10.0.0.1-10.0.0.1]"},
		{`{"cidr": "10.0.0.0/16", "reservedFirst": 0, "reservedLast": 0}`, "10.0.255.0/24", "[]"},
		{`{"cidr": "fd00::/48", "reservedFirst": 0, "reservedLast": 2, "gateway": "fd00::9"}`, "fd00:0:0:ffff:ffff:ffff:ffff:ffc0/122", "[fd00::ffff:ffff:ffff:ffff:fffe-fd00::ffff:ffff:ffff:ffff:ffff]"},
		{`{"cidr": "10.0.0.0/16", "avoidBuggyIPs": true}`, "10.0.4.0/22", "[10.0.4.0-10.0.4.0 10.0.4.255-10.0.5.0 10.0.5.255-10.0.6.0 10.0.6.255-10.0.7.0 10.0.7.255-10.0.7.255]"},
		{`{"cidr": "10.0.0.0/16", "avoidBuggyIPs": true}`, "10.0.1.64/26", "[]"},
		{`{"cidr": "fd00::/48", "avoidBuggyIPs": true}`, "fd00::100/122", "[]"},
		{`{"cidr": "10.0.0.0/16", "layout": "Rigid"}`, "10.0.1.64/26", "[10.0.1.64-10.0.1.65 10.0.1.127-10.0.1.127]"},
		{`{"cidr": "fd00::/48", "layout": "Rigid"}`, "fd00::80/122", "[fd00::80-fd00::81]"},
	} {
		var reserved []netipx.IPRange
		for _, text := range []string{"10.0.0.60-10.0.0.70", "10.0.0.62-10.0.0.65", "fd00::7f-fd00::7f", "192.0.2.0-192.0.2.255"} {
			reserved = append(reserved, netipx.MustParseIPRange(text))
		}
		got := fmt.Sprint(pool.Excluded(parsed(t, "pods", test.pool), netip.MustParsePrefix(test.block), reserved))
		if got != test.want {
			t.Errorf("%s of %s: %s, want %s", test.block, test.pool, got, test.want)
		}
	}
}

func FuzzParsePool(f *testing.F) {
	f.Add("10.0.0.0/16", "Block", int32(26), int32(30), "10.0.0.1", "rack", "In", "r1")
	f.Add("fd00::/48", "Floating", int32(0), int32(-1), "fd00::", "", "Exists", "")
	f.Add("0.0.0.0/0", "", int32(40), int32(0), "::ffff:1.2.3.4", "a/b/c", "", "\x00")
	f.Fuzz(func(t *testing.T, cidr, kind string, block, smallest int32, gateway, key, operator, value string) {
		p, faults := pool.Parse(&clearwayv1.IPPool{Spec: &clearwayv1.IPPoolSpec{
			Cidr: cidr, Kind: kind, BlockSize: block, MinBlockSize: smallest, Gateway: gateway,
			NodeSelector: &clearwayv1.LabelSelector{MatchExpressions: []*clearwayv1.LabelSelectorRequirement{
				{Key: key, Operator: operator, Values: []string{value}},
			}},
		}})
		p.Selects(map[string]string{key: value})
		if len(faults) > 0 {
			return
		}
		if p.CIDR.Masked() != p.CIDR || p.CIDR.Bits() > p.BlockBits || p.BlockBits > p.MinBlockBits || p.MinBlockBits > p.CIDR.Addr().BitLen() {
			t.Fatalf("accepted %+v", p)
		}
		if p.Kind != pool.LoadBalancer && !p.Rigid && !p.CIDR.Contains(p.Gateway) {
			t.Fatalf("gateway %s is outside of %s", p.Gateway, p.CIDR)
		}
		first := netip.PrefixFrom(p.CIDR.Addr(), p.BlockBits)
		for _, addresses := range pool.Excluded(p, first, nil) {
			if !first.Contains(addresses.From()) || !first.Contains(addresses.To()) {
				t.Fatalf("excluded %s of %s", addresses, first)
			}
		}
	})
}
