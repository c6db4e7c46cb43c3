package speaker

import (
	"net/netip"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
)

// What config foretells is what GoBGP is made to do: it is to have something else for exactly the fields that need a reset
// or are the next session's, and none of the others.
func TestResetsAreAsForetold(t *testing.T) {
	for name, change := range map[string]func(*config.Neighbor){
		"Port":             func(n *config.Neighbor) { n.Port = 1179 },
		"PeerASN":          func(n *config.Neighbor) { n.PeerASN = 1 },
		"LocalASN":         func(n *config.Neighbor) { n.LocalASN = 1 },
		"Families":         func(n *config.Neighbor) { n.Families = n.Families[:1] },
		"GracefulRestart":  func(n *config.Neighbor) { n.GracefulRestart.Enabled = false },
		"RestartTime":      func(n *config.Neighbor) { n.GracefulRestart.RestartTime = time.Minute },
		"DeferralTime":     func(n *config.Neighbor) { n.GracefulRestart.DeferralTime = time.Minute },
		"SourceAddress":    func(n *config.Neighbor) { n.SourceAddress = n.SourceAddress.Next() },
		"MultihopTTL":      func(n *config.Neighbor) { n.MultihopTTL = 9 },
		"TTLSecurity":      func(n *config.Neighbor) { n.TTLSecurity = 1 },
		"AddPathReceive":   func(n *config.Neighbor) { n.AddPathReceive = true },
		"LongLived":        func(n *config.Neighbor) { n.GracefulRestart.LongLived = time.Hour },
		"MaxPrefixes":      func(n *config.Neighbor) { n.MaxPrefixes.Limit = 5 },
		"Passive":          func(n *config.Neighbor) { n.Passive = true },
		"HoldTime":         func(n *config.Neighbor) { n.HoldTime = time.Hour },
		"KeepaliveTime":    func(n *config.Neighbor) { n.KeepaliveTime = time.Second },
		"ConnectRetryTime": func(n *config.Neighbor) { n.ConnectRetryTime = time.Hour },
		"Origin":           func(n *config.Neighbor) { n.Origin = "x" },
		"MeshNode":         func(n *config.Neighbor) { n.MeshNode = "x" },
		"NextHop4":         func(n *config.Neighbor) { n.NextHop4 = n.Address },
		"NextHop6":         func(n *config.Neighbor) { n.NextHop6 = n.Address },
		"BFD":              func(n *config.Neighbor) { n.BFD = &route.Watch{} },
		"Scope":            func(n *config.Neighbor) { n.Scope = policy.All },
		"AllowOwnAS":       func(n *config.Neighbor) { n.AllowOwnAS = 9 },
		"Import":           func(n *config.Neighbor) { n.Import = policy.Chain{{Name: "f"}} },
		"Export":           func(n *config.Neighbor) { n.Export = policy.Chain{{Name: "f"}} },
		"Withhold":         func(n *config.Neighbor) { n.Withhold = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
	} {
		before, after := torNeighbor(), torNeighbor()
		change(&after)
		resets, later := len(config.ResetFields(before, after)) > 0, len(config.LaterFields(before, after)) > 0
		if differs := !proto.Equal(peerOf(before, "", false), peerOf(after, "", false)); differs != (resets || later) {
			t.Errorf("%s: GoBGP is given something else: %v; foretold: resets %v, later %v", name, differs, resets, later)
		}
	}
}
