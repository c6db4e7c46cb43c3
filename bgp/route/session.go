package route

import (
	"net/netip"
	"time"
)

// Learned is every path that peers tell of one prefix now, in order of their addresses. No path: nobody tells it any
// more. The slice and what it points to are immutable.
type Learned struct {
	Prefix netip.Prefix
	Paths  []*Path
}

// The session states of RFC 4271 section 8.2.2.
const (
	Idle        = "Idle"
	Connect     = "Connect"
	Active      = "Active"
	OpenSent    = "OpenSent"
	OpenConfirm = "OpenConfirm"
	Established = "Established"
)

// Session is what the speaker knows of one session.
type Session struct {
	Peer     netip.Addr
	PeerASN  uint32
	LocalASN uint32
	Origin   string // what wanted it: "BGPPeer/<name>" or "nodeMesh/<node>"

	State string    // one of the states above
	Since time.Time // when it entered the state
	Flaps int64     // how often it left Established

	Received        int64    // paths the peer tells now
	Advertised      int64    // prefixes we tell the peer now
	Families        []Family // negotiated; none while not Established
	GracefulRestart bool     // the peer negotiated RFC 4724 in the present session, or in the last one
	// EndOfRIB: since the speaker started the peer has at least once told all it knows, in every negotiated family.
	EndOfRIB bool
	Reason   string // why it is not Established, in a sentence; empty when it is
	Warning  string // what is wrong with one that is, in a sentence

	LongLived bool       // RFC 9494, as GracefulRestart
	AddPath   []Family   // in which the peer tells several paths to a prefix (RFC 7911)
	RouterID  netip.Addr // of the peer, when it was last known
	Held      []string   // fields that changed and are the next session's
	Called    bool       // the peer called from a listen range
}
