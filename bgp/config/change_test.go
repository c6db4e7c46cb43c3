package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
)

func changeNeighbor(change func(*Neighbor)) Neighbor {
	n := Neighbor{
		Address: netip.MustParseAddr("192.0.2.1"), Port: 179, PeerASN: 65101, LocalASN: 64512, Origin: "BGPPeer/tor",
		Families: []route.Family{route.IPv4}, HoldTime: 90 * time.Second, KeepaliveTime: 30 * time.Second,
	}
	if change != nil {
		change(&n)
	}
	return n
}

// What each field's change does to a session: the table that `plan` tells and the speaker does.
func TestSessionChanges(t *testing.T) {
	global := Global{ASN: 64512, RouterID: netip.MustParseAddr("192.0.2.11"), ListenPort: 179}
	for name, c := range map[string]struct {
		neighbor func(*Neighbor)
		global   func(*Global)
		want     string
	}{
		"nothing":                    {want: ""},
		"peer's AS number":           {neighbor: func(n *Neighbor) { n.PeerASN = 1 }, want: "Reset peerASN"},
		"own AS number":              {neighbor: func(n *Neighbor) { n.LocalASN = 1 }, want: "Reset localASNumber"},
		"port":                       {neighbor: func(n *Neighbor) { n.Port = 1179 }, want: "Reset peerPort"},
		"families":                   {neighbor: func(n *Neighbor) { n.Families = []route.Family{4, 6} }, want: "Reset families"},
		"source":                     {neighbor: func(n *Neighbor) { n.SourceAddress = n.Address.Next() }, want: "Reset sourceAddress"},
		"password file":              {neighbor: func(n *Neighbor) { n.PasswordFile = "/p" }, want: "Reset passwordFile"},
		"TTL":                        {neighbor: func(n *Neighbor) { n.MultihopTTL = 3 }, want: "Reset multihopTTL"},
		"graceful restart on":        {neighbor: func(n *Neighbor) { n.GracefulRestart.Enabled = true }, want: "Reset gracefulRestart.disabled"},
		"restart time":               {neighbor: func(n *Neighbor) { n.GracefulRestart.RestartTime = 1 }, want: "Kept later gracefulRestart.restartTime"},
		"deferral time":              {neighbor: func(n *Neighbor) { n.GracefulRestart.DeferralTime = 1 }, want: "Kept"},
		"timers":                     {neighbor: func(n *Neighbor) { n.HoldTime, n.KeepaliveTime = 9, 3 }, want: "Kept later holdTime keepaliveTime"},
		"connect time":               {neighbor: func(n *Neighbor) { n.ConnectRetryTime = 1 }, want: "Kept later connectRetryTime"},
		"passive":                    {neighbor: func(n *Neighbor) { n.Passive = true }, want: "Kept later passive"},
		"passive and the AS number":  {neighbor: func(n *Neighbor) { n.Passive, n.PeerASN = true, 1 }, want: "Reset peerASN"},
		"BFD":                        {neighbor: func(n *Neighbor) { n.BFD = &route.Watch{} }, want: "Kept"},
		"scope":                      {neighbor: func(n *Neighbor) { n.Scope = policy.All }, want: "Kept"},
		"own AS in paths":            {neighbor: func(n *Neighbor) { n.AllowOwnAS = 3 }, want: "Kept"},
		"filters":                    {neighbor: func(n *Neighbor) { n.Export = policy.Chain{{Name: "f"}} }, want: "Kept"},
		"who wants it":               {neighbor: func(n *Neighbor) { n.Origin = "BGPPeer/other" }, want: "Kept"},
		"the node's AS number":       {global: func(g *Global) { g.ASN = 1 }, want: "Reset asNumber"},
		"the node's router ID":       {global: func(g *Global) { g.RouterID = g.RouterID.Next() }, want: "Reset addresses"},
		"the port it listens on":     {global: func(g *Global) { g.ListenPort = -1 }, want: "Reset listenPort"},
		"the node's next hop":        {global: func(g *Global) { g.NextHop4 = g.RouterID }, want: ""},
		"another peer takes its way": {neighbor: func(n *Neighbor) { n.Address = netip.MustParseAddr("192.0.2.0") }, want: "Added, Removed"},
	} {
		before := Desired{Global: global, Neighbors: []Neighbor{changeNeighbor(nil)}}
		after := Desired{Global: global, Neighbors: []Neighbor{changeNeighbor(c.neighbor)}}
		if c.global != nil {
			c.global(&after.Global)
		}
		if got := describeChanges(SessionChanges(before, after)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if got := describeChanges(SessionChanges(after, after)); got != "" {
			t.Errorf("%s: no change at all is %q", name, got)
		}
	}
	internal := func(ttl uint8) Neighbor {
		return changeNeighbor(func(n *Neighbor) { n.PeerASN, n.MultihopTTL = n.LocalASN, ttl })
	}
	if got := ResetFields(internal(0), internal(9)); got != nil {
		t.Errorf("an internal session has no TTL of its own, and is reset for %v", got)
	}
}

func describeChanges(changes []SessionChange) string {
	var list []string
	for _, c := range changes {
		text := string(c.Effect)
		if len(c.Forcing) > 0 {
			text += " " + strings.Join(c.Forcing, " ")
		}
		if len(c.Later) > 0 {
			text += " later " + strings.Join(c.Later, " ")
		}
		list = append(list, text)
	}
	return strings.Join(list, ", ")
}

// No field of a Neighbor or a Global is forgotten: one that is added must say what its change does.
func TestEveryFieldIsClassified(t *testing.T) {
	var neighbor, global []string
	for _, f := range neighborFields {
		neighbor = append(neighbor, f.path)
	}
	for _, f := range globalFields {
		global = append(global, f.path)
	}
	for _, one := range []struct {
		of         reflect.Type
		classified []string
	}{{reflect.TypeFor[Neighbor](), neighbor}, {reflect.TypeFor[Global](), global}} {
		for _, path := range fieldsOf(one.of, "") {
			if path != "Address" && !slices.Contains(one.classified, path) {
				t.Errorf("what a change of %s.%s does to the session is not said", one.of.Name(), path)
			}
		}
	}
}

// fieldsOf lists a struct's fields, and those of this package's structs in it.
func fieldsOf(of reflect.Type, prefix string) (paths []string) {
	for i := range of.NumField() {
		f := of.Field(i)
		if f.Type.Kind() == reflect.Struct && strings.HasSuffix(f.Type.PkgPath(), "bgp/config") {
			paths = append(paths, fieldsOf(f.Type, prefix+f.Name+".")...)
			continue
		}
		paths = append(paths, fmt.Sprint(prefix, f.Name))
	}
	return paths
}
