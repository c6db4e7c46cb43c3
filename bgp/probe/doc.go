// Package probe finds out whether addresses can be reached from this machine: by an ICMP echo where the process may send
// one, and by a TCP connection, of which a refusal is an answer too.
package probe
