package unary

import (
	"fmt"
	"strconv"
)

// Code is a gRPC status code.
type Code uint32

// The status codes, as gRPC numbers them.
const (
	OK Code = iota
	Canceled
	Unknown
	InvalidArgument
	DeadlineExceeded
	NotFound
	AlreadyExists
	PermissionDenied
	ResourceExhausted
	FailedPrecondition
	Aborted
	OutOfRange
	Unimplemented
	Internal
	Unavailable
	DataLoss
	Unauthenticated
)

var codeNames = [...]string{
	"OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
	"ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable",
	"DataLoss", "Unauthenticated",
}

// String is the code's name, or "Code(99)" where it has none.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "Code(" + strconv.FormatUint(uint64(c), 10) + ")"
}

// Status is the error of a call that did not end with OK, whether the server says so or the connection does.
// Unavailable means that the connection broke, or that it does not carry gRPC.
type Status struct {
	Code    Code
	Message string
	// Details is a google.rpc.Status message with the details of the error, or nil.
	Details []byte
}

// Error implements error.
func (s *Status) Error() string { return fmt.Sprintf("%s: %s", s.Code, s.Message) }

// fail is a Status without details.
func fail(code Code, format string, args ...any) *Status {
	return &Status{Code: code, Message: fmt.Sprintf(format, args...)}
}

// ofReset is the status of a stream that the server reset, by the HTTP/2 error code that it gave (RFC 9113, 7), as gRPC
// maps them.
func ofReset(reason uint32) Code {
	switch reason {
	case 0x3, 0xb: // FLOW_CONTROL_ERROR, ENHANCE_YOUR_CALM
		return ResourceExhausted
	case 0x7: // REFUSED_STREAM
		return Unavailable
	case 0x8: // CANCEL
		return Canceled
	case 0xc: // INADEQUATE_SECURITY
		return PermissionDenied
	}
	if reason > 0xd {
		return Unknown
	}
	return Internal
}

// ofHTTP is the status of an answer that is no gRPC, by its HTTP status, as gRPC maps them.
func ofHTTP(status string) Code {
	switch status {
	case "400", "":
		return Internal
	case "401":
		return Unauthenticated
	case "403":
		return PermissionDenied
	case "404":
		return Unimplemented
	case "429", "502", "503", "504":
		return Unavailable
	}
	return Unknown
}
