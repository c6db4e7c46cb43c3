// Package client calls ipamd, or one node's agent, for clearwayctl: it tries several servers in order, follows them to
// their leader, and turns gRPC's answers into errors that a person can act on.
package client
