package lab

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Topology is a containerlab topology file, with defaults and kinds folded into each node.
type Topology struct {
	Name string
	// Dir is the file's folder; relative bind sources start there.
	Dir string
	// Nodes in the order of their names.
	Nodes []NodeSpec
	Links []LinkSpec
}

// NodeSpec is what the file says of one node.
type NodeSpec struct {
	Name, Kind, Image string
	Entrypoint, Cmd   []string
	Exec              [][]string
	Env               map[string]string
	Labels            map[string]string
	Sysctls           map[string]string
	Binds             []Bind
}

// Bind shows a file or folder of the host inside a node.
type Bind struct {
	Source   string // absolute
	Target   string // absolute, within the node
	ReadOnly bool
}

// Endpoint is one end of a link.
type Endpoint struct{ Node, Interface string }

// String writes "node:interface", as the file does.
func (e Endpoint) String() string { return e.Node + ":" + e.Interface }

// LinkSpec is one point-to-point link. MTU 0 leaves the kernel's default.
type LinkSpec struct {
	A, B Endpoint
	MTU  int
}

// ReadTopology reads a *.clab.yml file. Every fault names its line.
func ReadTopology(file string) (*Topology, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("topology: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("topology %s: %w", file, err)
	}
	topology, err := ParseTopology(data, dir)
	if err != nil {
		return nil, fmt.Errorf("topology %s: %w", file, err)
	}
	return topology, nil
}

// Keys that containerlab knows and that change nothing here: layout, container housekeeping.
var (
	harmlessTop  = []string{"prefix"}
	harmlessNode = []string{"group", "position", "image-pull-policy", "restart-policy", "auto-remove", "startup-delay"}
)

// Keys that containerlab knows and that cannot be honoured without a container runtime.
var (
	foreignTop  = []string{"mgmt", "settings", "debug"}
	foreignNode = []string{
		"type", "startup-config", "enforce-startup-config", "suppress-startup-config", "config", "license", "devices",
		"cap-add", "shm-size", "ports", "mgmt-ipv4", "mgmt-ipv6", "env-files", "user", "runtime", "cpu", "cpu-set",
		"memory", "extras", "stages", "dns", "certificate", "healthcheck", "aliases", "components", "sandbox", "kernel",
	}
)

// ParseTopology reads a topology whose relative bind sources start at dir.
func ParseTopology(data []byte, dir string) (*Topology, error) {
	var file struct {
		Name     yaml.Node            `yaml:"name"`
		Topology yaml.Node            `yaml:"topology"`
		Rest     map[string]yaml.Node `yaml:",inline"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	if err := checkKeys("the file", file.Rest, nil, harmlessTop, foreignTop); err != nil {
		return nil, err
	}
	t := &Topology{Dir: dir, Name: file.Name.Value}
	if !validName.MatchString(t.Name) {
		return nil, fmt.Errorf("line %d: name %q: want letters, digits, '-', '_' and '.'", file.Name.Line, t.Name)
	}
	body, err := mapping("topology", &file.Topology)
	if err != nil {
		return nil, err
	}
	if err := checkKeys("topology", body, []string{"defaults", "kinds", "nodes", "links"}, nil, []string{"groups"}); err != nil {
		return nil, err
	}
	if t.Nodes, err = parseNodes(body, dir); err != nil {
		return nil, err
	}
	links := body["links"]
	if t.Links, err = parseLinks(&links, t.Nodes); err != nil {
		return nil, err
	}
	return t, nil
}

var (
	validName      = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)
	validInterface = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$`) // IFNAMSIZ, 15 and a zero byte
)

// checkKeys names the first key, by line, that is in none of the lists, or that cannot be honoured.
func checkKeys(where string, found map[string]yaml.Node, known, harmless, foreign []string) error {
	keys := slices.SortedFunc(maps.Keys(found), func(a, b string) int {
		return cmp.Or(cmp.Compare(found[a].Line, found[b].Line), strings.Compare(a, b))
	})
	for _, key := range keys {
		switch {
		case slices.Contains(known, key) || slices.Contains(harmless, key) || strings.HasPrefix(key, "x-"):
		case slices.Contains(foreign, key):
			return fmt.Errorf("line %d: %s: %s needs a container runtime; this lab has none and will not pretend: take it out, or use containerlab",
				found[key].Line, where, key)
		default:
			return fmt.Errorf("line %d: %s: unknown key %q", found[key].Line, where, key)
		}
	}
	return nil
}

