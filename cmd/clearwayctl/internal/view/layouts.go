package view

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest"
)

// layouts are the tables of all kinds, as seen at a time.
func layouts(now time.Time) map[string]layout {
	age := func(at *timestamppb.Timestamp) string { return Age(now, at) }
	return map[string]layout{
		"IPPool":            pools(age),
		"IPReservation":     reservations(age),
		"IPQuota":           quotas(age),
		"IPAMConfiguration": ipamConfigurations(age),
		"BGPConfiguration":  bgpConfigurations(age),
		"BGPPeer":           peers(age),
		"BGPFilter":         filters(age),
		"Node":              nodes(age),
		"Block":             blocks(age),
		"Assignment":        assignments(age),
		"BGPSession":        sessions(age),
		"Route":             routes(),
		"Event":             events(age),
	}
}

// ager writes how long ago a time was.
type ager func(*timestamppb.Timestamp) string

func name[T clearwayv1.Object]() column[T] {
	return column[T]{"NAME", false, func(o T) string { return o.GetMetadata().GetName() }}
}

func since[T clearwayv1.Object](age ager) column[T] {
	return column[T]{"AGE", false, func(o T) string { return age(o.GetMetadata().GetCreationTimestamp()) }}
}

func pools(age ager) layout {
	type T = *clearwayv1.IPPool
	return columns[T]{
		name[T](),
		{"CIDR", false, func(o T) string { return o.GetSpec().GetCidr() }},
		{"KIND", false, func(o T) string { return orText(o.GetSpec().GetKind(), "Block") }},
		{"BLOCKSIZE", false, func(o T) string { return number(o.GetSpec().GetBlockSize()) }},
		{"BLOCKS", false, func(o T) string { return count(o.GetStatus().GetBlocks()) }},
		{"FREE", false, func(o T) string { return Many(o.GetStatus().GetFreeBlocks()) }},
		{"ASSIGNED", false, func(o T) string { return of(o.GetStatus().GetAssigned(), o.GetStatus().GetBlockAddresses()) }},
		{"PHASE", false, func(o T) string { return o.GetStatus().GetPhase() }},
		{"FREEADDRESSES", true, func(o T) string { return Many(o.GetStatus().GetFreeAddresses()) }},
		{"CALLABLE", true, func(o T) string { return Many(o.GetStatus().GetCallableAddresses()) }},
		{"STRANDED", true, func(o T) string { return Many(o.GetStatus().GetStrandedAddresses()) }},
		{"LAYOUT", true, func(o T) string { return orText(o.GetSpec().GetLayout(), "Elastic") }},
		{"MINBLOCK", true, func(o T) string { return number(o.GetSpec().GetMinBlockSize()) }},
		{"PRIORITY", true, func(o T) string { return count(int64(o.GetSpec().GetPriority())) }},
		{"GATEWAY", true, func(o T) string { return o.GetSpec().GetGateway() }},
		{"NODES", true, func(o T) string { return Selector(o.GetSpec().GetNodeSelector()) }},
		{"NAMESPACES", true, func(o T) string { return Selector(o.GetSpec().GetNamespaceSelector()) }},
		{"PODS", true, func(o T) string { return Selector(o.GetSpec().GetPodSelector()) }},
		since[T](age),
	}
}

func reservations(age ager) layout {
	type T = *clearwayv1.IPReservation
	return columns[T]{
		name[T](),
		{"CIDRS", false, func(o T) string { return list(o.GetSpec().GetCidrs()) }},
		{"REASON", false, func(o T) string { return o.GetSpec().GetReason() }},
		{"UNTIL", false, func(o T) string { return o.GetSpec().GetUntil() }},
		{"PHASE", false, func(o T) string { return o.GetStatus().GetPhase() }},
		{"HELD", false, func(o T) string { return count(o.GetStatus().GetAssigned()) }},
		since[T](age),
	}
}

func quotas(age ager) layout {
	type T = *clearwayv1.IPQuota
	limited := func(used int64, limit *int32) string {
		if limit == nil {
			return ""
		}
		return count(used) + "/" + count(int64(*limit))
	}
	addresses := func(o T) *int32 {
		if o.GetSpec() == nil {
			return nil
		}
		return o.Spec.Addresses
	}
	blocks := func(o T) *int32 {
		if o.GetSpec() == nil {
			return nil
		}
		return o.Spec.Blocks
	}
	return columns[T]{
		name[T](),
		{"USED", false, func(o T) string { return limited(o.GetStatus().GetUsed(), addresses(o)) }},
		{"DELEGATED", false, func(o T) string { return limited(o.GetStatus().GetDelegated(), addresses(o)) }},
		{"BLOCKS", false, func(o T) string { return limited(o.GetStatus().GetBlocks(), blocks(o)) }},
		{"NAMESPACES", false, func(o T) string { return Selector(o.GetSpec().GetNamespaceSelector()) }},
		{"PODS", true, func(o T) string { return Selector(o.GetSpec().GetPodSelector()) }},
		{"NODES", true, func(o T) string { return Selector(o.GetSpec().GetNodeSelector()) }},
		{"POOLS", false, func(o T) string { return list(o.GetSpec().GetPools()) }},
		since[T](age),
	}
}

