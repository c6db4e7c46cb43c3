package speaker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

const (
	// allowAnyOwnAS keeps GoBGP from dropping looped paths by itself: it leaves the peer's former path in place then,
	// and tells nobody. The import policy counts instead, and says why.
	allowAnyOwnAS = 255
	// deferralSeconds is how long GoBGP keeps quiet after a restart while it waits for others' End-of-RIB (RFC 4724
	// section 4.1). What we tell does not depend on what we hear, so it need not wait at all; 0 would mean 360 s.
	deferralSeconds = 1
	// idleHoldSeconds is the least wait after a reset by an administrator; 0 would mean 30 s.
	idleHoldSeconds = 1
)

// peerOf is a neighbour as GoBGP takes it. restarting sets the Restart State and Forwarding State bits of our OPEN.
func peerOf(n config.Neighbor, password string, restarting bool) *api.Peer {
	peer := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: n.Address.String(), PeerAsn: n.PeerASN, LocalAsn: n.LocalASN,
			AuthPassword: password, AllowOwnAsn: allowAnyOwnAS,
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: seconds(n.HoldTime), KeepaliveInterval: seconds(n.KeepaliveTime),
			ConnectRetry: seconds(n.ConnectRetryTime), IdleHoldTimeAfterReset: idleHoldSeconds,
		}},
		Transport: &api.Transport{RemotePort: uint32(n.Port), PassiveMode: n.Passive},
		// A plain eBGP session is sent with TTL 1; GoBGP does the same to a peer it takes for external.
		EbgpMultihop: &api.EbgpMultihop{},
	}
	if n.MultihopTTL > 0 && n.EBGP() {
		peer.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(n.MultihopTTL)}
	}
	if n.TTLSecurity > 0 {
		peer.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 256 - uint32(n.TTLSecurity)}
	}
	if n.SourceAddress.IsValid() {
		peer.Transport.LocalAddress = n.SourceAddress.String()
	}
	longLived := n.GracefulRestart.Enabled && n.GracefulRestart.LongLived > 0
	if n.ClusterID.IsValid() {
		peer.RouteReflector = &api.RouteReflector{RouteReflectorClient: true, RouteReflectorClusterId: n.ClusterID.String()}
	}
	if n.GracefulRestart.Enabled {
		peer.GracefulRestart = &api.GracefulRestart{
			LonglivedEnabled: longLived,
			Enabled:          true, RestartTime: uint32(seconds(n.GracefulRestart.RestartTime)), DeferralTime: deferralSeconds,
			// RFC 8538 is not offered: with it an expired hold timer, too, leaves the routes in place. A road that
			// silently carries nothing would be used for the whole restart time although there is another.
			NotificationEnabled: false,
			LocalRestarting:     restarting,
		}
	}
	for _, family := range n.Families {
		afi := &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: apiFamily(family), Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: n.GracefulRestart.Enabled}},
		}
		if longLived {
			afi.LongLivedGracefulRestart = &api.LongLivedGracefulRestart{Config: &api.LongLivedGracefulRestartConfig{
				Enabled: true, RestartTime: uint32(seconds(n.GracefulRestart.LongLived)),
			}}
		}
		if n.AddPathReceive {
			afi.AddPaths = &api.AddPaths{Config: &api.AddPathsConfig{Receive: true}}
		}
		peer.AfiSafis = append(peer.AfiSafis, afi)
	}
	return peer
}

func seconds(d time.Duration) uint64 { return uint64(d / time.Second) }

func apiFamily(family route.Family) *api.Family {
	if family == route.IPv4 {
		return &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
	}
	return &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
}

// maxPassword is TCP_MD5SIG_MAXKEYLEN of Linux.
const maxPassword = 80

// readPassword reads the first line of a file. Its errors name the file and never hold what is in it.
func readPassword(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	f, err := os.Open(file)
	if err != nil {
		var path *os.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return "", fmt.Errorf("password file %s cannot be read: %w", file, err)
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, maxPassword+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("password file %s cannot be read", file)
	}
	line = strings.TrimRight(line, "\r\n")
	switch {
	case line == "":
		return "", fmt.Errorf("password file %s has an empty first line; it must hold the password", file)
	case len(line) > maxPassword:
		return "", fmt.Errorf("the password in %s is too long: TCP-MD5 takes at most %d bytes", file, maxPassword)
	}
	return line, nil
}

