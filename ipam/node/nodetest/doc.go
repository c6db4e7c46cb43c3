// Package nodetest is an ipamd in memory, for tests of the agent's half: one pool map, no store, no leader. It does what
// the API promises and nothing cleverly, and can be told to fail.
package nodetest
