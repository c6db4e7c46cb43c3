package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/clearway/clearway/bgp/policy"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// maxLongLived is what the 24 bits of RFC 9494's stale time hold, in whole days.
const maxLongLived = 194 * 24 * time.Hour

// asTrans stands in for AS numbers that do not fit 16 bits (RFC 6793 section 9); nobody has it.
const asTrans = 23456

// Validate lists every fault of a BGPConfiguration, BGPPeer, BGPFilter or Node, and of what an IPPool says of BGP: each names the field, its value and
// what would be right. Index and Resource of the violations are left to the caller. Other kinds have no faults here.
func Validate(object clearwayv1.Object) []*clearwayv1.FieldViolation {
	var f faults
	switch object := object.(type) {
	case *clearwayv1.BGPConfiguration:
		f.configuration(object)
	case *clearwayv1.BGPPeer:
		f.peer(object.GetSpec())
	case *clearwayv1.BGPFilter:
		_, found := policy.ParseFilter(object)
		f = append(f, found...)
	case *clearwayv1.Node:
		f.node(object.GetSpec())
	case *clearwayv1.IPPool:
		f.communities("spec.communities", object.GetSpec().GetCommunities())
	}
	return f
}

// faults collects violations.
type faults []*clearwayv1.FieldViolation

func (f *faults) add(field string, value any, format string, args ...any) {
	*f = append(*f, &clearwayv1.FieldViolation{
		Field: field, Value: fmt.Sprint(value), Message: fmt.Sprintf(format, args...),
	})
}

func (f *faults) configuration(object *clearwayv1.BGPConfiguration) {
	if name := object.GetMetadata().GetName(); name != DefaultName {
		f.add("metadata.name", name, "must be %q: there is one BGPConfiguration in force", DefaultName)
	}
	spec := object.GetSpec()
	f.asn("spec.asNumber", spec.GetAsNumber(), true)
	switch spec.GetNodeMesh() {
	case "", MeshAuto, MeshFull, MeshNone, MeshReflectors:
	default:
		f.add("spec.nodeMesh", spec.GetNodeMesh(), "must be Auto, Full, Reflectors or None")
	}
	f.reflectors(spec)
	if port := spec.GetListenPort(); port < -1 || port > 65535 {
		f.add("spec.listenPort", port, "must be 1 to 65535, -1 not to listen, or absent for %d", defaults.port)
	}
	f.aggregates(spec.GetAggregates())
	f.collectors(spec.GetBmpCollectors())
	f.timers(spec.GetHoldTime(), spec.GetKeepaliveTime())
	f.gracefulRestart(spec.GetGracefulRestart())
	f.bfd(spec.GetBfd())
	f.prefixCommunities(spec.GetPrefixCommunities())
	f.originated(spec.GetOriginatedAggregates())
	f.services(spec.GetServices())
}

// maxServicePrefixes bounds each allow-list of Services' addresses.
const maxServicePrefixes = 32

func (f *faults) services(spec *clearwayv1.ServiceRoutes) {
	for _, list := range []struct {
		name  string
		texts []string
	}{{"loadBalancerIPs", spec.GetLoadBalancerIps()}, {"externalIPs", spec.GetExternalIps()}, {"clusterIPs", spec.GetClusterIps()}} {
		field := "spec.services." + list.name
		if len(list.texts) > maxServicePrefixes {
			f.add(field, len(list.texts), "are more than %d", maxServicePrefixes)
		}
		for i, text := range list.texts {
			prefix, why := policy.ParsePrefix(text)
			switch {
			case why != "":
				f.add(fmt.Sprintf("%s[%d]", field, i), text, "%s", why)
			case prefix.Bits() == 0:
				f.add(fmt.Sprintf("%s[%d]", field, i), text, "allows every address; name the prefixes that Services may have theirs in")
			}
		}
	}
	f.selector("spec.services.nodeSelector", spec.GetNodeSelector())
}

