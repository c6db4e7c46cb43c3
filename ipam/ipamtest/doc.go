// Package ipamtest has slow and obvious twins of the structures of ipam for tests to compare with, and calls of any RPC
// with any input; its own tests are those of several rooms together.
package ipamtest
