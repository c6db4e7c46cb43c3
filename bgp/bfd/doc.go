// Package bfd runs BFD sessions (RFC 5880) over UDP, single hop (RFC 5881) and multihop (RFC 5883), in IPv4 and IPv6. It
// is the edge around package protocol: sockets, the clock, and the unix socket by which the agent says which sessions
// there are to be and hears how they stand.
//
// An Engine is one goroutine that waits for all sockets and all timers together. What has arrived is always taken before
// time is judged: a machine that is too busy to run it for a while does not find its peers dead for that.
package bfd
