package unary

import (
	"errors"
	"fmt"
)

// What follows is HPACK (RFC 7541) as far as a client needs it that keeps no table: it tells the server so in its
// settings, which the server reads before it answers. So each block stands for itself.

// appendLiteral appends a header that nobody is to put into a table. Its name is one of the static table's, or spelled
// out if that is 0. Nothing here is as long as 127 bytes but for a method, which is refused.
func appendLiteral(to []byte, index byte, name, value string) []byte {
	if index > 15 {
		to = append(to, 0x0f, index-15)
	} else {
		to = append(to, index)
	}
	if index == 0 {
		to = append(append(to, byte(len(name))), name...)
	}
	return append(append(to, byte(len(value))), value...)
}

// maxMethod is the length of a method's name.
const maxMethod = 126

// appendRequest appends a request's headers.
func appendRequest(to []byte, method, timeout string) []byte {
	to = append(to, 0x80|3, 0x80|6) // :method POST, :scheme http
	to = appendLiteral(to, 4, ":path", method)
	to = appendLiteral(to, 1, ":authority", "localhost")
	to = appendLiteral(to, 31, "content-type", "application/grpc")
	to = appendLiteral(to, 0, "te", "trailers")
	return appendLiteral(to, 0, "grpc-timeout", timeout)
}

var errPacked = errors.New("headers cannot be unpacked")

// unpack calls take for each header of a block.
func unpack(block []byte, take func(name, value string) error) error {
	in := packed(block)
	for begun := false; len(in) > 0; {
		kind := in[0]
		switch {
		case kind&0xe0 == 0x20: // the size of the table, at the beginning of a block
			if size, err := in.integer(5); err != nil || size > 0 || begun {
				return errPacked
			}
			continue
		case kind&0x80 != 0:
			index, err := in.integer(7)
			if err != nil {
				return err
			}
			name, value, err := static(index)
			if err == nil {
				err = take(name, value)
			}
			if err != nil {
				return err
			}
		default:
			if err := in.literal(take); err != nil {
				return err
			}
		}
		begun = true
	}
	return nil
}

// static is an entry of the static table (RFC 7541, appendix A). The names and values of those that no call looks at
// are left out.
func static(index int) (name, value string, err error) {
	switch {
	case index == 0 || index > 61:
		return "", "", fmt.Errorf("%w: header %d is in no table", errPacked, index)
	case index >= 8 && index <= 14:
		return ":status", [...]string{"200", "204", "206", "304", "400", "404", "500"}[index-8], nil
	case index == 31:
		return "content-type", "", nil
	}
	return "", "", nil
}

// packed is what of a block is not unpacked yet.
type packed []byte

// literal takes a header off whose value is spelled out.
func (p *packed) literal(take func(name, value string) error) error {
	bits := 4
	if (*p)[0]&0x40 != 0 {
		bits = 6 // for the table, in which nothing has room
	}
	index, err := p.integer(bits)
	if err != nil {
		return err
	}
	var name string
	if index > 0 {
		name, _, err = static(index)
	} else {
		name, err = p.text()
	}
	if err != nil {
		return err
	}
	value, err := p.text()
	if err != nil {
		return err
	}
	return take(name, value)
}

// integer takes a number off that begins in the last bits of a byte.
func (p *packed) integer(bits int) (int, error) {
	in := *p
	if len(in) == 0 {
		return 0, errPacked
	}
	most := 1<<bits - 1
	value := int(in[0]) & most
	in = in[1:]
	if value == most {
		for shift := 0; ; shift += 7 {
			if len(in) == 0 || shift > 21 {
				return 0, errPacked
			}
			more := in[0]
			in = in[1:]
			value += int(more&0x7f) << shift
			if more&0x80 == 0 {
				break
			}
		}
	}
	*p = in
	return value, nil
}

// text takes a string off.
func (p *packed) text() (string, error) {
	isCoded := len(*p) > 0 && (*p)[0]&0x80 != 0
	size, err := p.integer(7)
	if err != nil || size > len(*p) {
		return "", errPacked
	}
	taken := (*p)[:size]
	*p = (*p)[size:]
	if isCoded {
		return decodeHuffman(taken)
	}
	return string(taken), nil
}

// huffmanCounts are how many codes of each length there are, and huffmanSymbols what they stand for, from the first to
// the last (RFC 7541, appendix B; the code is canonical). 256 is the end of a string, which none may have.
var (
	huffmanCounts  = [...]byte{5: 10, 6: 26, 7: 32, 8: 6, 10: 5, 11: 3, 12: 2, 13: 6, 14: 2, 15: 3, 19: 3, 20: 8, 21: 13, 22: 26, 23: 29, 24: 12, 25: 4, 26: 15, 27: 19, 28: 29, 30: 4}
	huffmanSymbols = [...]uint16{
		48, 49, 50, 97, 99, 101, 105, 111, 115, 116, 32, 37, 45, 46, 47, 51, 52, 53, 54, 55, 56, 57, 61, 65,
		95, 98, 100, 102, 103, 104, 108, 109, 110, 112, 114, 117, 58, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76,
		77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 89, 106, 107, 113, 118, 119, 120, 121, 122, 38, 42, 44, 59,
		88, 90, 33, 34, 40, 41, 63, 39, 43, 124, 35, 62, 0, 36, 64, 91, 93, 126, 94, 125, 60, 96, 123, 92,
		195, 208, 128, 130, 131, 162, 184, 194, 224, 226, 153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230, 129,
		132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185, 186, 187, 189, 190, 196, 198, 228, 232,
		233, 1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166, 168, 174, 175, 180, 182,
		183, 188, 191, 197, 231, 239, 9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237, 199, 207, 234, 235, 192, 193,
		200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255, 203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245,
		246, 247, 248, 250, 251, 252, 253, 254, 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20,
		21, 23, 24, 25, 26, 27, 28, 29, 30, 31, 127, 220, 249, 10, 13, 22, 256,
	}
)

// decodeHuffman decodes bit by bit: the strings are short and few, and a tree would have to be grown first.
func decodeHuffman(coded []byte) (string, error) {
	decoded := make([]byte, 0, 2*len(coded))
	// code is what was read of the next code, of length bits; first is the first code of that length, and index that
	// one's symbol.
	code, first, index, length := 0, 0, 0, 0
	for _, b := range coded {
		for bit := 7; bit >= 0; bit-- {
			code, first = code<<1|int(b>>bit)&1, first<<1
			length++
			if length >= len(huffmanCounts) {
				return "", errPacked
			}
			count := int(huffmanCounts[length])
			if code >= first+count {
				first, index = first+count, index+count
				continue
			}
			symbol := huffmanSymbols[index+code-first]
			if symbol == 256 {
				return "", errPacked
			}
			decoded = append(decoded, byte(symbol))
			code, first, index, length = 0, 0, 0, 0
		}
	}
	// What is left are the first bits of the end of a string, which are ones.
	if length > 7 || code != 1<<length-1 {
		return "", errPacked
	}
	return string(decoded), nil
}
