package cmd

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// leavesProcess are packages of the standard library and its relatives whose functions wait for the kernel or a peer, each
// with those that do not.
var leavesProcess = map[string][]string{
	"os": {
		"IsNotExist", "IsExist", "Getpid", "Getuid", "Geteuid", "Getenv", "NewFile", "FileMode", "DirFS",
	},
	"os/exec":  {},
	"net":      {"ParseIP", "ParseCIDR", "ParseMAC", "IPv4", "JoinHostPort", "SplitHostPort", "CIDRMask", "IP", "TCPAddrFromAddrPort", "UDPAddrFromAddrPort"},
	"net/http": {"StatusText", "NewServeMux", "HandlerFunc", "NewRequest", "NewRequestWithContext"},
	"syscall":  {"Errno", "ParseNetlinkMessage", "ParseNetlinkRouteAttr", "Signal"},
	"golang.org/x/sys/unix": {
		"ErrnoName", "Errno", "ByteSliceToString", "NsecToTimespec", "TimevalToNsec",
	},
}

// doNotWait are functions that look as if they did, by folder and name, each with the reason.
var doNotWait = map[string]string{
	"../bgp/bfd Engine.nudge": "an eventfd takes a number without waiting, and the mutex keeps it from being closed meanwhile",
	"../bgp/bfd Engine.close": "the same: closing an eventfd does not wait",
}

// TestOneOwner (invariant 13): every mutex says what it guards, and nothing that waits for the kernel or for a peer is called
// while one is held. It reads the source: calls within a package are followed, those into other packages of the house are
// not; there the walls of this folder's other tests keep the pure rooms free of it.
func TestOneOwner(t *testing.T) {
	mutexes, regions := 0, 0
	for _, dir := range goFolders(t) {
		room := readRoom(t, dir)
		mutexes += room.mutexes
		room.followCalls(dir)
		for _, f := range room.functions {
			for _, region := range f.held {
				regions++
				if why := room.waits(f, region); why != "" && doNotWait[dir+" "+f.name] == "" {
					t.Errorf("%s: %s, while a mutex is held", room.files.Position(region[0].Pos()), why)
				}
			}
		}
		for _, fault := range room.unsaid {
			t.Error(fault)
		}
	}
	if mutexes < 20 || regions < 100 {
		t.Errorf("%d mutexes and %d places that hold one were found: the test looks in the wrong place", mutexes, regions)
	}
}

// goFolders are the folders of the product's packages, without its tests, generated code and the lab.
func goFolders(t *testing.T) []string {
	t.Helper()
	var folders []string
	for _, top := range []string{".", "../ipam", "../bgp", "../proto"} {
		err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.IsDir() {
				return err
			}
			if entry.Name() == "testdata" {
				return fs.SkipDir
			}
			folders = append(folders, path)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return folders
}

// room is one package's source.
type room struct {
	files     *token.FileSet
	functions map[string]*function // by name, or type and name
	mutexes   int
	unsaid    []string // mutexes that do not say what they guard
}

// function is one function or method.
type function struct {
	name     string
	receiver string // its name
	of       string // the receiver's type
	body     *ast.BlockStmt
	imports  map[string]string // of its file: path by name
	held     [][]ast.Stmt      // what is done while a mutex is held
	waiting  string            // why it waits; empty: it does not
}

func readRoom(t *testing.T, dir string) *room {
	t.Helper()
	r := &room{files: token.NewFileSet(), functions: map[string]*function{}}
	sources, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") || strings.HasSuffix(source, ".pb.go") {
			continue
		}
		file, err := parser.ParseFile(r.files, source, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		r.add(file)
	}
	return r
}

func (r *room) add(file *ast.File) {
	imports := map[string]string{}
	for _, one := range file.Imports {
		path, _ := strconv.Unquote(one.Path.Value) // it was parsed
		name := path[strings.LastIndexByte(path, '/')+1:]
		if one.Name != nil {
			name = one.Name.Name
		}
		imports[name] = path
	}
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.StructType:
			r.addMutexes(node)
		case *ast.FuncDecl:
			if node.Body != nil {
				r.addFunction(node, imports)
			}
		}
		return true
	})
}

