package migrate

import (
	"net/netip"

	"go4.org/netipx"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// gateways gives a pool another gateway than its default where a Pod has that address: other networks give to Pods what is a
// pool's gateway here.
func (m *maker) gateways() {
	held := map[netip.Addr]string{}
	for _, one := range m.pods {
		for _, addr := range one.addresses() {
			held[addr] = one.name()
		}
	}
	for _, resource := range m.plan.Resources {
		made, ok := resource.(*clearwayv1.IPPool)
		if !ok || made.GetSpec().GetKind() != "Block" {
			continue
		}
		prefix := netip.MustParsePrefix(made.GetSpec().GetCidr()) // it was made of one
		holder, taken := held[prefix.Addr().Next()]
		if !taken {
			continue
		}
		gateway := netipx.PrefixLastIP(prefix).Prev()
		for _, taken := held[gateway]; taken; _, taken = held[gateway] {
			gateway = gateway.Prev()
		}
		made.Spec.Gateway = gateway.String()
		m.find(Left, "IPPool/"+made.GetMetadata().GetName(), "its gateway is %s, as %s has the default one, %s", gateway, holder, prefix.Addr().Next())
	}
}
