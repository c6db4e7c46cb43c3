// Package service decides which addresses of LoadBalancer pools the Services of a Kubernetes cluster are given, and which
// nodes tell of a Service's addresses. It is pure: it knows neither the API server nor the store, and is told the time.
package service
