package netns

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/ipam/proof"
)

// namespace makes a network namespace that lives at a path, as a runtime does, until the test ends.
func namespace(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- err
			return
		}
		made <- unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	}()
	if err := <-made; err != nil {
		t.Fatalf("make a network namespace (root is needed): %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) }) // the test may have done so
}

func finder(t *testing.T) *Finder {
	t.Helper()
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestIdentify(t *testing.T) {
	f, dir := finder(t), t.TempDir()
	one, other, plain := filepath.Join(dir, "one"), filepath.Join(dir, "other"), filepath.Join(dir, "plain")
	namespace(t, one)
	namespace(t, other)
	if err := os.WriteFile(plain, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	found, second := f.Identify(one), f.Identify(other)
	if !found.Known() || found.Folder == (proof.File{}) || found.Path != one {
		t.Errorf("%+v", found)
	}
	if found.Self == second.Self || found.Folder != second.Folder {
		t.Errorf("two namespaces in one folder: %+v %+v", found, second)
	}
	if own := f.Identify("/proc/self/ns/net"); !own.Known() || own.Folder != (proof.File{}) {
		t.Errorf("in /proc: %+v", own)
	}
	for _, path := range []string{"", "one", plain, filepath.Join(dir, "missing"), "/proc/self/ns/mnt/x"} {
		if unknown := f.Identify(path); unknown != (proof.Namespace{Path: path}) {
			t.Errorf("%q: %+v", path, unknown)
		}
	}
}

// inside runs a command in the namespace at a path.
func inside(t *testing.T, path string, argv ...string) {
	t.Helper()
	argv = append([]string{"--net=" + path, "--"}, argv...)
	if out, err := exec.CommandContext(t.Context(), "nsenter", argv...).CombinedOutput(); err != nil {
		t.Fatalf("nsenter %v: %v: %s", argv, err, out)
	}
}

// TestLook runs in a namespace of its own as the host, with Pods beside it.
func TestLook(t *testing.T) {
	f, dir := finder(t), t.TempDir()
	f.Caller(1)
	pod, host := filepath.Join(dir, "pod of a test"), filepath.Join(dir, "host") // a space: mountinfo has it escaped
	namespace(t, pod)
	namespace(t, host)
	inside(t, host, "ip", "link", "set", "lo", "up")
	inside(t, host, "ip", "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", pod)
	inside(t, host, "ip", "link", "set", "veth0", "up")
	inside(t, host, "ip", "addr", "add", "10.199.0.1/24", "dev", "veth0")
	inside(t, host, "ip", "route", "add", "10.199.1.7/32", "dev", "veth0")
	inside(t, host, "ip", "route", "add", "blackhole", "10.199.1.8/32")
	inside(t, host, "ip", "-6", "route", "add", "fd00:199::7/128", "dev", "veth0", "table", "77")
	inside(t, host, "ip", "neigh", "add", "10.199.0.9", "lladdr", "02:00:00:00:00:09", "dev", "veth0", "nud", "permanent")
	inside(t, host, "ip", "neigh", "add", "10.199.0.10", "lladdr", "02:00:00:00:00:10", "dev", "veth0", "nud", "stale")
	inside(t, pod, "ip", "link", "set", "eth0", "up")
	inside(t, pod, "ip", "addr", "add", "10.199.0.5/24", "dev", "eth0")
	inside(t, pod, "ip", "-6", "addr", "add", "fd00:199::5/64", "dev", "eth0", "nodad")

	view := lookFrom(t, f, host)
	if view.Fault != "" {
		t.Fatal(view.Fault)
	}
	self := f.Identify(pod).Self
	for _, text := range []string{"10.199.0.5", "fd00:199::5"} {
		places := view.Places[netip.MustParseAddr(text)]
		if len(places) != 1 || places[0] != (proof.Place{Self: self, Path: pod}) {
			t.Errorf("%s: %v, want %s", text, places, pod)
		}
	}
	for text, want := range map[string]bool{
		"10.199.0.1": true, "10.199.0.5": true, "10.199.1.7": true, "fd00:199::7": true, "10.199.0.9": true,
		"10.199.1.8": false, "10.199.0.10": false, "10.199.0.77": false, "127.0.0.1": false,
	} {
		if why, has := view.Has(netip.MustParseAddr(text)); has != want {
			t.Errorf("%s: %v %q", text, has, why)
		}
	}

	n := f.Identify(pod)
	for _, step := range []struct {
		do   func()
		want proof.Standing
	}{
		{func() {}, proof.Alive},
		{func() { namespace(t, pod+"2"); rename(t, pod+"2", pod) }, proof.Gone}, // another one at its path
		{func() { unmount(t, pod) }, proof.Alive},
		{func() { unmount(t, pod) }, proof.Unknown}, // a file that is no namespace
		{func() { unlink(t, pod) }, proof.Gone},
	} {
		step.do()
		if found := n.Compare(f.Sight(n)); found.Standing != step.want {
			t.Errorf("got %+v, want %v", found, step.want)
		}
	}
	if why, has := lookFrom(t, f, host).Has(netip.MustParseAddr("10.199.0.5")); has {
		t.Errorf("after the namespace is gone: %s", why)
	}
}

// TestLookNeedsAllProcesses: where the callers are not in /proc, nothing that is not seen is gone.
func TestLookNeedsAllProcesses(t *testing.T) {
	f := finder(t)
	if view := f.Look(t.Context()); !strings.Contains(view.Fault, "no plugin has called") {
		t.Errorf("got %q", view.Fault)
	}
	f.Caller(0)
	if view := f.Look(t.Context()); !strings.Contains(view.Fault, "hostPID") {
		t.Errorf("got %q", view.Fault)
	}
	f.Caller(int32(os.Getpid()))
	if view := f.Look(t.Context()); view.Fault != "" {
		t.Errorf("got %q", view.Fault)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if view := f.Look(ended); view.Fault == "" {
		t.Error("a look that was broken off is whole")
	}
}

func TestMounted(t *testing.T) {
	for line, want := range map[string]string{
		"700 31 0:4 net:[4026532290] /run/netns/a\\040b rw shared:9 - nsfs none rw": "4026532290 /run/netns/a b",
		"700 31 0:4 mnt:[4026532290] /run/x rw - nsfs none rw":                      "",
		"31 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw":                    "",
		"31 1 254:0 net:[x] / rw":                                                   "",
		"31 1":                                                                      "",
	} {
		got := ""
		if inode, point, ok := mounted(line); ok {
			got = fmt.Sprint(inode, " ", point)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

// lookFrom looks as an agent does whose host's namespace is the one at a path.
func lookFrom(t *testing.T, f *Finder, path string) proof.View {
	t.Helper()
	done := make(chan proof.View, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if ok, err := enter(f.Identify(path).Self, path); !ok || err != nil {
			t.Errorf("enter %s: %v %v", path, ok, err)
		}
		view, err := f.look(t.Context())
		if err != nil {
			view.Fault = err.Error()
		}
		done <- view
	}()
	return <-done
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
}

func unmount(t *testing.T, path string) {
	t.Helper()
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}

func unlink(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkLook(b *testing.B) {
	f, err := New()
	if err != nil {
		b.Fatal(err)
	}
	f.Caller(1)
	for b.Loop() {
		if view := f.Look(b.Context()); view.Fault != "" {
			b.Fatal(view.Fault)
		}
	}
}

func BenchmarkIdentify(b *testing.B) {
	f, err := New()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		f.Identify("/run/netns/cni-5f6a7b8c-1234-5678-9abc-def012345678")
		f.Identify("/proc/self/ns/net")
	}
}
