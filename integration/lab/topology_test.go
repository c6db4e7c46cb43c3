package lab

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const small = `
name: small
topology:
  defaults:
    kind: linux
    image: alpine
    network-mode: none
    env: {COLOR: red, SIZE: 1}
    binds: ["common:/etc/common:ro"]
  kinds:
    linux:
      env: {COLOR: blue}
      exec: [ip link set lo up]
      sysctls: {net.ipv4.ip_forward: 1}
  nodes:
    a:
      cmd: sh -c 'sleep "1  2"'
      env: {SIZE: 2}
      exec: [ip addr add 192.0.2.1/31 dev eth1]
      labels: {rack: r1}
    b:
      image: quay.io/frrouting/frr:10.4.1
      group: tor
      binds: [b.conf:/etc/frr/frr.conf]
  links:
    - endpoints: ["a:eth1", "b:eth1"]
      mtu: 9000
`

func TestTopologyFoldsDefaultsKindsAndNodes(t *testing.T) {
	got, err := ParseTopology([]byte(small), "/lab")
	if err != nil {
		t.Fatal(err)
	}
	common := Bind{Source: "/lab/common", Target: "/etc/common", ReadOnly: true}
	sysctls := map[string]string{"net.ipv4.ip_forward": "1"}
	want := &Topology{
		Name: "small", Dir: "/lab",
		Nodes: []NodeSpec{
			{
				Name: "a", Kind: "linux", Image: "alpine", Cmd: []string{"sh", "-c", `sleep "1  2"`},
				Exec:   [][]string{{"ip", "link", "set", "lo", "up"}, {"ip", "addr", "add", "192.0.2.1/31", "dev", "eth1"}},
				Env:    map[string]string{"COLOR": "blue", "SIZE": "2"},
				Labels: map[string]string{"rack": "r1"}, Sysctls: sysctls, Binds: []Bind{common},
			},
			{
				Name: "b", Kind: "linux", Image: "quay.io/frrouting/frr:10.4.1",
				Exec: [][]string{{"ip", "link", "set", "lo", "up"}}, Labels: map[string]string{}, Sysctls: sysctls,
				Env:   map[string]string{"COLOR": "blue", "SIZE": "1"},
				Binds: []Bind{common, {Source: "/lab/b.conf", Target: "/etc/frr/frr.conf"}},
			},
		},
		Links: []LinkSpec{{A: Endpoint{"a", "eth1"}, B: Endpoint{"b", "eth1"}, MTU: 9000}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTopologyFaultsAreNamed(t *testing.T) {
	node := func(text string) string {
		return "name: x\ntopology:\n  nodes:\n    a: {kind: linux, image: i, " + text + "}\n"
	}
	links := func(text string) string {
		return node("exec: []") + "    b: {kind: linux, image: i}\n  links:\n    - " + text + "\n"
	}
	for _, test := range []struct{ name, text, want string }{
		{"no name", "topology: {nodes: {a: {kind: linux, image: i}}}", "name"},
		{"unknown key at the top", "name: x\ntopologie: {}", `line 2: the file: unknown key "topologie"`},
		{"a key of containerlab's at the top", "name: x\nmgmt: {network: n}", "mgmt needs a container runtime"},
		{"unknown key in topology", "name: x\ntopology:\n  node: {}", `line 3: topology: unknown key "node"`},
		{"no nodes", "name: x\ntopology: {nodes: {}}", "want at least one node"},
		{"unknown key in a node", node("imagee: j"), `line 4: nodes.a: unknown key "imagee"`},
		{"a key of containerlab's in a node", node("startup-config: f"), "nodes.a: startup-config needs a container runtime"},
		{"another kind", "name: x\ntopology: {nodes: {a: {kind: nokia_srlinux, image: i}}}", `kind "nokia_srlinux"`},
		{"no kind", "name: x\ntopology: {nodes: {a: {image: i}}}", `kind ""`},
		{"no image", "name: x\ntopology: {nodes: {a: {kind: linux}}}", "image is missing"},
		{"a bad node name", "name: x\ntopology: {nodes: {'a b': {kind: linux, image: i}}}", "letters, digits"},
		{"a management network", node("network-mode: bridge"), "no management network"},
		{"an open quote", node(`cmd: "sh -c 'x"`), "the quote ' is not closed"},
		{"a bind without target", node("binds: [x]"), "want source:/target"},
		{"a relative bind target", node("binds: ['x:y']"), "want source:/target"},
		{"a bind over the root", node("binds: ['x:/']"), "the root folder"},
		{"a bind mode", node("binds: ['x:/y:z']"), "want ro or rw"},
		{"a sysctl of the machine's", node("sysctls: {vm.swappiness: 1}"), "want net.*"},
		{"an endpoint without interface", links("endpoints: [a, 'b:eth1']"), "want node:interface"},
		{"a long interface", links("endpoints: ['a:abcdefghijklmnop', 'b:eth1']"), "at most 15"},
		{"the loopback", links("endpoints: ['a:lo', 'b:eth1']"), "not lo"},
		{"one endpoint", links("endpoints: ['a:eth1']"), "want endpoints"},
		{"an unknown node", links("endpoints: ['a:eth1', 'c:eth1']"), `no node "c"`},
		{"an endpoint twice", links("endpoints: ['a:eth1', 'a:eth1']"), "used twice"},
		{"a small mtu", links("{endpoints: ['a:eth1', 'b:eth1'], mtu: 68}"), "1280 to 65535"},
		{"the long form of links", links("{type: veth, endpoints: ['a:eth1', 'b:eth1']}"), "type needs a container runtime"},
		{"not YAML", "name: [", "line 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseTopology([]byte(test.text), "/lab")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error that says %q", err, test.want)
			}
		})
	}
}

