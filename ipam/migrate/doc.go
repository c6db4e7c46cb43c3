// Package migrate reads what another network has in Kubernetes (Calico, flannel, Cilium) and says what of it becomes which
// resources of Clearway, which blocks and addresses nodes keep, and what has no counterpart.
//
// It computes; package kube reads the objects, and ipamd takes the nodes in (IPAMService.Adopt).
package migrate