func ipamConfigurations(age ager) layout {
	type T = *clearwayv1.IPAMConfiguration
	return columns[T]{
		name[T](),
		{"COOLDOWN", false, func(o T) string { return o.GetSpec().GetCooldown() }},
		{"LOWWATER", false, func(o T) string {
			if o.GetSpec() == nil || o.Spec.LowWater == nil {
				return ""
			}
			return count(int64(o.GetSpec().GetLowWater()))
		}},
		{"BLOCKIDLE", false, func(o T) string { return o.GetSpec().GetBlockIdleTime() }},
		since[T](age),
	}
}

func bgpConfigurations(age ager) layout {
	type T = *clearwayv1.BGPConfiguration
	return columns[T]{
		name[T](),
		{"ASN", false, func(o T) string { return asn(o.GetSpec().GetAsNumber()) }},
		{"MESH", false, func(o T) string { return o.GetSpec().GetNodeMesh() }},
		{"PORT", false, func(o T) string { return number(o.GetSpec().GetListenPort()) }},
		{"HOLD", false, func(o T) string { return o.GetSpec().GetHoldTime() }},
		{"KEEPALIVE", true, func(o T) string { return o.GetSpec().GetKeepaliveTime() }},
		{"RESTART", true, func(o T) string { return restart(o.GetSpec().GetGracefulRestart()) }},
		{"AGGREGATES", false, func(o T) string { return list(o.GetSpec().GetAggregates()) }},
		since[T](age),
	}
}

func peers(age ager) layout {
	type T = *clearwayv1.BGPPeer
	return columns[T]{
		name[T](),
		{"PEER", false, func(o T) string { return o.GetSpec().GetPeerAddress() }},
		{"ASN", false, func(o T) string { return asn(o.GetSpec().GetPeerAsn()) }},
		{"SELECTOR", false, func(o T) string { return Selector(o.GetSpec().GetNodeSelector()) }},
		{"SESSIONS", false, func(o T) string {
			return of(int64(o.GetStatus().GetEstablished()), int64(o.GetStatus().GetWanted()))
		}},
		{"IMPORT", false, func(o T) string { return o.GetSpec().GetImportScope() }},
		{"LOCALASN", true, func(o T) string { return asn(o.GetSpec().GetLocalAsNumber()) }},
		{"HOLD", true, func(o T) string { return o.GetSpec().GetHoldTime() }},
		{"KEEPALIVE", true, func(o T) string { return o.GetSpec().GetKeepaliveTime() }},
		{"INFILTERS", true, func(o T) string { return list(o.GetSpec().GetImportFilters()) }},
		{"OUTFILTERS", true, func(o T) string { return list(o.GetSpec().GetExportFilters()) }},
		{"DISABLED", true, func(o T) string { return strconv.FormatBool(o.GetSpec().GetDisabled()) }},
		since[T](age),
	}
}

func filters(age ager) layout {
	type T = *clearwayv1.BGPFilter
	return columns[T]{
		name[T](),
		{"RULES", false, func(o T) string { return count(int64(len(o.GetSpec().GetRules()))) }},
		since[T](age),
	}
}

func nodes(age ager) layout {
	type T = *clearwayv1.Node
	return columns[T]{
		name[T](),
		{"STATUS", false, func(o T) string {
			if drain := o.GetStatus().GetDrain(); drain != "" {
				return o.GetStatus().GetPhase() + "," + drain
			}
			return o.GetStatus().GetPhase()
		}},
		{"ADDRESSES", false, func(o T) string { return list(o.GetStatus().GetAddresses()) }},
		{"ASN", false, func(o T) string { return asn(o.GetStatus().GetAsNumber()) }},
		{"BLOCKS", false, func(o T) string { return count(o.GetStatus().GetBlocks()) }},
		{"ASSIGNED", false, func(o T) string { return count(o.GetStatus().GetAssigned()) }},
		{"SESSIONS", false, func(o T) string {
			return of(int64(o.GetStatus().GetSessionsEstablished()), int64(o.GetStatus().GetSessionsWanted()))
		}},
		{"ROUTES", false, func(o T) string { return count(o.GetStatus().GetKernelRoutes()) }},
		{"RESTART", true, func(o T) string { return o.GetStatus().GetLastRestart() }},
		{"VERSION", true, func(o T) string { return o.GetStatus().GetAgentVersion() }},
		{"SEEN", true, func(o T) string { return age(o.GetStatus().GetLastSeenTime()) }},
		{"LABELS", true, func(o T) string { return Labels(o.GetStatus().GetLabels()) }},
		since[T](age),
	}
}

