// Package unary serves gRPC's unary calls at a fraction of grpc-go's work: what a call costs on the agent's socket is
// mostly what its server does around it. The plugin's end of it is proto/unary.
//
// A connection has one goroutine that reads. It hands each request that is complete to a goroutine that runs the
// method and writes the whole answer (headers, message, trailers) at once. grpc-go's server wakes three goroutines in a
// row for that, and keeps a queue and a flow-control account for each.
//
// It is HTTP/2 and gRPC as any client speaks them, but for what unary calls do not need: streams, compression and
// metadata. A connection whose first request needs one of these, or a method that is not known here, is passed on to a
// grpc-go server with all that was read from it, and is that server's from then on. When such a request comes later, on
// a connection that is served here, the client is told to take a new connection for it (GOAWAY with the last stream
// that is served: clients retry what comes after it, as RFC 9113 section 6.8 has it).
//
// Handlers get a context with the call's deadline and its peer, which ends when the client cancels or hangs up. It has no
// metadata.
package unary