// policies are the two global ones: import takes in what is ours alone; export sends what is ours, but for what a
// neighbour is not to get, and with the next hop that the neighbour is to have.
func policies(desired config.Desired) *api.SetPoliciesRequest {
	request := &api.SetPoliciesRequest{}
	local := &api.Statement{
		Name:       "ours",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}
	export := &api.Policy{Name: exportPolicy, Statements: gate(request, desired.Neighbors)}
	for _, n := range desired.Neighbors {
		export.Statements = append(export.Statements, withhold(request, n)...)
		if n.LinkLocal() {
			export.Statements = append(export.Statements, nextHopSelf(request, n, n.Families))
		}
		for _, family := range n.Families {
			if next := n.NextHop(family); next.IsValid() && next != desired.Global.NextHop(family) {
				export.Statements = append(export.Statements, nextHop(request, n, family, next))
			}
		}
	}
	for _, r := range desired.Ranges {
		export.Statements = append(export.Statements, rangeStatements(request, desired.Global, r)...)
	}
	export.Statements = append(export.Statements, tell(request, desired)...)
	export.Statements = append(export.Statements, &api.Statement{
		Name: "ours to them", Conditions: local.Conditions, Actions: local.Actions,
	})
	request.Policies = []*api.Policy{{Name: importPolicy, Statements: []*api.Statement{local}}, export}
	return request
}

const (
	importPolicy = "clearway import"
	exportPolicy = "clearway export"
)

// neighborSet is one neighbour. A link-local one is so on all its interfaces: GoBGP compares addresses without zones.
func neighborSet(request *api.SetPoliciesRequest, n config.Neighbor) *api.MatchSet {
	plain := n.Address.WithZone("")
	return prefixedSet(request, netip.PrefixFrom(plain, plain.BitLen()))
}

func prefixedSet(request *api.SetPoliciesRequest, prefix netip.Prefix) *api.MatchSet {
	name := "neighbor " + prefix.String()
	for _, set := range request.DefinedSets {
		if set.Name == name {
			return &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: name}
		}
	}
	request.DefinedSets = append(request.DefinedSets, &api.DefinedSet{
		DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: name, List: []string{prefix.String()},
	})
	return &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: name}
}

// nextHopSelf makes the session's own end the next hop: what fits an address that is another on each interface.
func nextHopSelf(request *api.SetPoliciesRequest, n config.Neighbor, families []route.Family) *api.Statement {
	conditions := &api.Conditions{NeighborSet: neighborSet(request, n)}
	for _, family := range families {
		conditions.AfiSafiIn = append(conditions.AfiSafiIn, apiFamily(family))
	}
	return &api.Statement{
		Name: "own end to " + n.Address.String(), Conditions: conditions,
		Actions: &api.Actions{Nexthop: &api.NexthopAction{Self: true}},
	}
}

func withhold(request *api.SetPoliciesRequest, n config.Neighbor) []*api.Statement {
	return withholdFrom(request, n.Withhold, n.Address.String(), func() *api.MatchSet { return neighborSet(request, n) })
}

func withholdFrom(request *api.SetPoliciesRequest, prefixes []netip.Prefix, who string, to func() *api.MatchSet) []*api.Statement {
	var statements []*api.Statement
	for _, family := range []route.Family{route.IPv4, route.IPv6} {
		set := &api.DefinedSet{
			DefinedType: api.DefinedType_DEFINED_TYPE_PREFIX, Name: fmt.Sprintf("withhold IPv%d from %s", family, who),
		}
		for _, prefix := range prefixes {
			if route.FamilyOf(prefix) == family {
				bits := uint32(prefix.Bits())
				set.Prefixes = append(set.Prefixes, &api.Prefix{IpPrefix: prefix.String(), MaskLengthMin: bits, MaskLengthMax: bits})
			}
		}
		if len(set.Prefixes) == 0 {
			continue
		}
		request.DefinedSets = append(request.DefinedSets, set)
		statements = append(statements, &api.Statement{
			Name: set.Name,
			Conditions: &api.Conditions{
				NeighborSet: to(), PrefixSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: set.Name},
			},
			Actions: &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT},
		})
	}
	return statements
}

func nextHop(request *api.SetPoliciesRequest, n config.Neighbor, family route.Family, next netip.Addr) *api.Statement {
	return &api.Statement{
		Name:       fmt.Sprintf("IPv%d next hop to %s", family, n.Address),
		Conditions: &api.Conditions{NeighborSet: neighborSet(request, n), AfiSafiIn: []*api.Family{apiFamily(family)}},
		Actions:    &api.Actions{Nexthop: &api.NexthopAction{Address: next.String()}},
	}
}
