package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func peerNamed(name string, change func(*clearwayv1.BGPPeerSpec)) *clearwayv1.BGPPeer {
	spec := &clearwayv1.BGPPeerSpec{PeerAddress: "192.0.2.1", PeerAsn: 65101}
	if change != nil {
		change(spec)
	}
	return &clearwayv1.BGPPeer{Kind: "BGPPeer", Metadata: &clearwayv1.ObjectMeta{Name: name}, Spec: spec}
}

func snapshotWith(peers ...*clearwayv1.BGPPeer) *clearwayv1.NodeSnapshot {
	return &clearwayv1.NodeSnapshot{
		Node:  &clearwayv1.Node{Status: &clearwayv1.NodeStatus{Addresses: []string{"192.0.2.11/24", "2001:db8::11/64"}}},
		Peers: peers,
	}
}

func TestValidateNamedErrors(t *testing.T) {
	n := func(v int32) *int32 { return &v }
	configuration := func(spec *clearwayv1.BGPConfigurationSpec) clearwayv1.Object {
		return &clearwayv1.BGPConfiguration{Metadata: &clearwayv1.ObjectMeta{Name: "default"}, Spec: spec}
	}
	type spec = clearwayv1.BGPPeerSpec
	peer := func(change func(*spec)) clearwayv1.Object { return peerNamed("p", change) }
	for _, c := range []struct {
		object clearwayv1.Object
		want   string // "field=value: part of the message"; empty: no fault
	}{
		{configuration(&clearwayv1.BGPConfigurationSpec{}), ""},
		{configuration(&clearwayv1.BGPConfigurationSpec{NodeMesh: "Full", ListenPort: -1, Aggregates: []string{"10.0.0.0/8"}, HoldTime: "9s", KeepaliveTime: "3s"}), ""},
		{&clearwayv1.BGPConfiguration{Metadata: &clearwayv1.ObjectMeta{Name: "other"}}, `metadata.name=other: must be "default"`},
		{configuration(&clearwayv1.BGPConfigurationSpec{NodeMesh: "Reflectors"}), "spec.reflectors.selector=: is missing"},
		{configuration(&clearwayv1.BGPConfigurationSpec{Reflectors: &clearwayv1.Reflectors{Threshold: 3}}), "spec.reflectors.threshold=3: must be 4 to 10000"},
		{configuration(&clearwayv1.BGPConfigurationSpec{Reflectors: &clearwayv1.Reflectors{ClientsPerReflector: 9}}), "spec.reflectors.clientsPerReflector=9: must be 10 to 1000"},
		{configuration(&clearwayv1.BGPConfigurationSpec{Reflectors: &clearwayv1.Reflectors{DomainLabel: "not a label"}}), "spec.reflectors.domainLabel=not a label: name part"},
		{configuration(&clearwayv1.BGPConfigurationSpec{NodeMesh: "full"}), "spec.nodeMesh=full: must be Auto, Full, Reflectors or None"},
		{configuration(&clearwayv1.BGPConfigurationSpec{AsNumber: 23456}), "spec.asNumber=23456: AS_TRANS"},
		{configuration(&clearwayv1.BGPConfigurationSpec{ListenPort: 65536}), "spec.listenPort=65536: 1 to 65535"},
		{configuration(&clearwayv1.BGPConfigurationSpec{Aggregates: []string{"10.0.0.1/8"}}), "spec.aggregates[0]=10.0.0.1/8: the prefix is 10.0.0.0/8"},
		{configuration(&clearwayv1.BGPConfigurationSpec{Aggregates: []string{"0.0.0.0/0"}}), "spec.aggregates[0]=0.0.0.0/0: default route"},
		{configuration(&clearwayv1.BGPConfigurationSpec{BmpCollectors: []string{"192.0.2.50"}}), "spec.bmpCollectors[0]=192.0.2.50: 192.0.2.50:11019"},
		{configuration(&clearwayv1.BGPConfigurationSpec{BmpCollectors: []string{"192.0.2.50:0"}}), "spec.bmpCollectors[0]=192.0.2.50:0: port"},
		{configuration(&clearwayv1.BGPConfigurationSpec{BmpCollectors: []string{"[::1]:1", "[::1]:1"}}), "spec.bmpCollectors[1]=[::1]:1: twice"},
		{configuration(&clearwayv1.BGPConfigurationSpec{BmpCollectors: []string{"[::1]:1", "[::1]:2", "[::1]:3", "[::1]:4", "[::1]:5"}}), "spec.bmpCollectors=5: more than 4"},
		{configuration(&clearwayv1.BGPConfigurationSpec{HoldTime: "2s"}), "spec.holdTime=2s: must be 3s to"},
		{configuration(&clearwayv1.BGPConfigurationSpec{KeepaliveTime: "31s"}), "spec.keepaliveTime=31s: at most a third of the hold time 1m30s: 30s"},
		{configuration(&clearwayv1.BGPConfigurationSpec{GracefulRestart: &clearwayv1.GracefulRestart{RestartTime: "2h"}}), "spec.gracefulRestart.restartTime=2h: must be 1s to"},
		{configuration(&clearwayv1.BGPConfigurationSpec{Bfd: &clearwayv1.BFD{MinTx: "100ms", MinRx: "100ms", Multiplier: 3}}), ""},
		{configuration(&clearwayv1.BGPConfigurationSpec{Bfd: &clearwayv1.BFD{MinTx: "9ms"}}), "spec.bfd.minTx=9ms: must be 10ms to 1m0s"},
		{peer(func(s *spec) { s.Bfd = &clearwayv1.BFD{MinTtl: 250} }), ""},
		{peer(func(s *spec) { s.Bfd = &clearwayv1.BFD{MinRx: "300"} }), "spec.bfd.minRx=300: is no duration"},
		{peer(func(s *spec) { s.Bfd = &clearwayv1.BFD{MinRx: "10000001ns"} }), "spec.bfd.minRx=10000001ns: whole microseconds"},
		{peer(func(s *spec) { s.Bfd = &clearwayv1.BFD{Multiplier: 256} }), "spec.bfd.multiplier=256: 1 to 255"},
		{peer(func(s *spec) { s.Bfd = &clearwayv1.BFD{MinTtl: 256} }), "spec.bfd.minTTL=256: 1 to 255"},
		{peer(func(s *spec) { s.Bfd = &clearwayv1.BFD{MinTtl: 250, Multihop: new(bool)} }), "spec.bfd.minTTL=250: multihop alone"},
		{peer(nil), ""},
		{peer(func(s *spec) { s.PeerAsn = 0 }), "spec.peerASN=0: must be an AS number"},
		{peer(func(s *spec) { s.PeerAddress = "" }), "spec.peerAddress=: is missing"},
		{peer(func(s *spec) { s.PeerAddress = "192.0.2.1/24" }), "spec.peerAddress=192.0.2.1/24: is no address"},
		{peer(func(s *spec) { s.PeerAddress = "224.0.0.5" }), "spec.peerAddress=224.0.0.5: one machine"},
		{peer(func(s *spec) { s.PeerAddress = "fe80::1%eth0" }), ""},
		{peer(func(s *spec) { s.PeerAddress = "fe80::1" }), "spec.peerAddress=fe80::1: write its interface too, as fe80::1%eth1"},
		{peer(func(s *spec) { s.PeerAddress, s.SourceAddress = "fe80::1%eth0", "fe80::2%eth1" }), "spec.sourceAddress=fe80::2%eth1: of the interface eth0"},
		{peer(func(s *spec) { s.PeerAddress, s.PeerAsn, s.PeerInterface = "", 0, "eth*" }), ""},
		{peer(func(s *spec) { s.PeerAddress, s.PeerInterface = "", "eth1" }), ""},
		{peer(func(s *spec) { s.PeerInterface = "eth1" }), "spec.peerInterface=eth1: stands beside peerAddress"},
		{peer(func(s *spec) { s.PeerAddress, s.PeerInterface = "", "eth[0" }), "spec.peerInterface=eth[0: an interface's name"},
		{peer(func(s *spec) { s.PeerAddress, s.PeerInterface = "", "a/b" }), "spec.peerInterface=a/b: an interface's name"},
		{peer(func(s *spec) { s.PeerAddress, s.PeerInterface, s.MultihopTtl = "", "eth1", 3 }), "spec.multihopTTL=3: on-link"},
		{peer(func(s *spec) { s.PeerAddress, s.PeerInterface, s.SourceAddress = "", "eth1", "192.0.2.2" }), "spec.sourceAddress=192.0.2.2: address of the link"},
		{peer(func(s *spec) { s.PeerAddress, s.PeerAsn, s.DefaultGateways = "", 0, "Both" }), ""},
		{peer(func(s *spec) { s.PeerAddress, s.DefaultGateways = "", "both" }), "spec.defaultGateways=both: IPv4, IPv6 or Both"},
		{peer(func(s *spec) {
			s.PeerAddress, s.PeerAsn, s.ListenRanges, s.ListenLimit = "", 0, []string{"192.0.2.0/24", "2001:db8::/64"}, 5
		}), ""},
		{peer(func(s *spec) { s.PeerAddress, s.ListenRanges = "", []string{"192.0.2.1/24"} }), "spec.listenRanges[0]=192.0.2.1/24: 192.0.2.0/24"},
		{peer(func(s *spec) { s.PeerAddress, s.ListenRanges = "", []string{"0.0.0.0/0"} }), "spec.listenRanges[0]=0.0.0.0/0: is everybody"},
		{peer(func(s *spec) {
			s.PeerAddress, s.ListenRanges, s.Bfd = "", []string{"192.0.2.0/24"}, &clearwayv1.BFD{}
		}), "spec.bfd=: is not available for listenRanges"},
		{peer(func(s *spec) { s.ListenLimit = 5 }), "spec.listenLimit=5: is for listenRanges alone"},
		{peer(func(s *spec) { s.PeerType = "Internal" }), "spec.peerType=Internal: in place of peerASN"},
		{peer(func(s *spec) { s.PeerAsn, s.PeerType = 0, "External" }), ""},
		{peer(func(s *spec) { s.PeerAsn, s.PeerType = 0, "external" }), "spec.peerType=external: External or Internal"},
		{peer(func(s *spec) { s.TtlSecurityHops = 1 }), ""},
		{peer(func(s *spec) { s.TtlSecurityHops = 255 }), "spec.ttlSecurityHops=255: 1 to 254"},
		{peer(func(s *spec) { s.TtlSecurityHops, s.MultihopTtl = 2, 2 }), "spec.ttlSecurityHops=2: stands beside multihopTTL"},
		{peer(func(s *spec) {
			s.MaxPrefixes = &clearwayv1.MaxPrefixes{Limit: 10, Action: "Stop", RestartAfter: "10s", WarnPercent: 50}
		}), ""},
		{peer(func(s *spec) { s.MaxPrefixes = &clearwayv1.MaxPrefixes{} }), "spec.maxPrefixes.limit=0: 1 to 10000000"},
		{peer(func(s *spec) { s.MaxPrefixes = &clearwayv1.MaxPrefixes{Limit: 1, Action: "stop"} }), "spec.maxPrefixes.action=stop: Warn, Restart or Stop"},
		{peer(func(s *spec) { s.MaxPrefixes = &clearwayv1.MaxPrefixes{Limit: 1, RestartAfter: "0s"} }), "spec.maxPrefixes.restartAfter=0s: must be 1s"},
		{peer(func(s *spec) { s.MaxPrefixes = &clearwayv1.MaxPrefixes{Limit: 1, WarnPercent: 101} }), "spec.maxPrefixes.warnPercent=101: 1 to 100"},
		{peer(func(s *spec) { s.GracefulRestart = &clearwayv1.GracefulRestart{LongLivedTime: "24h"} }), ""},
		{peer(func(s *spec) { s.GracefulRestart = &clearwayv1.GracefulRestart{LongLivedTime: "9999h"} }), "spec.gracefulRestart.longLivedTime=9999h: must be 1s to"},
		{peer(func(s *spec) { s.GracefulRestart = &clearwayv1.GracefulRestart{LongLivedTime: "24h", Disabled: true} }), "spec.gracefulRestart.longLivedTime=24h: needs graceful restart"},
		{peer(func(s *spec) { s.PeerAddress = "::ffff:192.0.2.1" }), "spec.peerAddress=::ffff:192.0.2.1: write 192.0.2.1"},
		{peer(func(s *spec) { s.SourceAddress = "2001:db8::1" }), "spec.sourceAddress=2001:db8::1: same family"},
		{peer(func(s *spec) { s.HoldTime, s.KeepaliveTime = "9s", "4s" }), "spec.keepaliveTime=4s: a third of the hold time 9s: 3s"},
		{peer(func(s *spec) { s.HoldTime = "9500ms" }), "spec.holdTime=9500ms: whole seconds"},
		{peer(func(s *spec) { s.HoldTime = "nine" }), "spec.holdTime=nine: is no duration"},
		{peer(func(s *spec) { s.ImportScope = "owned" }), "spec.importScope=owned: must be Owned, Pools or All"},
		{peer(func(s *spec) { s.MultihopTtl = 1 }), "spec.multihopTTL=1: 2 to 255"},
		{peer(func(s *spec) { s.PeerPort = 70000 }), "spec.peerPort=70000: 1 to 65535"},
		{peer(func(s *spec) { s.PasswordFile = "secret" }), "spec.passwordFile=: absolute path of a file"},
		{peer(func(s *spec) { s.Families = []string{"IPv4", "IPv4"} }), "spec.families[1]=IPv4: twice"},
		{peer(func(s *spec) { s.Families = []string{"ipv4"} }), "spec.families[0]=ipv4: IPv4 or IPv6"},
		{peer(func(s *spec) { s.AllowOwnAs = n(11) }), "spec.allowOwnAS=11: 0 to 10"},
		{peer(func(s *spec) { s.ImportFilters = []string{"A"} }), "spec.importFilters[0]=A: name of a BGPFilter"},
		{peer(func(s *spec) {
			s.NodeSelector = &clearwayv1.LabelSelector{MatchExpressions: []*clearwayv1.LabelSelectorRequirement{{Key: "a", Operator: "in"}}}
		}), "spec.nodeSelector.matchExpressions[0].operator=in: must be In"},
		{&clearwayv1.Node{Spec: &clearwayv1.NodeSpec{Addresses: []string{"192.0.2.11/24", "2001:db8::11/64"}}}, ""},
		{&clearwayv1.Node{Spec: &clearwayv1.NodeSpec{Addresses: []string{"192.0.2.11"}}}, "spec.addresses[0]=192.0.2.11: with its prefix length"},
		{&clearwayv1.Node{Spec: &clearwayv1.NodeSpec{Addresses: []string{"192.0.2.11/24", "192.0.2.12/24"}}}, "spec.addresses[1]=192.0.2.12/24: second of its family"},
		{&clearwayv1.Node{Spec: &clearwayv1.NodeSpec{Addresses: []string{"127.0.0.1/8"}}}, "spec.addresses[0]=127.0.0.1/8: other machines"},
		{&clearwayv1.Node{Spec: &clearwayv1.NodeSpec{Labels: map[string]string{"a b": "c"}}}, "spec.labels[a b]=a b: "},
	} {
		faults := Validate(c.object)
		if c.want == "" {
			if len(faults) > 0 {
				t.Errorf("%v: %v", c.object, faults)
			}
			continue
		}
		at, part, _ := strings.Cut(c.want, ": ")
		if len(faults) != 1 || faults[0].GetField()+"="+faults[0].GetValue() != at || !strings.Contains(faults[0].GetMessage(), part) {
			t.Errorf("want %q, got %v", c.want, faults)
		}
	}
}

