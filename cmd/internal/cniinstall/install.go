package cniinstall

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// recordName is the file in the plugins' folder that tells which of the files are ours.
const recordName = ".clearway-installed.json"

// versionTime bounds how long a plugin may take to tell its versions.
const versionTime = 10 * time.Second

// Installer puts files in place. All folders but Source must be on the host, and must exist.
type Installer struct {
	// Source has the plugins to install.
	Source string
	// BinDir and ConfDir are the runtime's folders.
	BinDir, ConfDir string
	// Name is that of the configuration's file.
	Name string
	// Replace lets plugins of others be replaced.
	Replace bool
	Logger  *slog.Logger
}

// record is what was installed: checksums (SHA-256) by the file's name.
type record struct {
	Plugins map[string]string `json:"plugins"`
	Configs map[string]string `json:"configs"`
}

// Install puts the plugins that the configuration names in place, with loopback, and then the configuration. Repeating it changes
// nothing. A plugin of another's that knows the configuration's CNI version is used as it is; one that does not is an
// error, unless it may be replaced. On error the configuration is as it was.
func (i *Installer) Install(ctx context.Context, conflist []byte) error {
	list, err := ParseConflist(conflist)
	if err != nil {
		return fmt.Errorf("network configuration: %w", err)
	}
	if err := i.clean(); err != nil {
		return err
	}
	have, err := i.record()
	if err != nil {
		return err
	}
	for _, name := range list.Plugins {
		if err := i.plugin(ctx, have, name, list.CNIVersion); err != nil {
			return fmt.Errorf("plugin %s: %w", name, err)
		}
	}
	if err := i.loopback(ctx, have); err != nil {
		return fmt.Errorf("plugin %s: %w", loopback, err)
	}
	have.Configs[i.Name] = sum(conflist)
	if err := i.keep(have); err != nil {
		return err
	}
	if err := i.put(i.ConfDir, i.Name, conflist, 0o644); err != nil {
		return fmt.Errorf("network configuration: %w", err)
	}
	return i.warnOfOthers()
}

// loopback is the plugin by which containerd brings up each Pod's lo, whatever its network names: without it no Pod starts.
// loopbackVersion is of the configuration that containerd hands it.
const loopback, loopbackVersion = "loopback", "0.3.1"

// loopback sees that it is there, if we have it: runtimes that bring up lo by themselves (CRI-O) need none.
func (i *Installer) loopback(ctx context.Context, have record) error {
	if _, err := os.Stat(filepath.Join(i.Source, loopback)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return i.plugin(ctx, have, loopback, loopbackVersion)
}

// plugin sees that there is a plugin that will do.
func (i *Installer) plugin(ctx context.Context, have record, name, cniVersion string) error {
	source, sourceErr := os.ReadFile(filepath.Join(i.Source, name))
	if sourceErr != nil && !errors.Is(sourceErr, fs.ErrNotExist) {
		return sourceErr
	}
	path := filepath.Join(i.BinDir, name)
	present, err := os.ReadFile(path)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil && sourceErr != nil:
		return fmt.Errorf("it is neither in %s nor in %s", i.Source, i.BinDir)
	case err == nil && sourceErr == nil && sum(present) == sum(source):
		have.Plugins[name] = sum(source)
		return nil
	case err == nil && have.Plugins[name] != sum(present) && (!i.Replace || sourceErr != nil):
		// Another's. Its next package update would put it back: it is used, where it will do.
		if err := knows(ctx, path, cniVersion); err != nil {
			return fmt.Errorf("%s is another's: %w; remove it, or let it be replaced (--replace)", path, err)
		}
		i.Logger.Info("plugin of another's is used as it is", "plugin", path)
		return nil
	case sourceErr != nil:
		return nil //nolint:nilerr // there is none to install; the one in place is ours, of a version that had it
	}
	// The record goes first: a crash in between leaves a file that is known to be ours, or an entry that no file fits.
	have.Plugins[name] = sum(source)
	if err := i.keep(have); err != nil {
		return err
	}
	if err := i.put(i.BinDir, name, source, 0o755); err != nil {
		return err
	}
	i.Logger.Info("plugin installed", "plugin", path)
	return nil
}

// knows asks a plugin for the CNI versions it supports.
func knows(ctx context.Context, path, cniVersion string) error {
	ctx, cancel := context.WithTimeout(ctx, versionTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = []string{"CNI_COMMAND=VERSION", "CNI_CONTAINERID=none", "CNI_NETNS=none", "CNI_IFNAME=none", "CNI_PATH=" + filepath.Dir(path)}
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion": %q}`, cniVersion))
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("it does not tell its versions: %w", err)
	}
	var told struct {
		SupportedVersions []string `json:"supportedVersions"`
	}
	if err := json.Unmarshal(out, &told); err != nil {
		return fmt.Errorf("it does not tell its versions: %w", err)
	}
	if !slices.Contains(told.SupportedVersions, cniVersion) {
		return fmt.Errorf("it knows CNI %s, and not %s", strings.Join(told.SupportedVersions, ", "), cniVersion)
	}
	return nil
}

