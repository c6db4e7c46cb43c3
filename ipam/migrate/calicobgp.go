package migrate

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// asNumber is an AS number as Calico writes it: a number, or text, in which a dot stands between the halves (RFC 5396).
type asNumber uint32

// UnmarshalJSON implements json.Unmarshaler.
func (a *asNumber) UnmarshalJSON(text []byte) error {
	plain := strings.Trim(string(text), `"`)
	high, low, dotted := strings.Cut(plain, ".")
	if !dotted {
		high, low = "0", plain
	}
	bits := 32
	if dotted {
		bits = 16
	}
	upper, err := strconv.ParseUint(high, 10, 16)
	lower, err2 := strconv.ParseUint(low, 10, bits)
	if err != nil || err2 != nil {
		return fmt.Errorf("%s is no AS number", text)
	}
	*a = asNumber(upper<<16 + lower)
	return nil
}

// calicoNodes takes over what Calico was told of single nodes, by annotations.
func (m *maker) calicoNodes() error {
	for name, machine := range m.machines {
		spec := &clearwayv1.NodeSpec{}
		if text := machine.Metadata.Annotations["projectcalico.org/ASNumber"]; text != "" {
			var number asNumber
			if err := json.Unmarshal([]byte(`"`+text+`"`), &number); err != nil {
				m.find(Stops, "Node/"+name, "annotation projectcalico.org/ASNumber: %v", err)
				continue
			}
			spec.AsNumber = uint32(number)
		}
		for _, family := range []string{"IPv4", "IPv6"} {
			text := machine.Metadata.Annotations["projectcalico.org/"+family+"Address"]
			if prefix, err := netip.ParsePrefix(text); err == nil && !machine.has(prefix.Addr()) {
				spec.Addresses = append(spec.Addresses, text) // Calico goes by another one than Kubernetes
			}
		}
		if spec.AsNumber != 0 || len(spec.Addresses) > 0 {
			m.add(&clearwayv1.Node{ApiVersion: clearwayv1.APIVersion, Kind: "Node", Metadata: meta(name), Spec: spec})
		}
	}
	return nil
}

type calicoConfiguration struct {
	head
	Spec struct {
		ASNumber               asNumber
		NodeToNodeMeshEnabled  *bool
		ListenPort             int32
		ServiceClusterIPs      []struct{ CIDR string }
		ServiceExternalIPs     []struct{ CIDR string }
		ServiceLoadBalancerIPs []struct{ CIDR string }
		Communities            []struct{ Name, Value string }
		PrefixAdvertisements   []struct {
			CIDR        string
			Communities []string
		}
		NodeMeshPassword json.RawMessage
	}
}

func (m *maker) calicoConfiguration() error {
	all, err := read(m.objects, "calico/BGPConfiguration", func(c calicoConfiguration) string { return c.Metadata.Name })
	if err != nil {
		return err
	}
	spec := &clearwayv1.BGPConfigurationSpec{AsNumber: 64512, NodeMesh: "Auto"} // Calico's own defaults are these
	for _, one := range all {
		if one.Metadata.Name != "default" {
			m.find(Differs, one.name(), "is of one node alone: say it in a BGPPeer with a nodeSelector, or in a Node of clearway.io")
			continue
		}
		if one.Spec.ASNumber != 0 {
			spec.AsNumber = uint32(one.Spec.ASNumber)
		}
		if one.Spec.NodeToNodeMeshEnabled != nil && !*one.Spec.NodeToNodeMeshEnabled {
			spec.NodeMesh = "None"
		}
		spec.ListenPort = one.Spec.ListenPort
		if len(one.Spec.NodeMeshPassword) > 0 {
			m.find(Differs, one.name(), "nodeMeshPassword: the sessions of Clearway's node mesh have no password")
		}
		spec.Services = m.calicoServices(one)
		spec.PrefixCommunities = calicoCommunities(one)
	}
	if spec.NodeMesh == "Auto" {
		m.find(Left, "BGPConfiguration/default", "the mesh is nodeMesh Auto: among nodes of one subnet; across subnets the routers carry the routes")
	}
	m.add(&clearwayv1.BGPConfiguration{ApiVersion: clearwayv1.APIVersion, Kind: "BGPConfiguration", Metadata: meta("default"), Spec: spec})
	return nil
}

