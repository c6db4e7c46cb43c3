package preflight

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Verdict is what a check found.
type Verdict string

// The verdicts, from good to bad.
const (
	OK      Verdict = "OK"
	Unknown Verdict = "UNKNOWN" // it could not be looked at
	Warn    Verdict = "WARN"    // it works, but not in every case
	Fail    Verdict = "FAIL"    // Pods, or their roads, will not work
)

// Finding is one check's result.
type Finding struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail"`
	// Remedy is what to do about it; empty for OK.
	Remedy string `json:"remedy,omitempty"`
}

// Wish is what the host is to be fit for.
type Wish struct {
	// Pools are the prefixes that Pods' addresses will be of.
	Pools []netip.Prefix
	// BGPPort is that of the agent's listener; 0: it has none.
	BGPPort uint16
	// RouteMetric is the agent's: routes of this metric are its own.
	RouteMetric uint32
	// ConfDir and PluginDir are the folders that were gathered from, for what is said of them.
	ConfDir, PluginDir string
}

// judge adds findings of one thing.
type judge struct {
	Facts
	Wish
	findings []Finding
}

// Judge makes all checks, in a fixed order.
func Judge(facts Facts, wish Wish) []Finding {
	j := &judge{Facts: facts, Wish: wish}
	for _, check := range []func(){
		j.kernel, j.modules, j.forwarding, j.sourceFilter, j.advertisements, j.multipath, j.firewall, j.networkd,
		j.network, j.plugins, j.ports, j.overlaps, j.machine, j.data,
	} {
		check()
	}
	return j.findings
}

// Worst is the worst verdict of all.
func Worst(findings []Finding) Verdict {
	order := []Verdict{OK, Unknown, Warn, Fail}
	worst := OK
	for _, f := range findings {
		if slices.Index(order, f.Verdict) > slices.Index(order, worst) {
			worst = f.Verdict
		}
	}
	return worst
}

func (j *judge) say(check string, verdict Verdict, remedy, format string, values ...any) {
	j.findings = append(j.findings, Finding{Check: check, Verdict: verdict, Detail: fmt.Sprintf(format, values...), Remedy: remedy})
}

// unread says that a check's facts could not be read, if it is so.
func (j *judge) unread(check string) bool {
	err := j.Faults[check]
	if err != nil {
		j.say(check, Unknown, "run it as root, on the host itself", "%v", err)
	}
	return err != nil
}

// nextHopKernel is the release from which on there are nexthop objects.
var nextHopKernel = [2]int{5, 3}

func (j *judge) kernel() {
	const check = "kernel"
	release, ok := parseRelease(j.Kernel)
	switch {
	case !ok:
		j.say(check, Unknown, "", "release %q is of no known form", j.Kernel)
	case slices.Compare(release[:], nextHopKernel[:]) < 0:
		j.say(check, Warn, "use a kernel from 5.3 on", "%s has no nexthop objects: thousands of routes with a next hop of their own take long", j.Kernel)
	default:
		j.say(check, OK, "", "%s", j.Kernel)
	}
}

func parseRelease(text string) (release [2]int, ok bool) {
	parts := strings.SplitN(text, ".", 3)
	if len(parts) < 2 {
		return release, false
	}
	minor := strings.TrimRight(parts[1], "abcdefghijklmnopqrstuvwxyz-_+")
	for i, part := range []string{parts[0], minor} {
		number, err := strconv.Atoi(part)
		if err != nil {
			return release, false
		}
		release[i] = number
	}
	return release, true
}

// needed are the kernel's modules, each with what it is for.
var needed = []struct{ module, purpose string }{
	{"veth", "a Pod's link to its node"},
	{"ipv6", "IPv6"},
}

