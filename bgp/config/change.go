package config

import (
	"net/netip"
	"reflect"
	"slices"
)

// Effect is what a new configuration does to one session.
type Effect string

// The effects.
const (
	SessionAdded   Effect = "Added"
	SessionRemoved Effect = "Removed"
	SessionReset   Effect = "Reset" // it ends, and begins anew
	// SessionKept: it stays Established. What changed takes effect at once, but for Later.
	SessionKept Effect = "Kept"
)

// SessionChange is what a new configuration does to one session that it touches.
type SessionChange struct {
	Address netip.Addr
	Origin  string // what wants it, or wanted it
	Effect  Effect
	// Forcing are the fields that a reset is for, as they are written in resources: "peerASN". Of a path to a password
	// it is only known that it is another one: with the same password in it there is no reset.
	Forcing []string
	// Later are the fields that changed and take effect when the session next comes up.
	Later []string
}

// SessionChanges compares two configurations and lists, by address, the sessions that differ. The speaker goes by the
// same fields, so that what is foretold is what happens.
func SessionChanges(before, after Desired) []SessionChange {
	shared := RestartFields(before.Global, after.Global)
	had := map[netip.Addr]Neighbor{}
	for _, n := range before.Neighbors {
		had[n.Address] = n
	}
	var changes []SessionChange
	for _, n := range after.Neighbors {
		was, there := had[n.Address]
		delete(had, n.Address)
		switch change, differs := changeOf(was, n, shared); {
		case !there:
			changes = append(changes, SessionChange{Address: n.Address, Origin: n.Origin, Effect: SessionAdded})
		case differs:
			changes = append(changes, change)
		}
	}
	for address, n := range had {
		changes = append(changes, SessionChange{Address: address, Origin: n.Origin, Effect: SessionRemoved})
	}
	slices.SortFunc(changes, func(a, b SessionChange) int { return a.Address.Compare(b.Address) })
	return changes
}

func changeOf(before, after Neighbor, shared []string) (change SessionChange, differs bool) {
	change = SessionChange{
		Address: after.Address, Origin: after.Origin, Effect: SessionKept,
		Forcing: append(slices.Clone(shared), ResetFields(before, after)...),
	}
	if len(change.Forcing) > 0 {
		change.Effect = SessionReset
		return change, true
	}
	change.Later = LaterFields(before, after)
	return change, !reflect.DeepEqual(before, after)
}

// ResetFields names the fields whose change ends the session: what the OPEN says, what a socket is made with, and
// where it leads. Empty: the session stays.
func ResetFields(before, after Neighbor) []string {
	return differing(neighborFields, before, after, resets)
}

// LaterFields names the fields that changed and are the next session's: what the present one agreed on holds.
func LaterFields(before, after Neighbor) []string {
	return differing(neighborFields, before, after, later)
}

// RestartFields names the shared fields whose change ends every session of the node.
func RestartFields(before, after Global) []string {
	return differing(globalFields, before, after, resets)
}

// when tells what becomes of a session when a field changes.
type when int

const (
	atOnce when = iota // without touching the session
	later              // with the next session
	resets
)

// field is one field of a value: where it stands, what it is called in resources, and what its change does.
type field[T any] struct {
	path, name string
	when       when
	value      func(T) any
}

func differing[T any](fields []field[T], before, after T, which when) []string {
	var names []string
	for _, f := range fields {
		if f.when == which && !reflect.DeepEqual(f.value(before), f.value(after)) {
			names = append(names, f.name)
		}
	}
	return names
}