func (m *maker) calicoServices(one calicoConfiguration) *clearwayv1.ServiceRoutes {
	cidrs := func(of []struct{ CIDR string }) (all []string) {
		for _, one := range of {
			all = append(all, one.CIDR)
		}
		return all
	}
	services := &clearwayv1.ServiceRoutes{
		LoadBalancerIps: cidrs(one.Spec.ServiceLoadBalancerIPs), ExternalIps: cidrs(one.Spec.ServiceExternalIPs), ClusterIps: cidrs(one.Spec.ServiceClusterIPs),
	}
	if len(services.GetLoadBalancerIps())+len(services.GetExternalIps())+len(services.GetClusterIps()) == 0 {
		return nil
	}
	return services
}

// calicoCommunities puts the values in the place of communities' names.
func calicoCommunities(one calicoConfiguration) (all []*clearwayv1.PrefixCommunities) {
	values := map[string]string{}
	for _, named := range one.Spec.Communities {
		values[named.Name] = named.Value
	}
	for _, advertised := range one.Spec.PrefixAdvertisements {
		made := &clearwayv1.PrefixCommunities{Cidr: advertised.CIDR}
		for _, name := range advertised.Communities {
			value, named := values[name]
			if !named {
				value = name
			}
			made.Communities = append(made.Communities, value)
		}
		all = append(all, made)
	}
	return all
}

type calicoPeer struct {
	head
	Spec struct {
		PeerIP                   string
		ASNumber                 asNumber
		Node, NodeSelector       string
		PeerSelector             string
		LocalWorkloadSelector    string
		KeepOriginalNextHop      bool
		NextHopMode              string
		Password                 *struct{ SecretKeyRef struct{ Name, Key string } }
		SourceAddress            string
		MaxRestartTime           string
		NumAllowedLocalASNumbers *int32
		TTLSecurity              int32
		LocalASNumber            asNumber
		ReachableBy              string
		Filters                  []string
		KeepaliveTime            string
	}
}

func (m *maker) calicoPeers() error {
	all, err := read(m.objects, "calico/BGPPeer", func(p calicoPeer) string { return p.Metadata.Name })
	if err != nil {
		return err
	}
	for _, one := range all {
		switch {
		case one.Spec.LocalWorkloadSelector != "":
			m.find(Differs, one.name(), "peers with Pods of its node (localWorkloadSelector): there is no counterpart")
		case one.Spec.PeerSelector != "":
			m.calicoReflectors(one)
		default:
			m.calicoPeer(one)
		}
	}
	return nil
}

// calicoReflectors takes a peering of nodes with nodes for route reflectors, which is what it is made for.
func (m *maker) calicoReflectors(one calicoPeer) {
	of, err := selector(one.Spec.PeerSelector)
	if err != nil || of == nil {
		m.find(Differs, one.name(), "peerSelector %q cannot be said as nodeMesh Reflectors: say which nodes reflect in BGPConfiguration/default", one.Spec.PeerSelector)
		return
	}
	for _, resource := range m.plan.Resources {
		if configuration, ok := resource.(*clearwayv1.BGPConfiguration); ok {
			configuration.Spec.NodeMesh = "Reflectors"
			configuration.Spec.Reflectors = &clearwayv1.Reflectors{Selector: of}
			m.find(Left, one.name(), "has become nodeMesh Reflectors with the nodes that its peerSelector takes; cluster IDs are Clearway's own")
		}
	}
}

