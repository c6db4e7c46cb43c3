package discover

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Who is heard stays through a link that is down for a moment; who is not there any more after it goes.
func TestHeard(t *testing.T) {
	h := newHeard()
	start := time.Unix(1000, 0)
	one, two := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::2")
	for _, step := range []struct {
		at   time.Duration
		up   bool
		from netip.Addr // who advertises then
		want string
	}{
		{0, true, netip.Addr{}, "[{eth1 []}]"},
		{time.Second, true, one, "[{eth1 [fe80::1%eth1]}]"},
		{10 * time.Second, false, netip.Addr{}, "[{eth1 [fe80::1%eth1]}]"},
		{30 * time.Second, true, two, "[{eth1 [fe80::1%eth1 fe80::2%eth1]}]"},
		{59 * time.Second, true, netip.Addr{}, "[{eth1 [fe80::1%eth1 fe80::2%eth1]}]"},
		{60 * time.Second, true, netip.Addr{}, "[{eth1 [fe80::2%eth1]}]"}, // another router is at the end of the cable
		{limits.silence + 29*time.Second, true, netip.Addr{}, "[{eth1 [fe80::2%eth1]}]"},
		{limits.silence + 30*time.Second, true, netip.Addr{}, "[{eth1 []}]"},
		{2 * time.Hour, false, netip.Addr{}, "[{eth1 []}]"},
		{2*time.Hour + limits.down, false, netip.Addr{}, "[]"},
	} {
		now := start.Add(step.at)
		var names []string
		if step.up {
			names = []string{"eth1"}
		}
		h.present(names, now)
		if step.from.IsValid() {
			h.router("eth1", step.from, now)
		}
		h.expire(now)
		if got := fmt.Sprint(h.list()); got != step.want {
			t.Errorf("at %s: %s, want %s", step.at, got, step.want)
		}
	}
}

// What strangers invent is bounded.
func TestHeardIsBounded(t *testing.T) {
	h := newHeard()
	now := time.Unix(1000, 0)
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprint("eth", i))
	}
	h.present(names, now)
	for i := range 1000 {
		address := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: byte(i >> 8), 15: byte(i)})
		h.router("eth0", address, now)
		h.router("unknown", address, now)
	}
	if len(h.links) != limits.links || len(h.links["eth0"].routers) != limits.routers {
		t.Errorf("%d links, %d routers", len(h.links), len(h.links["eth0"].routers))
	}
}