func blocks(age ager) layout {
	type T = *clearwayv1.Block
	return columns[T]{
		{"CIDR", false, func(o T) string { return o.GetSpec().GetCidr() }},
		{"POOL", false, func(o T) string { return o.GetSpec().GetPool() }},
		{"NODE", false, func(o T) string { return o.GetSpec().GetNode() }},
		{"STATE", false, func(o T) string { return manifest.EnumName(o.GetSpec().GetState()) }},
		{"ASSIGNED", false, func(o T) string { return of(o.GetStatus().GetAssigned(), o.GetStatus().GetAddresses()) }},
		{"COOLING", false, func(o T) string { return count(o.GetStatus().GetCooling()) }},
		{"SEALED", true, func(o T) string { return strconv.FormatBool(o.GetStatus().GetSealed()) }},
		{"OWNER", true, func(o T) string { return o.GetSpec().GetFloating().GetOwner() }},
		{"GENERATION", true, func(o T) string { return count(o.GetSpec().GetGeneration()) }},
		{"FREE-AT", true, func(o T) string { return clock(o.GetSpec().GetFreeTime()) }},
		{"AGE", false, func(o T) string { return age(o.GetSpec().GetClaimedTime()) }},
	}
}

func assignments(age ager) layout {
	type T = *clearwayv1.Assignment
	return columns[T]{
		{"ADDRESS", false, func(o T) string { return o.GetSpec().GetAddress() }},
		{"NODE", false, func(o T) string { return o.GetSpec().GetNode() }},
		{"NAMESPACE", false, func(o T) string { return o.GetSpec().GetPod().GetNamespace() }},
		{"POD", false, func(o T) string { return o.GetSpec().GetPod().GetName() }},
		{"NETWORK", false, func(o T) string { return o.GetSpec().GetAttachment().GetNetwork() }},
		{"POOL", false, func(o T) string { return o.GetSpec().GetPool() }},
		{"BLOCK", true, func(o T) string { return o.GetSpec().GetBlock() }},
		{"INTERFACE", true, func(o T) string { return o.GetSpec().GetAttachment().GetIfname() }},
		{"CONTAINER", true, func(o T) string { return o.GetSpec().GetAttachment().GetContainerId() }},
		{"NUMBER", true, func(o T) string { return count(o.GetSpec().GetJournalNumber()) }},
		{"AGE", false, func(o T) string { return age(o.GetSpec().GetAssignedTime()) }},
	}
}

func sessions(age ager) layout {
	type T = *clearwayv1.BGPSession
	return columns[T]{
		{"NODE", false, func(o T) string { return o.GetSpec().GetNode() }},
		{"PEER", false, func(o T) string { return o.GetSpec().GetPeerAddress() }},
		{"ASN", false, func(o T) string { return asn(o.GetSpec().GetPeerAsn()) }},
		{"STATE", false, func(o T) string { return o.GetStatus().GetState() }},
		{"SINCE", false, func(o T) string { return age(o.GetStatus().GetSince()) }},
		{"RECEIVED", false, func(o T) string { return count(o.GetStatus().GetReceived()) }},
		{"ACCEPTED", false, func(o T) string { return count(o.GetStatus().GetAccepted()) }},
		{"ADVERTISED", false, func(o T) string { return count(o.GetStatus().GetAdvertised()) }},
		{"LOCALASN", true, func(o T) string { return asn(o.GetSpec().GetLocalAsn()) }},
		{"FAMILIES", true, func(o T) string { return list(o.GetStatus().GetFamilies()) }},
		{"RESTART", true, func(o T) string { return strconv.FormatBool(o.GetStatus().GetGracefulRestart()) }},
		{"FLAPS", true, func(o T) string { return count(o.GetStatus().GetFlaps()) }},
		{"BFD", true, func(o T) string { return liveness(o.GetStatus().GetBfd()) }},
		{"ORIGIN", false, func(o T) string { return o.GetSpec().GetOrigin() }},
		{"REASON", false, func(o T) string { return o.GetStatus().GetReason() }},
	}
}

// liveness is BFD's state, and how soon it sees a cut or why it is down.
func liveness(s *clearwayv1.BFDStatus) string {
	switch {
	case s.GetDetectionTime() != "":
		return s.GetState() + " (" + s.GetDetectionTime() + ")"
	case s.GetDiagnostic() != "":
		return s.GetState() + " (" + s.GetDiagnostic() + ")"
	}
	return s.GetState()
}

