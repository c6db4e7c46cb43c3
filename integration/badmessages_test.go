package integration

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/clearway/clearway/integration/lab"
)

// What RFC 7606 wants done with a bad message.
type remedy string

const (
	taken    remedy = "taken"    // nothing is wrong enough
	withdraw remedy = "withdraw" // treat-as-withdraw: the message's prefixes go
	discard  remedy = "discard"  // attribute discard: the prefixes are taken without it
	reset    remedy = "reset"
)

var (
	anchor = netip.MustParsePrefix("203.0.120.0/24") // another route of the session
	victim = netip.MustParsePrefix("203.0.121.0/24") // that of the bad message
	victi6 = netip.MustParsePrefix("2001:db8:121::/48")
)

// with is the ordinary path with something after it.
func with(more ...[]byte) []byte { return slices.Concat(append([][]byte{ordinary}, more...)...) }

func path(asn ...uint32) []byte {
	value := []byte{2, byte(len(asn))}
	for _, one := range asn {
		value = binary.BigEndian.AppendUint32(value, one)
	}
	return value
}

// reach6 is MP_REACH_NLRI of IPv6 unicast.
func reach6(hop ...byte) []byte {
	value := append([]byte{0, 2, 1, byte(len(hop))}, hop...)
	value = append(append(value, 0), nlri(victi6)...)
	return attribute(0x80, 14, value...)
}

