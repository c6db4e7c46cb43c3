package cmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/clearway/clearway/"

// planned are rooms that the design names and nobody has built yet. One that is built must leave this list; one that
// is missing and not in it has been lost, and the rules about it would hold over nothing.
var planned []string

// pure rooms compute: no clock they were not given, no socket, no file, no goroutine of their own.
var pure = []string{
	"ipam/cidr", "ipam/pool", "ipam/service", "ipam/block", "ipam/identity", "ipam/migrate", "ipam/proof", "ipam/store/record",
	"bgp/route", "bgp/config", "bgp/policy", "bgp/rib", "bgp/topology", "bgp/bfd/protocol", "bgp/fleet", "bgp/plan", "bgp/tor", "bgp/trace",
}

// pureMayImport are the libraries of pure rooms: arithmetic, tables and label selectors, as values.
var pureMayImport = []string{
	"go4.org/netipx", "github.com/gaissmai/bart", "google.golang.org/protobuf/",
	"k8s.io/apimachinery/pkg/labels", "k8s.io/apimachinery/pkg/selection", "k8s.io/apimachinery/pkg/util/validation",
}

// pureMustNot are the standard library's ways out of pureness.
var pureMustNot = []string{"os", "os/exec", "os/signal", "net", "net/http", "syscall", "io/ioutil"}

// edges each stand before one foreign thing; composers decide and never see an edge.
var (
	edges     = []string{"ipam/store", "ipam/cni", "ipam/netns", "ipam/kube", "bgp/speaker", "bgp/fib", "bgp/bfd", "bgp/discover", "bgp/probe"}
	composers = []string{"ipam/server", "ipam/node", "bgp/agent"}
)

// owned are heavy libraries, each with the only room that may import it.
var owned = []struct{ library, room, reason string }{
	{"go.etcd.io/", "ipam/store", "the store can be changed, and its traps are in one place"},
	{"github.com/containernetworking/", "ipam/cni", "CNI's types are the plugin's business"},
	{"k8s.io/client-go", "ipam/kube", "only ipamd talks to the API server, and through one room"},
	{"k8s.io/api/", "ipam/kube", "Kubernetes' objects become ours at the border"},
	{"github.com/osrg/gobgp/", "bgp/speaker", "GoBGP's options are process-wide, and its traps are in one place"},
	{"github.com/vishvananda/netlink", "bgp/fib", "kernel routes have one writer"},
	{"github.com/mdlayher/ndp", "bgp/discover", "neighbour discovery is one room's"},
	{"github.com/mdlayher/netlink", "bgp/fib", "kernel routes have one writer"},
}

// walls keep one part of the house from importing another.
var walls = []struct{ from, to, reason string }{
	{"ipam/", "bgp/", "the wings meet in cmd, as standard-library types"},
	{"bgp/", "ipam/", "the wings meet in cmd, as standard-library types"},
	{"ipam/", "cmd/", "imports run downward"},
	{"bgp/", "cmd/", "imports run downward"},
	{"proto/", "cmd/", "imports run downward"},
	{"proto/", "ipam/", "the API knows nobody who speaks it"},
	{"proto/", "bgp/", "the API knows nobody who speaks it"},
	{"ipam/", "integration/", "the lab drives the programs; nothing needs the lab"},
	{"bgp/", "integration/", "the lab drives the programs; nothing needs the lab"},
	{"cmd/", "integration/", "the lab drives the programs; nothing needs the lab"},
	{"proto/", "integration/", "the lab drives the programs; nothing needs the lab"},
	{"integration/", "ipam/", "the lab sees what a user sees: the binaries and the API"},
	{"integration/", "bgp/", "the lab sees what a user sees: the binaries and the API"},
}

// light are programs that live for milliseconds, each with what it must not even link: what a package does before main
// is run each time.
var light = []struct {
	program, reason string
	mustNot         []string
}{{
	"cmd/cni", "it is run for every Pod, and the start of these takes longer than its work",
	[]string{"google.golang.org/", "net/http", "crypto/tls", "proto/clearway/"},
}}

// pkg is a package of the module, with paths inside the module short ("ipam/pool").
type pkg struct {
	Dir        string
	ImportPath string
	Imports    []string
	Deps       []string
	GoFiles    []string
	CgoFiles   []string
}

// TestImports holds the house's rules over every package of the module.
func TestImports(t *testing.T) {
	packages := list(t)
	for _, fault := range violations(packages) {
		t.Error(fault)
	}
	for _, fault := range absent(packages, planned) {
		t.Error(fault)
	}
}

// violations are the imports that break a rule, each with its reason.
func violations(packages []pkg) []string {
	var faults []string
	for _, p := range packages {
		for _, imported := range p.Imports {
			if reason := forbidden(p.ImportPath, imported); reason != "" {
				faults = append(faults, fmt.Sprintf("%s imports %s: %s", p.ImportPath, imported, reason))
			}
		}
		if slices.Contains(pure, p.ImportPath) {
			faults = append(faults, impure(p)...)
		}
		faults = append(faults, heavy(p)...)
	}
	return faults
}

