// Package cluster drives Clearway's binaries in a lab as an operator and a container runtime would: clearwayctl, the
// agents' sockets, vtysh and birdc. It looks from outside and imports nothing of Clearway's own.
package cluster
