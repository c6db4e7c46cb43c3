// Package bench measures Clearway beside its rivals: host-local for addresses, BIRD and FRR for routes.
//
// One run does both sides on one machine, in rounds that alternate between them (A B A B), because a machine's speed
// changes from one minute to the next: the ratios are what the run is for, the absolute figures only describe it.
//
// A Part is one comparison. It builds what it needs in private network namespaces that have no name, so that they go
// when the last process in them does, and gives a Result: tables of measured values, and the project's targets with
// the figure beside each. Parts are registered in parts; a new one is a file and a line there.
package bench