func (f *faults) originated(items []*clearwayv1.Aggregate) {
	const most = 20 // what the API server allows for, with a selector of nodes in each (CEL cost)
	if len(items) > most {
		f.add("spec.originatedAggregates", len(items), "are more than %d", most)
	}
	seen := map[netip.Prefix]bool{}
	for i, item := range items {
		field := fmt.Sprintf("spec.originatedAggregates[%d]", i)
		prefix, why := policy.ParsePrefix(item.GetCidr())
		switch {
		case why != "":
			f.add(field+".cidr", item.GetCidr(), "%s", why)
		case prefix.Bits() == 0:
			f.add(field+".cidr", item.GetCidr(), "is a default route, which is no aggregate")
		case seen[prefix]:
			f.add(field+".cidr", item.GetCidr(), "is there twice")
		}
		seen[prefix] = true
		f.selector(field+".nodeSelector", item.GetNodeSelector())
		f.communities(field+".communities", item.GetCommunities())
	}
}

func (f *faults) reflectors(spec *clearwayv1.BGPConfigurationSpec) {
	r := spec.GetReflectors()
	if n := r.GetThreshold(); n != 0 && (n < 4 || n > 10000) {
		f.add("spec.reflectors.threshold", n, "must be 4 to 10000, or absent for %d", defaults.reflectAbove)
	}
	if n := r.GetClientsPerReflector(); n != 0 && (n < 10 || n > 1000) {
		f.add("spec.reflectors.clientsPerReflector", n, "must be 10 to 1000, or absent for %d", defaults.clientsPerReflector)
	}
	if label := r.GetDomainLabel(); label != "" {
		for _, why := range validation.IsQualifiedName(label) {
			f.add("spec.reflectors.domainLabel", label, "%s", why)
		}
	}
	f.selector("spec.reflectors.selector", r.GetSelector())
	if spec.GetNodeMesh() == MeshReflectors && len(r.GetSelector().GetMatchLabels())+len(r.GetSelector().GetMatchExpressions()) == 0 {
		f.add("spec.reflectors.selector", "", "is missing: with nodeMesh Reflectors it selects the nodes that reflect")
	}
}

// The most communities of one prefix, and the most prefixes that have some.
const (
	maxCommunities         = 32
	maxPrefixesCommunities = 256
)

func (f *faults) communities(field string, texts []string) {
	if len(texts) > maxCommunities {
		f.add(field, len(texts), "are more than %d", maxCommunities)
	}
	_, found := policy.ParseCommunities(field, texts, false)
	*f = append(*f, found...)
}

func (f *faults) prefixCommunities(items []*clearwayv1.PrefixCommunities) {
	if len(items) > maxPrefixesCommunities {
		f.add("spec.prefixCommunities", len(items), "are more than %d", maxPrefixesCommunities)
	}
	for i, item := range items {
		field := fmt.Sprintf("spec.prefixCommunities[%d]", i)
		if _, why := policy.ParsePrefix(item.GetCidr()); why != "" {
			f.add(field+".cidr", item.GetCidr(), "%s", why)
		}
		if len(item.GetCommunities()) == 0 {
			f.add(field+".communities", "", "must have at least one")
		}
		f.communities(field+".communities", item.GetCommunities())
	}
}

func (f *faults) aggregates(texts []string) {
	seen := map[netip.Prefix]bool{}
	for i, text := range texts {
		field := fmt.Sprintf("spec.aggregates[%d]", i)
		prefix, why := policy.ParsePrefix(text)
		switch {
		case why != "":
			f.add(field, text, "%s", why)
		case prefix.Bits() == 0:
			f.add(field, text, "is a default route, which is no aggregate; a BGPPeer with importScope: All takes one")
		case seen[prefix]:
			f.add(field, text, "is there twice")
		}
		seen[prefix] = true
	}
}

func (f *faults) asn(field string, asn uint32, optional bool) {
	switch {
	case asn == 0 && !optional:
		f.add(field, asn, "must be an AS number, 1 to 4294967295")
	case asn == asTrans:
		f.add(field, asn, "is AS_TRANS (RFC 6793), which nobody has; use another AS number")
	}
}

