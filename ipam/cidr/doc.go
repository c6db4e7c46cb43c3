// Package cidr is strict reading of addresses and prefixes, and arithmetic on them in 128 bits. IPv4 and IPv6 are
// kept apart: an IPv4-mapped IPv6 address is refused where text comes in, so that no address has two spellings.
package cidr
