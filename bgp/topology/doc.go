// Package topology decides which nodes have a BGP session with each other.
//
// Auto and Full are meshes: each node of a group has a session with each other one, so a group of n nodes has
// n(n-1)/2 sessions and each agent n-1. That is fit for some hundred nodes on one network; beyond, use None and let
// the routers carry the routes.
//
// It is pure.
package topology
