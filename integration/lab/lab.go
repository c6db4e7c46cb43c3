package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Options of Up.
type Options struct {
	Topology *Topology
	// BinDir holds Clearway's binaries, and the CNI plugins in its folder cni. Empty: the nodes have none.
	BinDir string
	// Progress is told each step, if given.
	Progress func(format string, args ...any)
	// Network is the CNI network configuration list that Pods are made by. Empty: DefaultNetwork.
	Network string
}

// Lab is a topology that stands.
type Lab struct {
	Name string
	// ID tells labs of one topology apart.
	ID    string
	nodes map[string]*Node
	links []*Link

	dir, binDir, network string
	panel                *panel
	progress             func(format string, args ...any)
	down                 sync.Once
}

// Up builds a lab: every node with its cables, then, in the order of their names, routers before the rest, what runs
// in them. On failure nothing is left.
func Up(ctx context.Context, o Options) (*Lab, error) {
	if err := Capable(); err != nil {
		return nil, err
	}
	if err := checkNeeds(o.Topology); err != nil {
		return nil, err
	}
	l, err := newLab(o)
	if err != nil {
		return nil, err
	}
	if err := l.raise(ctx, o); err != nil {
		logs := l.Logs(20)
		l.Down()
		return nil, fmt.Errorf("lab %s: %w\n%s", l.Name, err, logs)
	}
	return l, nil
}

func newLab(o Options) (*Lab, error) {
	id := make([]byte, 4)
	_, _ = rand.Read(id) // never fails
	l := &Lab{
		Name: o.Topology.Name, ID: hex.EncodeToString(id),
		nodes: map[string]*Node{}, network: o.Network, progress: o.Progress, binDir: o.BinDir,
	}
	if l.network == "" {
		l.network = DefaultNetwork
	}
	if l.progress == nil {
		l.progress = func(string, ...any) {}
	}
	made.add(l.ID)
	dir, err := os.MkdirTemp("", "clearway-lab-"+l.ID+"-")
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", l.Name, err)
	}
	l.dir = dir
	if l.binDir == "" {
		l.binDir = filepath.Join(dir, "bin")
		if err := os.Mkdir(l.binDir, 0o755); err != nil {
			return nil, fmt.Errorf("lab %s: %w", l.Name, err)
		}
	}
	// The nodes' daemons run as users of their own and must be able to walk down to what is bound.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lab %s: %w", l.Name, err)
	}
	if l.panel, err = newPanel(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	for _, spec := range o.Topology.Nodes {
		l.nodes[spec.Name] = &Node{
			Spec: spec, lab: l, dir: filepath.Join(dir, spec.Name), image: imageOf(spec.Image),
		}
	}
	return l, nil
}

func (l *Lab) raise(ctx context.Context, o Options) error {
	for i, spec := range o.Topology.Links {
		link, err := l.panel.newLink(i, spec)
		if err != nil {
			return err
		}
		l.links = append(l.links, link)
	}
	l.progress("%d nodes, %d links", len(l.nodes), len(l.links))
	if err := l.each(func(n *Node) error { return n.boot() }); err != nil {
		return err
	}
	l.progress("routers")
	err := l.each(func(n *Node) error {
		if _, host := n.image.(hostImage); host {
			return nil
		}
		return n.start(ctx)
	})
	if err != nil {
		return err
	}
	l.progress("hosts")
	return l.each(func(n *Node) error {
		if _, host := n.image.(hostImage); !host {
			return nil
		}
		return n.start(ctx)
	})
}

// each runs fn for all nodes, a few at a time.
func (l *Lab) each(fn func(*Node) error) error {
	var group errgroup.Group
	group.SetLimit(4)
	for _, node := range l.Nodes() {
		group.Go(func() error { return fn(node) })
	}
	return group.Wait()
}

// Nodes lists the nodes by name.
func (l *Lab) Nodes() []*Node {
	var nodes []*Node
	for _, node := range l.nodes {
		nodes = append(nodes, node)
	}
	slices.SortFunc(nodes, func(a, b *Node) int { return strings.Compare(a.Spec.Name, b.Spec.Name) })
	return nodes
}

// Node returns the node of that name. It panics when there is none: a name is part of the test's text.
func (l *Lab) Node(name string) *Node {
	node, ok := l.nodes[name]
	if !ok {
		panic(fmt.Sprintf("lab %s has no node %q", l.Name, name))
	}
	return node
}

// Link returns the link of two nodes. It panics when there is none, or more than one.
func (l *Lab) Link(a, b string) *Link {
	var found []*Link
	for _, link := range l.links {
		ends := []string{link.Spec.A.Node, link.Spec.B.Node}
		if slices.Contains(ends, a) && slices.Contains(ends, b) {
			found = append(found, link)
		}
	}
	if len(found) != 1 {
		panic(fmt.Sprintf("lab %s has %d links between %s and %s", l.Name, len(found), a, b))
	}
	return found[0]
}

// linksOf yields the links of a node, with the end that is the node's.
func (l *Lab) linksOf(name string) iter.Seq2[*Link, Endpoint] {
	return func(yield func(*Link, Endpoint) bool) {
		for _, link := range l.links {
			for _, end := range []Endpoint{link.Spec.A, link.Spec.B} {
				if end.Node == name && !yield(link, end) {
					return
				}
			}
		}
	}
}

// Down ends the lab and everything in it, and removes its files. It may be called more than once.
func (l *Lab) Down() {
	l.down.Do(func() {
		_ = l.each(func(n *Node) error { return n.PowerOff() })
		l.panel.close()
		os.RemoveAll(l.dir)
	})
}

// Logs is the end of what every process in the lab wrote.
func (l *Lab) Logs(lines int) string {
	var text strings.Builder
	for _, node := range l.Nodes() {
		text.WriteString(node.Logs(lines))
	}
	return text.String()
}

// ErrIncapable is the cause of an error of Capable: this process may not make network namespaces.
var ErrIncapable = errors.New("making network namespaces is not permitted here; run as root, in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN and without a seccomp filter on mount")

// Capable tells whether this process has the rights a lab needs, by making the namespaces of a node.
func Capable() error {
	var pidfd int
	cmd := &exec.Cmd{Path: "/bin/true", Args: []string{"true"}, SysProcAttr: &unix.SysProcAttr{
		Cloneflags: childNamespaces, PidFD: &pidfd,
	}}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w (%w)", ErrIncapable, err)
	}
	return unix.Close(pidfd)
}

// ErrMissing is the cause of an error about programs that the host lacks.
var ErrMissing = errors.New("run integration/install.sh as root")

func checkNeeds(t *Topology) error {
	var missing []string
	for _, spec := range t.Nodes {
		for _, program := range imageOf(spec.Image).needs() {
			if _, err := lookPath(program); err == nil {
				if _, err := os.Stat(program); err == nil || !filepath.IsAbs(program) {
					continue
				}
			}
			if !slices.Contains(missing, program) {
				missing = append(missing, program)
			}
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Errorf("the host has no %s: %w", strings.Join(missing, ", "), ErrMissing)
	}
	return nil
}
