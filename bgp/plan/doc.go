// Package plan foretells what a change of resources does to BGP on every node: which sessions come, go or begin anew, and
// for which field; which prefixes each peer gains and loses; in how many sessions each node's blocks are told; and which
// limits would be passed. It goes by the code by which the agents and their speakers do it.
//
// It is pure.
package plan
