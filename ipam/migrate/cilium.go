package migrate

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// ciliumConfig is the ConfigMap of Cilium's agents.
const ciliumConfig = "cilium-config"

type ciliumNode struct {
	head
	Spec struct {
		IPAM struct {
			PodCIDRs []string
			Pools    struct {
				Allocated []struct {
					Pool  string
					CIDRs []string
				}
			}
		}
	}
}

// cilium plans the move from Cilium with one of its own IPAM modes. Its fields are those of Cilium 1.18.
func (m *maker) cilium() error {
	found, ok, err := m.configMap(ciliumConfig)
	if err != nil {
		return err
	}
	if !ok {
		m.find(Stops, "ConfigMap/kube-system/"+ciliumConfig, "is not there: how Cilium gives addresses is not known")
		return nil
	}
	m.ciliumFindings(found)
	switch mode := found.Data["ipam"]; mode {
	case "kubernetes":
		m.ciliumKubernetesPools()
		m.blocksOfNodes()
	case "cluster-pool", "cluster-pool-v2beta", "multi-pool":
		if err := m.ciliumPools(found); err != nil {
			return err
		}
		if err := m.ciliumBlocks(); err != nil {
			return err
		}
	default:
		m.find(Stops, found.name(), "ipam mode %q gives addresses of a cloud or of a delegated plugin: they cannot be moved", mode)
		return nil
	}
	m.podsKeep()
	if err := m.ciliumBalancers(); err != nil {
		return err
	}
	return m.ciliumBGP()
}

func (m *maker) ciliumFindings(found configMap) {
	data := found.Data
	if mode := data["routing-mode"]; mode == "tunnel" || mode == "" {
		m.find(Differs, found.name(), "routing-mode tunnel: Clearway has no overlay; nodes in other subnets, and the routers between, must learn its blocks by BGP")
	}
	if data["enable-ipv4-masquerade"] != "false" || data["enable-ipv6-masquerade"] == "true" {
		m.find(Differs, found.name(), "Cilium masquerades what leaves the cluster: Clearway translates no addresses; let a router do it, or a masquerading agent on the nodes")
	}
	if replaced := data["kube-proxy-replacement"]; replaced != "" && replaced != "false" && replaced != "disabled" {
		m.find(Stops, found.name(), "kube-proxy-replacement: Cilium serves the Services; install kube-proxy and switch it off there first")
	}
	if data["enable-wireguard"] == "true" || data["enable-ipsec"] == "true" {
		m.find(Differs, found.name(), "Cilium encrypts what goes between nodes: Clearway does not")
	}
}

// ciliumKubernetesPools makes a pool around the nodes' podCIDRs: which network the cluster has is nowhere to be read.
func (m *maker) ciliumKubernetesPools() {
	for _, family := range []struct {
		name string
		v4   bool
	}{{"cilium-ipv4", true}, {"cilium-ipv6", false}} {
		var around netip.Prefix
		bits := 0
		for _, name := range slices.Sorted(maps.Keys(m.machines)) {
			for _, text := range m.machines[name].podCIDRs() {
				if prefix, err := netip.ParsePrefix(text); err == nil && prefix.Addr().Is4() == family.v4 {
					around, bits = union(around, prefix.Masked()), max(bits, prefix.Bits())
				}
			}
		}
		if around.IsValid() {
			m.pool(family.name, around, bits)
			m.find(Differs, "IPPool/"+family.name, "%s is just around what nodes have, as the cluster's own network is nowhere to be read: "+
				"make it as large as the controller manager's --cluster-cidr", around)
		}
	}
}

// union is the smallest prefix around two; the zero one is nothing.
func union(a, b netip.Prefix) netip.Prefix {
	if !a.IsValid() {
		return b
	}
	for bits := min(a.Bits(), b.Bits()); ; bits-- {
		if around := netip.PrefixFrom(a.Addr(), bits).Masked(); around.Contains(b.Addr()) {
			return around
		}
	}
}

type ciliumPool struct {
	head
	Spec struct {
		IPv4, IPv6 struct {
			CIDRs    []string
			MaskSize int
		}
	}
}

