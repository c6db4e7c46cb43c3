package cniinstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const conflist = `{"cniVersion": "1.1.0", "name": "clearway", "plugins": [
	{"type": "ptp", "ipam": {"type": "clearway-ipam"}}, {"type": "portmap"}]}`

// host is a machine's folders, and an installer with three plugins.
type host struct {
	*Installer
	t    *testing.T
	said *strings.Builder
}

func newHost(t *testing.T) host {
	t.Helper()
	root := t.TempDir()
	h := host{&Installer{
		Source: filepath.Join(root, "source"), BinDir: filepath.Join(root, "bin"), ConfDir: filepath.Join(root, "conf"),
		Name: "10-clearway.conflist",
	}, t, &strings.Builder{}}
	h.Logger = slog.New(slog.NewTextHandler(h.said, nil))
	for _, dir := range []string{h.Source, h.BinDir, h.ConfDir} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"ptp", "clearway-ipam", "portmap"} {
		h.write(h.Source, name, "program "+name)
	}
	return h
}

func (h host) write(dir, name, content string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

func (h host) install() {
	h.t.Helper()
	if err := h.Install(h.t.Context(), []byte(conflist)); err != nil {
		h.t.Fatal(err)
	}
}

func (h host) remove(plugins bool) {
	h.t.Helper()
	if err := h.Remove(plugins); err != nil {
		h.t.Fatal(err)
	}
}

// has compares what the folders have, names and contents: "bin/ptp=program ptp".
func (h host) has(want ...string) {
	h.t.Helper()
	var have []string
	for _, dir := range []string{h.BinDir, h.ConfDir} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, entry := range entries {
			content, err := os.ReadFile(filepath.Join(dir, entry.Name()))
			if err != nil {
				h.t.Fatal(err)
			}
			switch entry.Name() {
			case recordName:
				content = nil
			case h.Name:
				if string(content) == conflist {
					content = []byte("ours")
				}
			}
			have = append(have, fmt.Sprintf("%s/%s=%s", filepath.Base(dir), entry.Name(), content))
		}
	}
	if got, wanted := strings.Join(have, "\n"), strings.Join(want, "\n"); got != wanted {
		h.t.Fatalf("the host has\n%s\nand not\n%s", got, wanted)
	}
}

var whole = []string{
	"bin/.clearway-installed.json=", "bin/clearway-ipam=program clearway-ipam", "bin/portmap=program portmap", "bin/ptp=program ptp",
	"conf/10-clearway.conflist=ours",
}

// TestLoopback: containerd needs it for every Pod, though no network names it. Another's stays.
func TestLoopback(t *testing.T) {
	h := newHost(t)
	h.write(h.Source, "loopback", "program loopback")
	h.install()
	with := append(append([]string{}, whole[:2]...), append([]string{"bin/loopback=program loopback"}, whole[2:]...)...)
	h.has(with...)
	h.remove(true)
	h.has()
	const others = "#!/bin/sh\necho '{\"cniVersion\": \"0.3.1\", \"supportedVersions\": [\"0.3.1\"]}'\n"
	h.write(h.BinDir, "loopback", others)
	h.install()
	with[2] = "bin/loopback=" + others
	h.has(with...)
	h.remove(true)
	h.has(with[2])
}

