// Package netns is the only room that looks into network namespaces: which one a path leads to, which ones there are on
// the machine, and which addresses are in them. It changes nothing.
//
// A namespace lives by its processes or by a mount of its file, so that both are looked for: every process, and every
// process's mounts. One that only an open file keeps alive is not found; what wires such a one leaves a route on the
// host, which is looked at as well. What cannot be seen is a fault of the view, never an absence.
package netns
