// Package storetest has a store in memory that behaves as etcd's does, faults to inject into it, and the conformance
// suite that both pass.
package storetest
