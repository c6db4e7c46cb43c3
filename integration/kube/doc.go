// Package kube holds the tests of Clearway in Kubernetes: clearway-ipamd beside a real kube-apiserver. They need no root and
// no namespace of their own, and run with "go test ./integration/kube".
package kube
