package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/google/uuid"
)

// Node is one machine of the lab.
type Node struct {
	Spec NodeSpec

	lab   *Lab
	dir   string // the node's folder on the host: data, logs, CNI cache
	image image

	mu sync.Mutex // guards what follows; not held during I/O
	// child is nil while the node is off.
	child     *child
	bootID    string
	processes map[string]*Process
	pods      map[string]*Pod
}

// freshFolders are empty at each boot, as in an image of the program they belong to.
var freshFolders = []string{
	"/etc/frr", "/etc/bird", "/etc/cni", "/etc/clearway", "/var/lib/cni", "/var/log/frr", "/var/tmp/frr",
}

// DataPath is the folder that outlives a reboot, as the node sees it.
const DataPath = "/var/lib/clearway"

// String is the node's name.
func (n *Node) String() string { return n.Spec.Name }

// DataDir is DataPath as the host sees it.
func (n *Node) DataDir() string { return filepath.Join(n.dir, "data") }

// BootID is what /proc/sys/kernel/random/boot_id says in the node; new with each boot.
func (n *Node) BootID() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.bootID
}

func (n *Node) running() (*child, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.child == nil {
		return nil, fmt.Errorf("%s is off", n.Spec.Name)
	}
	return n.child, nil
}

// boot makes the node's namespaces and plugs its cables in. Nothing runs in it yet.
func (n *Node) boot() error {
	for _, dir := range []string{"data", "log", "cni"} {
		if err := os.MkdirAll(filepath.Join(n.dir, dir), 0o755); err != nil {
			return fmt.Errorf("%s: %w", n.Spec.Name, err)
		}
	}
	bootID := uuid.NewString()
	machine := sha256.Sum256([]byte(n.lab.ID + "/" + n.Spec.Name))
	child, err := startChild(n.lab.Name, n.lab.ID, childOrders{
		Hostname: n.Spec.Name,
		Sysctls:  n.Spec.Sysctls,
		BinDir:   n.lab.binDir,
		Fresh:    freshFolders,
		Binds:    append([]Bind{{Source: n.DataDir(), Target: DataPath}}, n.Spec.Binds...),
		Files: map[string]string{
			"/etc/machine-id": hex.EncodeToString(machine[:16]) + "\n",
			"/etc/hostname":   n.Spec.Name + "\n",
		},
		BootID: bootID,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", n.Spec.Name, err)
	}
	n.mu.Lock()
	n.child, n.bootID = child, bootID
	n.processes, n.pods = map[string]*Process{}, map[string]*Pod{}
	n.mu.Unlock()
	for link, end := range n.lab.linksOf(n.Spec.Name) {
		if err := link.plug(end, child); err != nil {
			return err
		}
	}
	return nil
}

// start runs what the image and the file say.
func (n *Node) start(ctx context.Context) error {
	if err := n.image.start(ctx, n); err != nil {
		return fmt.Errorf("%s: %w", n.Spec.Name, err)
	}
	return nil
}

// execAll runs the file's exec commands.
func (n *Node) execAll(ctx context.Context) error {
	for _, argv := range n.Spec.Exec {
		if _, err := n.Exec(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}

// startCommand runs the file's entrypoint and cmd, if any.
func (n *Node) startCommand() error {
	argv := slices.Concat(n.Spec.Entrypoint, n.Spec.Cmd)
	if len(argv) == 0 {
		return nil
	}
	_, err := n.Start(filepath.Base(argv[0]), argv...)
	return err
}

// PowerOff ends everything in the node at once, as pulling the plug does. Its data folder stays.
func (n *Node) PowerOff() error {
	n.mu.Lock()
	child, pods := n.child, n.pods
	n.child, n.pods = nil, nil
	n.mu.Unlock()
	if child == nil {
		return nil
	}
	for _, pod := range pods {
		pod.network.Close()
	}
	child.kill()
	for link, end := range n.lab.linksOf(n.Spec.Name) {
		if err := link.vanish(end); err != nil {
			return err
		}
	}
	return nil
}

// PowerOn boots a node that is off, with a new boot-id, and starts what the file says.
func (n *Node) PowerOn(ctx context.Context) error {
	if _, err := n.running(); err == nil {
		return fmt.Errorf("%s is on already", n.Spec.Name)
	}
	if err := n.boot(); err != nil {
		return err
	}
	return n.start(ctx)
}

// Reboot is PowerOff and PowerOn.
func (n *Node) Reboot(ctx context.Context) error {
	if err := n.PowerOff(); err != nil {
		return err
	}
	return n.PowerOn(ctx)
}

// WipeData empties the data folder, whatever runs.
func (n *Node) WipeData() error {
	entries, err := os.ReadDir(n.DataDir())
	if err != nil {
		return fmt.Errorf("%s: %w", n.Spec.Name, err)
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(n.DataDir(), entry.Name())); err != nil {
			return fmt.Errorf("%s: %w", n.Spec.Name, err)
		}
	}
	return nil
}

// Pods lists the node's Pods by name.
func (n *Node) Pods() []*Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	var pods []*Pod
	for _, name := range slices.Sorted(maps.Keys(n.pods)) {
		pods = append(pods, n.pods[name])
	}
	return pods
}

// Process returns the process of that name, running or ended, or nil.
func (n *Node) Process(name string) *Process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.processes[name]
}

// Kill signals the process of that name, as Process.Kill does.
func (n *Node) Kill(ctx context.Context, name string, signal syscall.Signal) error {
	p := n.Process(name)
	if p == nil {
		return fmt.Errorf("%s: nothing named %s was started", n.Spec.Name, name)
	}
	return p.Kill(ctx, signal)
}

// Restart starts the process of that name again, after it has ended.
func (n *Node) Restart(name string) error {
	p := n.Process(name)
	if p == nil {
		return fmt.Errorf("%s: nothing named %s was started", n.Spec.Name, name)
	}
	_, err := p.Restart()
	return err
}

// Do runs fn on a thread in the node's namespaces: its network, and its view of the file system. Sockets that fn
// opens stay there.
func (n *Node) Do(fn func() error) error {
	child, err := n.running()
	if err != nil {
		return err
	}
	return child.inside(nil, fn)
}

// Logs is the end of what each of the node's processes wrote.
func (n *Node) Logs(lines int) string {
	n.mu.Lock()
	processes := maps.Clone(n.processes)
	n.mu.Unlock()
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(processes)) {
		state := "running"
		if p := processes[name]; !p.Running() {
			state = fmt.Sprintf("ended: %v", p.cmd.ProcessState)
		}
		fmt.Fprintf(&text, "--- %s: %s (%s)\n%s\n", n.Spec.Name, name, state, processes[name].Tail(lines))
	}
	return text.String()
}