func (j *judge) modules() {
	const check = "modules"
	if !j.Modules.Known {
		j.say(check, Unknown, "", "the lists of the kernel's modules are not on this host: a container's kernel is its host's")
		return
	}
	var missing []string
	for _, n := range needed {
		if !j.Modules.Names[n.module] {
			missing = append(missing, fmt.Sprintf("%s (%s)", n.module, n.purpose))
		}
	}
	if len(missing) > 0 {
		j.say(check, Fail, "install the package of the kernel's extra modules", "the kernel has no %s", strings.Join(missing, ", "))
		return
	}
	j.say(check, OK, "", "veth and ipv6 are there")
}

func (j *judge) forwarding() {
	for _, f := range []struct{ check, sysctl, remedy string }{
		{"ip_forward", "net/ipv4/ip_forward", "sysctl -w net.ipv4.ip_forward=1, and in /etc/sysctl.d"},
		{"ipv6_forwarding", "net/ipv6/conf/all/forwarding", "sysctl -w net.ipv6.conf.all.forwarding=1, and in /etc/sysctl.d"},
	} {
		switch value, known := j.Sysctls[f.sysctl]; {
		case !known && f.check == "ipv6_forwarding":
			j.say(f.check, Warn, "boot without ipv6.disable=1", "IPv6 is switched off: Pods get no IPv6 addresses that work")
		case !known:
			j.say(f.check, Unknown, "", "%s cannot be read", dotted(f.sysctl))
		case value == "0":
			j.say(f.check, Warn, f.remedy, "%s is 0: the host drops what is not for itself, until ptp or bridge switches it on with the first Pod",
				dotted(f.sysctl))
		default:
			j.say(f.check, OK, "", "%s is %s", dotted(f.sysctl), value)
		}
	}
	if j.Sysctls["net/ipv6/conf/all/disable_ipv6"] == "1" {
		j.say("ipv6_disabled", Warn, "sysctl -w net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.all.disable_ipv6 is 1: no interface has an IPv6 address")
	}
}

func dotted(sysctl string) string { return strings.ReplaceAll(sysctl, "/", ".") }

