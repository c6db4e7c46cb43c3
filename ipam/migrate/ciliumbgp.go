package migrate

import (
	"fmt"
	"net/netip"
	"slices"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

type ciliumCluster struct {
	head
	Spec struct {
		NodeSelector *struct {
			MatchLabels      map[string]string
			MatchExpressions []*clearwayv1.LabelSelectorRequirement
		}
		BGPInstances []ciliumInstance
	}
}

type ciliumInstance struct {
	Name      string
	LocalASN  uint32
	LocalPort int32
	Peers     []struct {
		Name          string
		PeerASN       uint32
		PeerAddress   string
		PeerConfigRef struct{ Name string }
	}
}

type ciliumPeer struct {
	head
	Spec struct {
		Timers struct {
			ConnectRetryTimeSeconds, HoldTimeSeconds, KeepAliveTimeSeconds int
		}
		Transport       struct{ PeerPort int32 }
		AuthSecretRef   string
		GracefulRestart struct {
			Enabled            bool
			RestartTimeSeconds int
		}
		EBGPMultihop int32
		Families     []struct{ AFI string }
	}
}

type ciliumAdvertisement struct {
	head
	Spec struct {
		Advertisements []struct {
			AdvertisementType string
			Service           struct{ Addresses []string }
		}
	}
}

// ciliumBGP takes the BGP control plane's resources over.
func (m *maker) ciliumBGP() error {
	clusters, err := read(m.objects, "cilium.io/CiliumBGPClusterConfig", func(c ciliumCluster) string { return c.Metadata.Name })
	if err != nil {
		return err
	}
	peers, err := read(m.objects, "cilium.io/CiliumBGPPeerConfig", func(p ciliumPeer) string { return p.Metadata.Name })
	if err != nil {
		return err
	}
	if n := len(m.objects["cilium.io/CiliumBGPPeeringPolicy"]); n > 0 {
		m.find(Differs, "CiliumBGPPeeringPolicy", "there are %d of the older form: they are not taken over; write BGPPeers", n)
	}
	spec := &clearwayv1.BGPConfigurationSpec{AsNumber: 64512, NodeMesh: "None"}
	if len(clusters) == 0 {
		m.plainMesh()
		return nil
	}
	for _, cluster := range clusters {
		for _, instance := range cluster.Spec.BGPInstances {
			if spec.ListenPort == 0 {
				spec.ListenPort = instance.LocalPort
			}
			for _, one := range instance.Peers {
				at := slices.IndexFunc(peers, func(p ciliumPeer) bool { return p.Metadata.Name == one.PeerConfigRef.Name })
				var config ciliumPeer
				if at >= 0 {
					config = peers[at]
				}
				m.ciliumPeer(cluster, instance, one.Name, one.PeerAddress, one.PeerASN, config)
			}
		}
	}
	if err := m.ciliumServices(spec); err != nil {
		return err
	}
	m.add(&clearwayv1.BGPConfiguration{ApiVersion: clearwayv1.APIVersion, Kind: "BGPConfiguration", Metadata: meta("default"), Spec: spec})
	return nil
}

func (m *maker) ciliumPeer(cluster ciliumCluster, instance ciliumInstance, name, address string, asn uint32, config ciliumPeer) {
	object := cluster.name() + " peer " + name
	addr, err := netip.ParseAddr(address)
	if err != nil {
		m.find(Differs, object, "its peerAddress %q is no address: write a BGPPeer by hand (Clearway finds routers by defaultGateways or peerInterface)", address)
		return
	}
	seconds := func(n int) string {
		if n == 0 {
			return ""
		}
		return fmt.Sprintf("%ds", n)
	}
	spec := &clearwayv1.BGPPeerSpec{
		PeerAddress: addr.String(), PeerAsn: asn, LocalAsNumber: instance.LocalASN, PeerPort: config.Spec.Transport.PeerPort,
		HoldTime: seconds(config.Spec.Timers.HoldTimeSeconds), KeepaliveTime: seconds(config.Spec.Timers.KeepAliveTimeSeconds),
		ConnectRetryTime: seconds(config.Spec.Timers.ConnectRetryTimeSeconds),
		GracefulRestart: &clearwayv1.GracefulRestart{
			Disabled: !config.Spec.GracefulRestart.Enabled, RestartTime: seconds(config.Spec.GracefulRestart.RestartTimeSeconds),
		},
	}
	if config.Spec.EBGPMultihop > 1 {
		spec.MultihopTtl = config.Spec.EBGPMultihop
	}
	if chosen := cluster.Spec.NodeSelector; chosen != nil {
		spec.NodeSelector = &clearwayv1.LabelSelector{MatchLabels: chosen.MatchLabels, MatchExpressions: chosen.MatchExpressions}
	}
	for _, family := range config.Spec.Families {
		if text := map[string]string{"ipv4": "IPv4", "ipv6": "IPv6"}[family.AFI]; text != "" && !slices.Contains(spec.Families, text) {
			spec.Families = append(spec.Families, text)
		}
	}
	if config.Spec.AuthSecretRef != "" {
		spec.PasswordFile = "/etc/clearway/bgp/" + config.Spec.AuthSecretRef
		m.find(Differs, object, "its password is in the Secret %s: put it in %s on each node, or mount the Secret there in the agent's Pods",
			config.Spec.AuthSecretRef, spec.PasswordFile)
	}
	m.find(Left, object, "Cilium writes no learned routes into the kernel, and Clearway does: those of its own blocks, and what filters let in")
	m.add(&clearwayv1.BGPPeer{
		ApiVersion: clearwayv1.APIVersion, Kind: "BGPPeer", Metadata: meta(cluster.Metadata.Name + "-" + name), Spec: spec,
	})
}

// ciliumServices allows the addresses of Services that were advertised.
func (m *maker) ciliumServices(spec *clearwayv1.BGPConfigurationSpec) error {
	all, err := read(m.objects, "cilium.io/CiliumBGPAdvertisement", func(a ciliumAdvertisement) string { return a.Metadata.Name })
	if err != nil {
		return err
	}
	kinds := map[string]bool{}
	for _, one := range all {
		for _, advertised := range one.Spec.Advertisements {
			for _, kind := range advertised.Service.Addresses {
				kinds[kind] = true
			}
		}
	}
	services := &clearwayv1.ServiceRoutes{}
	if kinds["LoadBalancerIP"] {
		for _, resource := range m.plan.Resources {
			if made, ok := resource.(*clearwayv1.IPPool); ok && made.GetSpec().GetKind() == "LoadBalancer" {
				services.LoadBalancerIps = append(services.LoadBalancerIps, made.GetSpec().GetCidr())
			}
		}
		if len(services.GetLoadBalancerIps()) > 0 {
			spec.Services = services
		}
	}
	for _, kind := range []string{"ClusterIP", "ExternalIP"} {
		if kinds[kind] {
			m.find(Differs, "CiliumBGPAdvertisement", "%ss were advertised: Clearway tells them of prefixes that BGPConfiguration's services allows; name those", kind)
		}
	}
	if len(all) > 0 {
		m.find(Left, "CiliumBGPAdvertisement", "every node tells its own blocks to its BGPPeers; selectors and attributes of advertisements become BGPFilters, by hand")
	}
	return nil
}
