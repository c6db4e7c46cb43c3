// Package pool is the arithmetic of address pools: reading them, and the reservations and settings beside them, out of
// resources; choosing the pools a node's Pods draw from; which addresses of a block are never given out; and the free
// space out of which blocks are carved. Pure: no clock, no lock, no I/O.
package pool
