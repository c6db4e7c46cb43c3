// Package bgptest has a fake speaker and a fake route writer that print themselves as an operator would read them: the
// speaker like a list of neighbours and advertisements, the writer like `ip route`. A test compares texts, so that
// the difference it shows is the diagnosis.
package bgptest
