// Package speaker is this node's BGP speaker, and the only importer of GoBGP.
//
// GoBGP is used as what it is good at: sessions, the wire, and Adj-RIB-In. It imports nothing into its own table but
// what this node advertises, so it has nothing to choose and nothing to pass on: a learned route cannot be
// re-advertised by any mistake of policy. What peers tell is taken from the stream of updates into a table of our own
// (Table), from where the agent takes changed prefixes with all their paths. Stale paths (RFC 4724) are kept and swept
// by that table.
//
// GoBGP keeps route selection options in variables of the process: one Speaker a process, in tests too.
//
// Set takes the whole desired state and returns at once; Run applies it: first what is advertised, then the
// neighbours, so that the first UPDATEs of a session are complete before its End-of-RIB.
package speaker