// Remove takes the configuration out, so that no new Pod gets this network; with plugins, also the plugins that are
// still as they were installed. Running Pods need these for their DEL. What others have changed since stays.
func (i *Installer) Remove(plugins bool) error {
	have, err := i.record()
	if err != nil {
		return err
	}
	var faults []error
	for name, checksum := range have.Configs {
		if i.removeOne(filepath.Join(i.ConfDir, name), checksum, &faults) {
			delete(have.Configs, name)
		}
	}
	if plugins {
		for name, checksum := range have.Plugins {
			if i.removeOne(filepath.Join(i.BinDir, name), checksum, &faults) {
				delete(have.Plugins, name)
			}
		}
	}
	faults = append(faults, i.clean())
	if len(have.Configs)+len(have.Plugins) > 0 {
		return errors.Join(append(faults, i.keep(have))...)
	}
	if err := os.Remove(filepath.Join(i.BinDir, recordName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		faults = append(faults, err)
	}
	return errors.Join(append(faults, syncFolder(i.BinDir))...)
}

// removeOne removes a file that is still ours, and tells whether it is none of our concern any more.
func (i *Installer) removeOne(path, checksum string, faults *[]error) bool {
	present, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err == nil && sum(present) != checksum {
		i.Logger.Warn("file was changed since it was installed; it stays", "file", path)
		return true
	}
	if err == nil {
		if err = os.Remove(path); err == nil {
			err = syncFolder(filepath.Dir(path))
		}
	}
	if err != nil {
		*faults = append(*faults, err)
		return false
	}
	i.Logger.Info("file removed", "file", path)
	return true
}

func (i *Installer) record() (record, error) {
	have := record{Plugins: map[string]string{}, Configs: map[string]string{}}
	path := filepath.Join(i.BinDir, recordName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return have, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &have)
	}
	if err != nil {
		return have, fmt.Errorf("record of what was installed, %s: %w", path, err)
	}
	for name := range have.Plugins {
		if name != filepath.Base(name) {
			return have, fmt.Errorf("record of what was installed, %s: %q is no file's name", path, name)
		}
	}
	for name := range have.Configs {
		if name != filepath.Base(name) {
			return have, fmt.Errorf("record of what was installed, %s: %q is no file's name", path, name)
		}
	}
	return have, nil
}

func (i *Installer) keep(have record) error {
	text, err := json.MarshalIndent(have, "", "  ")
	if err != nil {
		return err
	}
	if err := i.put(i.BinDir, recordName, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("record of what was installed: %w", err)
	}
	return nil
}

// temporary begins the names of files that are being written. Runtimes look for other endings, and for names that
// configurations give.
const temporary = ".clearway-new-"

// put has a file appear whole, durable before it has its name.
func (i *Installer) put(dir, name string, content []byte, mode fs.FileMode) error {
	path := filepath.Join(dir, name)
	if present, err := os.ReadFile(path); err == nil && sum(present) == sum(content) {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm() == mode {
			return nil
		}
	}
	fresh, err := os.CreateTemp(dir, temporary)
	if err != nil {
		return err
	}
	_, err = fresh.Write(content)
	err = errors.Join(err, fresh.Chmod(mode), fresh.Sync(), fresh.Close())
	if err == nil {
		err = os.Rename(fresh.Name(), path)
	}
	if err != nil {
		_ = os.Remove(fresh.Name()) // what stays is removed by the next run
		return err
	}
	return syncFolder(dir)
}

// clean removes what a run that was killed has left.
func (i *Installer) clean() error {
	for _, dir := range []string{i.BinDir, i.ConfDir} {
		left, err := filepath.Glob(filepath.Join(dir, temporary+"*"))
		if err != nil {
			return err
		}
		for _, path := range left {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// warnOfOthers says which network the runtime takes, where it is not ours: the first file by name.
func (i *Installer) warnOfOthers() error {
	entries, err := os.ReadDir(i.ConfDir)
	if err != nil {
		return err
	}
	for _, entry := range entries { // sorted
		if entry.Name() == i.Name {
			break
		}
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(entry.Name())) {
			i.Logger.Warn("another network's configuration sorts before ours: the runtime takes that one",
				"other", filepath.Join(i.ConfDir, entry.Name()), "ours", i.Name)
			break
		}
	}
	return nil
}

func sum(content []byte) string {
	hash := sha256.Sum256(content)
	return hex.EncodeToString(hash[:])
}

func syncFolder(dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
