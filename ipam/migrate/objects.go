package migrate

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/clearway/clearway/ipam/block"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// objects are the API server's, by group and kind ("Node", "crd.projectcalico.org/IPPool").
type objects map[string][]json.RawMessage

// head is what every object has.
type head struct {
	APIVersion string
	Kind       string
	Metadata   struct {
		Name, Namespace, UID string
		Labels, Annotations  map[string]string
	}
}

func (h head) name() string {
	if h.Metadata.Namespace != "" {
		return h.Kind + "/" + h.Metadata.Namespace + "/" + h.Metadata.Name
	}
	return h.Kind + "/" + h.Metadata.Name
}

func sortObjects(all []map[string]any) (objects, error) {
	sorted := objects{}
	for _, object := range all {
		text, err := json.Marshal(object)
		if err != nil {
			return nil, fmt.Errorf("object: %w", err)
		}
		var h head
		if err := json.Unmarshal(text, &h); err != nil || h.Kind == "" || h.Metadata.Name == "" {
			return nil, fmt.Errorf("object %.80s has no kind or no name", text)
		}
		group, _, found := strings.Cut(h.APIVersion, "/")
		switch {
		case !found:
			group = ""
		case strings.HasSuffix(group, "projectcalico.org"):
			group = "calico/" // the API server of Calico and its definitions have the same specs
		default:
			group += "/"
		}
		sorted[group+h.Kind] = append(sorted[group+h.Kind], text)
	}
	return sorted, nil
}

// read reads all objects of a group and kind, by name.
func read[T any](from objects, kind string, named func(T) string) ([]T, error) {
	var all []T
	for _, text := range from[kind] {
		var one T
		if err := json.Unmarshal(text, &one); err != nil {
			return nil, fmt.Errorf("%s %.80s: %w", kind, text, err)
		}
		all = append(all, one)
	}
	slices.SortStableFunc(all, func(a, b T) int { return strings.Compare(named(a), named(b)) })
	return all, nil
}

// node is what counts of a Node.
type node struct {
	head
	Spec struct {
		PodCIDR  string
		PodCIDRs []string
	}
	Status struct {
		Addresses []struct{ Type, Address string }
		NodeInfo  struct{ BootID, MachineID string }
	}
}

// podCIDRs are those that the Node was given.
func (n node) podCIDRs() []string {
	if len(n.Spec.PodCIDRs) > 0 || n.Spec.PodCIDR == "" {
		return n.Spec.PodCIDRs
	}
	return []string{n.Spec.PodCIDR}
}

// has tells whether an address is one of the Node's own.
func (n node) has(address netip.Addr) bool {
	return slices.ContainsFunc(n.Status.Addresses, func(a struct{ Type, Address string }) bool { return a.Address == address.String() })
}

// pod is what counts of a Pod.
type pod struct {
	head
	Spec struct {
		NodeName    string
		HostNetwork bool
	}
	Status struct {
		Phase  string
		PodIP  string
		PodIPs []struct{ IP string }
	}
}

// addresses are those that a Pod has of the network; none of one that has ended.
func (p pod) addresses() []netip.Addr {
	if p.Spec.HostNetwork || p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" {
		return nil
	}
	texts := []string{p.Status.PodIP}
	for _, one := range p.Status.PodIPs {
		texts = append(texts, one.IP)
	}
	var all []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil && !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	return all
}

func (p pod) key() string { return p.Metadata.Namespace + "/" + p.Metadata.Name }

func (p pod) proto() *clearwayv1.Pod {
	return &clearwayv1.Pod{Namespace: p.Metadata.Namespace, Name: p.Metadata.Name, Uid: p.Metadata.UID}
}

// readCore reads what every system has: Nodes, Pods, and what nobody enforces afterwards.
func (m *maker) readCore() error {
	nodes, err := read(m.objects, "Node", func(n node) string { return n.Metadata.Name })
	if err != nil {
		return err
	}
	m.machines = map[string]node{}
	for _, one := range nodes {
		m.machines[one.Metadata.Name] = one
	}
	if m.pods, err = read(m.objects, "Pod", pod.key); err != nil {
		return err
	}
	policies := 0
	for _, kind := range []string{
		"networking.k8s.io/NetworkPolicy", "calico/NetworkPolicy", "calico/GlobalNetworkPolicy", "cilium.io/CiliumNetworkPolicy",
		"cilium.io/CiliumClusterwideNetworkPolicy",
	} {
		policies += len(m.objects[kind])
	}
	if policies > 0 {
		m.find(Differs, "NetworkPolicy", "there are %d network policies: Clearway enforces none; keep or install something that does, "+
			"before the present network goes", policies)
	}
	return nil
}

