package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol is what Clearway's routes carry; none may be on the host.
const routeProtocol = 73

// Leftovers looks for what this process's labs should have taken with them: processes, mounts, folders, and devices
// or routes on the host. It gives the kernel a few seconds to tidy up.
func Leftovers() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return Poll(ctx, "the labs to be gone", func() error {
		return errors.Join(leftChildren(), leftMounts(), leftFolders(), leftDevices(), leftRoutes())
	})
}

// made are the ids of the labs this process made.
var made idSet

func leftChildren() error {
	var errs []error
	for _, process := range processes() {
		if process.parent == os.Getpid() || made.anyIn(process.argv) {
			errs = append(errs, fmt.Errorf("process %d is left: %s", process.pid, strings.Join(process.argv, " ")))
		}
	}
	return errors.Join(errs...)
}

func leftMounts() error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if made.anyIn([]string{line}) {
			return fmt.Errorf("mount is left: %s", line)
		}
	}
	return nil
}

func leftFolders() error {
	for _, id := range made.list() {
		if found, _ := filepath.Glob(filepath.Join(os.TempDir(), "clearway-lab-"+id+"-*")); len(found) > 0 {
			return fmt.Errorf("folders are left: %s", found)
		}
	}
	return nil
}

// leftDevices looks for what only a lab makes: a patch panel's names.
func leftDevices() error {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return err
	}
	for _, link := range links {
		var number int
		var end string
		if _, err := fmt.Sscanf(link.Attrs().Name, "lab%d%s", &number, &end); err == nil {
			return fmt.Errorf("device %s is left", link.Attrs().Name)
		}
	}
	return nil
}

func leftRoutes() error {
	filter := &netlink.Route{Protocol: routeProtocol, Table: unix.RT_TABLE_UNSPEC}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return err
	}
	if len(routes) > 0 {
		return fmt.Errorf("%d of our routes are left on the host, such as %v", len(routes), routes[0])
	}
	return nil
}

// process is one line of what ps would say.
type process struct {
	pid, parent int
	argv        []string
}

// processes lists what runs on the host. Those that end meanwhile are left out.
func processes() []process {
	var all []process
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		p := process{pid: pid}
		cmdline, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil {
			continue
		}
		for word := range bytes.SplitSeq(bytes.TrimRight(cmdline, "\x00"), []byte{0}) {
			p.argv = append(p.argv, string(word))
		}
		stat, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil {
			continue
		}
		// "pid (name) state parent ...": the name may hold anything, so count from its last bracket.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 2 {
			continue
		}
		p.parent, _ = strconv.Atoi(fields[1])
		all = append(all, p)
	}
	return all
}