func (f *faults) peer(spec *clearwayv1.BGPPeerSpec) {
	f.selector("spec.nodeSelector", spec.GetNodeSelector())
	f.asn("spec.localASNumber", spec.GetLocalAsNumber(), true)
	f.who(spec)
	if port := spec.GetPeerPort(); port < 0 || port > 65535 {
		f.add("spec.peerPort", port, "must be 1 to 65535, or absent for %d", defaults.port)
	}
	f.timers(spec.GetHoldTime(), spec.GetKeepaliveTime())
	f.duration("spec.connectRetryTime", spec.GetConnectRetryTime(), time.Second, 65535*time.Second)
	f.gracefulRestart(spec.GetGracefulRestart())
	f.bfd(spec.GetBfd())
	if _, ok := scopes[spec.GetImportScope()]; !ok {
		f.add("spec.importScope", spec.GetImportScope(), "must be Owned, Pools or All")
	}
	if ttl := spec.GetMultihopTtl(); ttl != 0 && (ttl < 2 || ttl > 255) {
		f.add("spec.multihopTTL", ttl, "must be 2 to 255, or absent for a peer that is on-link")
	}
	if file := spec.GetPasswordFile(); file != "" && !filepath.IsAbs(file) {
		// The value is not repeated: who mixes the two up has written the password.
		f.add("spec.passwordFile", "", "must be the absolute path of a file on the node that has the password")
	}
	f.names("spec.importFilters", spec.GetImportFilters())
	f.names("spec.exportFilters", spec.GetExportFilters())
	f.families(spec.GetFamilies())
	if times := spec.GetAllowOwnAs(); times < 0 || times > 10 {
		f.add("spec.allowOwnAS", times, "must be 0 to 10")
	}
}

// host reads an address that one machine can have.
func (f *faults) host(field, text string) netip.Addr {
	address, err := netip.ParseAddr(text)
	switch {
	case text == "":
		f.add(field, text, "is missing; write an address such as 192.0.2.1 or 2001:db8::1")
	case err != nil:
		f.add(field, text, "is no address; write it as 192.0.2.1 or 2001:db8::1")
	case address.Is4In6():
		f.add(field, text, "is an IPv4-mapped IPv6 address; write %s", address.Unmap())
	case address.IsLinkLocalUnicast() && address.Is6():
		if isInterface(address.Zone()) && address.Zone() != "" {
			return address
		}
		f.add(field, text, "is link-local: write its interface too, as fe80::1%%eth1")
	case !isHost(address):
		f.add(field, text, "is not the address of one machine")
	default:
		return address
	}
	return netip.Addr{}
}

func isHost(address netip.Addr) bool {
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return !address.IsUnspecified() && !address.IsMulticast() && address != broadcast && address.Zone() == ""
}

func (f *faults) timers(holdText, keepaliveText string) {
	hold, ok := f.duration("spec.holdTime", holdText, 3*time.Second, 65535*time.Second)
	if !ok {
		hold = defaults.hold
	}
	keepalive, ok := f.duration("spec.keepaliveTime", keepaliveText, time.Second, 21845*time.Second)
	if ok && keepalive > hold/3 {
		f.add("spec.keepaliveTime", keepaliveText, "must be at most a third of the hold time %s: %s", hold,
			(hold / 3).Truncate(time.Second))
	}
}

// duration reads a duration in whole seconds within bounds; ok is false where there is none.
func (f *faults) duration(field, text string, least, most time.Duration) (value time.Duration, ok bool) {
	if text == "" {
		return 0, false
	}
	value, err := time.ParseDuration(text)
	switch {
	case err != nil:
		f.add(field, text, "is no duration; write it as 9s or 1m30s")
	case value < least || value > most:
		f.add(field, text, "must be %s to %s", least, most)
	case value%time.Second != 0:
		f.add(field, text, "must be whole seconds: BGP counts in them")
	default:
		return value, true
	}
	return 0, false
}

func (f *faults) gracefulRestart(spec *clearwayv1.GracefulRestart) {
	f.duration("spec.gracefulRestart.restartTime", spec.GetRestartTime(), time.Second, 4095*time.Second)
	f.duration("spec.gracefulRestart.deferralTime", spec.GetDeferralTime(), time.Second, 4095*time.Second)
	f.duration("spec.gracefulRestart.longLivedTime", spec.GetLongLivedTime(), time.Second, maxLongLived)
	if spec.GetDisabled() && spec.GetLongLivedTime() != "" {
		f.add("spec.gracefulRestart.longLivedTime", spec.GetLongLivedTime(), "needs graceful restart, which is disabled (RFC 9494 section 4.1)")
	}
}

