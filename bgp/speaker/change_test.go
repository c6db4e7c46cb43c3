package speaker

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
)

// What a peer is not to be told goes and comes without a reset, and so do changes that the wire never shows. A change
// of what the OPEN says resets, and the peer keeps our routes through it.
func TestChangesResetOnlyWhatTheyMust(t *testing.T) {
	l := newLab(t)
	l.bird(birdConf)
	node := l.speaker(false)
	desired := nodeDesired("10.244.1.0/26", "10.244.1.64/26", "2001:db8:244:1::/122")
	node.set(t, desired)
	all := []string{"10.244.1.0/26 via 192.0.2.2", "10.244.1.64/26 via 192.0.2.2", "2001:db8:244:1::/122 via 2001:db8::2"}
	l.waitKernel(all...)
	gone := func(what ...string) {
		t.Helper()
		eventually(t, 10*time.Second, func() bool {
			for _, prefix := range what {
				if strings.Contains(l.kernel(), prefix) {
					return false
				}
			}
			return true
		}, func() any { return l.kernel() })
	}
	filtered := desired
	filtered.Neighbors = []config.Neighbor{torNeighbor()}
	filtered.Neighbors[0].Withhold = []netip.Prefix{
		netip.MustParsePrefix("10.244.1.64/26"), netip.MustParsePrefix("2001:db8:244:1::/122"),
	}
	node.set(t, filtered)
	gone("10.244.1.64/26", "2001:db8:244:1::/122")
	if !strings.Contains(l.kernel(), all[0]) {
		t.Fatalf("what is not withheld went too:\n%s", l.kernel())
	}
	eventually(t, 10*time.Second, func() bool { return node.sees().Sessions[0].Advertised == 1 }, func() any { return node.sees() })
	node.set(t, desired)
	l.waitKernel(all...)

	quiet := desired
	quiet.Neighbors = []config.Neighbor{torNeighbor()}
	quiet.Neighbors[0].Scope, quiet.Neighbors[0].AllowOwnAS = policy.All, 3
	quiet.Neighbors[0].HoldTime, quiet.Neighbors[0].KeepaliveTime = 30*time.Second, 10*time.Second
	quiet.Neighbors[0].Import = policy.Chain{{Name: "f"}}
	quiet.Neighbors[0].Passive, quiet.Neighbors[0].GracefulRestart.RestartTime = true, 60*time.Second // the next session's
	quiet.Advertise = append(quiet.Advertise, route.Advertisement{Prefix: netip.MustParsePrefix("10.244.1.128/26"), Communities: []uint32{64512<<16 | 7}})
	quiet.Neighbors[0].SetExports(quiet.Global, quiet.Advertise)
	node.set(t, quiet)
	l.waitKernel("10.244.1.128/26 via 192.0.2.2")
	if told := l.birdc("show", "route", "10.244.1.128/26", "all"); !strings.Contains(told, "(64512,7)") {
		t.Errorf("the community is not there:\n%s", told)
	}
	if s := node.sees().Sessions[0]; s.Flaps != 0 || s.State != route.Established {
		t.Fatalf("a change that the peer need not know reset the session: %+v", s)
	}

	loud := quiet
	loud.Neighbors = []config.Neighbor{quiet.Neighbors[0]}
	loud.Neighbors[0].Families = []route.Family{route.IPv4}
	node.set(t, loud)
	gone("2001:db8:244:1::/122")
	eventually(t, 30*time.Second, func() bool {
		s := node.sees().Sessions[0]
		return s.State == route.Established && len(s.Families) == 1 && s.EndOfRIB
	}, func() any { return node.sees() })
	l.waitKernel(all[:2]...)
	loud.Neighbors = nil
	node.set(t, loud)
	eventually(t, 10*time.Second, func() bool { return len(node.sees().Sessions) == 0 && node.sees().Prefixes == 0 }, func() any { return node.sees() })
}

// A session with a password comes up with the right one alone; a missing file is named, and nowhere is the password.
func TestPassword(t *testing.T) {
	const secret = "s3cr3t-of-the-rack"
	l := newLab(t)
	l.bird(strings.Replace(birdConf, "#MORE", `password "`+secret+`";`, 1))
	file := filepath.Join(l.dir, "password")
	desired := nodeDesired("10.244.1.0/26")
	desired.Neighbors[0].PasswordFile = file
	node := l.speaker(false)
	node.set(t, desired)
	eventually(t, 10*time.Second, func() bool {
		view := node.sees()
		return len(view.Sessions) == 1 && strings.Contains(view.Sessions[0].Reason, file)
	}, func() any { return node.sees() })
	if err := os.WriteFile(file, []byte(secret+"\nnot this\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, node.established, func() any { return node.sees() })
	// Removed and added again without: the key is off the listening socket, so that BIRD's signed packets fail.
	bare := nodeDesired("10.244.1.0/26")
	node.set(t, bare)
	eventually(t, 10*time.Second, func() bool { s := node.sees().Sessions; return len(s) == 1 && s[0].State != route.Established }, func() any { return node.sees() })
	node.set(t, desired)
	eventually(t, 30*time.Second, node.established, func() any { return node.sees() })
	if log := node.log.String(); strings.Contains(log, secret) || !strings.Contains(log, file) {
		t.Errorf("the log has the password, or does not name the file:\n%s", log)
	}
}

func TestReadPassword(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{"a\n": "a", "a b\r\nc": "a b", "a": "a", "": "!empty", "\nb": "!empty", strings.Repeat("x", 81): "!long"} {
		file := filepath.Join(dir, "p")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readPassword(file)
		if fault, bad := strings.CutPrefix(want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), fault) || strings.Contains(err.Error(), "xxx") {
				t.Errorf("%q: %v", text, err)
			}
		} else if got != want || err != nil {
			t.Errorf("%q: %q %v", text, got, err)
		}
	}
	if _, err := readPassword(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "none") {
		t.Error(err)
	}
}

// The AS number changes: every session starts anew, and the peer's routes are kept meanwhile.
func TestNewASNumberKeepsRoutes(t *testing.T) {
	l := newLab(t)
	l.bird(strings.Replace(birdConf, "neighbor 192.0.2.2 as 64512", "neighbor 192.0.2.2 external", 1))
	node := l.speaker(false)
	desired := nodeDesired("10.244.1.0/26")
	node.set(t, desired)
	eventually(t, 20*time.Second, node.established, func() any { return node.sees() })
	desired.Global.ASN = 64600
	desired.Neighbors = []config.Neighbor{torNeighbor()}
	desired.Neighbors[0].LocalASN = 64600
	node.set(t, desired)
	least := 1 << 30
	eventually(t, 30*time.Second, func() bool {
		least = min(least, node.sees().Prefixes)
		s := node.sees().Sessions[0]
		return s.State == route.Established && s.LocalASN == 64600 && s.Flaps == 1
	}, func() any { return node.sees() })
	if least != 3 {
		t.Errorf("only %d of 3 prefixes were left meanwhile", least)
	}
	if told := l.birdc("show", "route", "10.244.1.0/26", "all"); !strings.Contains(told, "64600") {
		eventually(t, 10*time.Second, func() bool { return strings.Contains(l.birdc("show", "route", "10.244.1.0/26", "all"), "64600") },
			func() any { return l.birdc("show", "route", "all") })
	}
}
