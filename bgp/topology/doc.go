// Package topology decides which nodes have a BGP session with each other.
//
// A mesh of n nodes has n(n-1)/2 sessions, and each agent n-1. Where nodes are many some of them reflect (RFC 4456): each
// other node is a client of two reflectors of its failure domain, and reflectors mesh, so that what any node tells is two
// reflectors away from any other at most. Who reflects follows from the nodes' names by rendezvous hashing: every agent
// computes the same, whatever the order in which it heard of them, and a node that comes or goes moves few sessions.
//
// It is pure.
package topology
