package preflight

import "net/netip"

// Facts are what was read of a host.
type Facts struct {
	Kernel string // release, as uname -r has it
	// Sysctls are the values by name, as net/ipv4/ip_forward; one that the kernel does not have is not in it.
	Sysctls map[string]string
	Routes  []Route // main table, both families
	// Sockets are those that listen (TCP) or are bound (UDP).
	Sockets []Socket
	// ConfLists are the files of the runtime's network folder in its order: the first whole one is used.
	ConfLists []ConfList
	// Plugins are the names of the programs in the plugin folder.
	Plugins []string
	Modules Modules
	// MachineID is the content of /etc/machine-id.
	MachineID string
	// DataFS is the type of the file system that the agent's data are to be on; empty: not known.
	DataFS string
	// ForwardPolicy is the iptables policy of the FORWARD chain by family, "4" and "6"; without a key: not known.
	ForwardPolicy map[string]string
	Networkd      Networkd
	// Faults are what could not be read, by the name of the check that needs it.
	Faults map[string]error
}

// Route is one that leads somewhere.
type Route struct {
	Prefix    netip.Prefix
	Gateway   netip.Addr // the zero Addr: on-link
	Interface string
	Metric    uint32
	// Advertised: a router told it (RFC 4861).
	Advertised bool
}

// Socket is one that waits for others.
type Socket struct {
	Protocol string // tcp or udp
	Address  netip.AddrPort
	// Process is the name of the program; empty: not known.
	Process string
}

// ConfList is one file of CNI configuration.
type ConfList struct {
	File  string
	Name  string
	Types []string // of its plugins, and of their IPAM plugins
	Err   error
}

// Modules are those that are built into the kernel, loaded, or can be.
type Modules struct {
	// Known: the lists were there.
	Known bool
	Names map[string]bool
}

// Networkd is systemd-networkd's say over the host's routes.
type Networkd struct {
	Running bool
	// ManagesForeign: it removes routes that it did not make (networkd.conf, ManageForeignRoutes and ManageForeignNextHops).
	ManagesForeign bool
}
