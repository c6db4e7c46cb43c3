// Package fleet sees the BGP configuration of all nodes at once, where bgp/config sees one node's: from the cluster's
// resources it derives what each node's agent will make of them, by the code that the agent itself runs.
//
// It is pure.
package fleet
