// Package ipamtest has slow and obvious twins of the structures of ipam, for tests to compare with.
package ipamtest