func routes() layout {
	type T = *clearwayv1.Route
	return columns[T]{
		{"NODE", false, func(o T) string { return o.GetSpec().GetNode() }},
		{"PREFIX", false, func(o T) string { return o.GetSpec().GetPrefix() }},
		{"DIRECTION", false, func(o T) string { return o.GetSpec().GetDirection() }},
		{"NEXTHOPS", false, func(o T) string { return list(nextHops(o)) }},
		{"STATE", false, func(o T) string { return o.GetStatus().GetState() }},
		{"OWNER", false, func(o T) string { return o.GetStatus().GetOwner() }},
		{"PATHS", true, func(o T) string { return count(int64(len(o.GetStatus().GetPaths()))) }},
		{"ASPATH", true, func(o T) string { return asPath(o) }},
		{"COMMUNITIES", true, func(o T) string { return list(firstPath(o).GetCommunities()) }},
		{"REASON", false, func(o T) string { return o.GetStatus().GetReason() }},
	}
}

func events(age ager) layout {
	type T = *clearwayv1.Event
	return columns[T]{
		{"TIME", true, func(o T) string { return clock(o.GetSpec().GetTime()) }},
		{"AGE", false, func(o T) string { return age(o.GetSpec().GetTime()) }},
		{"TYPE", false, func(o T) string { return o.GetSpec().GetType() }},
		{"REASON", false, func(o T) string { return o.GetSpec().GetReason() }},
		{"NODE", false, func(o T) string { return o.GetSpec().GetNode() }},
		{"REGARDING", false, func(o T) string { return o.GetSpec().GetRegarding() }},
		{"MESSAGE", false, func(o T) string { return o.GetSpec().GetMessage() }},
	}
}

// nextHops are those in use: the best paths', or, where none is, every path's.
func nextHops(o *clearwayv1.Route) []string {
	var best, all []string
	for _, path := range o.GetStatus().GetPaths() {
		all = append(all, path.GetNextHop())
		if path.GetBest() {
			best = append(best, path.GetNextHop())
		}
	}
	if len(best) == 0 {
		best = all
	}
	slices.SortFunc(best, Addresses)
	return slices.Compact(best)
}

// firstPath is the best path, or the first; it may be nil.
func firstPath(o *clearwayv1.Route) *clearwayv1.RoutePath {
	paths := o.GetStatus().GetPaths()
	for _, path := range paths {
		if path.GetBest() {
			return path
		}
	}
	if len(paths) == 0 {
		return nil
	}
	return paths[0]
}

func asPath(o *clearwayv1.Route) string {
	var path []string
	for _, number := range firstPath(o).GetAsPath() {
		path = append(path, asn(number))
	}
	return strings.Join(path, " ")
}

func restart(settings *clearwayv1.GracefulRestart) string {
	if settings.GetDisabled() {
		return "disabled"
	}
	return settings.GetRestartTime()
}

// Selector writes a label selector in Kubernetes' text form; the one that selects all is "all()".
func Selector(selector *clearwayv1.LabelSelector) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(selector.GetMatchLabels())) {
		parts = append(parts, key+"="+selector.GetMatchLabels()[key])
	}
	for _, rule := range selector.GetMatchExpressions() {
		parts = append(parts, requirement(rule))
	}
	if len(parts) == 0 {
		return "all()"
	}
	return strings.Join(parts, ",")
}

func requirement(rule *clearwayv1.LabelSelectorRequirement) string {
	values := "(" + strings.Join(rule.GetValues(), ",") + ")"
	switch rule.GetOperator() {
	case "In":
		return rule.GetKey() + " in " + values
	case "NotIn":
		return rule.GetKey() + " notin " + values
	case "DoesNotExist":
		return "!" + rule.GetKey()
	}
	return rule.GetKey()
}

// Labels writes labels as "k=v,k2=v2", in order.
func Labels(labels map[string]string) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, key+"="+labels[key])
	}
	return strings.Join(parts, ",")
}

func list(values []string) string { return strings.Join(values, ",") }

func count(value int64) string { return strconv.FormatInt(value, 10) }

// Many writes a count that stops at 2^63-1: there the number is no longer the true one.
func Many(value int64) string {
	if value == math.MaxInt64 {
		return ">2^63"
	}
	return count(value)
}

// number writes a setting; zero means that it was not given.
func number(value int32) string {
	if value == 0 {
		return ""
	}
	return strconv.Itoa(int(value))
}

func asn(value uint32) string {
	if value == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(value), 10)
}

// of writes a part and its whole: "12/64".
func of(part, whole int64) string { return fmt.Sprintf("%d/%d", part, whole) }

func orText(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// clock writes a time to the second, in UTC.
func clock(at *timestamppb.Timestamp) string {
	if at == nil {
		return ""
	}
	return at.AsTime().UTC().Format(time.RFC3339)
}
