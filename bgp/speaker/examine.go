package speaker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// examine calls a peer as a session would, and puts what comes of it into a sentence; empty: nothing is wrong.
func examine(ctx context.Context, p patient) string {
	n := p.neighbor
	password, err := readPassword(n.PasswordFile)
	if err != nil {
		return err.Error()
	}
	if n.Passive {
		if why := byCounters(p, password); why != "" {
			return why
		}
		return fmt.Sprintf("waiting for %s to connect (passive)", n.Address)
	}
	conn, err := dial(ctx, n, password)
	if err != nil {
		return explainDial(p, password, err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return ""
		}
	}
	return converse(conn, p, password)
}

// dial connects with the source address, the TTL and the password that the session has.
func dial(ctx context.Context, n config.Neighbor, password string) (net.Conn, error) {
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error { return prepare(c, n, password) }}
	dialer.SetMultipathTCP(false)
	if n.SourceAddress.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(n.SourceAddress, 0))
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(n.Address, n.Port).String())
}

func prepare(c syscall.RawConn, n config.Neighbor, password string) error {
	level, ttlOption, minOption := unix.IPPROTO_IP, unix.IP_TTL, unix.IP_MINTTL
	if n.Address.Is6() {
		level, ttlOption, minOption = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_MINHOPCOUNT
	}
	ttl := 0
	switch {
	case n.TTLSecurity > 0:
		ttl = 255
	case n.EBGP() && n.PeerASN != 0:
		ttl = max(1, int(n.MultihopTTL))
	}
	var fault error
	err := c.Control(func(fd uintptr) {
		if ttl > 0 {
			fault = unix.SetsockoptInt(int(fd), level, ttlOption, ttl)
		}
		if n.TTLSecurity > 0 && fault == nil {
			fault = unix.SetsockoptInt(int(fd), level, minOption, 256-int(n.TTLSecurity))
		}
		if password != "" && fault == nil {
			fault = unix.SetsockoptTCPMD5Sig(int(fd), unix.IPPROTO_TCP, unix.TCP_MD5SIG, signature(n.Address, password))
		}
	})
	return errors.Join(err, fault)
}

func signature(address netip.Addr, password string) *unix.TCPMD5Sig {
	sig := &unix.TCPMD5Sig{Keylen: uint16(len(password))}
	copy(sig.Key[:], password)
	if address.Is4() {
		sig.Addr.Family = unix.AF_INET
		four := address.As4()
		copy(sig.Addr.Data[2:], four[:]) // after the port
		return sig
	}
	sig.Addr.Family = unix.AF_INET6
	six := address.As16()
	copy(sig.Addr.Data[6:], six[:]) // after port and flow
	return sig
}

// explainDial says why there is no connection.
func explainDial(p patient, password string, err error) string {
	n := p.neighbor
	to := netip.AddrPortFrom(n.Address, n.Port)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Sprintf("%s refuses the connection: no BGP runs there, or not on this port", to)
	case !routed(n.Address):
		return fmt.Sprintf("there is no route to %s", n.Address)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Sprintf("the session is to run from %s, which is no address of this node", n.SourceAddress)
	}
	if why := byCounters(p, password); why != "" {
		return why
	}
	switch {
	case n.EBGP() && n.PeerASN != 0 && n.MultihopTTL == 0 && n.TTLSecurity == 0 && !n.LinkLocal() && !onLink(n.Address):
		return fmt.Sprintf("%s is on no link of this node, and the session's packets have TTL 1: it needs multihopTTL", n.Address)
	case errors.Is(err, unix.ENETUNREACH):
		return fmt.Sprintf("a router on the way has no route to %s", n.Address)
	case errors.Is(err, unix.EHOSTUNREACH):
		return fmt.Sprintf("%s does not answer on its link: it is down, or the address is wrong", n.Address)
	case !isTimeout(err):
		return fmt.Sprintf("no connection with %s: %s", to, plainError(err))
	case password != "":
		return fmt.Sprintf("no answer from %s: its TCP-MD5 password may be another or none, or something drops the packets", to)
	case n.TTLSecurity > 0:
		return fmt.Sprintf("no answer from %s: it may have no GTSM (ttl security), or something drops the packets", to)
	}
	return fmt.Sprintf("no answer from %s: something drops the packets, or it asks for a TCP-MD5 password or for GTSM (ttl security)", to)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// plainError is the system's word, without addresses that the sentence has already.
func plainError(err error) string {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number.Error()
	}
	return err.Error()
}

// routed tells whether the kernel has a route; a UDP socket asks it and sends nothing.
func routed(address netip.Addr) bool {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 9)))
	if err != nil {
		return !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH)
	}
	conn.Close()
	return true
}

