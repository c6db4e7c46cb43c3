package migrate

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/clearway/clearway/ipam/block"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// flannelConfig is the ConfigMap of flannel's manifests.
const flannelConfig = "kube-flannel-cfg"

type configMap struct {
	head
	Data map[string]string
}

func (m *maker) configMap(name string) (configMap, bool, error) {
	all, err := read(m.objects, "ConfigMap", func(c configMap) string { return c.name() })
	if err != nil {
		return configMap{}, false, err
	}
	at := slices.IndexFunc(all, func(c configMap) bool { return c.Metadata.Name == name })
	if at < 0 {
		return configMap{}, false, nil
	}
	return all[at], true, nil
}

// flannel plans the move from flannel with the kube subnet manager: a node's block is its spec.podCIDR.
func (m *maker) flannel() error {
	found, ok, err := m.configMap(flannelConfig)
	if err != nil {
		return err
	}
	if !ok {
		m.find(Stops, "ConfigMap/"+flannelConfig, "is in neither kube-flannel nor kube-system: flannel's network is not known")
		return nil
	}
	var network struct {
		Network, IPv6Network string
		EnableIPv4           *bool
		EnableIPv6           bool
		Backend              struct{ Type string }
	}
	if err := json.Unmarshal([]byte(found.Data["net-conf.json"]), &network); err != nil {
		return fmt.Errorf("%s: net-conf.json: %w", found.name(), err)
	}
	if network.EnableIPv4 == nil || *network.EnableIPv4 {
		m.poolOfNodes(found.name(), "flannel-ipv4", network.Network)
	}
	if network.EnableIPv6 {
		m.poolOfNodes(found.name(), "flannel-ipv6", network.IPv6Network)
	}
	if kind := network.Backend.Type; kind != "host-gw" {
		m.find(Differs, found.name(), "backend %s: Clearway has no overlay; nodes in other subnets, and the routers between, must learn its blocks by BGP", kind)
	}
	m.find(Differs, found.name(), "flannel masquerades what leaves the Pods' network (--ip-masq): Clearway translates no addresses; "+
		"let a router do it, or a masquerading agent on the nodes")
	m.blocksOfNodes()
	m.plainMesh()
	m.podsKeep()
	return nil
}

// poolOfNodes makes a pool of a network in which the cluster gave each node its spec.podCIDR.
func (m *maker) poolOfNodes(of, name, network string) {
	prefix, err := netip.ParsePrefix(network)
	if err != nil {
		m.find(Stops, of, "network %q is no prefix", network)
		return
	}
	bits := 0
	for _, machine := range m.machines {
		for _, text := range machine.podCIDRs() {
			if block, err := netip.ParsePrefix(text); err == nil && prefix.Masked().Contains(block.Addr()) {
				bits = max(bits, block.Bits())
			}
		}
	}
	m.pool(name, prefix.Masked(), bits)
}

// pool makes a Block pool with blocks of a size, or the nearest that there is; 0: the default.
func (m *maker) pool(name string, prefix netip.Prefix, bits int) {
	length := prefix.Addr().BitLen()
	if bits == 0 {
		bits = int(defaultBlock(prefix))
	}
	bits = min(max(bits, length-block.MaxBits, prefix.Bits()), length)
	m.pools = append(m.pools, planned{name, prefix, bits})
	m.add(&clearwayv1.IPPool{
		ApiVersion: clearwayv1.APIVersion, Kind: "IPPool", Metadata: meta(name),
		Spec: &clearwayv1.IPPoolSpec{Cidr: prefix.String(), Kind: "Block", BlockSize: int32(bits)},
	})
}

// blocksOfNodes gives each node its spec.podCIDRs.
func (m *maker) blocksOfNodes() {
	for _, name := range slices.Sorted(maps.Keys(m.machines)) {
		for _, text := range m.machines[name].podCIDRs() {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				m.find(Stops, "Node/"+name, "its podCIDR %q is no prefix", text)
				continue
			}
			m.block(name, prefix.Masked(), m.usedOn(name))
		}
	}
}

// plainMesh is the configuration of a network that had no BGP.
func (m *maker) plainMesh() {
	m.add(&clearwayv1.BGPConfiguration{
		ApiVersion: clearwayv1.APIVersion, Kind: "BGPConfiguration", Metadata: meta("default"),
		Spec: &clearwayv1.BGPConfigurationSpec{AsNumber: 64512, NodeMesh: "Auto"},
	})
	m.find(Left, "BGPConfiguration/default", "the nodes of one subnet are a mesh in AS 64512; say what your routers are in BGPPeers")
}
