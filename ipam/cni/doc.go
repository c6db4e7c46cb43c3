// Package cni is clearway-ipam, the CNI IPAM plugin: it asks the node's agent over a unix socket, and keeps no state of
// its own but the spool of DELs that the agent was not there to take.
//
// It is on the path of every Pod's start, as a process of its own, so it links and initialises little.
package cni
