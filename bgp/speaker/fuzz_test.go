package speaker

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// seedUpdates are bodies of UPDATEs, good and bad, to start from.
func seedUpdates() [][]byte {
	body := func(attributes []byte, nlri ...byte) []byte {
		raw := binary.BigEndian.AppendUint16([]byte{0, 0}, uint16(len(attributes)))
		return slices.Concat(raw, attributes, nlri)
	}
	origin, asPath, nextHop := []byte{0x40, 1, 1, 0}, []byte{0x40, 2, 6, 2, 1, 0, 0, 0xfe, 0x4d}, []byte{0x40, 3, 4, 192, 0, 2, 1}
	ordinary := slices.Concat(origin, asPath, nextHop)
	mp := []byte{0x80, 14, 28, 0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 48, 0x20, 1, 0xd, 0xb8, 0, 9}
	return [][]byte{
		{0, 0, 0, 0}, body(ordinary, 24, 203, 0, 113), body(slices.Concat(origin, asPath, mp)),
		body(slices.Concat(ordinary, []byte{0xc0, 8, 0}), 24, 203, 0, 113),
		body(slices.Concat(ordinary, []byte{0xc0, 18, 3, 1, 2, 3}), 24, 203, 0, 113),
		body(slices.Concat(origin, []byte{0x40, 2, 6, 2, 1, 0, 0, 0, 0}, nextHop), 24, 203, 0, 113),
		{0, 4, 24, 203, 0, 113, 0, 0},
	}
}

// FuzzImport: whatever an UPDATE says, what comes of it in our own table is a prefix in its own form, with a next hop that
// can be one and no AS 0 in its path, or nothing.
func FuzzImport(f *testing.F) {
	for _, seed := range seedUpdates() {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, body []byte, linkLocal bool) {
		header := &bgp.BGPHeader{Len: uint16(min(len(body)+bgp.BGP_HEADER_LENGTH, bgp.BGP_MAX_MESSAGE_LENGTH)), Type: bgp.BGP_MSG_UPDATE}
		message, err := bgp.ParseBGPBody(header, body)
		if err != nil || message == nil {
			return
		}
		peer := netip.MustParseAddr("192.0.2.1")
		if linkLocal {
			peer = netip.MustParseAddr("fe80::1%eth1")
		}
		table := NewTable()
		table.AddPeer(peer)
		table.Limit(peer, 5)
		var r reader
		for _, path := range pathsOf(message.Body.(*bgp.BGPUpdate), peer) {
			update, ok := r.read(path, 64512)
			if !ok {
				continue
			}
			if update.Prefix != update.Prefix.Masked() || !update.Prefix.IsValid() {
				t.Fatalf("prefix %s", update.Prefix)
			}
			if p := update.Path; p != nil {
				if !p.NextHop.IsValid() || p.NextHop.IsUnspecified() || p.NextHop.IsMulticast() || p.NextHop.Is4In6() ||
					p.NextHop.Is6() && p.NextHop.IsLinkLocalUnicast() && p.NextHop.Zone() == "" {
					t.Fatalf("next hop %s", p.NextHop)
				}
				if slices.Contains(p.ASPath, 0) {
					t.Fatalf("AS path %v", p.ASPath)
				}
			}
			table.Apply(peer, []Update{update})
		}
		if counts := table.Counts(peer); counts[0] > 5 || counts[1] > 5 {
			t.Fatalf("beyond the limit: %v", counts)
		}
	})
}

// pathsOf is what GoBGP makes of an UPDATE for those who watch.
func pathsOf(update *bgp.BGPUpdate, peer netip.Addr) []*apiutil.Path {
	var attributes []bgp.PathAttributeInterface
	var paths []*apiutil.Path
	add := func(family bgp.Family, nlri bgp.PathNLRI, withdrawn bool, more ...bgp.PathAttributeInterface) {
		paths = append(paths, &apiutil.Path{
			Family: family, Nlri: nlri.NLRI, RemoteID: nlri.ID, Withdrawal: withdrawn, PeerAddress: peer, PeerASN: 65101,
			Attrs: slices.Concat(attributes, more),
		})
	}
	for _, a := range update.PathAttributes {
		switch a.(type) {
		case *bgp.PathAttributeMpReachNLRI, *bgp.PathAttributeMpUnreachNLRI:
		default:
			attributes = append(attributes, a)
		}
	}
	for _, a := range update.PathAttributes {
		switch a := a.(type) {
		case *bgp.PathAttributeMpReachNLRI:
			for _, nlri := range a.Value {
				add(bgp.NewFamily(a.AFI, a.SAFI), nlri, false, &bgp.PathAttributeMpReachNLRI{Nexthop: a.Nexthop, AFI: a.AFI, SAFI: a.SAFI})
			}
		case *bgp.PathAttributeMpUnreachNLRI:
			for _, nlri := range a.Value {
				add(bgp.NewFamily(a.AFI, a.SAFI), nlri, true)
			}
		}
	}
	for _, nlri := range update.NLRI {
		add(bgp.RF_IPv4_UC, nlri, false)
	}
	for _, nlri := range update.WithdrawnRoutes {
		add(bgp.RF_IPv4_UC, nlri, true)
	}
	return paths
}

