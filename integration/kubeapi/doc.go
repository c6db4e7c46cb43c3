// Package kubeapi starts a real kube-apiserver over a real etcd, both processes of their own, for tests that want to see
// what Kubernetes does and not what a fake of it does. Both end with the test, also when that is killed.
//
// The server is built once, from Kubernetes' own Go module (.ci/kubernetes), into bin/. It takes about 250 MB and
// serves within some ten seconds.
package kubeapi