func TestBuildDefaults(t *testing.T) {
	desired, problems := Build("n1", snapshotWith(peerNamed("tor", nil)), nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := Desired{
		Global: Global{
			ASN: 64512, RouterID: netip.MustParseAddr("192.0.2.11"), ListenPort: 179,
			NextHop4: netip.MustParseAddr("192.0.2.11"), NextHop6: netip.MustParseAddr("2001:db8::11"),
		},
		Neighbors: []Neighbor{{
			Address: netip.MustParseAddr("192.0.2.1"), Port: 179, PeerASN: 65101, LocalASN: 64512, Origin: "BGPPeer/tor",
			Families: []route.Family{route.IPv4, route.IPv6},
			HoldTime: 90 * time.Second, KeepaliveTime: 30 * time.Second, ConnectRetryTime: 5 * time.Second,
			GracefulRestart: GracefulRestart{Enabled: true, RestartTime: 120 * time.Second, DeferralTime: 20 * time.Second},
			SourceAddress:   netip.MustParseAddr("192.0.2.11"), AllowOwnAS: 1, Scope: policy.Owned,
		}},
	}
	if diff := cmp.Diff(want, desired, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestBuild(t *testing.T) {
	nodes := []policy.Node{
		{Name: "n1", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.11/24")}},
		{Name: "n2", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.12/24")}},
		{Name: "n3", ASN: 65003, Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.13/24")}},
	}
	type spec = clearwayv1.BGPPeerSpec
	for _, c := range []struct {
		name     string
		snapshot *clearwayv1.NodeSnapshot
		want     string
		problems string
	}{
		{"auto mesh and a peer", snapshotWith(peerNamed("tor", nil)), "192.0.2.1 BGPPeer/tor 65101 [4 6] ttl 0; 192.0.2.12 nodeMesh/n2 64512 [4] ttl 0", ""},
		{"full mesh", func() *clearwayv1.NodeSnapshot {
			s := snapshotWith()
			s.BgpConfiguration = &clearwayv1.BGPConfiguration{Spec: &clearwayv1.BGPConfigurationSpec{NodeMesh: "Full"}}
			return s
		}(), "192.0.2.12 nodeMesh/n2 64512 [4] ttl 0; 198.51.100.13 nodeMesh/n3 65003 [4] ttl 64", ""},
		{"of two peers with one address the first by name wins", snapshotWith(peerNamed("b", nil), peerNamed("a", nil)),
			"192.0.2.1 BGPPeer/a 65101 [4 6] ttl 0; 192.0.2.12 nodeMesh/n2 64512 [4] ttl 0", "BGPPeer/b DuplicatePeer"},
		{"a peer goes before the mesh", snapshotWith(peerNamed("x", func(s *spec) { s.PeerAddress = "192.0.2.12" })),
			"192.0.2.12 BGPPeer/x 65101 [4 6] ttl 0", ""},
		{"the node itself is no peer", snapshotWith(peerNamed("x", func(s *spec) { s.PeerAddress = "192.0.2.11" })),
			"192.0.2.12 nodeMesh/n2 64512 [4] ttl 0", ""},
		{"disabled", snapshotWith(peerNamed("x", func(s *spec) { s.Disabled = true })), "192.0.2.12 nodeMesh/n2 64512 [4] ttl 0", ""},
		{"one broken peer does not stop the rest", snapshotWith(peerNamed("x", func(s *spec) { s.PeerAsn = 0 }), peerNamed("y", nil)),
			"192.0.2.1 BGPPeer/y 65101 [4 6] ttl 0; 192.0.2.12 nodeMesh/n2 64512 [4] ttl 0", "BGPPeer/x BadPeer"},
		{"a family without an address is dropped", func() *clearwayv1.NodeSnapshot {
			s := snapshotWith(peerNamed("x", nil))
			s.Node.Spec = &clearwayv1.NodeSpec{Addresses: []string{"192.0.2.11/24"}}
			return s
		}(), "192.0.2.1 BGPPeer/x 65101 [4] ttl 0; 192.0.2.12 nodeMesh/n2 64512 [4] ttl 0", ""},
		{"no family is left", func() *clearwayv1.NodeSnapshot {
			s := snapshotWith(peerNamed("x", func(s *spec) { s.Families = []string{"IPv6"} }))
			s.Node.Spec = &clearwayv1.NodeSpec{Addresses: []string{"192.0.2.11/24"}}
			return s
		}(), "192.0.2.12 nodeMesh/n2 64512 [4] ttl 0", "BGPPeer/x NoFamily"},
	} {
		t.Run(c.name, func(t *testing.T) {
			desired, problems := Build("n1", c.snapshot, nodes)
			var neighbors, told []string
			for _, n := range desired.Neighbors {
				neighbors = append(neighbors, fmt.Sprintf("%s %s %d %v ttl %d", n.Address, n.Origin, n.PeerASN, n.Families, n.MultihopTTL))
			}
			for _, p := range problems {
				told = append(told, p.Regarding+" "+p.Reason)
			}
			if got := strings.Join(neighbors, "; "); got != c.want {
				t.Errorf("%s\nnot %s", got, c.want)
			}
			if got := strings.Join(told, "; "); got != c.problems {
				t.Errorf("problems %s, not %s", got, c.problems)
			}
		})
	}
}

// A filter that is missing rejects: to let everything through would be what its author did not want.
func TestMissingFilterRejects(t *testing.T) {
	desired, problems := Build("n1", snapshotWith(peerNamed("x", func(s *clearwayv1.BGPPeerSpec) { s.ExportFilters = []string{"gone"} })), nil)
	n := desired.Neighbors[0]
	own := []route.Advertisement{{Prefix: netip.MustParsePrefix("10.0.0.0/26")}}
	n.SetExports(desired.Global, own)
	if len(n.Withhold) != 1 || len(problems) != 1 || problems[0].Reason != "MissingFilter" {
		t.Errorf("%v %v", n.Withhold, problems)
	}
	if !n.Import.Evaluate(n.ExportSubject(own[0])).Accept {
		t.Error("the import chain has no filter")
	}
}

func TestRouterIDWithoutIPv4(t *testing.T) {
	id := func(name string) netip.Addr {
		return policy.Node{Name: name, Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8::1/64")}}.RouterID()
	}
	if !id("a").Is4() || id("a") == id("b") || id("").IsUnspecified() {
		t.Error(id("a"), id("b"), id(""))
	}
}

func TestTimers(t *testing.T) {
	cluster := &clearwayv1.BGPConfigurationSpec{HoldTime: "30s", KeepaliveTime: "5s"}
	for _, c := range []struct {
		hold, keepalive string
		spec            *clearwayv1.BGPConfigurationSpec
		want            string
	}{
		{"", "", nil, "1m30s 30s"}, {"9s", "", nil, "9s 3s"}, {"9s", "2s", nil, "9s 2s"}, {"10s", "", nil, "10s 3s"},
		{"", "", cluster, "30s 5s"}, {"9s", "", cluster, "9s 3s"}, {"", "20s", cluster, "30s 10s"},
	} {
		if hold, keepalive := timers(c.hold, c.keepalive, c.spec); fmt.Sprint(hold, " ", keepalive) != c.want {
			t.Errorf("%q %q: %s %s, not %s", c.hold, c.keepalive, hold, keepalive, c.want)
		}
	}
}
