package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/google/uuid"
)

// The file, all numbers little-endian:
//
//	header  magic 8 | version u32 | snapshot records u32 | journal id 16 | base u64 | CRC-32C of what is before u32
//	record  marker 4 | payload length u32 | CRC-32C of what follows and of the length u32 |
//	        number u64 | number of the batch's first record u64 | type u8 | payload
//
// Behind the last record there may be zeros, which later records are written over.
//
// The first records are the snapshot's; all have the number base, the number of the last record that the snapshot
// contains, and the batch 0. After them the numbers go up by one.
const (
	version    = 1
	headerSize = 44
	recordSize = 29
	// MaxPayload bounds one record's payload, in bytes.
	MaxPayload = 256 << 10
)

var (
	magic = [8]byte{'c', 'l', 'w', 'j', 'r', 'n', 'l', '\n'}
	// marker begins every record. It is no UTF-8, so it is not found in text.
	marker = [4]byte{0xc1, 0xea, 0xf8, 0x4a}

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Record is one of the journal's.
type Record struct {
	// Number goes up by one with each record over the journal's whole life. That of a snapshot's record is the number
	// of the last record that the snapshot contains.
	Number  uint64
	Type    uint8
	Payload []byte

	batch uint64
}

// Contents is what a journal file holds.
type Contents struct {
	ID uuid.UUID
	// Last is the number of the last record; 0: there never was one.
	Last     uint64
	Snapshot []Record
	Records  []Record
	// Size is the length in bytes of what is whole, Torn how many bytes of a write that was never finished come after it.
	// The zeros at the end are room for records, and no part of either.
	Size, Torn int
}

// CorruptError says that a file is damaged where it had been durable.
type CorruptError struct {
	Offset int
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal is damaged at byte %d: %s", e.Offset, e.Reason)
}

// ErrVersion says that a newer version of Clearway wrote the file.
var ErrVersion = errors.New("journal is of a version this program does not know")

func appendHeader(to []byte, id uuid.UUID, base uint64, snapshot int) []byte {
	begin := len(to)
	to = append(to, magic[:]...)
	to = binary.LittleEndian.AppendUint32(to, version)
	to = binary.LittleEndian.AppendUint32(to, uint32(snapshot))
	to = append(to, id[:]...)
	to = binary.LittleEndian.AppendUint64(to, base)
	return binary.LittleEndian.AppendUint32(to, crc32.Checksum(to[begin:], castagnoli))
}

func appendRecord(to []byte, record Record) []byte {
	to = append(to, marker[:]...)
	to = binary.LittleEndian.AppendUint32(to, uint32(len(record.Payload)))
	to = append(to, 0, 0, 0, 0)
	begin := len(to)
	to = binary.LittleEndian.AppendUint64(to, record.Number)
	to = binary.LittleEndian.AppendUint64(to, record.batch)
	to = append(to, record.Type)
	to = append(to, record.Payload...)
	binary.LittleEndian.PutUint32(to[begin-4:], checksum(to[begin-8:begin-4], to[begin:]))
	return to
}

func checksum(length, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, rest)
}

// Decode reads a whole file. It keeps slices of data. The error is a *CorruptError, or ErrVersion; then Contents is
// what comes before the damage, for whoever wants to save something.
func Decode(data []byte) (Contents, error) {
	var contents Contents
	snapshot, err := contents.header(data)
	if err != nil {
		return contents, err
	}
	for range snapshot {
		record, size, reason := decodeRecord(data[contents.Size:])
		if reason == "" && (record.Number != contents.Last || record.batch != 0) {
			reason = fmt.Sprintf("snapshot record has number %d", record.Number)
		}
		if reason != "" { // the file was durable up to here before it got its name
			return contents, &CorruptError{contents.Size, reason}
		}
		contents.Snapshot = append(contents.Snapshot, record)
		contents.Size += size
	}
	return contents, contents.records(data)
}

func (c *Contents) header(data []byte) (snapshot uint32, err error) {
	if len(data) < headerSize || !bytes.HasPrefix(data, magic[:]) {
		return 0, &CorruptError{0, "no journal header"}
	}
	if v := binary.LittleEndian.Uint32(data[8:]); v != version {
		return 0, fmt.Errorf("%w: version %d, this program knows %d", ErrVersion, v, version)
	}
	if crc32.Checksum(data[:headerSize-4], castagnoli) != binary.LittleEndian.Uint32(data[headerSize-4:]) {
		return 0, &CorruptError{0, "header's checksum is wrong"}
	}
	copy(c.ID[:], data[16:])
	c.Last = binary.LittleEndian.Uint64(data[32:])
	c.Size = headerSize
	return binary.LittleEndian.Uint32(data[12:]), nil
}

func (c *Contents) records(data []byte) error {
	batch := uint64(0)
	for c.Size < len(data) {
		record, size, reason := decodeRecord(data[c.Size:])
		if reason != "" {
			break
		}
		if record.Number != c.Last+1 || record.batch != batch && record.batch != record.Number {
			return &CorruptError{c.Size, fmt.Sprintf("record %d of batch %d follows record %d", record.Number, record.batch, c.Last)}
		}
		batch = record.batch
		c.Records = append(c.Records, record)
		c.Size += size
		c.Last = record.Number
	}
	data = bytes.TrimRight(data, "\x00")
	c.Torn = max(0, len(data)-c.Size) // a whole record may end with zeros
	return c.checkTail(data)
}

// checkTail tells a torn tail from damage. A whole record after the break that begins a later batch proves that the
// broken one had been durable.
func (c *Contents) checkTail(data []byte) error {
	for offset := c.Size + 1; offset < len(data); offset++ {
		next := bytes.Index(data[offset:], marker[:])
		if next < 0 {
			return nil
		}
		offset += next
		if record, _, reason := decodeRecord(data[offset:]); reason == "" && record.batch > c.Last+1 {
			reason := fmt.Sprintf("record %d is broken, and record %d after it is whole", c.Last+1, record.Number)
			return &CorruptError{c.Size, reason}
		}
	}
	return nil
}

// decodeRecord reads the record that data begins with. A reason says why there is none.
func decodeRecord(data []byte) (record Record, size int, reason string) {
	if len(data) < recordSize || [4]byte(data[:4]) != marker {
		return Record{}, 0, "no record begins here"
	}
	length := binary.LittleEndian.Uint32(data[4:])
	if length > MaxPayload || int(length) > len(data)-recordSize {
		return Record{}, 0, "record is longer than the file"
	}
	size = recordSize + int(length)
	if checksum(data[4:8], data[12:size]) != binary.LittleEndian.Uint32(data[8:]) {
		return Record{}, 0, "record's checksum is wrong"
	}
	record = Record{
		Number:  binary.LittleEndian.Uint64(data[12:]),
		batch:   binary.LittleEndian.Uint64(data[20:]),
		Type:    data[28],
		Payload: data[recordSize:size:size],
	}
	return record, size, ""
}
