package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"golang.org/x/sys/unix"
)

// Machine is what the figures hold for.
type Machine struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	MemoryMiB  int64  `json:"memoryMiB"`
	Kernel     string `json:"kernel"`
	Go         string `json:"go"`
	Filesystem string `json:"filesystem"`
	// Of 256 bytes appended, in milliseconds.
	FsyncP50 Value  `json:"fsyncP50Milliseconds"`
	FsyncP99 Value  `json:"fsyncP99Milliseconds"`
	BIRD     string `json:"bird"`
	FRR      string `json:"frr"`
}

func describeMachine(ctx context.Context, env *environment) (Machine, error) {
	env.progress("machine: measuring the disk's fsync")
	times, err := measureFsync(ctx, env.dir, env.pick(1000, 500, 20))
	if err != nil {
		return Machine{}, err
	}
	return Machine{
		CPU:        fieldOf("/proc/cpuinfo", "model name"),
		Cores:      runtime.NumCPU(),
		MemoryMiB:  memoryMiB(),
		Kernel:     kernelRelease(),
		Go:         runtime.Version(),
		Filesystem: filesystemOf(env.dir),
		FsyncP50:   Value(percentile(times, 50)),
		FsyncP99:   Value(percentile(times, 99)),
		BIRD:       versionOf(ctx, "bird", "--version"),
		FRR:        versionOf(ctx, frrDaemon("bgpd"), "--version"),
	}, nil
}

func (m Machine) table() table.Writer {
	made := table.NewWriter()
	made.AppendHeader(table.Row{"", "this machine"})
	made.AppendRows([]table.Row{
		{"CPU", fmt.Sprintf("%s, %d cores", m.CPU, m.Cores)},
		{"Memory", fmt.Sprintf("%s MiB", groupThousands(m.MemoryMiB))},
		{"Kernel", m.Kernel},
		{"Go", m.Go},
		{"Disk", fmt.Sprintf("%s; 256 bytes and fdatasync: p50 %s ms, p99 %s ms",
			m.Filesystem, formatNumber(float64(m.FsyncP50)), formatNumber(float64(m.FsyncP99)))},
		{"BIRD", m.BIRD},
		{"FRR", m.FRR},
	})
	return made
}

// fieldOf reads "name : value" out of a file; the first one counts.
func fieldOf(path, name string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(content)) {
		key, value, found := strings.Cut(line, ":")
		if found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func memoryMiB() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit) >> 20
}

func kernelRelease() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	// What follows the version numbers is the builder's.
	version, _, _ := strings.Cut(strings.TrimSpace(string(release)), "-")
	return version
}

// errTmpfs: an fsync there costs nothing, so the figures would flatter both sides, and us more.
var errTmpfs = errors.New("is on tmpfs: name a folder on a disk with --dir")

func filesystemOf(dir string) string {
	var info unix.Statfs_t
	if unix.Statfs(dir, &info) != nil {
		return "unknown"
	}
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", 0x2fc12fc1: "zfs",
	}
	//nolint:unconvert // 32 bits wide on some machines
	if name, known := names[int64(info.Type)]; known {
		return name
	}
	return fmt.Sprintf("filesystem %#x", info.Type)
}

// DataDir chooses where the contenders keep their data: a folder that is on a disk.
func DataDir() (string, error) {
	for _, dir := range []string{os.TempDir(), "/var/tmp", "/var/lib"} {
		if kind := filesystemOf(dir); kind != "tmpfs" && kind != "unknown" {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%s %w", os.TempDir(), errTmpfs)
}

// versionOf is the first line of what a program says of itself.
func versionOf(ctx context.Context, path string, arguments ...string) string {
	said, err := exec.CommandContext(ctx, path, arguments...).CombinedOutput()
	if err != nil {
		return "not installed"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(said)), "\n")
	return line
}
