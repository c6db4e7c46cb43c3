package preflight

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Places are where a host's files are.
type Places struct {
	// Root is where the host's root is seen: / on the host itself. The network is that of this process, whatever Root is,
	// unless Root has a proc of its own.
	Root string
	// ConfDir, PluginDir and DataDir are paths on the host.
	ConfDir, PluginDir, DataDir string
}

// gatherer reads one host.
type gatherer struct {
	Places
	host  fs.FS
	facts *Facts
}

// Gather reads what there is to know of the host. What cannot be read is among the facts' faults.
func Gather(ctx context.Context, places Places) Facts {
	facts := Facts{Sysctls: map[string]string{}, ForwardPolicy: map[string]string{}, Faults: map[string]error{}}
	g := gatherer{places, os.DirFS(places.Root), &facts}
	facts.Kernel = g.line("proc/sys/kernel/osrelease")
	facts.MachineID = g.line("etc/machine-id")
	g.sysctls()
	g.routes()
	g.sockets()
	g.confLists()
	g.plugins()
	g.modules()
	g.networkd()
	facts.DataFS = fileSystem(filepath.Join(places.Root, places.DataDir))
	if places.Root == "/" {
		g.policies(ctx)
	} else {
		facts.Faults["forward_policy"] = errors.New("the firewall is looked at on the host itself only")
	}
	return facts
}

// line is a file's first line; empty: there is none.
func (g gatherer) line(name string) string {
	text, err := fs.ReadFile(g.host, name)
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(first)
}

func (g gatherer) sysctls() {
	names := []string{
		"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/all/disable_ipv6",
		"net/ipv4/fib_multipath_hash_policy", "net/ipv6/fib_multipath_hash_policy",
	}
	for _, pattern := range []string{"net/ipv4/conf/*/rp_filter", "net/ipv6/conf/*/accept_ra"} {
		found, _ := fs.Glob(g.host, "proc/sys/"+pattern) // the patterns are well-formed
		for _, name := range found {
			names = append(names, strings.TrimPrefix(name, "proc/sys/"))
		}
	}
	for _, name := range names {
		if value := g.line("proc/sys/" + name); value != "" {
			g.facts.Sysctls[name] = value
		}
	}
}

// each calls with the fields of each line of a file but the first skipped ones.
func (g gatherer) each(name string, skip int, do func(fields []string) error) error {
	file, err := g.host.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // only read
	lines := bufio.NewScanner(file)
	for number := 0; lines.Scan(); number++ {
		if fields := strings.Fields(lines.Text()); number >= skip && len(fields) > 0 {
			if err := do(fields); err != nil {
				return fmt.Errorf("%s, line %d: %w", name, number+1, err)
			}
		}
	}
	return lines.Err()
}

// Flags of routes (linux/route.h, linux/ipv6_route.h).
const (
	flagUp         = 0x0001
	flagGateway    = 0x0002
	flagReject     = 0x0200
	flagAdvertised = 0x00040000 // RTF_ADDRCONF
	flagLocal      = 0x80000000
)

var errShort = errors.New("there are fewer fields than the kernel writes")

// routes reads /proc/net/route and /proc/net/ipv6_route.
func (g gatherer) routes() {
	err4 := g.each("proc/net/route", 1, func(fields []string) error {
		if len(fields) < 8 {
			return errShort
		}
		flags, err := strconv.ParseUint(fields[3], 16, 32)
		destination, destErr := littleEndian(fields[1])
		gateway, gateErr := littleEndian(fields[2])
		mask, maskErr := littleEndian(fields[7])
		metric, metricErr := strconv.ParseUint(fields[6], 10, 32)
		if err := errors.Join(err, destErr, gateErr, maskErr, metricErr); err != nil {
			return err
		}
		if flags&flagUp == 0 || flags&flagReject != 0 {
			return nil
		}
		r := Route{Prefix: netip.PrefixFrom(destination, maskBits(mask)), Interface: fields[0], Metric: uint32(metric)}
		if flags&flagGateway != 0 {
			r.Gateway = gateway
		}
		g.facts.Routes = append(g.facts.Routes, r)
		return nil
	})
	err6 := g.each("proc/net/ipv6_route", 0, func(fields []string) error {
		if len(fields) < 10 {
			return errShort
		}
		flags, err := strconv.ParseUint(fields[8], 16, 32)
		destination, destErr := address16(fields[0])
		gateway, gateErr := address16(fields[4])
		bits, bitsErr := strconv.ParseUint(fields[1], 16, 8)
		metric, metricErr := strconv.ParseUint(fields[5], 16, 32)
		if err := errors.Join(err, destErr, gateErr, bitsErr, metricErr); err != nil {
			return err
		}
		if flags&flagUp == 0 || flags&(flagReject|flagLocal) != 0 || destination.IsMulticast() || destination.IsLinkLocalUnicast() {
			return nil
		}
		r := Route{
			Prefix: netip.PrefixFrom(destination, int(bits)), Interface: fields[9], Metric: uint32(metric), Advertised: flags&flagAdvertised != 0,
		}
		if flags&flagGateway != 0 {
			r.Gateway = gateway
		}
		g.facts.Routes = append(g.facts.Routes, r)
		return nil
	})
	if errors.Is(err6, fs.ErrNotExist) {
		err6 = nil // there is no IPv6
	}
	if err := errors.Join(err4, err6); err != nil {
		g.facts.Faults["pool_overlap"] = err
	}
}

