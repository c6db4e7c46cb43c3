package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// identity is what tells this boot of this machine from others.
type identity struct {
	bootID, machineID string
	// sameBoot: the last agent with this data folder ran in this boot.
	sameBoot bool
}

// maxIDBytes bounds what is read of an id file; the kernel's has 37 bytes.
const maxIDBytes = 256

func readIdentity(s *settings) (identity, error) {
	boot, err := readID(s.bootIDFile)
	if err != nil {
		return identity{}, fmt.Errorf("--boot-id-file: %w", err)
	}
	machine, err := readID(s.machineIDFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a container's image may have none
		return identity{}, fmt.Errorf("--machine-id-file: %w", err)
	}
	last, err := readID(bootMark(s.dataDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return identity{}, fmt.Errorf("boot mark: %w", err)
	}
	return identity{bootID: boot, machineID: machine, sameBoot: last == boot}, nil
}

// bootMark is the file that tells the next agent in which boot this one ran.
func bootMark(dataDir string) string { return filepath.Join(dataDir, "boot-id") }

func (i identity) mark(dataDir string) error {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	if err := renameio.WriteFile(bootMark(dataDir), []byte(i.bootID+"\n"), 0o600); err != nil {
		return fmt.Errorf("boot mark: %w", err)
	}
	return nil
}

func readID(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	id := bytes.TrimSpace(content)
	if len(id) == 0 || len(id) > maxIDBytes {
		return "", fmt.Errorf("%s holds %d bytes; an id of 1 to %d is wanted", path, len(id), maxIDBytes)
	}
	return string(id), nil
}

// nodeAddresses completes the addresses of --node-ip with the prefix lengths of the interfaces that have them, and
// where the operator gave none, finds those that his rule means, or from which the servers are reached. At a machine's start the interfaces may
// come after the agent, so it waits for them, but not for ever: what is missing then counts as a single address, which
// is on-link to nobody.
func nodeAddresses(ctx context.Context, given []netip.Prefix, rule addressRule, servers []string) ([]netip.Prefix, error) {
	const wait, pause = 20 * time.Second, 200 * time.Millisecond
	deadline := time.Now().Add(wait)
	for {
		found, complete, err := lookUp(given, rule, servers)
		if err != nil || complete || time.Now().After(deadline) {
			return found, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

func lookUp(given []netip.Prefix, rule addressRule, servers []string) (found []netip.Prefix, complete bool, err error) {
	local, err := localAddresses()
	if err != nil {
		return nil, false, fmt.Errorf("list interface addresses: %w", err)
	}
	if len(given) == 0 {
		found, err := rule.find(servers, local)
		return found, len(found) > 0, err
	}
	complete = true
	for _, address := range given {
		switch onLink, ok := local[address.Addr()]; {
		case address.Bits() >= 0:
			found = append(found, address)
		case ok:
			found = append(found, onLink)
		default:
			complete = false
			found = append(found, netip.PrefixFrom(address.Addr(), address.Addr().BitLen()))
		}
	}
	return found, complete, nil
}

// localAddresses maps each address of an interface to itself with its prefix length.
func localAddresses() (map[netip.Addr]netip.Prefix, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	local := map[netip.Addr]netip.Prefix{}
	for _, item := range list {
		prefix, err := netip.ParsePrefix(item.String())
		if err == nil && prefix.Addr().IsGlobalUnicast() {
			local[prefix.Addr()] = prefix
		}
	}
	return local, nil
}

// addressesToward finds, for each family in which a server's address is known, the address that packets to it would
// come from. Connecting a UDP socket sends nothing.
func addressesToward(servers []string, local map[netip.Addr]netip.Prefix) []netip.Prefix {
	var found []netip.Prefix
	for _, network := range []string{"udp4", "udp6"} {
		for _, server := range servers {
			conn, err := net.DialTimeout(network, server, time.Second)
			if err != nil {
				continue
			}
			source, ok := netip.AddrFromSlice(conn.LocalAddr().(*net.UDPAddr).IP)
			conn.Close()
			if prefix, known := local[source.Unmap()]; ok && known {
				found = append(found, prefix)
				break
			}
		}
	}
	return found
}

// beside adds, for the family that no server is reached over, an address of the interface that leads to them. Pods get
// addresses of both families, and the node is their next hop.
func beside(found []netip.Prefix, links []config.LocalAddress, local map[netip.Addr]netip.Prefix) []netip.Prefix {
	if len(found) != 1 {
		return found
	}
	first, missing := found[0].Addr(), route.IPv4
	if first.Is4() {
		missing = route.IPv6
	}
	if prefix, ok := local[config.Beside(first, missing, netip.Addr{}, links)]; ok {
		found = append(found, prefix)
	}
	return found
}
