package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// childName is argv[0] of a node's first process. The lab, its id, and the node follow, so that ps and "lab exec"
// can tell one from another.
const childName = "clearway-lab-node"

// File descriptors of the first process: its orders (and, by their end, the word that the lab is gone), and where
// it answers.
const (
	ordersFD = 3
	answerFD = 4
)

// childOrders is what the first process is to make of its namespaces.
type childOrders struct {
	Hostname string
	Sysctls  map[string]string
	// BinDir is shown at binPath.
	BinDir string
	// Fresh folders are empty and private, whatever the host has there.
	Fresh []string
	Binds []Bind
	// Files are written after the binds.
	Files map[string]string
	// BootID replaces the kernel's, as the node's programs see it.
	BootID string
}

// Paths within a node.
const (
	binPath    = "/opt/clearway/bin"
	hostPath   = "/run/lab"
	bootIDPath = "/proc/sys/kernel/random/boot_id"
)

// ServeChild turns this program into a node's first process if it was started as one; else it returns at once.
func ServeChild() {
	if len(os.Args) == 0 || os.Args[0] != childName {
		return
	}
	if err := runChild(); err != nil {
		fmt.Fprintln(os.NewFile(answerFD, "answer"), err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runChild() error {
	// Only SIGKILL and the end of the orders end a node; Ctrl-C at a terminal is the lab's to answer.
	signal.Ignore(os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	// Programs started in the node are children of the lab; those that lose their parent become ours.
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, unix.SIGCHLD)
	orders := os.NewFile(ordersFD, "orders")
	unix.CloseOnExec(ordersFD)
	unix.CloseOnExec(answerFD)
	var o childOrders
	if err := json.NewDecoder(orders).Decode(&o); err != nil {
		return fmt.Errorf("orders: %w", err)
	}
	if err := o.carryOut(); err != nil {
		return err
	}
	answer := os.NewFile(answerFD, "answer")
	if _, err := io.WriteString(answer, "ready\n"); err != nil {
		return err
	}
	answer.Close()
	go reap(orphans)
	_, err := io.Copy(io.Discard, orders)
	return err
}

func reap(orphans <-chan os.Signal) {
	for range orphans {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
				break
			}
		}
	}
}

func (o *childOrders) carryOut() error {
	if err := unix.Sethostname([]byte(o.Hostname)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := o.mounts(); err != nil {
		return err
	}
	for key, value := range o.Sysctls {
		if err := os.WriteFile(sysctlPath(key), []byte(value), 0); err != nil {
			return fmt.Errorf("sysctl %s=%s: %w", key, value, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// sysctlPath knows that dots within an interface's name are written as slashes, as sysctl(8) has it.
func sysctlPath(key string) string {
	return "/proc/sys/" + strings.NewReplacer(".", "/", "/", ".").Replace(key)
}

// mounts makes the node's view of the file system: the host's, with what is the node's own laid over it.
func (o *childOrders) mounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	// Sources are held open before anything is laid over them.
	binds := append([]Bind{{Source: o.BinDir, Target: binPath, ReadOnly: true}}, o.Binds...)
	sources := make([]*os.File, len(binds))
	for i, bind := range binds {
		fd, err := unix.Open(bind.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("bind %s: %w", bind.Source, err)
		}
		sources[i] = os.NewFile(uintptr(fd), bind.Source)
		defer sources[i].Close()
	}
	var view view
	if err := view.cover("/run"); err != nil {
		return err
	}
	for _, dir := range o.Fresh {
		if err := view.fresh(dir); err != nil {
			return err
		}
	}
	for i, bind := range binds {
		if err := view.bind(sources[i], bind); err != nil {
			return err
		}
	}
	for name, content := range o.Files {
		if err := view.file(name, content); err != nil {
			return err
		}
	}
	return o.maskBootID()
}

func (o *childOrders) maskBootID() error {
	file := path.Join(hostPath, "boot_id")
	if err := os.WriteFile(file, []byte(o.BootID+"\n"), 0o444); err != nil {
		return fmt.Errorf("boot id: %w", err)
	}
	if err := unix.Mount(file, bootIDPath, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("boot id: %w", err)
	}
	return nil
}

// view changes what a mount namespace sees without touching what lies below.
type view struct {
	covered []string
}

// cover lays an empty file system over a folder.
func (v *view) cover(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount over %s: %w", dir, err)
	}
	v.covered = append(v.covered, dir)
	return os.MkdirAll(path.Join(hostPath), 0o755)
}

// writable makes a folder one in which entries can be made and removed: a fresh one, with links to what the host
// has in its own, which stays reachable below hostPath.
func (v *view) writable(dir string) error {
	for _, done := range v.covered {
		if dir == done || strings.HasPrefix(dir, done+"/") {
			return nil
		}
	}
	if dir == "/" {
		return errors.New("the root folder cannot be changed; choose a path in /etc, /opt, /run, /srv, /usr or /var")
	}
	shadow := path.Join(hostPath, dir)
	if err := os.MkdirAll(shadow, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(dir, shadow, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep %s: %w", dir, err)
	}
	entries, err := os.ReadDir(shadow)
	if err != nil {
		return err
	}
	if err := v.cover(dir); err != nil {
		return err
	}
	for _, entry := range entries {
		target := path.Join(shadow, entry.Name())
		if link, err := os.Readlink(target); err == nil {
			target = link // as it is, so that relative ones stay right
		}
		if err := os.Symlink(target, path.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// resolve follows links of the host's own, such as /var/run, in the folder part of a path. What writable left is a
// link below hostPath: there the part is made anew.
func (v *view) resolve(name string) (string, error) {
	at := "/"
	for part := range strings.SplitSeq(strings.Trim(path.Dir(name), "/"), "/") {
		next := path.Join(at, part)
		link, err := os.Readlink(next)
		switch {
		case err == nil && strings.HasPrefix(link, hostPath+"/"):
			if err := v.replace(next, link); err != nil {
				return "", err
			}
		case err == nil && path.IsAbs(link):
			next = link
		case err == nil:
			next = path.Join(at, link)
		case errors.Is(err, os.ErrNotExist):
			if err := v.writable(at); err != nil {
				return "", err
			}
			if err := os.Mkdir(next, 0o755); err != nil {
				return "", err
			}
		}
		at = next
	}
	return path.Join(at, path.Base(name)), nil
}

// replace puts a folder of links in the place of a link to a folder.
func (v *view) replace(name, shadow string) error {
	entries, err := os.ReadDir(shadow)
	if err != nil {
		return err
	}
	if err := os.Remove(name); err != nil {
		return err
	}
	if err := os.Mkdir(name, 0o755); err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.Symlink(path.Join(shadow, entry.Name()), path.Join(name, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// clear makes a name free, and its folder one that can be written to.
func (v *view) clear(name string) (string, error) {
	name, err := v.resolve(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if err := v.writable(path.Dir(name)); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return name, nil
}

func (v *view) fresh(dir string) error {
	dir, err := v.clear(dir)
	if err != nil {
		return err
	}
	return os.Mkdir(dir, 0o755)
}

func (v *view) file(name, content string) error {
	name, err := v.clear(name)
	if err != nil {
		return err
	}
	return os.WriteFile(name, []byte(content), 0o644)
}

func (v *view) bind(source *os.File, bind Bind) error {
	target, err := v.clear(bind.Target)
	if err != nil {
		return fmt.Errorf("bind %s: %w", bind.Source, err)
	}
	info, err := source.Stat()
	if err != nil {
		return fmt.Errorf("bind %s: %w", bind.Source, err)
	}
	if info.IsDir() {
		err = os.Mkdir(target, 0o755)
	} else {
		err = os.WriteFile(target, nil, 0o644)
	}
	if err != nil {
		return fmt.Errorf("bind %s: %w", bind.Source, err)
	}
	from := "/proc/self/fd/" + strconv.Itoa(int(source.Fd()))
	if err := unix.Mount(from, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", bind.Source, target, err)
	}
	if !bind.ReadOnly {
		return nil
	}
	// A bind takes its flags only when it is mounted anew.
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("bind %s read-only: %w", bind.Source, err)
	}
	return nil
}

// child is a node's first process as the lab holds it.
type child struct {
	cmd   *exec.Cmd
	pidfd *os.File
	// orders stays open for the node's life; closing it ends the node.
	orders *os.File
}

// childNamespaces are the node's own.
const childNamespaces = unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// startChild makes a node's namespaces and waits until its first process has carried out the orders.
func startChild(lab, id string, o childOrders) (*child, error) {
	ordersRead, orders, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ordersRead.Close()
	answer, answerWrite, err := os.Pipe()
	if err != nil {
		orders.Close()
		return nil, err
	}
	defer answer.Close()
	var pidfd int
	c := &child{orders: orders, cmd: &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       []string{childName, lab, id, o.Hostname},
		Dir:        "/",
		Env:        []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOMAXPROCS=1"},
		ExtraFiles: []*os.File{ordersRead, answerWrite},
		SysProcAttr: &unix.SysProcAttr{
			Cloneflags: childNamespaces, PidFD: &pidfd, Setpgid: true,
		},
	}}
	err = c.cmd.Start()
	answerWrite.Close()
	if err != nil {
		orders.Close()
		return nil, fmt.Errorf("make namespaces: %w", err)
	}
	c.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	if err := c.settle(o, answer); err != nil {
		c.kill()
		return nil, err
	}
	return c, nil
}

// settleTime is far above the few milliseconds that a node's mounts take.
const settleTime = 30 * time.Second

func (c *child) settle(o childOrders, answer *os.File) error {
	if err := json.NewEncoder(c.orders).Encode(o); err != nil {
		return fmt.Errorf("orders: %w", err)
	}
	if err := answer.SetReadDeadline(time.Now().Add(settleTime)); err != nil {
		return err
	}
	text, err := io.ReadAll(answer)
	if err != nil {
		return fmt.Errorf("first process: %w", err)
	}
	if string(text) != "ready\n" {
		return fmt.Errorf("first process: %s", strings.TrimSpace(string(text)))
	}
	return nil
}

// kill ends the node and everything in it, and returns when nothing of it runs.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait() // "signal: killed" is what we asked for
	c.orders.Close()
	c.pidfd.Close()
}
