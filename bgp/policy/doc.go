// Package policy decides which paths this node believes (the invariant SafeImport) and which of its own prefixes a
// peer is told. Every answer carries the rule that gave it, as a sentence for an operator.
//
// It is pure: no clock, socket or goroutine. Owners and Judge are mutable and belong to one goroutine.
package policy
