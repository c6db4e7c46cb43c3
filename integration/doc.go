// Package integration holds the tests of the whole road: Clearway's binaries, FRR, BIRD and the CNI chain in a lab,
// asserted from outside. They run with "go test ./integration/..." as root.
package integration