// onLink tells whether the address is in a subnet of this machine. Where that cannot be read it is taken to be.
func onLink(address netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, one := range all {
		if prefix, err := netip.ParsePrefix(one.String()); err == nil && prefix.Contains(address) {
			return true
		}
	}
	return false
}

// converse reads what the peer says to a connection and to our OPEN.
func converse(conn net.Conn, p patient, password string) string {
	n := p.neighbor
	message, err := readMessage(conn)
	if isTimeout(err) {
		if why := byCounters(p, password); why != "" {
			return why
		}
		return fmt.Sprintf("%s takes the connection and says nothing: it may be busy, or waits for another", n.Address)
	}
	if err != nil {
		local, _, _ := net.SplitHostPort(conn.LocalAddr().String())
		return fmt.Sprintf("%s takes the connection and closes it at once: it has no neighbour %s, or its session is shut down", n.Address, local)
	}
	switch body := message.Body.(type) {
	case *bgp.BGPNotification:
		return "the peer refuses the session: " + words(body.ErrorCode, body.ErrorSubcode, body.Data)
	case *bgp.BGPOpen:
		if why := judgeOpen(body, n); why != "" {
			return why
		}
		return answer(conn, p)
	}
	return fmt.Sprintf("%s begins with a message that is no OPEN", n.Address)
}

// judgeOpen compares the peer's OPEN with what is configured.
func judgeOpen(open *bgp.BGPOpen, n config.Neighbor) string {
	asn := uint32(open.MyAS)
	remote := map[route.Family]bool{}
	multiprotocol := false
	for _, option := range open.OptParams {
		capabilities, ok := option.(*bgp.OptionParameterCapability)
		if !ok {
			continue
		}
		for _, capability := range capabilities.Capability {
			switch c := capability.(type) {
			case *bgp.CapFourOctetASNumber:
				asn = c.CapValue
			case *bgp.CapMultiProtocol:
				multiprotocol = true
				if family, ok := familyOf(c.CapValue); ok {
					remote[family] = true
				}
			}
		}
	}
	common := !multiprotocol
	for _, family := range n.Families {
		common = common || remote[family]
	}
	switch {
	case n.PeerASN == 0 && asn == n.LocalASN:
		return fmt.Sprintf("the peer's AS number is %d, our own, and it is to be another: peerType is External", asn)
	case n.PeerASN != 0 && asn != n.PeerASN:
		return fmt.Sprintf("the peer's AS number is %d, and peerASN is %d", asn, n.PeerASN)
	case !common:
		return "the peer has none of the session's families"
	}
	return ""
}

// answer sends an OPEN, and reads what the peer thinks of it. Then it hangs up.
func answer(conn net.Conn, p patient) string {
	n := p.neighbor
	capabilities := []bgp.ParameterCapabilityInterface{bgp.NewCapRouteRefresh()}
	for _, family := range n.Families {
		capabilities = append(capabilities, bgp.NewCapMultiProtocol(wireFamily(family)))
	}
	capabilities = append(capabilities, bgp.NewCapFourOctetASNumber(n.LocalASN))
	asn := uint16(bgp.AS_TRANS)
	if n.LocalASN < 1<<16 {
		asn = uint16(n.LocalASN)
	}
	open, err := bgp.NewBGPOpenMessage(asn, uint16(seconds(n.HoldTime)), p.routerID,
		[]bgp.OptionParameterInterface{bgp.NewOptionParameterCapability(capabilities)})
	if err != nil || write(conn, open) != nil {
		return ""
	}
	message, err := readMessage(conn)
	if err != nil {
		return fmt.Sprintf("%s closes the connection after our OPEN, and does not say why", n.Address)
	}
	if body, ok := message.Body.(*bgp.BGPNotification); ok {
		if body.ErrorCode == bgp.BGP_ERROR_OPEN_MESSAGE_ERROR && body.ErrorSubcode == bgp.BGP_ERROR_SUB_BAD_PEER_AS {
			return fmt.Sprintf("the peer refuses our AS number %d: it has another for us", n.LocalASN)
		}
		return "the peer refuses the session: " + words(body.ErrorCode, body.ErrorSubcode, body.Data)
	}
	_ = write(conn, bgp.NewBGPNotificationMessage(bgp.BGP_ERROR_CEASE, bgp.BGP_ERROR_SUB_CONNECTION_COLLISION_RESOLUTION, nil))
	return "" // it would take us; what is there still is the last session's end
}

func write(conn io.Writer, message *bgp.BGPMessage) error {
	raw, err := message.Serialize()
	if err == nil {
		_, err = conn.Write(raw)
	}
	return err
}