func TestInstallsAndRemoves(t *testing.T) {
	h := newHost(t)
	h.write(h.BinDir, "bridge", "another's")
	h.write(h.ConfDir, "87-podman.conflist", "another's")
	others := func(want ...string) []string { return append(want, "conf/87-podman.conflist=another's") }
	h.install()
	h.has(others(append([]string{whole[0], "bin/bridge=another's"}, whole[1:]...)...)...)
	info, err := os.Stat(filepath.Join(h.BinDir, "ptp"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("ptp: %v, %v", info, err)
	}
	before := info.ModTime()
	h.install()
	if info, err = os.Stat(filepath.Join(h.BinDir, "ptp")); err != nil || !info.ModTime().Equal(before) {
		t.Error("a second time something was written")
	}
	h.remove(false)
	h.has(others(whole[0], "bin/bridge=another's", whole[1], whole[2], whole[3])...)
	h.remove(true)
	h.has(others("bin/bridge=another's")...)
	h.remove(true)
}

// TestUpgradeReplacesOurs: a new version of ours takes the old one's place; a crash's rests go.
func TestUpgradeReplacesOurs(t *testing.T) {
	h := newHost(t)
	h.install()
	h.write(h.BinDir, temporary+"123", "half a pl")
	h.write(h.Source, "ptp", "program ptp 2")
	h.install()
	h.has(whole[0], whole[1], whole[2], "bin/ptp=program ptp 2", whole[4])
}

// knowing is a plugin of another's that tells versions.
func knowing(versions string) string {
	return "#!/bin/sh\necho '{\"cniVersion\": \"1.1.0\", \"supportedVersions\": [" + versions + "]}'\n"
}

func TestAnothersPluginIsUsedWhereItWillDo(t *testing.T) {
	h := newHost(t)
	good, old := knowing(`"1.0.0", "1.1.0"`), knowing(`"0.4.0"`)
	h.write(h.BinDir, "ptp", good)
	h.install()
	h.has(whole[0], whole[1], whole[2], "bin/ptp="+good, whole[4])
	h.remove(true)
	h.has("bin/ptp=" + good)

	h.write(h.BinDir, "ptp", old)
	err := h.Install(t.Context(), []byte(conflist))
	if err == nil || !strings.Contains(err.Error(), "it knows CNI 0.4.0, and not 1.1.0; remove it, or let it be replaced (--replace)") {
		t.Fatalf("an old one: %v", err)
	}
	h.has("bin/ptp=" + old)
	h.Replace = true
	h.install()
	h.has(whole...)
}

// TestWhatOthersChangedStays: neither a plugin nor a configuration that is no longer as it was installed is removed.
func TestWhatOthersChangedStays(t *testing.T) {
	h := newHost(t)
	h.install()
	h.write(h.BinDir, "portmap", "the distribution's update")
	h.write(h.ConfDir, h.Name, "edited")
	h.remove(true)
	h.has("bin/portmap=the distribution's update", "conf/10-clearway.conflist=edited")
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct{ conflist, want string }{
		"no JSON":      {`{`, "it is no JSON of a configuration list"},
		"nothing":      {`{}`, "plugins names none"},
		"no type":      {`{"name": "a", "cniVersion": "1.1.0", "plugins": [{}]}`, "plugins[0].type is missing"},
		"a path":       {`{"name": "a", "cniVersion": "1.1.0", "plugins": [{"type": "../sh"}]}`, `names program "../sh"`},
		"not there":    {`{"name": "a", "cniVersion": "1.1.0", "plugins": [{"type": "ptp"}, {"type": "vlan"}]}`, "plugin vlan: it is neither in"},
		"our own file": {`{"name": "a", "cniVersion": "1.1.0", "plugins": [{"type": ".clearway-installed.json"}]}`, "names program"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.write(h.ConfDir, h.Name, "as it was")
			err := h.Install(t.Context(), []byte(c.conflist))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if text, err := os.ReadFile(filepath.Join(h.ConfDir, h.Name)); err != nil || string(text) != "as it was" {
				t.Errorf("the configuration is %q: %v", text, err)
			}
		})
	}
	h := newHost(t)
	h.BinDir += "-that-is-not-there"
	if err := h.Install(t.Context(), []byte(conflist)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a folder: %v", err)
	}
}

func TestWarnsOfAnotherNetwork(t *testing.T) {
	h := newHost(t)
	h.write(h.ConfDir, "05-calico.conflist", "{}")
	h.install()
	if !strings.Contains(h.said.String(), "05-calico.conflist") {
		t.Errorf("it said %q", h.said)
	}
}

// TestTwoAtOnce: an old Pod's installer and a new one's leave whole files, whoever is last.
func TestTwoAtOnce(t *testing.T) {
	h := newHost(t)
	second := *h.Installer
	second.Logger = slog.New(slog.DiscardHandler)
	var both sync.WaitGroup
	for _, one := range []*Installer{h.Installer, &second} {
		both.Go(func() {
			for range 20 {
				// The other may have removed our unfinished file: that is a failure which the next try mends.
				_ = one.Install(context.Background(), []byte(conflist))
			}
		})
	}
	both.Wait()
	h.install()
	h.has(whole...)
}
