// Package contract holds the tests of the run contract: what a stranger's script may rely on of the four binaries, as
// processes with their flags, files, ports, exit codes and messages, against a real etcd and with real certificates.
// They run with "go test ./integration/contract" as root, all inside one network namespace of their own.
package contract
