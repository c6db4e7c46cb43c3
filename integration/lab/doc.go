// Package lab builds the network of a containerlab topology file on one machine, without containers.
//
// A node is a set of Linux namespaces (network, mount, process, host name) with a small first process. A link is a
// pair of veth devices plugged into a patch panel, so that it can be cut with or without loss of carrier and
// survives the reboot of either end. An image's name says what runs in the node: FRR or BIRD as Debian packages
// them, Clearway's own binaries, or nothing but what the file's cmd says.
//
// Nothing of a lab is visible on the host but its processes: no device, route, mount or named namespace. A lab
// lives as long as the process that made it, and goes with it, also on kill -9.
//
// Programs that use the package call ServeChild first thing in main (TestMain in a test): the package starts the
// program again as the first process of each node.
package lab
