// Package unary is a gRPC client for programs that live for milliseconds: one call at a time over a connection that is
// there already. It speaks what every gRPC server does, HTTP/2 frames and all, but neither compresses nor encrypts, and
// needs neither net/http nor reflection nor goroutines, whose start costs such a program more than its call does.
//
// All that a call needs is sent by one write. What the server is owed in return (acknowledgements of settings and pings)
// rides with what is sent next, or goes after a moment when nothing is.
package unary