func (m *maker) calicoPeer(one calicoPeer) {
	addr, port, err := peerAddress(one.Spec.PeerIP)
	if err != nil {
		m.find(Stops, one.name(), "%v", err)
		return
	}
	spec := &clearwayv1.BGPPeerSpec{
		PeerAddress: addr.String(), PeerPort: port, PeerAsn: uint32(one.Spec.ASNumber), LocalAsNumber: uint32(one.Spec.LocalASNumber),
		AllowOwnAs: one.Spec.NumAllowedLocalASNumbers, TtlSecurityHops: one.Spec.TTLSecurity,
	}
	if spec.NodeSelector, err = selector(one.Spec.NodeSelector); err != nil {
		m.find(Stops, one.name(), "nodeSelector %q: %v; give the peer another one first", one.Spec.NodeSelector, err)
		return
	}
	if one.Spec.Node != "" {
		spec.NodeSelector = &clearwayv1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/hostname": one.Spec.Node}}
	}
	if one.Spec.MaxRestartTime != "" {
		spec.GracefulRestart = &clearwayv1.GracefulRestart{RestartTime: one.Spec.MaxRestartTime}
	}
	if one.Spec.Password != nil {
		secret := one.Spec.Password.SecretKeyRef
		spec.PasswordFile = "/etc/clearway/bgp/" + secret.Name + "." + secret.Key
		m.find(Differs, one.name(), "its password is in the Secret %s, key %s: put it in %s on each node, or mount the Secret there in the agent's Pods",
			secret.Name, secret.Key, spec.PasswordFile)
	}
	if spec.TtlSecurityHops == 0 && !m.onLink(addr) {
		spec.MultihopTtl = 255 // as all sessions of Calico have it
		m.find(Left, one.name(), "%s is in no subnet of a node's: multihopTTL is 255", addr)
	}
	if one.Spec.KeepOriginalNextHop || one.Spec.NextHopMode == "Keep" {
		m.find(Differs, one.name(), "keeps the original next hop: say so in an export filter (set.nextHop: Keep)")
	}
	if one.Spec.ReachableBy != "" {
		m.find(Differs, one.name(), "reachableBy %s: write a static route to the peer on the nodes", one.Spec.ReachableBy)
	}
	if one.Spec.SourceAddress == "None" {
		m.find(Left, one.name(), "sourceAddress None: sessions come from the node's address")
	}
	m.filtersOf(one, spec)
	m.find(Differs, one.name(), "by default Clearway takes from a peer only what lies in pools: for a default route or other prefixes from it, "+
		"give it an import filter with transit")
	m.add(&clearwayv1.BGPPeer{ApiVersion: clearwayv1.APIVersion, Kind: "BGPPeer", Metadata: meta(one.Metadata.Name), Spec: spec})
}

// filtersOf names the halves of Calico's filters that were made. A peer with one that could not be is kept down.
func (m *maker) filtersOf(one calicoPeer, spec *clearwayv1.BGPPeerSpec) {
	for _, name := range one.Spec.Filters {
		if m.unmade[name] {
			spec.Disabled = true
			m.find(Differs, one.name(), "is taken over disabled, as its BGPFilter %s could not be: write that, name it in the peer, and enable it", name)
			continue
		}
		for _, resource := range m.plan.Resources {
			switch made := resource.GetMetadata().GetName(); {
			case kindOf(resource) != "BGPFilter":
			case made == name+importSuffix:
				spec.ImportFilters = append(spec.ImportFilters, made)
			case made == name+exportSuffix:
				spec.ExportFilters = append(spec.ExportFilters, made)
			}
		}
	}
}

func peerAddress(text string) (netip.Addr, int32, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr, 0, nil
	}
	both, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.Addr{}, 0, fmt.Errorf("peerIP %q is neither an address nor an address and port", text)
	}
	return both.Addr(), int32(both.Port()), nil
}

// onLink tells whether a node of Calico's has a subnet with an address; of what Calico tells of none, yes.
func (m *maker) onLink(addr netip.Addr) bool {
	known := false
	for _, machine := range m.machines {
		for _, family := range []string{"IPv4", "IPv6"} {
			prefix, err := netip.ParsePrefix(machine.Metadata.Annotations["projectcalico.org/"+family+"Address"])
			if err != nil || prefix.Addr().Is4() != addr.Is4() {
				continue
			}
			known = true
			if prefix.Masked().Contains(addr) {
				return true
			}
		}
	}
	return !known || addr.IsLinkLocalUnicast()
}