// ciliumPools makes a pool of each prefix that nodes get blocks of.
func (m *maker) ciliumPools(found configMap) error {
	for _, family := range []string{"ipv4", "ipv6"} {
		if found.Data["enable-"+family] == "false" {
			continue
		}
		bits, _ := strconv.Atoi(found.Data["cluster-pool-"+family+"-mask-size"])
		m.prefixes(found.name(), "cilium-"+family, strings.FieldsFunc(found.Data["cluster-pool-"+family+"-cidr"], func(r rune) bool {
			return r == ' ' || r == ','
		}), bits)
	}
	pools, err := read(m.objects, "cilium.io/CiliumPodIPPool", func(p ciliumPool) string { return p.Metadata.Name })
	if err != nil {
		return err
	}
	for _, one := range pools {
		m.prefixes(one.name(), one.Metadata.Name+"-ipv4", one.Spec.IPv4.CIDRs, one.Spec.IPv4.MaskSize)
		m.prefixes(one.name(), one.Metadata.Name+"-ipv6", one.Spec.IPv6.CIDRs, one.Spec.IPv6.MaskSize)
	}
	return nil
}

// prefixes makes pools of several prefixes, the second and later ones with a number.
func (m *maker) prefixes(of, name string, texts []string, bits int) {
	for i, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			m.find(Stops, of, "%q is no prefix", text)
			continue
		}
		m.pool(numbered(name, i), prefix.Masked(), bits)
	}
}

func numbered(name string, i int) string {
	if i == 0 {
		return name
	}
	return name + "-" + strconv.Itoa(i+1)
}

func (m *maker) ciliumBlocks() error {
	nodes, err := read(m.objects, "cilium.io/CiliumNode", func(n ciliumNode) string { return n.Metadata.Name })
	if err != nil {
		return err
	}
	for _, one := range nodes {
		texts := slices.Clone(one.Spec.IPAM.PodCIDRs)
		for _, allocated := range one.Spec.IPAM.Pools.Allocated {
			texts = append(texts, allocated.CIDRs...)
		}
		for _, text := range texts {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				m.find(Stops, one.name(), "its block %q is no prefix", text)
				continue
			}
			m.block(one.Metadata.Name, prefix.Masked(), m.usedOn(one.Metadata.Name))
		}
	}
	return nil
}

type ciliumBalancer struct {
	head
	Spec struct {
		Blocks          []struct{ CIDR, Start, Stop string }
		ServiceSelector *struct {
			MatchLabels      map[string]string
			MatchExpressions []*clearwayv1.LabelSelectorRequirement
		}
		Disabled bool
	}
}

// ciliumBalancers makes LoadBalancer pools.
func (m *maker) ciliumBalancers() error {
	all, err := read(m.objects, "cilium.io/CiliumLoadBalancerIPPool", func(b ciliumBalancer) string { return b.Metadata.Name })
	if err != nil {
		return err
	}
	for _, one := range all {
		for i, block := range one.Spec.Blocks {
			prefix, err := netip.ParsePrefix(block.CIDR)
			if err != nil {
				m.find(Differs, one.name(), "its range %s-%s is no prefix: it is not taken over; make LoadBalancer pools that cover it", block.Start, block.Stop)
				continue
			}
			spec := &clearwayv1.IPPoolSpec{Cidr: prefix.Masked().String(), Kind: "LoadBalancer", Disabled: one.Spec.Disabled}
			if chosen := one.Spec.ServiceSelector; chosen != nil {
				spec.ServiceSelector = &clearwayv1.LabelSelector{MatchLabels: chosen.MatchLabels, MatchExpressions: chosen.MatchExpressions}
			}
			m.add(&clearwayv1.IPPool{ApiVersion: clearwayv1.APIVersion, Kind: "IPPool", Metadata: meta(numbered(one.Metadata.Name, i)), Spec: spec})
		}
		m.find(Differs, one.name(), "Services keep their addresses when those are in their status and the pool has them; their loadBalancerClass, "+
			"if they have one, must be clearway.io/bgp, or BGPConfiguration's services.defaultClass true")
	}
	return nil
}
