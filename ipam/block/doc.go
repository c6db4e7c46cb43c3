// Package block keeps the addresses of one block: which are assigned, which rest, and which comes next.
//
// The order of assignment is the invariant Cooled: a freed address rests; among rested ones the fuller half of the
// block goes first (the lower of equals), so that halves come free and can be called back, and within it the oldest: an
// address never used before one that was, and then by the end of its rest.
//
// Everything here is pure: time is an argument. A Block is not safe for concurrent use.
package block