// addMutexes looks whether each mutex of a struct says what it guards.
func (r *room) addMutexes(of *ast.StructType) {
	for _, field := range of.Fields.List {
		kind, ok := field.Type.(*ast.SelectorExpr)
		if !ok || len(field.Names) == 0 || kind.Sel.Name != "Mutex" && kind.Sel.Name != "RWMutex" {
			continue
		}
		r.mutexes++
		said := field.Doc.Text() + field.Comment.Text()
		if !strings.Contains(said, "guard") && !strings.Contains(said, "held by") {
			r.unsaid = append(r.unsaid, fmt.Sprintf("%s: %s does not say what it guards", r.files.Position(field.Pos()), field.Names[0].Name))
		}
	}
}

func (r *room) addFunction(declared *ast.FuncDecl, imports map[string]string) {
	f := &function{name: declared.Name.Name, body: declared.Body, imports: imports}
	if declared.Recv != nil && len(declared.Recv.List) == 1 {
		receiver := declared.Recv.List[0]
		kind := receiver.Type
		if pointer, ok := kind.(*ast.StarExpr); ok {
			kind = pointer.X
		}
		if generic, ok := kind.(*ast.IndexExpr); ok {
			kind = generic.X
		}
		if named, ok := kind.(*ast.Ident); ok {
			f.of = named.Name
		}
		if len(receiver.Names) == 1 {
			f.receiver = receiver.Names[0].Name
		}
		f.name = f.of + "." + f.name
	}
	ast.Inspect(declared.Body, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.BlockStmt:
			f.findHeld(node.List)
		case *ast.CaseClause:
			f.findHeld(node.Body)
		case *ast.CommClause:
			f.findHeld(node.Body)
		}
		return true
	})
	r.functions[f.name] = f
}

// findHeld finds the statements between a Lock and its Unlock, or the end of the block where that is deferred.
func (f *function) findHeld(list []ast.Stmt) {
	for i, statement := range list {
		mutex, ok := callOf(statement, "Lock", "RLock")
		if !ok {
			continue
		}
		end := len(list)
		for j := i + 1; j < len(list); j++ {
			if other, ok := callOf(list[j], "Unlock", "RUnlock"); ok && other == mutex {
				end = j
				break
			}
		}
		if region := list[i+1 : end]; len(region) > 0 {
			f.held = append(f.held, region)
		}
	}
}

// callOf tells whether a statement is x.name(), and what x is.
func callOf(statement ast.Stmt, names ...string) (x string, ok bool) {
	expression, ok := statement.(*ast.ExprStmt)
	if !ok {
		return "", false
	}
	call, ok := expression.X.(*ast.CallExpr)
	if !ok || len(call.Args) > 0 {
		return "", false
	}
	selected, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !slices.Contains(names, selected.Sel.Name) {
		return "", false
	}
	return written(selected.X), true
}

func written(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return written(x.X) + "." + x.Sel.Name
	case *ast.ParenExpr:
		return written(x.X)
	}
	return fmt.Sprintf("%T", x)
}

// followCalls finds the functions that wait, by what they call in their own package.
func (r *room) followCalls(dir string) {
	for changed := true; changed; {
		changed = false
		for _, f := range r.functions {
			if f.waiting == "" && doNotWait[dir+" "+f.name] == "" {
				if f.waiting = r.waits(f, f.body.List); f.waiting != "" {
					changed = true
				}
			}
		}
	}
}

// waits tells why some statements of a function wait; empty: they do not. What is started, or done later, is not looked at.
func (r *room) waits(f *function, statements []ast.Stmt) (why string) {
	for _, statement := range statements {
		ast.Inspect(statement, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.GoStmt, *ast.FuncLit:
				return false
			case *ast.CallExpr:
				if why == "" {
					why = r.waitsIn(f, node)
				}
			}
			return why == ""
		})
	}
	return why
}

func (r *room) waitsIn(f *function, call *ast.CallExpr) string {
	switch called := call.Fun.(type) {
	case *ast.Ident:
		if other := r.functions[called.Name]; other != nil && other.waiting != "" {
			return called.Name + " is called, where " + other.waiting
		}
	case *ast.SelectorExpr:
		x, ok := called.X.(*ast.Ident)
		if !ok {
			return ""
		}
		path := f.imports[x.Name]
		if allowed, leaves := leavesProcess[path]; leaves && !slices.Contains(allowed, called.Sel.Name) {
			return x.Name + "." + called.Sel.Name + " is called"
		}
		if path == "time" && called.Sel.Name == "Sleep" {
			return "time.Sleep is called"
		}
		if x.Name == f.receiver {
			if other := r.functions[f.of+"."+called.Sel.Name]; other != nil && other.waiting != "" {
				return called.Sel.Name + " is called, where " + other.waiting
			}
		}
	}
	return ""
}
