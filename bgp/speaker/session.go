package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// retainAfterReturn is how long stale paths are kept after the peer's session is back, should its End-of-RIB never
// come.
const retainAfterReturn = 60 * time.Second

// session is what is known of one neighbour's session. It is guarded by Speaker.mu.
type session struct {
	neighbor config.Neighbor
	group    string   // of one who called: GoBGP's name of the range
	problem  string   // why the neighbour could not be configured
	held     []string // fields that are the next session's
	blocked  block    // it was ended here
	warning  string   // it tells more than it should

	state      string
	since      time.Time
	flaps      int64
	families   []route.Family
	graceful   bool // the peer negotiated graceful restart, last time
	restart    time.Duration
	longer     [2]time.Duration // RFC 9494, as agreed; IPv4 and IPv6
	addPath    []route.Family   // in which it tells several paths (RFC 7911)
	remoteASN  uint32
	routerID   netip.Addr
	ended      map[route.Family]bool // End-of-RIB of the present session
	endOfRIB   bool
	disconnect string // why the last session ended
	failure    string // why it is being ended by Fail
	finding    string // what was found out about why it is down
	counters   counters
}

func newSession(n config.Neighbor, now time.Time) *session {
	return &session{neighbor: n, state: route.Idle, since: now, ended: map[route.Family]bool{}}
}

var stateNames = map[bgp.FSMState]string{
	bgp.BGP_FSM_IDLE: route.Idle, bgp.BGP_FSM_CONNECT: route.Connect, bgp.BGP_FSM_ACTIVE: route.Active,
	bgp.BGP_FSM_OPENSENT: route.OpenSent, bgp.BGP_FSM_OPENCONFIRM: route.OpenConfirm,
	bgp.BGP_FSM_ESTABLISHED: route.Established,
}

// establish takes over what the two ends agreed on.
func (s *session) establish(state apiutil.PeerState) {
	s.families, s.disconnect, s.failure, s.finding = nil, "", "", ""
	s.ended = map[route.Family]bool{}
	remote := map[route.Family]bool{}
	multiprotocol := false
	s.graceful, s.longer, s.addPath = false, [2]time.Duration{}, nil
	s.remoteASN, s.routerID = state.PeerASN, state.RouterID
	for _, capability := range state.RemoteCap {
		switch c := capability.(type) {
		case *bgp.CapMultiProtocol:
			multiprotocol = true
			if family, ok := familyOf(c.CapValue); ok {
				remote[family] = true
			}
		case *bgp.CapGracefulRestart:
			s.graceful = s.neighbor.GracefulRestart.Enabled
			s.restart = time.Duration(c.Time) * time.Second
		case *bgp.CapLongLivedGracefulRestart:
			s.agreeLongLived(c)
		case *bgp.CapAddPath:
			s.agreeAddPath(c)
		}
	}
	if !s.graceful {
		s.longer = [2]time.Duration{} // RFC 9494 section 4.1: only beside RFC 4724
	}
	if !multiprotocol {
		remote[route.IPv4] = true // RFC 4760 section 8: without the capability IPv4 unicast alone
	}
	for _, family := range s.neighbor.Families {
		if remote[family] {
			s.families = append(s.families, family)
		}
	}
}

// agreeLongLived takes the peer's times for its routes (RFC 9494), bounded by our own.
func (s *session) agreeLongLived(c *bgp.CapLongLivedGracefulRestart) {
	for _, tuple := range c.Tuples {
		if family, ok := familyOf(bgp.NewFamily(tuple.AFI, tuple.SAFI)); ok {
			s.longer[at(family)] = min(time.Duration(tuple.RestartTime)*time.Second, s.neighbor.GracefulRestart.LongLived)
		}
	}
}

func (s *session) agreeAddPath(c *bgp.CapAddPath) {
	for _, tuple := range c.Tuples {
		if family, ok := familyOf(tuple.Family); ok && s.neighbor.AddPathReceive && tuple.Mode&bgp.BGP_ADD_PATH_SEND != 0 {
			s.addPath = append(s.addPath, family)
		}
	}
	slices.Sort(s.addPath)
}

// lost are the families whose stale paths cannot be kept when the session is back (RFC 4724 section 4.2): those it
// does not carry any more, and those of a peer that has restarted and lost its forwarding state. A peer that did not
// restart (only the session broke) forwards as before, whatever its bit says; its paths stay until its End-of-RIB. What
// is kept beyond the restart time goes by the bits of RFC 9494 (section 4.2).
func (s *session) lost(capabilities []bgp.ParameterCapabilityInterface, longLived bool) []route.Family {
	const restarted, forwarding = 0x08, 0x80
	kept := map[route.Family]bool{}
	didRestart := false
	for _, capability := range capabilities {
		if c, ok := capability.(*bgp.CapGracefulRestart); ok {
			didRestart = c.Flags&restarted != 0
		}
	}
	for _, capability := range capabilities {
		switch c := capability.(type) {
		case *bgp.CapGracefulRestart:
			for _, tuple := range c.Tuples {
				if family, ok := familyOf(bgp.NewFamily(tuple.AFI, tuple.SAFI)); ok && !longLived {
					kept[family] = !didRestart || tuple.Flags&forwarding != 0
				}
			}
		case *bgp.CapLongLivedGracefulRestart:
			for _, tuple := range c.Tuples {
				if family, ok := familyOf(bgp.NewFamily(tuple.AFI, tuple.SAFI)); ok && longLived {
					kept[family] = !didRestart || tuple.Flags&forwarding != 0
				}
			}
		}
	}
	var lost []route.Family
	for _, family := range []route.Family{route.IPv4, route.IPv6} {
		if !kept[family] {
			lost = append(lost, family)
		}
	}
	return lost
}