// neighborFields are all fields of a Neighbor but for its key.
var neighborFields = []field[Neighbor]{
	{"Port", "peerPort", resets, func(n Neighbor) any { return n.Port }},
	{"PeerASN", "peerASN", resets, func(n Neighbor) any { return n.PeerASN }},
	{"LocalASN", "localASNumber", resets, func(n Neighbor) any { return n.LocalASN }},
	{"Families", "families", resets, func(n Neighbor) any { return n.Families }},
	{"GracefulRestart.Enabled", "gracefulRestart.disabled", resets, func(n Neighbor) any { return n.GracefulRestart.Enabled }},
	{"SourceAddress", "sourceAddress", resets, func(n Neighbor) any { return n.SourceAddress }},
	{"MultihopTTL", "multihopTTL", resets, func(n Neighbor) any { return n.ttl() }},
	{"TTLSecurity", "ttlSecurityHops", resets, func(n Neighbor) any { return n.TTLSecurity }},
	{"AddPathReceive", "addPath.receive", resets, func(n Neighbor) any { return n.AddPathReceive }},
	{"GracefulRestart.LongLived", "gracefulRestart.longLivedTime", resets, func(n Neighbor) any { return n.GracefulRestart.LongLived > 0 }},
	{"PasswordFile", "passwordFile", resets, func(n Neighbor) any { return n.PasswordFile }},

	{"HoldTime", "holdTime", later, func(n Neighbor) any { return n.HoldTime }},
	{"KeepaliveTime", "keepaliveTime", later, func(n Neighbor) any { return n.KeepaliveTime }},
	{"ConnectRetryTime", "connectRetryTime", later, func(n Neighbor) any { return n.ConnectRetryTime }},
	{"Passive", "passive", later, func(n Neighbor) any { return n.Passive }},
	{"GracefulRestart.RestartTime", "gracefulRestart.restartTime", later, func(n Neighbor) any { return n.GracefulRestart.RestartTime }},

	{"GracefulRestart.LongLived", "gracefulRestart.longLivedTime", later, func(n Neighbor) any { return n.GracefulRestart.LongLived }},

	{"MaxPrefixes.Limit", "maxPrefixes.limit", atOnce, func(n Neighbor) any { return n.MaxPrefixes.Limit }},
	{"MaxPrefixes.Action", "maxPrefixes.action", atOnce, func(n Neighbor) any { return n.MaxPrefixes.Action }},
	{"MaxPrefixes.RestartAfter", "maxPrefixes.restartAfter", atOnce, func(n Neighbor) any { return n.MaxPrefixes.RestartAfter }},
	{"MaxPrefixes.WarnAt", "maxPrefixes.warnPercent", atOnce, func(n Neighbor) any { return n.MaxPrefixes.WarnAt }},
	{"GracefulRestart.DeferralTime", "gracefulRestart.deferralTime", atOnce, func(n Neighbor) any { return n.GracefulRestart.DeferralTime }},
	{"Origin", "", atOnce, func(n Neighbor) any { return n.Origin }},
	{"MeshNode", "", atOnce, func(n Neighbor) any { return n.MeshNode }},
	{"NextHop4", "", atOnce, func(n Neighbor) any { return n.NextHop4 }},
	{"NextHop6", "", atOnce, func(n Neighbor) any { return n.NextHop6 }},
	{"BFD", "bfd", atOnce, func(n Neighbor) any { return n.BFD }},
	{"Scope", "importScope", atOnce, func(n Neighbor) any { return n.Scope }},
	{"AllowOwnAS", "allowOwnAS", atOnce, func(n Neighbor) any { return n.AllowOwnAS }},
	{"Import", "importFilters", atOnce, func(n Neighbor) any { return n.Import }},
	{"Export", "exportFilters", atOnce, func(n Neighbor) any { return n.Export }},
	{"Withhold", "exportFilters", atOnce, func(n Neighbor) any { return n.Withhold }},
	{"ClusterID", "addresses", resets, func(n Neighbor) any { return n.ClusterID }},
	{"Client", "nodeMesh", atOnce, func(n Neighbor) any { return n.Client }},
	{"Reflects", "nodeMesh", atOnce, func(n Neighbor) any { return n.Reflects }},
	{"Leaving", "drain", atOnce, func(n Neighbor) any { return n.Leaving }},
	{"Withdrawn", "drain", atOnce, func(n Neighbor) any { return n.Withdrawn }},
	{"Told", "exportFilters", atOnce, func(n Neighbor) any { return n.Told }},
}

// ttl is what the field comes to: an internal session has no TTL of its own.
func (n Neighbor) ttl() uint8 {
	if !n.EBGP() {
		return 0
	}
	return n.MultihopTTL
}

var globalFields = []field[Global]{
	{"ASN", "asNumber", resets, func(g Global) any { return g.ASN }},
	{"RouterID", "addresses", resets, func(g Global) any { return g.RouterID }},
	{"ListenPort", "listenPort", resets, func(g Global) any { return g.ListenPort }},
	{"NextHop4", "addresses", atOnce, func(g Global) any { return g.NextHop4 }},
	{"NextHop6", "addresses", atOnce, func(g Global) any { return g.NextHop6 }},
	{"BMP", "bmpCollectors", atOnce, func(g Global) any { return g.BMP }},
}
