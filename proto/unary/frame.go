package unary

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Frame types, flags and settings of HTTP/2 (RFC 9113, 6).
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameSettings     = 0x4
	framePush         = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindow       = 0x8
	frameContinuation = 0x9

	flagAck        = 0x1
	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	settingTableSize     = 0x1
	settingPush          = 0x2
	settingWindow        = 0x4
	settingMaxHeaderList = 0x6

	resetNoError = 0x0
)

const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	// headSize is that of a frame's head.
	headSize = 9
	// maxFrame is the largest payload that both sides take without having said so.
	maxFrame = 1 << 14
	// firstWindow is how much a side may send before the other has said anything.
	firstWindow = 1<<16 - 1
	maxWindow   = 1<<31 - 1
)

// frame is one frame. Its payload is good until the next one is read.
type frame struct {
	kind, flags byte
	stream      uint32
	payload     []byte
}

func (f frame) has(flag byte) bool { return f.flags&flag != 0 }

// content is the payload of a DATA or HEADERS frame without padding and priority.
func (f frame) content() ([]byte, error) {
	rest := f.payload
	padding := 0
	if f.has(flagPadded) {
		if len(rest) == 0 {
			return nil, errors.New("a frame lacks the length of its padding")
		}
		padding, rest = int(rest[0]), rest[1:]
	}
	if f.kind == frameHeaders && f.has(flagPriority) {
		if len(rest) < 5 {
			return nil, errors.New("a frame lacks its priority")
		}
		rest = rest[5:]
	}
	if padding > len(rest) {
		return nil, errors.New("a frame is shorter than its padding")
	}
	return rest[:len(rest)-padding], nil
}

// number is the one number that the payload is, such as a window's increment.
func (f frame) number() (uint32, error) {
	if len(f.payload) != 4 {
		return 0, fmt.Errorf("a frame of type %d has %d bytes, not 4", f.kind, len(f.payload))
	}
	return binary.BigEndian.Uint32(f.payload), nil
}

// appendFrame appends a frame's head and payload.
func appendFrame(to []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	return append(appendHead(to, len(payload), kind, flags, stream), payload...)
}

func appendHead(to []byte, size int, kind, flags byte, stream uint32) []byte {
	to = append(to, byte(size>>16), byte(size>>8), byte(size), kind, flags)
	return binary.BigEndian.AppendUint32(to, stream)
}

func appendWindow(to []byte, stream, increment uint32) []byte {
	return binary.BigEndian.AppendUint32(appendHead(to, 4, frameWindow, 0, stream), increment)
}

func appendSetting(to []byte, id uint16, value uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(to, id), value)
}