// littleEndian reads an IPv4 address as /proc/net writes it on little-endian machines.
func littleEndian(text string) (netip.Addr, error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != 4 {
		return netip.Addr{}, fmt.Errorf("%q is no IPv4 address", text)
	}
	slices.Reverse(raw)
	return netip.AddrFrom4([4]byte(raw)), nil
}

func maskBits(mask netip.Addr) int {
	ones := 0
	for _, b := range mask.As4() {
		for ; b&0x80 != 0; b <<= 1 {
			ones++
		}
	}
	return ones
}

func address16(text string) (netip.Addr, error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != 16 {
		return netip.Addr{}, fmt.Errorf("%q is no IPv6 address", text)
	}
	return netip.AddrFrom16([16]byte(raw)), nil
}

// listening is TCP_LISTEN, and what a bound UDP socket has (linux/tcp_states.h).
var listening = map[string]string{"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}

// sockets reads those that wait, and whose they are, where that can be seen.
func (g gatherer) sockets() {
	inodes := map[string]int{} // of a socket: its place in the list
	for _, protocol := range []string{"tcp", "tcp6", "udp", "udp6"} {
		err := g.each("proc/net/"+protocol, 1, func(fields []string) error {
			if len(fields) < 10 {
				return errShort
			}
			if fields[3] != listening[protocol] {
				return nil
			}
			at, err := socketAddress(fields[1])
			if err != nil {
				return err
			}
			inodes["socket:["+fields[9]+"]"] = len(g.facts.Sockets)
			g.facts.Sockets = append(g.facts.Sockets, Socket{Protocol: strings.TrimSuffix(protocol, "6"), Address: at})
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			g.facts.Faults["bgp_port"] = err
			return
		}
	}
	g.owners(inodes)
}

// socketAddress reads what /proc/net has: words of the machine's byte order, and the port.
func socketAddress(text string) (netip.AddrPort, error) {
	words, port, _ := strings.Cut(text, ":")
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil || len(words) != 8 && len(words) != 32 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address and port", text)
	}
	var raw []byte
	for at := 0; at < len(words); at += 8 {
		word, err := littleEndian(words[at : at+8])
		if err != nil {
			return netip.AddrPort{}, err
		}
		raw = append(raw, word.AsSlice()...)
	}
	address, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(address.Unmap(), uint16(number)), nil
}

// owners names the programs of sockets.
func (g gatherer) owners(inodes map[string]int) {
	if len(inodes) == 0 {
		return
	}
	descriptors, _ := filepath.Glob(filepath.Join(g.Root, "proc/[0-9]*/fd/*"))
	for _, descriptor := range descriptors {
		target, err := os.Readlink(descriptor)
		if err != nil {
			continue // it was closed, or is not ours to see
		}
		if at, ok := inodes[target]; ok && g.facts.Sockets[at].Process == "" {
			comm, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(descriptor)), "comm"))
			g.facts.Sockets[at].Process = strings.TrimSpace(string(comm))
		}
	}
}

// confLists reads the runtime's network folder as libcni does: by name, the files of three endings.
func (g gatherer) confLists() {
	entries, err := os.ReadDir(filepath.Join(g.Root, g.ConfDir))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			g.facts.Faults["cni_conflist"] = err
		}
		return
	}
	for _, entry := range entries { // sorted
		if slices.Contains([]string{".conf", ".conflist", ".json"}, path.Ext(entry.Name())) && !entry.IsDir() {
			g.facts.ConfLists = append(g.facts.ConfLists, readConfList(filepath.Join(g.Root, g.ConfDir, entry.Name())))
		}
	}
}

type plugin struct {
	Type string `json:"type"`
	IPAM struct {
		Type string `json:"type"`
	} `json:"ipam"`
}

