// Package clearwayv1 is the API: resources and services, generated from the .proto files beside it, and the few
// functions that every reader of resources needs.
package clearwayv1
