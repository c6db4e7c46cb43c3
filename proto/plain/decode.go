package plain

import (
	"encoding/binary"
	"errors"
	"strings"
	"unicode/utf8"
)

var errMalformed = errors.New("a message is malformed")

// field is a field of a message: a number, or bytes.
type field struct {
	number int
	wire   int
	value  uint64
	bytes  []byte
}

// isBytes tells whether it is a string or message of that number. One of another type is not known, as in protobuf.
func (f field) isBytes(number int) bool { return f.number == number && f.wire == wireBytes }

// each calls take for each field of a message, in order.
func each(message []byte, take func(field) error) error {
	for len(message) > 0 {
		f, rest, err := next(message)
		if err != nil {
			return err
		}
		if err := take(f); err != nil {
			return err
		}
		message = rest
	}
	return nil
}

// next takes a field off a message. Groups, which proto3 does not have, are malformed.
func next(message []byte) (f field, rest []byte, err error) {
	key, rest, err := varint(message)
	if err != nil || key>>3 == 0 || key>>3 >= 1<<29 {
		return f, nil, errMalformed
	}
	f.number, f.wire = int(key>>3), int(key&7)
	switch f.wire {
	case wireVarint:
		f.value, rest, err = varint(rest)
	case wireFixed64:
		_, rest, err = cut(rest, 8)
	case wireFixed32:
		_, rest, err = cut(rest, 4)
	case wireBytes:
		var size uint64
		if size, rest, err = varint(rest); err == nil {
			f.bytes, rest, err = cut(rest, size)
		}
	default:
		err = errMalformed
	}
	return f, rest, err
}

func varint(from []byte) (value uint64, rest []byte, err error) {
	value, n := binary.Uvarint(from)
	if n <= 0 {
		return 0, nil, errMalformed
	}
	return value, from[n:], nil
}

func cut(from []byte, n uint64) (taken, rest []byte, err error) {
	if uint64(len(from)) < n {
		return nil, nil, errMalformed
	}
	return from[:n], from[n:], nil
}

// text sets a string field, if it is of that number.
func (f field) text(number int, into *string) error {
	if !f.isBytes(number) {
		return nil
	}
	if !utf8.Valid(f.bytes) {
		return errNotUTF8
	}
	*into = string(f.bytes)
	return nil
}

// texts sets the strings with the numbers 1 to len(into). Others are not known.
func texts(message []byte, into ...*string) error {
	return each(message, func(f field) error {
		if f.number > len(into) {
			return nil
		}
		return f.text(f.number, into[f.number-1])
	})
}

func (r *AddResponse) decode(message []byte) error {
	return each(message, func(f field) error {
		switch {
		case f.isBytes(1):
			var one AddressConfig
			err := texts(f.bytes, &one.Address, &one.Gateway)
			r.Addresses = append(r.Addresses, one)
			return err
		case f.isBytes(2):
			var one RouteConfig
			err := texts(f.bytes, &one.Destination, &one.Gateway)
			r.Routes = append(r.Routes, one)
			return err
		}
		return nil
	})
}

func (c *CNIError) decode(message []byte) error {
	return each(message, func(f field) error {
		if f.number == 1 && f.wire == wireVarint {
			c.Code = uint32(f.value)
		}
		return errors.Join(f.text(2, &c.Msg), f.text(3, &c.Details))
	})
}

// rpcStatus is google.rpc.Status, in which gRPC carries details.
type rpcStatus struct {
	code    uint32
	message string
	fault   *CNIError // the first detail that is one, or nil
}

func (s *rpcStatus) decode(message []byte) error {
	return each(message, func(f field) error {
		if f.number == 1 && f.wire == wireVarint {
			s.code = uint32(f.value)
		}
		if f.isBytes(3) {
			return s.detail(f.bytes)
		}
		return f.text(2, &s.message)
	})
}

// detail takes a google.protobuf.Any. One that cannot be decoded is none of ours.
func (s *rpcStatus) detail(message []byte) error {
	var name string
	var value []byte
	err := each(message, func(f field) error {
		if f.isBytes(2) {
			value = f.bytes
		}
		return f.text(1, &name)
	})
	if err != nil || s.fault != nil || name[strings.LastIndexByte(name, '/')+1:] != "clearway.v1.CNIError" {
		return err
	}
	fault := &CNIError{}
	if fault.decode(value) == nil {
		s.fault = fault
	}
	return nil
}
