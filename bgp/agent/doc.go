// Package agent is the BGP half of a node's agent: it joins what is wanted (snapshot, ownership log, own blocks) with
// what peers tell, and says to the speaker what to advertise and to the route writer what the kernel is to have.
//
// One goroutine (Run) owns all state. Inputs are mailboxes that keep the latest; outputs take whole desired sets. The
// core (type core) has no clock, socket or goroutine.
//
// NoEarlyPrune: the route writer keeps what an earlier process left until Settled, and Settled is said only when the
// snapshot and the whole ownership log are known and every neighbour has sent End-of-RIB, or a stated deadline passed.
package agent
