package speaker

import (
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// A sentence for each way in which a peer may not want us, and both numbers where numbers differ.
func TestExamine(t *testing.T) {
	open := func(asn uint32, families ...route.Family) *bgp.BGPMessage {
		var capabilities []bgp.ParameterCapabilityInterface
		for _, family := range families {
			capabilities = append(capabilities, bgp.NewCapMultiProtocol(wireFamily(family)))
		}
		capabilities = append(capabilities, bgp.NewCapFourOctetASNumber(asn))
		message, err := bgp.NewBGPOpenMessage(bgp.AS_TRANS, 90, netip.MustParseAddr("10.0.0.1"),
			[]bgp.OptionParameterInterface{bgp.NewOptionParameterCapability(capabilities)})
		if err != nil {
			t.Fatal(err)
		}
		return message
	}
	notification := bgp.NewBGPNotificationMessage
	for name, c := range map[string]struct {
		neighbor func(*config.Neighbor)
		says     []*bgp.BGPMessage // the second one after our OPEN; nil: it hangs up
		want     string
	}{
		"takes us":            {nil, []*bgp.BGPMessage{open(65101, 4), bgp.NewBGPKeepAliveMessage()}, ""},
		"another AS number":   {nil, []*bgp.BGPMessage{open(4200000001, 4)}, "the peer's AS number is 4200000001, and peerASN is 65101"},
		"of our own AS":       {func(n *config.Neighbor) { n.PeerASN = 0 }, []*bgp.BGPMessage{open(64512, 4)}, "the peer's AS number is 64512, our own"},
		"other families":      {nil, []*bgp.BGPMessage{open(65101, 6)}, "none of the session's families"},
		"refuses our AS":      {nil, []*bgp.BGPMessage{open(65101, 4), notification(2, 2, nil)}, "refuses our AS number 64512: it has another for us"},
		"shut down":           {nil, []*bgp.BGPMessage{notification(6, 2, append([]byte{4}, "toil"...))}, `its administrator shut the session down (Cease, Administrative Shutdown), "toil"`},
		"a length that lies":  {nil, []*bgp.BGPMessage{notification(6, 2, []byte{200, 'x'})}, `Administrative Shutdown), "x"`},
		"hold time":           {nil, []*bgp.BGPMessage{open(65101, 4), notification(2, 6, nil)}, "does not take our hold time"},
		"an unknown code":     {nil, []*bgp.BGPMessage{notification(99, 1, nil)}, "the peer refuses the session: "},
		"no such neighbour":   {nil, nil, "takes the connection and closes it at once: it has no neighbour 127.0.0.1"},
		"hangs up on our own": {nil, []*bgp.BGPMessage{open(65101, 4)}, "closes the connection after our OPEN"},
		"no OPEN":             {nil, []*bgp.BGPMessage{bgp.NewBGPKeepAliveMessage()}, "begins with a message that is no OPEN"},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				for i, message := range c.says {
					if i == 1 {
						if _, err := readMessage(conn); err != nil {
							return
						}
					}
					if write(conn, message) != nil {
						return
					}
				}
				if len(c.says) > 0 {
					io.CopyN(io.Discard, conn, 19) // until it has read, or hung up
				}
			}()
			n := torNeighbor()
			at := listener.Addr().(*net.TCPAddr).AddrPort()
			n.Address, n.Port, n.SourceAddress, n.Families = at.Addr(), at.Port(), netip.Addr{}, []route.Family{route.IPv4}
			if c.neighbor != nil {
				c.neighbor(&n)
			}
			got := examine(t.Context(), patient{neighbor: n, routerID: netip.MustParseAddr("10.0.0.2"), before: readCounters()})
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
			listener.Close()
			<-done
		})
	}
}

// Without a connection the system's errors tell.
func TestExamineWithoutConnection(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := listener.Addr().(*net.TCPAddr).AddrPort()
	listener.Close()
	n := torNeighbor()
	n.Address, n.Port, n.SourceAddress = at.Addr(), at.Port(), netip.Addr{}
	for _, c := range []struct {
		change func(*config.Neighbor)
		want   string
	}{
		{func(*config.Neighbor) {}, "refuses the connection"},
		{func(n *config.Neighbor) { n.SourceAddress = netip.MustParseAddr("192.0.2.77") }, "192.0.2.77, which is no address of this node"},
		{func(n *config.Neighbor) { n.Passive = true }, "waiting for 127.0.0.1 to connect"},
		{func(n *config.Neighbor) { n.PasswordFile = filepath.Join(t.TempDir(), "none") }, "cannot be read"},
	} {
		m := n
		c.change(&m)
		if got := examine(t.Context(), patient{neighbor: m, before: readCounters()}); !strings.Contains(got, c.want) {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// The kernel's counters by name, wherever they stand.
func TestParseCounters(t *testing.T) {
	const text = "TcpExt: A TCPMD5NotFound TCPMD5Unexpected TCPMD5Failure B TCPMinTTLDrop\nTcpExt: 1 2 3 4 5 6\nIpExt: X\nIpExt: 9\n"
	if got, want := parseCounters(text), (counters{2, 3, 4, 6}); got != want {
		t.Errorf("%+v", got)
	}
	if got := parseCounters("TcpExt: A\n" + "TcpExt:\n" + "TcpExt: 1 2 3"); got != (counters{}) {
		t.Errorf("%+v", got)
	}
	real, err := os.ReadFile("/proc/net/netstat")
	if err != nil || !strings.Contains(string(real), "TCPMD5NotFound") {
		if os.Getenv("CI") != "" {
			t.Fatalf("the kernel counts no TCP-MD5: %v", err)
		}
		t.Skipf("SKIPPED, NOT TESTED: the kernel counts no TCP-MD5: %v", err)
	}
}

func TestNotified(t *testing.T) {
	for code, subcode := range map[uint8]uint8{4: 0, 6: 2} {
		text := "notification-received " + bgp.NewNotificationErrorCode(code, subcode).String()
		if got, want := notified(text), words(code, subcode, nil); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := notified("something else"); got != "something else" {
		t.Error(got)
	}
}
