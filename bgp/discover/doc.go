// Package discover finds who is at the other end of a link, for peers that are configured by interface alone (unnumbered
// BGP): it hears router advertisements (RFC 4861), asks for them, and sends its own, by which the other end finds us. Ours
// have a router lifetime of 0: nobody takes a node for a default router.
//
// It is an edge: raw ICMPv6 sockets, for which the process needs CAP_NET_RAW.
package discover