func readConfList(name string) ConfList {
	read := ConfList{File: filepath.Base(name)}
	text, err := os.ReadFile(name)
	if err != nil {
		read.Err = err
		return read
	}
	var list struct {
		Name string `json:"name"`
		plugin
		Plugins []plugin `json:"plugins"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		read.Err = err
		return read
	}
	read.Name = list.Name
	for _, p := range append([]plugin{list.plugin}, list.Plugins...) {
		for _, name := range []string{p.Type, p.IPAM.Type} {
			if name != "" {
				read.Types = append(read.Types, name)
			}
		}
	}
	if len(read.Types) == 0 {
		read.Err = errors.New("it names no plugin")
	}
	return read
}

func (g gatherer) plugins() {
	entries, err := os.ReadDir(filepath.Join(g.Root, g.PluginDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.facts.Faults["cni_plugins"] = err
	}
	for _, entry := range entries {
		g.facts.Plugins = append(g.facts.Plugins, entry.Name())
	}
}

// modules reads what the kernel has built in, what is loaded, and what can be.
func (g gatherer) modules() {
	m := Modules{Names: map[string]bool{}}
	folder := "lib/modules/" + g.facts.Kernel + "/"
	for _, list := range []string{folder + "modules.builtin", folder + "modules.dep"} {
		err := g.each(list, 0, func(fields []string) error {
			name, _, _ := strings.Cut(path.Base(strings.TrimSuffix(fields[0], ":")), ".ko")
			m.Names[strings.ReplaceAll(name, "-", "_")] = true
			return nil
		})
		m.Known = m.Known || err == nil
	}
	_ = g.each("proc/modules", 0, func(fields []string) error { // a kernel without modules has no such file
		m.Names[fields[0]] = true
		return nil
	})
	if g.facts.Sysctls["net/ipv6/conf/all/forwarding"] != "" {
		m.Names["ipv6"] = true
	}
	g.facts.Modules = m
}

// networkd reads what systemd-networkd does with routes of others; the latest setting is in force.
func (g gatherer) networkd() {
	_, err := fs.Stat(g.host, "run/systemd/netif")
	if err != nil {
		return
	}
	routes, nextHops := true, true // its defaults
	files := []string{"usr/lib/systemd/networkd.conf", "etc/systemd/networkd.conf"}
	for _, folder := range []string{"usr/lib", "run", "etc"} {
		found, _ := fs.Glob(g.host, folder+"/systemd/networkd.conf.d/*.conf") // the pattern is well-formed
		files = append(files, found...)
	}
	for _, name := range files {
		_ = g.each(name, 0, func(fields []string) error { // mostly there is none
			key, value, _ := strings.Cut(strings.Join(fields, ""), "=")
			on := !slices.Contains([]string{"no", "false", "0", "off"}, strings.ToLower(value))
			switch key {
			case "ManageForeignRoutes":
				routes = on
			case "ManageForeignNextHops":
				nextHops = on
			}
			return nil
		})
	}
	g.facts.Networkd = Networkd{Running: true, ManagesForeign: routes || nextHops}
}

// policies asks the iptables programs, of which a host may have none: then nothing drops by their policy.
func (g gatherer) policies(ctx context.Context) {
	for family, program := range map[string]string{"4": "iptables", "6": "ip6tables"} {
		found, err := exec.LookPath(program)
		if err != nil {
			continue
		}
		out, err := exec.CommandContext(ctx, found, "-w", "2", "-S", "FORWARD").Output()
		if err != nil {
			g.facts.Faults["forward_policy"] = fmt.Errorf("%s -S FORWARD: %w", program, err)
			continue
		}
		if rest, ok := strings.CutPrefix(strings.TrimSpace(string(out)), "-P FORWARD "); ok {
			g.facts.ForwardPolicy[family], _, _ = strings.Cut(rest, "\n")
		}
	}
}

// fileSystem names the type of the file system that a path is on, or will be.
func fileSystem(name string) string {
	for {
		var info unix.Statfs_t
		err := unix.Statfs(name, &info)
		if err == nil {
			return typeNames[uint32(info.Type)]
		}
		parent := filepath.Dir(name)
		if !errors.Is(err, unix.ENOENT) || parent == name {
			return ""
		}
		name = parent
	}
}

// typeNames are the file systems that data folders are on, and those that they should not be on.
var typeNames = map[uint32]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.F2FS_SUPER_MAGIC: "f2fs",
	0x2fc12fc1: "zfs", unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
	unix.NFS_SUPER_MAGIC: "nfs",
}