// readMessage reads one message of ordinary size.
func readMessage(conn io.Reader) (*bgp.BGPMessage, error) {
	raw := make([]byte, bgp.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(conn, raw); err != nil {
		return nil, err
	}
	header := &bgp.BGPHeader{}
	if err := header.DecodeFromBytes(raw); err != nil {
		return nil, err
	}
	if header.Len < bgp.BGP_HEADER_LENGTH || header.Len > bgp.BGP_MAX_MESSAGE_LENGTH {
		return nil, errors.New("a message of impossible length")
	}
	body := make([]byte, int(header.Len)-bgp.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(conn, body); err != nil {
		return nil, err
	}
	return bgp.ParseBGPBody(header, body)
}

// words puts a NOTIFICATION into them.
func words(code, subcode uint8, data []byte) string {
	text, known := notifications[[2]uint8{code, subcode}]
	if !known {
		text = bgp.NewNotificationErrorCode(code, subcode).String()
	}
	shutdown := code == bgp.BGP_ERROR_CEASE && (subcode == bgp.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN || subcode == bgp.BGP_ERROR_SUB_ADMINISTRATIVE_RESET)
	if shutdown && len(data) > 1 { // RFC 9003
		length := min(int(data[0]), len(data)-1)
		text += fmt.Sprintf(", %q", string(data[1:1+length]))
	}
	return text
}

var notifications = map[[2]uint8]string{
	{2, 1}:  "it does not speak BGP version 4",
	{2, 2}:  "it expects another AS number of us (OPEN error, Bad Peer AS)",
	{2, 3}:  "our BGP identifier is its own, or zero (OPEN error, Bad BGP Identifier)",
	{2, 4}:  "it does not know an optional parameter of ours (OPEN error)",
	{2, 6}:  "it does not take our hold time (OPEN error, Unacceptable Hold Time)",
	{2, 7}:  "it wants a capability that we do not have (OPEN error, Unsupported Capability)",
	{4, 0}:  "it heard nothing of us for the hold time",
	{6, 1}:  "we told it more prefixes than it takes (Cease, Maximum Number of Prefixes Reached)",
	{6, 2}:  "its administrator shut the session down (Cease, Administrative Shutdown)",
	{6, 3}:  "we are not configured there any more (Cease, Peer De-configured)",
	{6, 4}:  "its administrator reset the session (Cease, Administrative Reset)",
	{6, 5}:  "it rejects the connection (Cease, Connection Rejected): it does not know us, or has enough sessions",
	{6, 6}:  "its configuration changed (Cease, Other Configuration Change)",
	{6, 7}:  "there was another connection at the same time (Cease, Connection Collision Resolution)",
	{6, 8}:  "it is out of resources (Cease)",
	{6, 9}:  "a hard reset (Cease, RFC 8538)",
	{6, 10}: "its BFD went down (Cease, BFD Down)",
}

// counters are the kernel's, of this network namespace: they count for all connections together.
type counters struct{ unsigned, unexpected, wrong, lowTTL int64 }

// readCounters reads /proc/net/netstat; what cannot be read is zero.
func readCounters() counters {
	text, err := os.ReadFile("/proc/thread-self/net/netstat")
	if err != nil {
		return counters{}
	}
	return parseCounters(string(text))
}

func parseCounters(text string) counters {
	values := map[string]int64{}
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "TcpExt:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i := 1; i < min(len(fields), len(names)); i++ {
			values[names[i]], _ = strconv.ParseInt(fields[i], 10, 64)
		}
	}
	return counters{
		unsigned: values["TCPMD5NotFound"], unexpected: values["TCPMD5Unexpected"], wrong: values["TCPMD5Failure"],
		lowTTL: values["TCPMinTTLDrop"],
	}
}

// byCounters tells what the kernel has dropped since the session went down, as far as it can be the session's.
func byCounters(p patient, password string) string {
	now, n := readCounters(), p.neighbor
	switch {
	case password != "" && now.wrong > p.before.wrong:
		return "TCP-MD5: connections arrive with a signature of another password than that of " + n.PasswordFile
	case password != "" && now.unsigned > p.before.unsigned:
		return "TCP-MD5: connections arrive unsigned, and the session has a password: the peer has none"
	case password == "" && now.unexpected > p.before.unexpected:
		return "TCP-MD5: signed connections arrive here, and the session has no password; the kernel does not tell whose they are"
	case n.TTLSecurity > 0 && now.lowTTL > p.before.lowTTL:
		return fmt.Sprintf("GTSM: packets arrive with a TTL below %d: the peer has no GTSM (ttl security), or is further away than ttlSecurityHops", 256-int(n.TTLSecurity))
	}
	return ""
}
