// Package protocol is BFD as RFC 5880 has it: the control packet and one session's state machine. It is pure: it is told
// the time and what arrived, and says what is to be sent and when it wants to be asked again.
//
// Of the RFC's options it has none: no authentication (an authenticated packet is discarded), no echo (its required
// interval is 0), no Demand mode of its own (the other end may use it). Both ends are active.
package protocol