// end notes an End-of-RIB.
func (s *session) end(family route.Family) {
	s.ended[family] = true
	for _, family := range s.families {
		if !s.ended[family] {
			return
		}
	}
	s.endOfRIB = len(s.families) > 0
}

var disconnectReasons = map[api.PeerState_DisconnectReason]string{
	api.PeerState_DISCONNECT_REASON_ADMIN_DOWN:            "the session was shut down here",
	api.PeerState_DISCONNECT_REASON_HOLD_TIMER_EXPIRED:    "the peer was silent for the hold time",
	api.PeerState_DISCONNECT_REASON_NOTIFICATION_SENT:     "we ended the session",
	api.PeerState_DISCONNECT_REASON_NOTIFICATION_RECEIVED: "the peer ended the session",
	api.PeerState_DISCONNECT_REASON_READ_FAILED:           "the connection was closed by the peer, or broke",
	api.PeerState_DISCONNECT_REASON_WRITE_FAILED:          "the connection broke",
	api.PeerState_DISCONNECT_REASON_RESTART_TIMER_EXPIRED: "the peer did not come back within its restart time",
	api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART:      "the connection broke; the peer's routes are kept for its restart time",
	api.PeerState_DISCONNECT_REASON_INVALID_MSG:           "the peer sent a message that BGP does not allow",
	api.PeerState_DISCONNECT_REASON_HARD_RESET:            "the peer asked for a hard reset",
	api.PeerState_DISCONNECT_REASON_DECONFIGURED:          "the session was configured anew",
	api.PeerState_DISCONNECT_REASON_BAD_PEER_AS:           "the peer's AS number is not peerASN",
}

// disconnected keeps why a session, or an attempt at one, ended.
func (s *session) disconnected(state apiutil.PeerState) {
	text, ok := disconnectReasons[state.DisconnectReason]
	if !ok {
		return // a step forward, or back, between attempts
	}
	switch state.DisconnectReason {
	case api.PeerState_DISCONNECT_REASON_NOTIFICATION_SENT, api.PeerState_DISCONNECT_REASON_NOTIFICATION_RECEIVED:
		text += ": " + notified(state.DisconnectMessage)
	case api.PeerState_DISCONNECT_REASON_BAD_PEER_AS:
		text = fmt.Sprintf("the peer's AS number is not peerASN %d", s.neighbor.PeerASN)
	}
	if state.DisconnectReason == api.PeerState_DISCONNECT_REASON_NOTIFICATION_SENT && s.failure != "" {
		text, s.failure = s.failure, ""
	}
	s.disconnect = text
}

// notified reads the codes in what GoBGP says of a NOTIFICATION: "notification-received code 6(cease) subcode 2(...)".
func notified(message string) string {
	var code, subcode uint8
	_, rest, _ := strings.Cut(message, "code ")
	if _, err := fmt.Sscanf(rest, "%d(", &code); err != nil {
		return message
	}
	if _, rest, _ = strings.Cut(rest, "subcode "); rest != "" {
		if _, err := fmt.Sscanf(rest, "%d(", &subcode); err != nil {
			return message
		}
	}
	return words(code, subcode, nil)
}

// reason is one sentence on why the session is not Established.
func (s *session) reason() string {
	address := netip.AddrPortFrom(s.neighbor.Address, s.neighbor.Port)
	waiting := fmt.Sprintf("no TCP connection with %s yet: it does not answer, refuses, or its password is another", address)
	if s.neighbor.Passive {
		waiting = fmt.Sprintf("waiting for %s to connect (passive)", s.neighbor.Address)
	}
	switch {
	case s.problem != "":
		return s.problem
	case s.blocked.why != "":
		return s.blocked.reason()
	case s.state == route.Established:
		return ""
	case s.finding != "" && s.disconnect != "" && !strings.Contains(s.disconnect, s.finding):
		return s.finding + "; before that: " + s.disconnect
	case s.finding != "":
		return s.finding
	case s.state == route.OpenSent:
		return "connected; waiting for the peer's OPEN"
	case s.state == route.OpenConfirm:
		return "the peer's OPEN is accepted; waiting for its KEEPALIVE"
	case s.disconnect != "" && s.state == route.Active:
		return s.disconnect + "; " + waiting
	case s.disconnect != "":
		return s.disconnect
	}
	return waiting
}

func (s *session) view(received, advertised int64) route.Session {
	n := s.neighbor
	view := route.Session{
		Peer: n.Address, PeerASN: n.PeerASN, LocalASN: n.LocalASN, Origin: n.Origin,
		State: s.state, Since: s.since, Flaps: s.flaps, Received: received,
		GracefulRestart: s.graceful, EndOfRIB: s.endOfRIB, Reason: s.reason(), Warning: s.warning,
		LongLived: max(s.longer[0], s.longer[1]) > 0, AddPath: s.addPath, RouterID: s.routerID,
		Held: s.held, Called: s.group != "",
	}
	if n.PeerASN == 0 {
		view.PeerASN = s.remoteASN
	}
	if s.state == route.Established {
		view.Families, view.Advertised = s.families, advertised
	}
	return view
}
