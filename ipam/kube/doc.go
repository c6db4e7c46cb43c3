// Package kube is ipamd's half towards Kubernetes, and the only room that imports client-go: the API server's objects
// become Clearway's own here, and what is to be told becomes Kubernetes' status, conditions and events.
//
// # One way in
//
// In a cluster the API server is the authority for the configuration. While an ipamd leads, Mirror watches the resources
// of clearway.io and hands each one that changed to the Keeper, which judges it and writes it into the store, fenced by the
// leader's office. What is refused keeps the last good one in force, and says why in its Accepted condition and an event.
// Nothing is dropped before all of its kind has been listed (rule NoEarlyPrune).
//
// Write and Delete are the other direction, for resources that are applied through ipamd: they go to the API server first.
//
// # Pure and edge
//
// decide.go and status.go decide, from values; the other files are client-go's.
package kube
