package route

import (
	"net/netip"
	"time"
)

// Watch is a BFD session as it is wanted (RFC 5880). One with the same Peer is the same session.
type Watch struct {
	Peer  netip.Addr // with a zone when link-local
	Local netip.Addr // the source; invalid: the kernel chooses
	// Multihop: RFC 5883, by UDP port 4784; else RFC 5881, by port 3784 and from the same link alone.
	Multihop bool
	MinTTL   uint8 // multihop packets with less are dropped

	MinTx, MinRx time.Duration
	Multiplier   uint8
}

// Liveness is how a BFD session stands.
type Liveness struct {
	Peer netip.Addr
	// State and RemoteState are RFC 5880's: AdminDown, Down, Init, Up.
	State, RemoteState string
	// Diagnostic is why it left Up last, in the RFC's words; RemoteDiagnostic is what the peer says of itself.
	Diagnostic, RemoteDiagnostic string
	// Instance tells one session with a peer from the next one: a session that is begun anew has another.
	Instance uint32
	// Failures is how often it left Up, but for an administrator's word at either end.
	Failures int64
	// Independent: the peer says that its BFD does not share fate with its control plane (the C bit).
	Independent bool
	Since       time.Time

	TxInterval, DetectionTime time.Duration // as negotiated
	Problem                   string        // why there are no packets, in a sentence
}

// The states of BFD that decisions are made by.
const (
	BFDDown = "Down"
	BFDUp   = "Up"
)