func mapping(where string, node *yaml.Node) (map[string]yaml.Node, error) {
	if node.Kind == 0 {
		return nil, nil
	}
	var fields map[string]yaml.Node
	if err := node.Decode(&fields); err != nil {
		return nil, fmt.Errorf("line %d: %s: want a mapping of keys to values", node.Line, where)
	}
	return fields, nil
}

// layer is one of defaults, kinds.X and nodes.X, as written.
type layer struct {
	Kind        string            `yaml:"kind"`
	Image       string            `yaml:"image"`
	Entrypoint  string            `yaml:"entrypoint"`
	Cmd         string            `yaml:"cmd"`
	Exec        []string          `yaml:"exec"`
	Env         map[string]string `yaml:"env"`
	Labels      map[string]string `yaml:"labels"`
	Sysctls     map[string]string `yaml:"sysctls"`
	Binds       []string          `yaml:"binds"`
	NetworkMode string            `yaml:"network-mode"`
}

var layerKeys = []string{
	"kind", "image", "entrypoint", "cmd", "exec", "env", "labels", "sysctls", "binds", "network-mode",
}

func parseLayer(where string, node *yaml.Node) (layer, error) {
	var l layer
	fields, err := mapping(where, node)
	if err != nil {
		return l, err
	}
	if err := checkKeys(where, fields, layerKeys, harmlessNode, foreignNode); err != nil {
		return l, err
	}
	if len(fields) == 0 {
		return l, nil
	}
	if err := node.Decode(&l); err != nil {
		return l, fmt.Errorf("line %d: %s: %w", node.Line, where, err)
	}
	if l.NetworkMode != "" && l.NetworkMode != "none" {
		return l, fmt.Errorf("line %d: %s: network-mode %q: this lab has no management network; want none",
			node.Line, where, l.NetworkMode)
	}
	return l, nil
}

