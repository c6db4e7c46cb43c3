package contract

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/clearway/clearway/integration/lab"
)

// insideEnv marks the test process that is in a network namespace of its own.
const insideEnv = "CLEARWAY_CONTRACT_INSIDE"

// nodeIP is an address of the namespace that is not loopback: an agent's node has one.
const nodeIP = "192.0.2.11"

// TestMain runs the tests in a network namespace of their own: agents may program routes, ports are all free, and
// any number of runs go beside each other without the host seeing any of it.
func TestMain(m *testing.M) {
	if text := os.Getenv(etcdEnv); text != "" {
		fmt.Fprintln(os.Stderr, serveEtcd(text))
		os.Exit(1)
	}
	flag.Parse()
	if flag.Lookup("test.list").Value.String() != "" {
		os.Exit(m.Run())
	}
	if os.Getenv(insideEnv) == "" {
		os.Exit(enter())
	}
	if err := prepareNetwork(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	binaries.remove()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// enter builds the binaries, where the module proxy can be reached, and runs this program again inside.
func enter() int {
	if err := lab.Capable(); err != nil {
		fmt.Fprintf(os.Stderr, "\n*** SKIPPED the run contract: %v ***\n\n", err)
		if os.Getenv("CI") != "" {
			return 1 // where nothing may be skipped
		}
		return 0
	}
	if _, err := lab.Build(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	runtime.LockOSThread() // Pdeathsig is sent when the thread ends that started the process
	inside := exec.Command(os.Args[0], os.Args[1:]...)
	inside.Env = append(os.Environ(), insideEnv+"=1")
	inside.Stdin, inside.Stdout, inside.Stderr = os.Stdin, os.Stdout, os.Stderr
	inside.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := inside.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func prepareNetwork() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	address, err := netlink.ParseAddr(nodeIP + "/24")
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, address)); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// binaries are copies of the tree's: a build that goes on beside us changes those under our feet.
var binaries copies

type copies struct {
	once   sync.Once
	folder string
	err    error
}

// path is where a binary is.
func (c *copies) path(t testing.TB, name string) string {
	t.Helper()
	c.once.Do(func() { c.folder, c.err = copyBinaries() })
	if c.err != nil {
		t.Fatal(c.err)
	}
	return filepath.Join(c.folder, name)
}

func (c *copies) remove() {
	if c.folder != "" {
		os.RemoveAll(c.folder)
	}
}

func copyBinaries() (string, error) {
	root, err := lab.Root()
	if err != nil {
		return "", err
	}
	if err := lookAtSources(root); err != nil {
		return "", err
	}
	folder, err := os.MkdirTemp("", "clearway-contract-")
	if err != nil {
		return "", err
	}
	for _, name := range []string{ipamdProgram, agentProgram, ctlProgram, cniProgram} {
		if err := copyFile(filepath.Join(folder, name), filepath.Join(root, "bin", name)); err != nil {
			return folder, fmt.Errorf("binary: %w", err)
		}
	}
	return folder, nil
}

// lookAtSources lists the folders that the binaries are built from: the test cache then knows that the result rests on
// them, and runs the tests again when a file changes.
func lookAtSources(root string) error {
	for _, room := range []string{"cmd", "ipam", "bgp", "proto"} {
		err := filepath.WalkDir(filepath.Join(root, room), func(_ string, _ fs.DirEntry, err error) error { return err })
		if err != nil {
			return fmt.Errorf("sources: %w", err)
		}
	}
	return nil
}

func copyFile(to, from string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