// TestSurvivesAnyMessage: a real speaker lives through some hundred broken messages, of every kind and in every state, and then
// does its work as before.
func TestSurvivesAnyMessage(t *testing.T) {
	port := freePort(t)
	speaker := New(Options{ListenAddresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); speaker.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	session := torNeighbor()
	session.Address, session.SourceAddress, session.PeerASN = netip.Addr{}, netip.Addr{}, 0
	desired := nodeDesired("10.244.1.0/26")
	desired.Global.ListenPort, desired.Neighbors = port, nil
	desired.Ranges = []config.Range{{Prefix: netip.MustParsePrefix("127.0.0.0/8"), Limit: 5, Session: session}}
	speaker.Set(desired)

	random := rand.New(rand.NewPCG(1, 2))
	seeds := seedUpdates()
	caller := newCaller(t, port)
	defer caller.close()
	for range 400 {
		if random.IntN(10) == 0 {
			caller.close() // the next one is said in the middle of an OPEN's exchange, or as the first word
		}
		caller.ready(random.IntN(20) > 0)
		body := mutate(random, slices.Clone(seeds[random.IntN(len(seeds))]))
		kind := byte(bgp.BGP_MSG_UPDATE)
		if random.IntN(4) == 0 {
			kind = byte(random.IntN(7))
		}
		caller.say(kind, body)
	}
	caller.close()
	caller.ready(true)
	caller.say(bgp.BGP_MSG_UPDATE, seeds[1])
	eventually(t, 20*time.Second, func() bool {
		sessions := speaker.Sessions()
		return len(sessions) == 1 && sessions[0].State == route.Established && sessions[0].Received == 1
	}, func() any { return speaker.Sessions() })
}

func mutate(random *rand.Rand, body []byte) []byte {
	for range 1 + random.IntN(4) {
		switch at := random.IntN(len(body) + 1); random.IntN(4) {
		case 0:
			if at < len(body) {
				body[at] = byte(random.IntN(256))
			}
		case 1:
			body = slices.Insert(body, at, byte(random.IntN(256)))
		case 2:
			body = body[:at]
		case 3:
			if at < len(body) {
				body[at] ^= 1 << random.IntN(8)
			}
		}
	}
	return body
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// caller is a peer that says anything.
type caller struct {
	t    *testing.T
	to   string
	conn net.Conn
	done chan struct{}
}

func newCaller(t *testing.T, port int) *caller {
	return &caller{t: t, to: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
}

// ready connects where there is no connection any more, and with hello comes to Established.
func (c *caller) ready(hello bool) {
	c.t.Helper()
	if c.conn != nil {
		select {
		case <-c.done:
			c.close()
		default:
			return
		}
	}
	eventually(c.t, 20*time.Second, func() bool { return c.connect(hello) == nil }, func() any { return "no session" })
}

func (c *caller) connect(hello bool) error {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: time.Second}
	conn, err := dialer.Dial("tcp", c.to)
	if err != nil {
		return err
	}
	if hello {
		if err := greet(conn); err != nil {
			conn.Close()
			return err
		}
	}
	c.conn, c.done = conn, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		io.Copy(io.Discard, conn)
	}(c.done)
	return nil
}

func greet(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(2 * time.Second))
	defer conn.SetDeadline(time.Time{})
	capabilities := []bgp.ParameterCapabilityInterface{
		bgp.NewCapMultiProtocol(bgp.RF_IPv4_UC), bgp.NewCapMultiProtocol(bgp.RF_IPv6_UC), bgp.NewCapFourOctetASNumber(65101),
	}
	open, err := bgp.NewBGPOpenMessage(65101, 90, netip.MustParseAddr("127.0.0.2"),
		[]bgp.OptionParameterInterface{bgp.NewOptionParameterCapability(capabilities)})
	if err != nil {
		return err
	}
	if err := errors.Join(write(conn, open), write(conn, bgp.NewBGPKeepAliveMessage())); err != nil {
		return err
	}
	for range 2 { // its OPEN and its KEEPALIVE
		if _, err := readMessage(conn); err != nil {
			return err
		}
	}
	return nil
}

func (c *caller) say(kind byte, body []byte) {
	raw := slices.Repeat([]byte{0xff}, 16)
	raw = binary.BigEndian.AppendUint16(raw, uint16(19+len(body)))
	c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	c.conn.Write(append(append(raw, kind), body...)) // an error says that it has hung up
}

func (c *caller) close() {
	if c.conn != nil {
		c.conn.Close()
		<-c.done
		c.conn = nil
	}
}
