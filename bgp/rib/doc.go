// Package rib holds the paths that peers told, with the verdict on each, and chooses from the accepted ones the routes
// for the kernel (RFC 4271 section 9.1), several next hops where paths are equally good.
//
// It is pure and belongs to one goroutine. The cost of a change is that of the prefixes it touches.
package rib
