// Command clearway-ipam is Clearway's CNI IPAM plugin (CNI 0.3.1 to 1.1.0).
package main

import (
	"runtime/debug"

	"github.com/clearway/clearway/ipam/cni"
)

// version is set by the linker.
var version = "devel"

func main() {
	// The process lives for milliseconds and allocates a few megabytes: collecting them costs more than it frees. The
	// limit is for input of a size that nobody means.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(64 << 20)
	cni.Main("clearway-ipam " + version + ": CNI IPAM plugin that asks the node's clearway-agent for addresses")
}