func (f *faults) names(field string, names []string) { f.namesOf(field, "BGPFilter", names) }

func (f *faults) namesOf(field, kind string, names []string) {
	seen := map[string]bool{}
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", field, i)
		if len(validation.IsDNS1123Subdomain(name)) > 0 {
			f.add(at, name, "must be the name of a %s: lower case letters, digits, '-' and '.'", kind)
		} else if seen[name] {
			f.add(at, name, "is there twice")
		}
		seen[name] = true
	}
}

func (f *faults) families(texts []string) {
	seen := map[string]bool{}
	for i, text := range texts {
		field := fmt.Sprintf("spec.families[%d]", i)
		if _, ok := families[text]; !ok {
			f.add(field, text, "must be IPv4 or IPv6")
		} else if seen[text] {
			f.add(field, text, "is there twice")
		}
		seen[text] = true
	}
}

func (f *faults) drain(spec *clearwayv1.Drain) {
	f.namesOf("spec.drain.peers", "BGPPeer", spec.GetPeers())
	if prepend := spec.GetPrepend(); prepend < 0 || prepend > 10 {
		f.add("spec.drain.prepend", prepend, "must be 0 to 10")
	}
	if spec.GetKeep() && spec.GetWithdraw() {
		f.add("spec.drain.keep", true, "says that nothing is withdrawn, and withdraw that all is; leave one of them out")
	}
}

func (f *faults) node(spec *clearwayv1.NodeSpec) {
	f.drain(spec.GetDrain())
	f.asn("spec.asNumber", spec.GetAsNumber(), true)
	seen := map[bool]string{}
	for i, text := range spec.GetAddresses() {
		field := fmt.Sprintf("spec.addresses[%d]", i)
		prefix, err := netip.ParsePrefix(text)
		if err != nil || prefix.Addr().Is4In6() {
			f.add(field, text, "must be an address with its prefix length, such as 192.0.2.11/24 or 2001:db8::11/64")
			continue
		}
		if !isHost(prefix.Addr()) || prefix.Addr().IsLoopback() || prefix.Addr().IsLinkLocalUnicast() {
			f.add(field, text, "is no address by which other machines reach the node")
		}
		if before, two := seen[prefix.Addr().Is4()]; two {
			f.add(field, text, "is the second of its family, after %s; name one a family", before)
		}
		seen[prefix.Addr().Is4()] = text
	}
	for key, value := range spec.GetLabels() {
		for _, why := range validation.IsQualifiedName(key) {
			f.add(fmt.Sprintf("spec.labels[%s]", key), key, "%s", why)
		}
		for _, why := range validation.IsValidLabelValue(value) {
			f.add(fmt.Sprintf("spec.labels[%s]", key), value, "%s", why)
		}
	}
}

var operators = map[string]selection.Operator{
	"In": selection.In, "NotIn": selection.NotIn, "Exists": selection.Exists, "DoesNotExist": selection.DoesNotExist,
}

func (f *faults) selector(field string, selector *clearwayv1.LabelSelector) {
	for key, value := range selector.GetMatchLabels() {
		f.requirement(field+".matchLabels["+key+"]", key, selection.Equals, []string{value})
	}
	for i, expression := range selector.GetMatchExpressions() {
		at := fmt.Sprintf("%s.matchExpressions[%d]", field, i)
		operator, ok := operators[expression.GetOperator()]
		if !ok {
			f.add(at+".operator", expression.GetOperator(), "must be In, NotIn, Exists or DoesNotExist")
			continue
		}
		f.requirement(at, expression.GetKey(), operator, expression.GetValues())
	}
}

func (f *faults) requirement(field, key string, operator selection.Operator, values []string) {
	if _, err := labels.NewRequirement(key, operator, values); err != nil {
		f.add(field, key, "%s", err)
	}
}
