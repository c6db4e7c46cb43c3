// Package plain is AddressService for programs that live for milliseconds: its messages as plain structs, encoded and
// decoded by hand, and a client of it. Generated code needs protobuf's reflection, and its client all of gRPC, whose
// start costs such a program more than its call does.
//
// A test compares each message with the generated one.
package plain
