package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// State is a session's state (RFC 5880 section 4.1).
type State uint8

// The states.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

var stateNames = [...]string{"AdminDown", "Down", "Init", "Up"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State %d", uint8(s))
}

// Diagnostic is why a session changed its state last (RFC 5880 section 4.1).
type Diagnostic uint8

// The diagnostics that are told here.
const (
	NoDiagnostic     Diagnostic = 0
	DetectionExpired Diagnostic = 1
	NeighborDown     Diagnostic = 3
	AdminDownDiag    Diagnostic = 7
)

var diagnosticNames = [...]string{
	"", "control detection time expired", "echo function failed", "neighbor signaled session down",
	"forwarding plane reset", "path down", "concatenated path down", "administratively down", "reverse concatenated path down",
}

// String is the RFC's name of it; empty for none.
func (d Diagnostic) String() string {
	if int(d) < len(diagnosticNames) {
		return diagnosticNames[d]
	}
	return fmt.Sprintf("diagnostic %d", uint8(d))
}

const (
	version = 1
	// PacketLength is the length of a control packet without authentication, the only one that is sent.
	PacketLength = 24
	// authLength is the least length of a packet with authentication (RFC 5880 section 6.8.6).
	authLength = 26

	flagPoll, flagFinal, flagIndependent = 0x20, 0x10, 0x08
	flagAuth, flagDemand, flagMultipoint = 0x04, 0x02, 0x01
)

// Packet is a control packet (RFC 5880 section 4.1). Intervals have whole microseconds.
type Packet struct {
	Diagnostic  Diagnostic
	State       State
	Poll, Final bool
	// Independent: BFD lives on when the sender's control plane restarts.
	Independent   bool
	Authenticated bool
	Demand        bool
	Multiplier    uint8
	// Mine is the sender's discriminator, Yours what it knows as the receiver's (0: not known yet).
	Mine, Yours       uint32
	DesiredMinTx      time.Duration
	RequiredMinRx     time.Duration
	RequiredMinEchoRx time.Duration
}

// Append writes the packet, without authentication, behind what is in to.
func (p Packet) Append(to []byte) []byte {
	flags := byte(p.State) << 6
	for _, one := range []struct {
		set  bool
		flag byte
	}{{p.Poll, flagPoll}, {p.Final, flagFinal}, {p.Independent, flagIndependent}, {p.Demand, flagDemand}} {
		if one.set {
			flags |= one.flag
		}
	}
	to = append(to, version<<5|byte(p.Diagnostic)&0x1f, flags, p.Multiplier, PacketLength)
	for _, word := range []uint32{p.Mine, p.Yours, micros(p.DesiredMinTx), micros(p.RequiredMinRx), micros(p.RequiredMinEchoRx)} {
		to = binary.BigEndian.AppendUint32(to, word)
	}
	return to
}

func micros(d time.Duration) uint32 { return uint32(min(max(d/time.Microsecond, 0), 1<<32-1)) }

// The reasons for which a packet is discarded before a session is looked for, in the order of RFC 5880 section 6.8.6.
var (
	ErrVersion       = errors.New("the version is not 1")
	ErrLength        = errors.New("the length is not that of a control packet")
	ErrMultiplier    = errors.New("the detect multiplier is 0")
	ErrMultipoint    = errors.New("the multipoint bit is set")
	ErrDiscriminator = errors.New("the sender's discriminator is 0")
	ErrYours         = errors.New("the receiver's discriminator is 0 in a state that needs one")
	ErrAuth          = errors.New("the packet is authenticated, which is not in use")
)

// Parse reads a control packet and applies the rules of RFC 5880 section 6.8.6 that need no session.
func Parse(data []byte) (Packet, error) {
	if len(data) < PacketLength {
		return Packet{}, ErrLength
	}
	flags, length := data[1], int(data[3])
	least := PacketLength
	if flags&flagAuth != 0 {
		least = authLength
	}
	p := Packet{
		Diagnostic: Diagnostic(data[0] & 0x1f), State: State(flags >> 6),
		Poll: flags&flagPoll != 0, Final: flags&flagFinal != 0, Independent: flags&flagIndependent != 0,
		Authenticated: flags&flagAuth != 0, Demand: flags&flagDemand != 0, Multiplier: data[2],
		Mine: binary.BigEndian.Uint32(data[4:]), Yours: binary.BigEndian.Uint32(data[8:]),
		DesiredMinTx: interval(data[12:]), RequiredMinRx: interval(data[16:]), RequiredMinEchoRx: interval(data[20:]),
	}
	switch {
	case data[0]>>5 != version:
		return Packet{}, ErrVersion
	case length < least || length > len(data):
		return Packet{}, ErrLength
	case p.Multiplier == 0:
		return Packet{}, ErrMultiplier
	case flags&flagMultipoint != 0:
		return Packet{}, ErrMultipoint
	case p.Mine == 0:
		return Packet{}, ErrDiscriminator
	case p.Yours == 0 && p.State != Down && p.State != AdminDown:
		return Packet{}, ErrYours
	case p.Authenticated:
		return Packet{}, ErrAuth
	}
	return p, nil
}

func interval(data []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(data)) * time.Microsecond
}