// badMessages are those that a peer may send by mistake or malice, each with the clause that says what becomes of it.
var badMessages = []struct {
	name, clause string
	raw          []byte
	want         remedy
	// gobgp is what GoBGP 4.8 does instead, that cannot be mended above it: docs/operations.md lists these.
	gobgp remedy
}{
	{"ORIGIN of 5", "RFC 7606 7.1", update(slices.Concat(attribute(0x40, 1, 5), asPath, nextHop), victim), withdraw, ""},
	{"ORIGIN of two octets", "RFC 7606 7.1", update(slices.Concat(attribute(0x40, 1, 0, 0), asPath, nextHop), victim), withdraw, ""},
	{"AS_PATH: unknown segment", "RFC 7606 7.2", update(slices.Concat(originIGP, attribute(0x40, 2, 9, 1, 0, 0, 0, 1), nextHop), victim), withdraw, ""},
	{"AS_PATH: segment overruns", "RFC 7606 7.2", update(slices.Concat(originIGP, attribute(0x40, 2, 2, 2, 0, 0, 0, 1), nextHop), victim), withdraw, ""},
	{"AS_PATH: segment of none", "RFC 7606 7.2", update(slices.Concat(originIGP, attribute(0x40, 2, 2, 0), nextHop), victim), withdraw, ""},
	{"AS_PATH: confederation segment", "RFC 5065 5", update(slices.Concat(originIGP, attribute(0x40, 2, 3, 1, 0, 0, 0, 1), nextHop), victim), withdraw, ""},
	{"AS_PATH: AS 0", "RFC 7607 2", update(slices.Concat(originIGP, attribute(0x40, 2, path(rawASN, 0)...), nextHop), victim), withdraw, ""},
	{"NEXT_HOP of five octets", "RFC 7606 7.3", update(slices.Concat(originIGP, asPath, attribute(0x40, 3, 1, 2, 3, 4, 5)), victim), withdraw, ""},
	{"NEXT_HOP 0.0.0.0", "RFC 4271 6.3", update(slices.Concat(originIGP, asPath, attribute(0x40, 3, 0, 0, 0, 0)), victim), withdraw, ""},
	{"NEXT_HOP 224.0.0.1", "RFC 4271 6.3", update(slices.Concat(originIGP, asPath, attribute(0x40, 3, 224, 0, 0, 1)), victim), withdraw, ""},
	{"MULTI_EXIT_DISC of three octets", "RFC 7606 7.4", update(with(attribute(0x80, 4, 0, 0, 1)), victim), withdraw, ""},
	{"LOCAL_PREF of an external peer, of three octets", "RFC 7606 7.5", update(with(attribute(0x40, 5, 0, 0, 1)), victim), discard, withdraw},
	{"ATOMIC_AGGREGATE of one octet", "RFC 7606 7.6", update(with(attribute(0x40, 6, 1)), victim), discard, ""},
	{"AGGREGATOR of five octets", "RFC 7606 7.7", update(with(attribute(0xc0, 7, 1, 2, 3, 4, 5)), victim), discard, ""},
	{"COMMUNITIES of three octets", "RFC 7606 7.8", update(with(attribute(0xc0, 8, 1, 2, 3)), victim), withdraw, ""},
	{"COMMUNITIES of none", "RFC 7606 7.8", update(with(attribute(0xc0, 8)), victim), withdraw, ""},
	{"ORIGINATOR_ID of an external peer", "RFC 7606 7.9", update(with(attribute(0x80, 9, 1, 2, 3)), victim), discard, withdraw},
	{"CLUSTER_LIST of an external peer", "RFC 7606 7.10", update(with(attribute(0x80, 10, 1, 2, 3)), victim), discard, withdraw},
	{"EXTENDED COMMUNITIES of seven octets", "RFC 7606 7.14", update(with(attribute(0xc0, 16, 1, 2, 3, 4, 5, 6, 7)), victim), withdraw, ""},
	{"EXTENDED COMMUNITIES of none", "RFC 7606 7.14", update(with(attribute(0xc0, 16)), victim), withdraw, ""},
	{"LARGE_COMMUNITY of eleven octets", "RFC 8092 5", update(with(attribute(0xc0, 32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)), victim), withdraw, ""},
	{"LARGE_COMMUNITY of none", "RFC 8092 5", update(with(attribute(0xc0, 32)), victim), withdraw, ""},
	{"AS4_PATH of one who knows four octets", "RFC 6793 6", update(with(attribute(0xc0, 17, path(1)...)), victim), discard, ""},
	{"AS4_PATH that overruns", "RFC 6793 6", update(with(attribute(0xc0, 17, 2, 9, 0, 0, 0, 1)), victim), discard, withdraw},
	{"AS4_AGGREGATOR of three octets", "RFC 6793 6", update(with(attribute(0xc0, 18, 1, 2, 3)), victim), discard, reset},
	{"no ORIGIN", "RFC 7606 3 d", update(slices.Concat(asPath, nextHop), victim), withdraw, ""},
	{"no AS_PATH", "RFC 7606 3 d", update(slices.Concat(originIGP, nextHop), victim), withdraw, ""},
	{"no NEXT_HOP", "RFC 7606 3 d", update(slices.Concat(originIGP, asPath), victim), withdraw, ""},
	{"ORIGIN with the optional bit", "RFC 7606 3 c", update(slices.Concat(attribute(0xc0, 1, 0), asPath, nextHop), victim), withdraw, ""},
	{"MULTI_EXIT_DISC twice", "RFC 7606 3 g", update(with(attribute(0x80, 4, 0, 0, 0, 1), attribute(0x80, 4, 0, 0, 0, 2)), victim), discard, ""},
	{"an attribute overruns the attributes", "RFC 7606 4", update(with([]byte{0x80, 4, 200, 0, 0}), victim), withdraw, reset},
	{"one octet is left of an attribute", "RFC 7606 4", update(with([]byte{0x80}), victim), withdraw, ""},
	{"an unknown optional attribute", "RFC 4271 5", update(with(attribute(0xc0, 250, 1, 2, 3)), victim), taken, ""},
	{"IPv6 by an IPv6 next hop that is none", "RFC 4271 6.3", update(slices.Concat(originIGP, asPath, reach6(make([]byte, 16)...))), withdraw, ""},

	{"an unknown well-known attribute", "RFC 4271 6.3", update(with(attribute(0x40, 251, 1)), victim), reset, ""},
	{"MP_REACH_NLRI twice", "RFC 7606 3 g", update(slices.Concat(originIGP, asPath, reach6(make([]byte, 16)...), reach6(make([]byte, 16)...))), reset, ""},
	{"MP_REACH_NLRI with a next hop of five octets", "RFC 7606 7.11", update(slices.Concat(originIGP, asPath, reach6(1, 2, 3, 4, 5))), reset, ""},
	{"a prefix of 33 bits", "RFC 7606 5.3", message(typeUpdate, slices.Concat([]byte{0, 0, 0, byte(len(ordinary))}, ordinary, []byte{33, 203, 0, 121, 0, 0})), reset, ""},
	{"withdrawn routes overrun", "RFC 7606 3 b", message(typeUpdate, []byte{0, 99, 0, 0}), reset, ""},
	{"attributes overrun", "RFC 7606 3 b", message(typeUpdate, []byte{0, 0, 0, 99, 1}), reset, ""},
	{"an UPDATE of one octet", "RFC 4271 6.1", message(typeUpdate, []byte{0}), reset, ""},
	{"a short ROUTE-REFRESH", "RFC 7313 5", message(typeRefresh, []byte{0, 1}), reset, ""},
	{"a KEEPALIVE with a body", "RFC 4271 6.1", message(typeKeepalive, []byte{1}), reset, taken},
	{"an unknown message", "RFC 4271 6.1", message(9, nil), reset, ""},
	{"a second OPEN", "RFC 4271 6.6", rawOpen(rawASN, netip.MustParseAddr("198.51.100.2")), reset, taken},
	{"a broken marker", "RFC 4271 6.1", append(make([]byte, 16), 0, 19, typeKeepalive), reset, ""},
}