func parseNodes(body map[string]yaml.Node, dir string) ([]NodeSpec, error) {
	node := body["defaults"]
	defaults, err := parseLayer("defaults", &node)
	if err != nil {
		return nil, err
	}
	node = body["kinds"]
	written, err := mapping("kinds", &node)
	if err != nil {
		return nil, err
	}
	kinds := map[string]layer{}
	for _, name := range slices.Sorted(maps.Keys(written)) {
		node := written[name]
		if kinds[name], err = parseLayer("kinds."+name, &node); err != nil {
			return nil, err
		}
	}
	node = body["nodes"]
	if written, err = mapping("nodes", &node); err != nil {
		return nil, err
	}
	if len(written) == 0 {
		return nil, fmt.Errorf("line %d: nodes: want at least one node", node.Line)
	}
	var specs []NodeSpec
	for _, name := range slices.Sorted(maps.Keys(written)) {
		node := written[name]
		spec, err := parseNode(name, &node, defaults, kinds, dir)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

func parseNode(name string, node *yaml.Node, defaults layer, kinds map[string]layer, dir string) (NodeSpec, error) {
	where := "nodes." + name
	fail := func(format string, args ...any) (NodeSpec, error) {
		return NodeSpec{}, fmt.Errorf("line %d: %s: %s", node.Line, where, fmt.Sprintf(format, args...))
	}
	if !validName.MatchString(name) {
		return fail("the name: want letters, digits, '-', '_' and '.', at most 63")
	}
	own, err := parseLayer(where, node)
	if err != nil {
		return NodeSpec{}, err
	}
	kind := cmp.Or(own.Kind, defaults.Kind)
	if kind != "linux" {
		return fail("kind %q: this lab knows linux alone", kind)
	}
	spec, err := fold(defaults, kinds[kind], own, dir)
	if err != nil {
		return fail("%v", err)
	}
	spec.Name, spec.Kind = name, kind
	if spec.Image == "" {
		return fail("image is missing; it says what runs in the node")
	}
	return spec, nil
}

// fold joins the layers as containerlab does: the node's word before its kind's before the defaults; lists add up.
func fold(defaults, kind, own layer, dir string) (NodeSpec, error) {
	spec := NodeSpec{
		Image:   cmp.Or(own.Image, kind.Image, defaults.Image),
		Env:     merge(defaults.Env, kind.Env, own.Env),
		Labels:  merge(defaults.Labels, kind.Labels, own.Labels),
		Sysctls: merge(defaults.Sysctls, kind.Sysctls, own.Sysctls),
	}
	for key := range spec.Sysctls {
		if !strings.HasPrefix(key, "net.") {
			return spec, fmt.Errorf("sysctls: %s is not the node's own; want net.*", key)
		}
	}
	var err error
	if spec.Entrypoint, err = splitWords(cmp.Or(own.Entrypoint, kind.Entrypoint, defaults.Entrypoint)); err != nil {
		return spec, fmt.Errorf("entrypoint: %w", err)
	}
	if spec.Cmd, err = splitWords(cmp.Or(own.Cmd, kind.Cmd, defaults.Cmd)); err != nil {
		return spec, fmt.Errorf("cmd: %w", err)
	}
	for _, line := range slices.Concat(defaults.Exec, kind.Exec, own.Exec) {
		words, err := splitWords(line)
		if err != nil {
			return spec, fmt.Errorf("exec: %w", err)
		}
		if len(words) > 0 {
			spec.Exec = append(spec.Exec, words)
		}
	}
	for _, text := range slices.Concat(defaults.Binds, kind.Binds, own.Binds) {
		bind, err := parseBind(text, dir)
		if err != nil {
			return spec, err
		}
		spec.Binds = append(spec.Binds, bind)
	}
	return spec, nil
}

func merge(layers ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, layer := range layers {
		maps.Copy(all, layer)
	}
	return all
}

// parseBind reads "source:target[:ro]".
func parseBind(text, dir string) (Bind, error) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || !path.IsAbs(parts[1]) {
		return Bind{}, fmt.Errorf("bind %q: want source:/target or source:/target:ro", text)
	}
	bind := Bind{Source: parts[0], Target: path.Clean(parts[1])}
	if bind.Target == "/" {
		return Bind{}, fmt.Errorf("bind %q: the target cannot be the root folder", text)
	}
	if !filepath.IsAbs(bind.Source) {
		bind.Source = filepath.Join(dir, bind.Source)
	}
	if len(parts) == 3 {
		switch parts[2] {
		case "ro":
			bind.ReadOnly = true
		case "rw":
		default:
			return Bind{}, fmt.Errorf("bind %q: mode %q: want ro or rw", text, parts[2])
		}
	}
	return bind, nil
}

func parseLinks(node *yaml.Node, nodes []NodeSpec) ([]LinkSpec, error) {
	if node.Kind == 0 {
		return nil, nil
	}
	var items []yaml.Node
	if err := node.Decode(&items); err != nil {
		return nil, fmt.Errorf("line %d: links: want a list", node.Line)
	}
	known := map[string]bool{}
	for _, node := range nodes {
		known[node.Name] = true
	}
	used := map[Endpoint]bool{}
	var links []LinkSpec
	for i := range items {
		link, err := parseLink(&items[i])
		if err != nil {
			return nil, err
		}
		for _, end := range []Endpoint{link.A, link.B} {
			if !known[end.Node] {
				return nil, fmt.Errorf("line %d: links: endpoint %s: there is no node %q", items[i].Line, end, end.Node)
			}
			if used[end] {
				return nil, fmt.Errorf("line %d: links: endpoint %s is used twice", items[i].Line, end)
			}
			used[end] = true
		}
		links = append(links, link)
	}
	return links, nil
}

func parseLink(item *yaml.Node) (LinkSpec, error) {
	fields, err := mapping("links", item)
	if err != nil {
		return LinkSpec{}, err
	}
	err = checkKeys("links", fields, []string{"endpoints", "mtu"}, []string{"labels", "vars"}, []string{"type", "endpoint"})
	if err != nil {
		return LinkSpec{}, err
	}
	var written struct {
		Endpoints []string `yaml:"endpoints"`
		MTU       int      `yaml:"mtu"`
	}
	if err := item.Decode(&written); err != nil || len(written.Endpoints) != 2 {
		return LinkSpec{}, fmt.Errorf(`line %d: links: want endpoints: ["node:eth1", "node:eth1"]`, item.Line)
	}
	if written.MTU != 0 && (written.MTU < 1280 || written.MTU > 65535) {
		return LinkSpec{}, fmt.Errorf("line %d: links: mtu %d: want 1280 to 65535", item.Line, written.MTU)
	}
	link := LinkSpec{MTU: written.MTU}
	for i, end := range []*Endpoint{&link.A, &link.B} {
		node, name, found := strings.Cut(written.Endpoints[i], ":")
		if !found || name == "lo" || !validInterface.MatchString(name) {
			return LinkSpec{}, fmt.Errorf("line %d: links: endpoint %q: want node:interface, the interface at most 15 letters and not lo",
				item.Line, written.Endpoints[i])
		}
		*end = Endpoint{Node: node, Interface: name}
	}
	return link, nil
}
