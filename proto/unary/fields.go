package unary

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// fields are the headers that a call looks at.
type fields struct {
	http, contentType, encoding string
	status, message             string
	details                     []string
	size                        int
}

// unpackFields unpacks a block of headers.
func unpackFields(block []byte) (*fields, error) {
	f := &fields{}
	if err := unpack(block, f.take); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *fields) take(name, value string) error {
	// RFC 9113, 6.5.2.
	if f.size += len(name) + len(value) + 32; f.size > maxHeaders {
		return fmt.Errorf("headers have more than %d bytes", maxHeaders)
	}
	switch name {
	case ":status":
		f.http = value
	case "content-type":
		f.contentType = value
	case "grpc-encoding":
		f.encoding = value
	case "grpc-status":
		f.status = value
	case "grpc-message":
		f.message = value
	case "grpc-status-details-bin":
		f.details = append(f.details, value)
	}
	return nil
}

// informs tells whether these headers come before the real ones.
func (f *fields) informs() bool { return len(f.http) == 3 && f.http[0] == '1' }

// check refuses headers before an answer that no gRPC server sends. Its error is a *Status.
func (f *fields) check() error {
	switch {
	case !isGRPC(f.contentType):
		return fail(ofHTTP(f.http), "no gRPC answered: HTTP status %q, content type %q", f.http, f.contentType)
	case f.encoding != "" && f.encoding != "identity":
		return fail(Internal, "the answer is compressed by %q, which was not asked for", f.encoding)
	}
	return nil
}

// isGRPC tells whether a content type is gRPC's, with whatever it says of the messages' encoding.
func isGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(strings.ToLower(contentType), "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// verdict is how the server says that the call ended; nil is OK.
func (f *fields) verdict() *Status {
	if f.status == "" {
		return fail(Unknown, "the answer ends without a status")
	}
	code, err := strconv.ParseUint(f.status, 10, 31)
	if err != nil {
		return fail(Unknown, "the status %q is no number", f.status)
	}
	if code == 0 {
		return nil
	}
	status := &Status{Code: Code(code), Message: decodeMessage(f.message)}
	if len(f.details) != 1 {
		return status
	}
	if status.Details, err = decodeBinary(f.details[0]); err != nil {
		return fail(Internal, "the status %s (%s) has details that are no base64", status.Code, status.Message)
	}
	return status
}

// decodeBinary decodes a header whose name ends in "-bin": base64 with or without padding.
func decodeBinary(text string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
}