// badMessages sends each to the real agent: the session stays where it must, what is to be withdrawn leaves the kernel, the other
// route stays in it, and the agent lives.
func (r *road) badMessages(t *testing.T) {
	s := r.announcer(t)
	defer func() { s.close() }()
	pid := r.Node("n1").Process("clearway-agent")
	for _, c := range badMessages {
		t.Run(c.clause+" "+c.name, func(t *testing.T) {
			if !s.alive() {
				s = r.announcer(t)
			}
			must(t, s.send(update(ordinary, victim)))
			r.inKernel(t, victim, true)
			must(t, s.send(c.raw))
			want := c.want
			if c.gobgp != "" {
				want = c.gobgp
			}
			switch want {
			case reset:
				if why := s.told(t); len(why) < 2 {
					t.Errorf("the session ended without a NOTIFICATION")
				}
				r.inKernel(t, victim, false)
			case withdraw:
				if !strings.Contains(c.name, "IPv6") {
					r.inKernel(t, victim, false)
				}
				r.inKernel(t, victi6, false)
				r.stays(t, s)
			default:
				// The next message is taken when this one has been.
				must(t, s.send(update(ordinary, netip.MustParsePrefix("203.0.122.0/24"))))
				r.inKernel(t, netip.MustParsePrefix("203.0.122.0/24"), true)
				r.inKernel(t, victim, true)
				must(t, s.send(message(typeUpdate, append([]byte{0, 4}, append(nlri(netip.MustParsePrefix("203.0.122.0/24")), 0, 0)...))))
				r.stays(t, s)
			}
		})
	}
	if !pid.Running() {
		t.Error("the agent did not survive")
	}
}

// announcer is a session that tells the anchor.
func (r *road) announcer(t *testing.T) *rawSpeaker {
	t.Helper()
	s := r.call(t, "198.51.100.2")
	must(t, s.send(update(ordinary, anchor)))
	r.inKernel(t, anchor, true)
	return s
}

func (r *road) stays(t *testing.T, s *rawSpeaker) {
	t.Helper()
	r.inKernel(t, anchor, true)
	if !s.alive() {
		t.Error("the session ended")
	}
}

// inKernel waits until the agent's kernel has, or has not, a route of ours.
func (r *road) inKernel(t *testing.T, prefix netip.Prefix, want bool) {
	t.Helper()
	lab.Eventually(t, soon, fmt.Sprintf("%s in the kernel: %v", prefix, want), func() error {
		text, err := r.Node("n1").Exec(t.Context(), "ip", "route", "show", prefix.String(), "proto", "73")
		if err == nil && (text != "") != want {
			err = fmt.Errorf("it is %q", text)
		}
		return err
	})
}