func TestTopologiesOfTheRepositoryAreRight(t *testing.T) {
	files, err := filepath.Glob("../../deploy/containerlab/*.clab.yml")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		topology, err := ReadTopology(file)
		if err != nil {
			t.Error(err)
			continue
		}
		if want := strings.TrimSuffix(filepath.Base(file), ".clab.yml"); topology.Name != want {
			t.Errorf("%s: name is %q", file, topology.Name)
		}
		for _, node := range topology.Nodes {
			for _, bind := range node.Binds {
				if _, err := os.Stat(bind.Source); err != nil {
					t.Errorf("%s: %s: %v", file, node.Name, err)
				}
			}
		}
	}
}

func TestWordsAreCutAsAShellWould(t *testing.T) {
	for _, test := range []struct {
		line string
		want []string
	}{
		{"", nil},
		{"  ", nil},
		{"a  b\tc\n", []string{"a", "b", "c"}},
		{`a 'b c' "d e"f`, []string{"a", "b c", "d ef"}},
		{`'' ""`, []string{"", ""}},
		{`a\ b "c\"d" 'e\f' "g\h"`, []string{"a b", `c"d`, `e\f`, `g\h`}},
	} {
		if got, err := splitWords(test.line); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%q: got %q, %v; want %q", test.line, got, err, test.want)
		}
	}
}

func FuzzTopology(f *testing.F) {
	f.Add([]byte(small))
	files, _ := filepath.Glob("../../deploy/containerlab/*.clab.yml")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		topology, err := ParseTopology(text, "/lab")
		if err != nil {
			return
		}
		for _, link := range topology.Links {
			for _, end := range []Endpoint{link.A, link.B} {
				if !slices.ContainsFunc(topology.Nodes, func(n NodeSpec) bool { return n.Name == end.Node }) {
					t.Errorf("accepted an endpoint without node: %s", end)
				}
			}
		}
	})
}

func FuzzFRRSettings(f *testing.F) {
	f.Add("bgpd=yes\nzebra_options=\"  -A 127.0.0.1\"\n# comment\n")
	f.Fuzz(func(t *testing.T, text string) {
		if settings, err := parseSettings(text); err == nil && settings == nil {
			t.Error("neither settings nor an error")
		}
	})
}
