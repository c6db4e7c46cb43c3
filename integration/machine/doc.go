// Package machine has the test of a real node: Clearway's image and manifests on a real kubelet with containerd and runc, with
// the rest of Kubernetes beside it and FRR as its router. It takes minutes to build and to run, so that it is asked for by
// "make machine" and has a build tag of its own.
package machine
