package migrate

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/clearway/clearway/ipam/cidr"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// calico plans the move from Calico with the Kubernetes datastore. Its fields are those of the resource reference of Calico
// 3.31, and of its IPAM's own definitions (BlockAffinity, IPAMBlock).
func (m *maker) calico() error {
	for _, step := range []func() error{
		m.calicoPools, m.calicoReservations, m.calicoBlocks, m.calicoNodes, m.calicoConfiguration, m.calicoFilters, m.calicoPeers,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	m.calicoAnnotations()
	return nil
}

type calicoPool struct {
	head
	Spec struct {
		CIDR                  string
		BlockSize             int32
		IPIPMode, VXLANMode   string
		NATOutgoing, Disabled bool
		DisableBGPExport      bool
		NodeSelector          string
		NamespaceSelector     string
		AllowedUses           []string
		AssignmentMode        string
	}
}

func (m *maker) calicoPools() error {
	pools, err := read(m.objects, "calico/IPPool", func(p calicoPool) string { return p.Metadata.Name })
	if err != nil {
		return err
	}
	for _, one := range pools {
		m.calicoPool(one)
	}
	return nil
}

func (m *maker) calicoPool(one calicoPool) {
	prefix, err := netip.ParsePrefix(one.Spec.CIDR)
	if err != nil {
		m.find(Stops, one.name(), "its cidr %q is no prefix", one.Spec.CIDR)
		return
	}
	bits := one.Spec.BlockSize
	if bits == 0 {
		bits = defaultBlock(prefix)
	}
	spec := &clearwayv1.IPPoolSpec{Cidr: prefix.Masked().String(), Kind: "Block", BlockSize: bits, Disabled: one.Spec.Disabled}
	if len(one.Spec.AllowedUses) == 1 && one.Spec.AllowedUses[0] == "LoadBalancer" {
		spec.Kind, spec.BlockSize = "LoadBalancer", 0
	} else {
		m.pools = append(m.pools, planned{one.Metadata.Name, prefix.Masked(), int(bits)})
	}
	for field, text := range map[string]string{"nodeSelector": one.Spec.NodeSelector, "namespaceSelector": one.Spec.NamespaceSelector} {
		made, err := selector(text)
		if err != nil {
			m.find(Stops, one.name(), "%s %q: %v; give the pool another one first", field, text, err)
			continue
		}
		if field == "nodeSelector" {
			spec.NodeSelector = made
		} else {
			spec.NamespaceSelector = made
		}
	}
	for mode, text := range map[string]string{"IPIP": one.Spec.IPIPMode, "VXLAN": one.Spec.VXLANMode} {
		if text != "" && text != "Never" {
			m.find(Differs, one.name(), "%s (%s): Clearway has no overlay; nodes in other subnets, and the routers between, must learn its blocks by BGP", mode, text)
		}
	}
	if one.Spec.NATOutgoing {
		m.find(Differs, one.name(), "natOutgoing: Clearway translates no addresses; let a router do it, or a masquerading agent on the nodes")
	}
	if one.Spec.DisableBGPExport {
		m.find(Differs, one.name(), "disableBGPExport: nodes would tell its blocks; refuse them in an export filter (BGPFilter) of the BGPPeers")
	}
	if one.Spec.AssignmentMode == "Manual" {
		m.find(Differs, one.name(), "assignmentMode Manual: every Pod may draw from it; give the pool a namespaceSelector or podSelector")
	}
	m.add(&clearwayv1.IPPool{ApiVersion: clearwayv1.APIVersion, Kind: "IPPool", Metadata: meta(one.Metadata.Name), Spec: spec})
}

// defaultBlock is the size of Calico's blocks where none is given.
func defaultBlock(of netip.Prefix) int32 {
	if of.Addr().Is4() {
		return 26
	}
	return 122
}

type calicoReservation struct {
	head
	Spec struct{ ReservedCIDRs []string }
}

func (m *maker) calicoReservations() error {
	all, err := read(m.objects, "calico/IPReservation", func(r calicoReservation) string { return r.Metadata.Name })
	if err != nil {
		return err
	}
	for _, one := range all {
		m.reserve(one.Metadata.Name, "reserved in Calico", one.Spec.ReservedCIDRs)
	}
	return nil
}

func (m *maker) reserve(name, reason string, cidrs []string) {
	m.add(&clearwayv1.IPReservation{
		ApiVersion: clearwayv1.APIVersion, Kind: "IPReservation", Metadata: meta(name),
		Spec: &clearwayv1.IPReservationSpec{Cidrs: cidrs, Reason: reason},
	})
}

type calicoBlock struct {
	head
	Spec struct {
		CIDR        string
		Affinity    string // "host:NODE"; empty: nobody's
		Allocations []*int
		Attributes  []struct {
			HandleID  string            `json:"handle_id"`
			Secondary map[string]string // namespace, pod, node, type
		}
		Deleted bool
	}
}

type calicoAffinity struct {
	head
	Spec struct {
		State, Node, CIDR string
		Type              string
	}
}

// borrowedName is the reservation of addresses that Pods have of a block that is not their node's.
const borrowedName = "calico-borrowed"

func (m *maker) calicoBlocks() error {
	blocks, err := read(m.objects, "calico/IPAMBlock", func(b calicoBlock) string { return b.Metadata.Name })
	if err != nil {
		return err
	}
	affinities, err := read(m.objects, "calico/BlockAffinity", func(a calicoAffinity) string { return a.Metadata.Name })
	if err != nil {
		return err
	}
	owners := map[string]string{}
	for _, one := range affinities {
		if one.Spec.State == "confirmed" && (one.Spec.Type == "" || one.Spec.Type == "host") {
			owners[one.Spec.CIDR] = one.Spec.Node
		}
	}
	var borrowed []string
	for _, one := range blocks {
		if !one.Spec.Deleted {
			borrowed = append(borrowed, m.calicoBlock(one, owners[one.Spec.CIDR])...)
		}
	}
	if len(borrowed) > 0 {
		slices.SortFunc(borrowed, func(a, b string) int { return netip.MustParseAddr(a).Compare(netip.MustParseAddr(b)) })
		m.reserve(borrowedName, "borrowed in Calico from blocks of other nodes; delete this when the Pods have been restarted", borrowed)
	}
	return nil
}

// calicoBlock gives a block and its addresses to its node, and returns the addresses that others have of it.
func (m *maker) calicoBlock(one calicoBlock, confirmed string) (borrowed []string) {
	prefix, err := netip.ParsePrefix(one.Spec.CIDR)
	if err != nil {
		m.find(Stops, one.name(), "its cidr %q is no prefix", one.Spec.CIDR)
		return nil
	}
	owner, ofHost := strings.CutPrefix(one.Spec.Affinity, "host:")
	if !ofHost {
		owner = ""
	}
	if owner != confirmed && owner != "" && confirmed != "" {
		m.find(Differs, one.name(), "is of node %q by its own word, and of %q by the confirmed affinity: the block's word is taken", owner, confirmed)
	}
	if owner != "" {
		m.block(owner, prefix, nil)
	}
	for i, at := range one.Spec.Allocations {
		if at == nil || *at < 0 || *at >= len(one.Spec.Attributes) {
			continue
		}
		addr, _ := cidr.Add(prefix.Addr(), uint64(i)) // beyond the last address there is none, which no Pod has
		attribute := one.Spec.Attributes[*at]
		if m.calicoAddress(one, owner, addr, attribute.HandleID, attribute.Secondary) {
			borrowed = append(borrowed, addr.String())
		}
	}
	return borrowed
}

// calicoAddress takes one address over; true: a Pod of another node has it.
func (m *maker) calicoAddress(of calicoBlock, owner string, addr netip.Addr, handle string, about map[string]string) (borrowed bool) {
	if kind := about["type"]; kind != "" { // an end of a tunnel: it is on the host, where the agent sees it while it is there
		return false
	}
	at := slices.IndexFunc(m.pods, func(p pod) bool {
		return p.Metadata.Namespace == about["namespace"] && p.Metadata.Name == about["pod"] && slices.Contains(p.addresses(), addr)
	})
	if at < 0 {
		m.find(Left, of.name(), "%s is allocated to Pod %s/%s, which is not there or has another address: it is not taken over; "+
			"while something on its node has it the agent sees that, and gives it to nobody", addr, about["namespace"], about["pod"])
		return false
	}
	holder := m.pods[at]
	to := m.nodes[owner]
	if holder.Spec.NodeName != owner || to == nil || !holds(to, addr) {
		m.find(Differs, holder.name(), "has %s, which its node %s borrowed from a block of %s: in Clearway each address is in its node's own block. "+
			"The address is reserved, so that nobody else gets it; restart the Pod afterwards, then delete IPReservation/%s",
			addr, holder.Spec.NodeName, ownerName(owner), borrowedName)
		return true
	}
	_, container, found := strings.Cut(handle, ".")
	if !found {
		container = ""
	}
	m.assign(to, addr, holder.proto(), container)
	return false
}

func ownerName(owner string) string {
	if owner == "" {
		return "nobody"
	}
	return "node " + owner
}

// calicoAnnotations tells of annotations that Clearway calls otherwise.
func (m *maker) calicoAnnotations() {
	counterparts := map[string]string{
		"cni.projectcalico.org/ipv4pools": "clearway.io/ipv4-pools", "cni.projectcalico.org/ipv6pools": "clearway.io/ipv6-pools",
		"cni.projectcalico.org/ipAddrs": "clearway.io/addresses", "cni.projectcalico.org/ipAddrsNoIpam": "", "cni.projectcalico.org/floatingIPs": "",
		"cni.projectcalico.org/hwAddr": "",
	}
	users := map[string][]string{}
	note := func(h head) {
		for key := range h.Metadata.Annotations {
			if _, known := counterparts[key]; known {
				users[key] = append(users[key], h.name())
			}
		}
	}
	for _, one := range m.pods {
		note(one.head)
	}
	namespaces, _ := read(m.objects, "Namespace", head.name) // all objects have been read as heads before
	for _, one := range namespaces {
		note(one)
	}
	for key, names := range users {
		if counterpart := counterparts[key]; counterpart != "" {
			m.find(Differs, "annotation "+key, "is on %s: write %s beside it, in the templates too", join(names), counterpart)
			continue
		}
		m.find(Differs, "annotation "+key, "is on %s, and has no counterpart", join(names))
	}
}
