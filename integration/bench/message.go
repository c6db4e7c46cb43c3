package bench

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// The few BGP messages that a feeder says (RFC 4271, section 4), encoded here and not by a BGP library: a library's
// encoder would take the CPU from the router that is being measured.
const (
	headerLength     = 19
	maxMessageLength = 4096

	messageOpen         = 1
	messageUpdate       = 2
	messageNotification = 3
	messageKeepalive    = 4

	asTrans = 23456 // RFC 6793, section 9

	capabilityMultiprotocol = 1  // RFC 4760
	capabilityFourOctetAS   = 65 // RFC 6793
)

// appendMessage appends a header and what body appends after it, and fills in the length.
func appendMessage(b []byte, kind byte, body func([]byte) []byte) []byte {
	start := len(b)
	for range 16 {
		b = append(b, 0xff)
	}
	b = append(b, 0, 0, kind)
	if body != nil {
		b = body(b)
	}
	binary.BigEndian.PutUint16(b[start+16:], uint16(len(b)-start))
	return b
}

// appendOpen appends an OPEN for IPv4 unicast with a 4-octet AS number. holdTime is in seconds.
func appendOpen(b []byte, asn uint32, holdTime uint16, id netip.Addr) []byte {
	return appendMessage(b, messageOpen, func(b []byte) []byte {
		twoOctet := uint16(asTrans)
		if asn <= 0xffff {
			twoOctet = uint16(asn)
		}
		b = append(b, 4)
		b = binary.BigEndian.AppendUint16(b, twoOctet)
		b = binary.BigEndian.AppendUint16(b, holdTime)
		b = append(b, id.AsSlice()...)
		capabilities := []byte{capabilityMultiprotocol, 4, 0, 1, 0, 1, capabilityFourOctetAS, 4}
		capabilities = binary.BigEndian.AppendUint32(capabilities, asn)
		b = append(b, byte(len(capabilities)+2), 2, byte(len(capabilities)))
		return append(b, capabilities...)
	})
}

func appendKeepalive(b []byte) []byte { return appendMessage(b, messageKeepalive, nil) }

// appendAttributes appends ORIGIN IGP, an AS_PATH of one sequence of 4-octet numbers, and NEXT_HOP.
func appendAttributes(b []byte, asPath []uint32, nextHop netip.Addr) []byte {
	b = append(b, 0x40, 1, 1, 0)
	b = append(b, 0x40, 2, byte(2+4*len(asPath)), 2, byte(len(asPath)))
	for _, asn := range asPath {
		b = binary.BigEndian.AppendUint32(b, asn)
	}
	b = append(b, 0x40, 3, 4)
	return append(b, nextHop.AsSlice()...)
}

// appendUpdate appends one UPDATE. No attributes and no prefixes at all is End-of-RIB (RFC 4724, section 2).
func appendUpdate(b []byte, withdrawn []netip.Prefix, attributes []byte, announced []netip.Prefix) []byte {
	return appendMessage(b, messageUpdate, func(b []byte) []byte {
		start := len(b)
		b = append(b, 0, 0)
		b = appendPrefixes(b, withdrawn)
		binary.BigEndian.PutUint16(b[start:], uint16(len(b)-start-2))
		b = binary.BigEndian.AppendUint16(b, uint16(len(attributes)))
		b = append(b, attributes...)
		return appendPrefixes(b, announced)
	})
}

func appendPrefixes(b []byte, prefixes []netip.Prefix) []byte {
	for _, prefix := range prefixes {
		address := prefix.Addr().As4()
		b = append(b, byte(prefix.Bits()))
		b = append(b, address[:(prefix.Bits()+7)/8]...)
	}
	return b
}

// describeNotification says a NOTIFICATION's code and subcode; RFC 4271, section 4.5, has their meaning.
func describeNotification(body []byte) string {
	if len(body) < 2 {
		return "NOTIFICATION without a code"
	}
	return fmt.Sprintf("NOTIFICATION %d/%d", body[0], body[1])
}