// heavy tells what a light program needs, by whatever way, that it must not.
func heavy(p pkg) []string {
	var faults []string
	for _, rule := range light {
		for _, needed := range p.Deps {
			if p.ImportPath == rule.program && hasPrefix(needed, rule.mustNot) {
				faults = append(faults, fmt.Sprintf("%s needs %s: %s", p.ImportPath, needed, rule.reason))
			}
		}
	}
	return faults
}

// forbidden tells why a package must not import another, or nothing.
func forbidden(from, to string) string {
	for _, rule := range owned {
		if strings.HasPrefix(to, rule.library) && from != rule.room && !exempt(from) {
			return "only " + rule.room + " does: " + rule.reason
		}
	}
	for _, wall := range walls {
		if strings.HasPrefix(from+"/", wall.from) && strings.HasPrefix(to, wall.to) {
			return wall.reason
		}
	}
	switch {
	case slices.Contains(edges, to) && slices.Contains(edges, from):
		return "an edge never imports another edge"
	case slices.Contains(edges, to) && slices.Contains(composers, from):
		return "a composer declares the interface it needs; cmd hands it the edge"
	}
	return ""
}

// exempt are those whose work is with real peers and images, not with the rooms.
func exempt(from string) bool {
	return strings.HasPrefix(from, "integration/") || strings.HasPrefix(from, "deploy/")
}

// impure tells what a pure room imports, or drags in from our own rooms, that it must not.
func impure(p pkg) []string {
	var faults []string
	wing, _, _ := strings.Cut(p.ImportPath, "/")
	for _, imported := range p.Imports {
		foreign := strings.Contains(strings.SplitN(imported, "/", 2)[0], ".")
		if foreign && !hasPrefix(imported, pureMayImport) || slices.Contains(pureMustNot, imported) {
			faults = append(faults, fmt.Sprintf("%s imports %s: it is a pure room", p.ImportPath, imported))
		}
	}
	for _, needed := range p.Deps {
		ours := hasPrefix(needed, []string{"ipam/", "bgp/", "cmd/", "integration/", "proto/"})
		if ours && needed != "proto/clearway/v1" && !(slices.Contains(pure, needed) && strings.HasPrefix(needed, wing+"/")) {
			faults = append(faults, fmt.Sprintf("%s needs %s: a pure room needs pure rooms of its wing and the API alone",
				p.ImportPath, needed))
		}
	}
	return faults
}

func hasPrefix(text string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(text, prefix) })
}

// absent tells which rooms that the rules name do not exist, and which planned ones do.
func absent(packages []pkg, planned []string) []string {
	var faults []string
	named := slices.Concat(pure, edges, composers)
	for _, rule := range owned {
		named = append(named, rule.room)
	}
	for _, rule := range light {
		named = append(named, rule.program)
	}
	slices.Sort(named)
	for _, room := range slices.Compact(named) {
		exists := slices.ContainsFunc(packages, func(p pkg) bool { return p.ImportPath == room })
		switch isPlanned := slices.Contains(planned, room); {
		case !exists && !isPlanned:
			faults = append(faults, "the rules name "+room+", and there is no such package")
		case exists && isPlanned:
			faults = append(faults, room+" is built: take it out of the planned ones")
		}
	}
	return faults
}