// uplinks are the interfaces that lead to routers, in order.
func (j *judge) uplinks() []string {
	found := map[string]bool{}
	for _, r := range j.Routes {
		if r.Gateway.IsValid() && r.Metric != j.RouteMetric {
			found[r.Interface] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// sourceFilter: strict filtering (RFC 3704) drops what comes in by another interface than answers would leave by. With
// two uplinks half of the packets do.
func (j *judge) sourceFilter() {
	const check = "rp_filter"
	var strict []string
	uplinks := j.uplinks()
	for _, name := range uplinks {
		all, _ := strconv.Atoi(j.Sysctls["net/ipv4/conf/all/rp_filter"])
		own, _ := strconv.Atoi(j.Sysctls["net/ipv4/conf/"+name+"/rp_filter"])
		if max(all, own) == 1 { // the larger of the two is in force (ip-sysctl.rst)
			strict = append(strict, name)
		}
	}
	switch {
	case len(strict) > 0 && len(uplinks) > 1:
		j.say(check, Fail, "set net.ipv4.conf.all.rp_filter and those of the interfaces to 2 or 0",
			"strict on %s, and there are %d ways out: what comes in by the one that answers would not take is dropped", strings.Join(strict, ", "), len(uplinks))
	case len(strict) > 0:
		j.say(check, Warn, "set net.ipv4.conf.all.rp_filter and that of the interface to 2 or 0 before there is a second one",
			"strict on %s: it works as long as that is the only way out", strict[0])
	default:
		j.say(check, OK, "", "not strict on any way out")
	}
}

// advertisements: a host that forwards ignores router advertisements, unless accept_ra is 2; its default route ends some
// minutes after forwarding was switched on.
func (j *judge) advertisements() {
	const check = "accept_ra"
	var lost []string
	for _, r := range j.Routes {
		if r.Advertised && r.Prefix.Bits() == 0 && r.Prefix.Addr().Is6() && j.Sysctls["net/ipv6/conf/"+r.Interface+"/accept_ra"] != "2" &&
			!slices.Contains(lost, r.Interface) {
			lost = append(lost, r.Interface)
		}
	}
	if len(lost) > 0 {
		j.say(check, Fail, fmt.Sprintf("sysctl -w net.ipv6.conf.%s.accept_ra=2, and in /etc/sysctl.d (where systemd-networkd or NetworkManager has the interface, it does this itself)", lost[0]),
			"the IPv6 default route of %s comes from a router's advertisements, which the kernel ignores on a host that forwards", strings.Join(lost, ", "))
		return
	}
	j.say(check, OK, "", "no default route goes when forwarding is on")
}

func (j *judge) multipath() {
	const check = "multipath_hash"
	if len(j.uplinks()) < 2 {
		return
	}
	for _, sysctl := range []string{"net/ipv4/fib_multipath_hash_policy", "net/ipv6/fib_multipath_hash_policy"} {
		if j.Sysctls[sysctl] == "0" {
			j.say(check, Warn, "sysctl -w "+dotted(sysctl)+"=1", "%s is 0: all connections between two addresses take the same way", dotted(sysctl))
			return
		}
	}
	j.say(check, OK, "", "connections are spread by their ports too")
}

func (j *judge) firewall() {
	const check = "forward_policy"
	if j.unread(check) {
		return
	}
	for _, family := range slices.Sorted(maps.Keys(j.ForwardPolicy)) {
		if policy := j.ForwardPolicy[family]; policy == "DROP" || policy == "REJECT" {
			tool := map[string]string{"4": "iptables", "6": "ip6tables"}[family]
			j.say(check, Warn, "let Pods' packets through ("+tool+" -I FORWARD -s POOL -j ACCEPT, and -d); Docker sets this policy at its start",
				"the policy of %s' FORWARD chain is %s: Pods' packets pass only by rules that name them", tool, policy)
			return
		}
	}
	j.say(check, OK, "", "packets that are forwarded are not dropped by policy")
}

func (j *judge) networkd() {
	const check = "systemd_networkd"
	switch {
	case j.Networkd.Running && j.Networkd.ManagesForeign:
		j.say(check, Warn, "in /etc/systemd/networkd.conf.d: [Network] ManageForeignRoutes=no and ManageForeignNextHops=no; then restart systemd-networkd",
			"systemd-networkd removes routes of others when it is restarted or an interface comes back; the agent restores its own within seconds")
	case j.Networkd.Running:
		j.say(check, OK, "", "systemd-networkd leaves routes of others alone")
	}
}

// ipamType is the type of our plugin in a configuration.
const ipamType = "clearway-ipam"

// network: the runtime takes the first configuration of its folder.
func (j *judge) network() {
	const check = "cni_conflist"
	if j.unread(check) {
		return
	}
	ours := slices.IndexFunc(j.ConfLists, func(c ConfList) bool { return c.Err == nil && slices.Contains(c.Types, ipamType) })
	for i, c := range j.ConfLists {
		switch {
		case c.Err != nil:
			j.say(check, Warn, "mend the file, or move it away", "%s cannot be read: %v", c.File, c.Err)
		case i == ours:
			j.say(check, OK, "", "%s, network %q, is the one that the runtime takes", c.File, c.Name)
			return
		case ours >= 0:
			j.say(check, Fail, "move it away, or give ours a name that sorts before it",
				"the runtime takes %s, network %q (%s): it sorts before %s", c.File, c.Name, strings.Join(c.Types, ", "), j.ConfLists[ours].File)
			return
		default:
			j.say(check, Warn, "move it away when Clearway's is installed, or see that Clearway's sorts before it",
				"the runtime takes %s, network %q (%s)", c.File, c.Name, strings.Join(c.Types, ", "))
			return
		}
	}
	j.say(check, OK, "", "%s has no other network's configuration", j.ConfDir)
}

func (j *judge) plugins() {
	const check = "cni_plugins"
	if j.unread(check) {
		return
	}
	wanted := []string{ipamType}
	for _, c := range j.ConfLists {
		if c.Err == nil && slices.Contains(c.Types, ipamType) {
			wanted = c.Types
		}
	}
	missing := slices.DeleteFunc(slices.Clone(wanted), func(name string) bool { return slices.Contains(j.Plugins, name) })
	if len(missing) > 0 {
		j.say(check, Warn, "install them there", "%s has no %s", j.PluginDir, strings.Join(slices.Compact(slices.Sorted(slices.Values(missing))), ", "))
		return
	}
	j.say(check, OK, "", "%s has what the network's configuration names", j.PluginDir)
}

// agent is the name of the agent's program as the kernel shortens it.
const agent = "clearway-agent"

func (j *judge) ports() {
	if j.unread("bgp_port") {
		return
	}
	if j.BGPPort != 0 {
		j.port("bgp_port", "tcp", j.BGPPort, "stop it, or give BGPConfiguration another listenPort")
	}
	// RFC 5881 section 4, RFC 5883 section 5.
	j.port("bfd_port", "udp", 3784, "stop its BFD: a host has one")
	j.port("bfd_port", "udp", 4784, "stop its BFD: a host has one")
}

func (j *judge) port(check, protocol string, number uint16, remedy string) {
	for _, s := range j.Sockets {
		if s.Protocol != protocol || s.Address.Port() != number || s.Process == agent {
			continue
		}
		by := cmp.Or(s.Process, "a program that cannot be seen")
		j.say(check, Fail, remedy, "%s port %d of %s is taken by %s", protocol, number, s.Address.Addr(), by)
		return
	}
	j.say(check, OK, "", "%s port %d is free, or the agent's", protocol, number)
}

// overlaps: a pool's address that the host has a route of its own for is unreachable from there.
func (j *judge) overlaps() {
	const check = "pool_overlap"
	if j.unread(check) {
		return
	}
	found := false
	for _, pool := range j.Pools {
		for _, r := range j.Routes {
			if r.Prefix.Bits() == 0 || r.Prefix.IsSingleIP() || r.Metric == j.RouteMetric || !pool.Overlaps(r.Prefix) {
				continue // a Pod's own route, or the agent's
			}
			way := "on " + r.Interface
			if r.Gateway.IsValid() {
				way = "by " + r.Gateway.String()
			}
			j.say(check, Fail, "choose another pool, or remove the route", "pool %s overlaps the host's route to %s %s", pool, r.Prefix, way)
			found = true
			break
		}
	}
	if !found && len(j.Pools) > 0 {
		j.say(check, OK, "", "no route of the host's is in %s", joined(j.Pools))
	}
}

func joined(prefixes []netip.Prefix) string {
	var texts []string
	for _, prefix := range prefixes {
		texts = append(texts, prefix.String())
	}
	return strings.Join(texts, ", ")
}

// machine: nodes are told apart by it when a disk was copied.
func (j *judge) machine() {
	const check = "machine_id"
	switch id := strings.TrimSpace(j.MachineID); {
	case id == "" || id == "uninitialized":
		j.say(check, Warn, "systemd-machine-id-setup", "/etc/machine-id is empty: a copied data folder is not seen on this host")
	case len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "":
		j.say(check, Warn, "systemd-machine-id-setup", "/etc/machine-id is not 32 hexadecimal digits")
	default:
		j.say(check, OK, "", "there is one; it must not be another host's too")
	}
}

func (j *judge) data() {
	const check = "data_dir"
	switch j.DataFS {
	case "":
		j.say(check, Unknown, "", "the file system of the data folder is not known")
	case "tmpfs", "ramfs", "overlayfs":
		j.say(check, Warn, "put --data-dir on a disk", "it would be on %s: the journal is lost with it, and blocks are sealed until their addresses are accounted for", j.DataFS)
	default:
		j.say(check, OK, "", "on %s", j.DataFS)
	}
}