// adopter is the request that takes a node in; nil: it cannot be, and a finding says why.
func (m *maker) adopter(name string) *clearwayv1.AdoptRequest {
	if made := m.nodes[name]; made != nil {
		return made
	}
	machine, known := m.machines[name]
	switch {
	case !known:
		m.find(Differs, "Node/"+name, "has blocks or addresses, and there is no such Node: they are left out, and may be given to others")
		return nil
	case machine.Status.NodeInfo.BootID == "":
		m.find(Stops, "Node/"+name, "has no status.nodeInfo.bootID: its Pods could not be told from those of an earlier boot; is its kubelet running?")
		return nil
	}
	made := &clearwayv1.AdoptRequest{
		Node: name, NodeUid: machine.Metadata.UID, BootId: machine.Status.NodeInfo.BootID, MachineId: machine.Status.NodeInfo.MachineID,
	}
	m.nodes[name] = made
	return made
}

// poolOf finds the pool that holds a prefix.
func (m *maker) poolOf(prefix netip.Prefix) (planned, bool) {
	for _, one := range m.pools {
		if one.cidr.Bits() <= prefix.Bits() && one.cidr.Contains(prefix.Addr()) {
			return one, true
		}
	}
	return planned{}, false
}

// block gives a node a block, in pieces of the largest size that there is where it is larger: only those that have an address
// of used.
func (m *maker) block(node string, prefix netip.Prefix, used []netip.Addr) {
	to := m.adopter(node)
	if to == nil {
		return
	}
	from, found := m.poolOf(prefix)
	if !found {
		m.find(Differs, "Node/"+node, "its block %s lies in no pool that is taken over: it is left out", prefix)
		return
	}
	pieces := []netip.Prefix{prefix}
	if least := prefix.Addr().BitLen() - block.MaxBits; prefix.Bits() < least {
		pieces = nil
		for _, addr := range used {
			piece := netip.PrefixFrom(addr, least).Masked()
			if prefix.Contains(addr) && !slices.Contains(pieces, piece) {
				pieces = append(pieces, piece)
			}
		}
		m.find(Differs, "Node/"+node, "its block %s is larger than the largest of Clearway, a /%d: the node keeps the %d of them that its Pods have addresses in",
			prefix, least, len(pieces))
	}
	for _, piece := range pieces {
		to.Blocks = append(to.Blocks, &clearwayv1.BlockSpec{Cidr: piece.String(), Pool: from.name})
	}
}

// holds tells which block of a node an address lies in.
func holds(of *clearwayv1.AdoptRequest, address netip.Addr) bool {
	return slices.ContainsFunc(of.GetBlocks(), func(b *clearwayv1.BlockSpec) bool {
		return netip.MustParsePrefix(b.GetCidr()).Contains(address)
	})
}

// assign gives a Pod's address to its node. Without the container's ID nothing releases it but the agent's own look at the
// machine, and Kubernetes' word that the Pod is gone.
func (m *maker) assign(of *clearwayv1.AdoptRequest, address netip.Addr, holder *clearwayv1.Pod, container string) {
	attachment := &clearwayv1.Attachment{Network: m.options.Network, ContainerId: container, Ifname: "eth0"}
	if container == "" {
		attachment.Network, attachment.ContainerId = adoptedNetwork, "pod-"+holder.GetUid()
	}
	of.Assignments = append(of.Assignments, &clearwayv1.AssignmentSpec{Address: address.String(), Attachment: attachment, Pod: holder})
}

// adoptedNetwork is the network's name of what was taken over without its container's ID: no configuration has it.
const adoptedNetwork = "clearway.adopted"

// podsKeep has every Pod keep its address on its node, where nothing better than the Pod itself tells of it.
func (m *maker) podsKeep() {
	for _, one := range m.pods {
		for _, addr := range one.addresses() {
			if m.machines[one.Spec.NodeName].has(addr) {
				continue
			}
			if of := m.nodes[one.Spec.NodeName]; of != nil && holds(of, addr) {
				m.assign(of, addr, one.proto(), "")
				continue
			}
			m.find(Differs, one.name(), "its address %s is in no block of its node %s: it is not taken over; restart the Pod afterwards", addr, one.Spec.NodeName)
		}
	}
}

// usedOn are the addresses of a node's Pods.
func (m *maker) usedOn(node string) []netip.Addr {
	var all []netip.Addr
	for _, one := range m.pods {
		if one.Spec.NodeName == node {
			all = append(all, one.addresses()...)
		}
	}
	return all
}