// TestImportRulesFindViolations breaks each kind of rule on purpose.
func TestImportRulesFindViolations(t *testing.T) {
	for _, c := range []struct {
		p    pkg
		want string
	}{
		{pkg{ImportPath: "ipam/server", Imports: []string{"go.etcd.io/etcd/client/v3"}}, "only ipam/store does"},
		{pkg{ImportPath: "cmd/ipamd", Imports: []string{"go.etcd.io/etcd/client/v3"}}, "only ipam/store does"},
		{pkg{ImportPath: "ipam/node", Imports: []string{"github.com/containernetworking/cni/pkg/types"}}, "only ipam/cni does"},
		{pkg{ImportPath: "bgp/agent", Imports: []string{"github.com/osrg/gobgp/v4/api"}}, "only bgp/speaker does"},
		{pkg{ImportPath: "cmd/agent", Imports: []string{"github.com/vishvananda/netlink"}}, "only bgp/fib does"},
		{pkg{ImportPath: "ipam/server", Imports: []string{"k8s.io/client-go/kubernetes"}}, "only ipam/kube does"},
		{pkg{ImportPath: "ipam/node", Imports: []string{"bgp/route"}}, "the wings meet in cmd"},
		{pkg{ImportPath: "bgp/agent", Imports: []string{"ipam/cidr"}}, "the wings meet in cmd"},
		{pkg{ImportPath: "ipam/server", Imports: []string{"cmd/internal/daemon"}}, "imports run downward"},
		{pkg{ImportPath: "proto/manifest", Imports: []string{"ipam/cidr"}}, "the API knows nobody"},
		{pkg{ImportPath: "cmd/agent", Imports: []string{"integration/lab"}}, "nothing needs the lab"},
		{pkg{ImportPath: "integration/lab", Imports: []string{"ipam/node"}}, "the lab sees what a user sees"},
		{pkg{ImportPath: "ipam/server", Imports: []string{"ipam/store"}}, "a composer declares the interface"},
		{pkg{ImportPath: "bgp/fib", Imports: []string{"bgp/speaker"}}, "an edge never imports another edge"},
		{pkg{ImportPath: "ipam/pool", Imports: []string{"google.golang.org/grpc"}}, "it is a pure room"},
		{pkg{ImportPath: "bgp/rib", Imports: []string{"os"}}, "it is a pure room"},
		{pkg{ImportPath: "bgp/rib", Deps: []string{"bgp/agent"}}, "a pure room needs pure rooms of its wing"},
		{pkg{ImportPath: "ipam/pool", Deps: []string{"proto/manifest"}}, "a pure room needs pure rooms of its wing"},
		{pkg{ImportPath: "cmd/cni", Deps: []string{"google.golang.org/grpc"}}, "run for every Pod"},
		{pkg{ImportPath: "cmd/cni", Deps: []string{"net/http"}}, "run for every Pod"},
	} {
		if got := violations([]pkg{c.p}); len(got) != 1 || !strings.Contains(got[0], c.want) {
			t.Errorf("%+v: %v, want %s", c.p, got, c.want)
		}
	}
	fine := []pkg{
		{ImportPath: "ipam/store", Imports: []string{"go.etcd.io/etcd/client/v3", "ipam/store/record"}},
		{ImportPath: "ipam/server", Imports: []string{"ipam/pool", "ipam/store/record", "google.golang.org/grpc"}},
		{ImportPath: "ipam/pool", Imports: []string{"net/netip", "go4.org/netipx"}, Deps: []string{"os", "ipam/cidr", "proto/clearway/v1"}},
		{ImportPath: "cmd/agent", Imports: []string{"ipam/node", "bgp/fib", "bgp/speaker"}},
		{ImportPath: "cmd/cni", Imports: []string{"ipam/cni"}, Deps: []string{"net", "proto/plain"}},
		{ImportPath: "integration/lab", Imports: []string{"github.com/vishvananda/netlink"}},
	}
	if got := violations(fine); len(got) > 0 {
		t.Errorf("what is allowed is refused: %v", got)
	}
	if got := absent(fine, nil); len(got) == 0 {
		t.Error("missing rooms are not missed")
	}
	if got := absent([]pkg{{ImportPath: "bgp/rib"}}, []string{"bgp/rib"}); !slices.Contains(got, "bgp/rib is built: take it out of the planned ones") {
		t.Errorf("got %v", got)
	}
}

// TestPackageComments: every package tells what it is for, in one place.
func TestPackageComments(t *testing.T) {
	for _, p := range list(t) {
		var told []string
		for _, name := range append(p.GoFiles, p.CgoFiles...) {
			path := filepath.Join(p.Dir, name)
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Errorf("%s: %v", p.ImportPath, err)
				continue
			}
			if file.Doc != nil && strings.TrimSpace(file.Doc.Text()) != "" {
				told = append(told, name)
			}
		}
		if len(told) != 1 && len(p.GoFiles)+len(p.CgoFiles) > 0 {
			t.Errorf("%s has package comments in %v; exactly one is wanted", p.ImportPath, told)
		}
	}
}

// list asks the go command for the module's packages.
func list(t *testing.T) []pkg {
	t.Helper()
	look(t)
	var out, faults bytes.Buffer
	run := exec.CommandContext(t.Context(), "go", "list", "-json=Dir,ImportPath,Imports,Deps,GoFiles,CgoFiles", "./...")
	run.Dir, run.Stdout, run.Stderr = "..", &out, &faults
	if err := run.Run(); err != nil {
		t.Fatalf("go list: %v\n%s", err, faults.String())
	}
	var packages []pkg
	for decoder := json.NewDecoder(&out); ; {
		var p pkg
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
		shorten(p.Imports)
		shorten(p.Deps)
		packages = append(packages, p)
	}
	if len(packages) < 10 {
		t.Fatalf("only %d packages were found", len(packages))
	}
	return packages
}

// look opens the module's folders, so that the test cache knows that the result rests on them: it does not see what the
// go command reads. (The files themselves are opened by TestPackageComments.)
func look(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != ".." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "bin") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func shorten(paths []string) {
	for i := range paths {
		paths[i] = strings.TrimPrefix(paths[i], module)
	}
}
