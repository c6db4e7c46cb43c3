// Package proof decides what is proven about who holds an address: by the network namespace that a runtime named when
// it asked for it, by the addresses that are in namespaces now, and by the kernel's routes. What is not known proves
// nothing.
//
// It computes; package netns looks.
package proof
