package unary

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
	"pgregory.net/rapid"
)

// read is what a call reads of a header: one that it does not look at may be nameless.
type read struct{ name, value string }

func readAll(block []byte) ([]read, error) {
	var all []read
	err := unpack(block, func(name, value string) error {
		all = append(all, read{name, value})
		return nil
	})
	return all, err
}

// readTwin unpacks with the library of HTTP/2.
func readTwin(block []byte) ([]read, error) {
	decoder := hpack.NewDecoder(0, nil)
	decoder.SetAllowedMaxDynamicTableSize(0)
	list, err := decoder.DecodeFull(block)
	var all []read
	for _, field := range list {
		all = append(all, read{field.Name, field.Value})
	}
	return all, err
}

// same tells whether what was read is what the library reads, but for headers of the static table that are left out.
func same(ours, theirs []read) bool {
	return slices.EqualFunc(ours, theirs, func(a, b read) bool {
		looked := b.name == ":status" || b.name == "content-type" || strings.HasPrefix(b.name, "grpc-")
		return a == b || !looked && a.name == ""
	})
}

// TestHeadersAsTheLibrary: whatever is packed is unpacked as it was.
func TestHeadersAsTheLibrary(t *testing.T) {
	names := rapid.OneOf(rapid.SampledFrom([]string{":status", "content-type", "grpc-status", "grpc-message", "server", "x"}), rapid.String())
	values := rapid.OneOf(rapid.SampledFrom([]string{"200", "404", "0", "application/grpc"}), rapid.String(),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
	rapid.Check(t, func(t *rapid.T) {
		var packed bytes.Buffer
		encoder := hpack.NewEncoder(&packed)
		encoder.SetMaxDynamicTableSizeLimit(0)
		for range rapid.IntRange(0, 8).Draw(t, "headers") {
			_ = encoder.WriteField(hpack.HeaderField{
				Name: names.Draw(t, "name"), Value: values.Draw(t, "value"), Sensitive: rapid.Bool().Draw(t, "sensitive"),
			})
		}
		ours, err := readAll(packed.Bytes())
		theirs, wantErr := readTwin(packed.Bytes())
		if err != nil || wantErr != nil || !same(ours, theirs) {
			t.Fatalf("%x: %q, %v; the library: %q, %v", packed.Bytes(), ours, err, theirs, wantErr)
		}
	})
}

// TestEveryByteIsCoded: each symbol's code is the library's.
func TestEveryByteIsCoded(t *testing.T) {
	for i := range 256 {
		text := strings.Repeat(string([]byte{byte(i)}), 5)
		if got, err := decodeHuffman(hpack.AppendHuffmanString(nil, text)); got != text || err != nil {
			t.Errorf("%d: %q, %v", i, got, err)
		}
	}
}

// TestStaticTable: what a call looks at is where the library has it.
func TestStaticTable(t *testing.T) {
	for i := range 64 {
		for _, block := range [][]byte{{0x80 | byte(i)}, {0x00 | 0x0f, byte(i - 15), 1, 'x'}} {
			if i < 16 && len(block) > 1 {
				block = []byte{byte(min(i, 14)), 1, 'x', 1, 'y'}
			}
			ours, err := readAll(block)
			theirs, wantErr := readTwin(block)
			if (err == nil) != (wantErr == nil) || err == nil && !same(ours, theirs) {
				t.Errorf("%x: %q, %v; the library: %q, %v", block, ours, err, theirs, wantErr)
			}
		}
	}
}

func TestRequestsHeaders(t *testing.T) {
	got, err := readTwin(appendRequest(nil, "/clearway.v1.AddressService/Add", "29999m"))
	want := []read{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/clearway.v1.AddressService/Add"}, {":authority", "localhost"},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"grpc-timeout", "29999m"},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}

// FuzzUnpack: what is taken is what the library takes. That is stricter about where the table's size may be told.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte("\x20\x88\x5f\x8b\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64"))
	f.Add([]byte("\x40\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f\x010\x0f\x10\x03abc"))
	f.Add([]byte("\x7f\xff\xff\xff\xff\x0f"))
	f.Add([]byte("\x00\x01x\x84\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, block []byte) {
		ours, err := readAll(block)
		theirs, wantErr := readTwin(block)
		if err == nil && wantErr == nil && !same(ours, theirs) {
			t.Fatalf("%x: %q; the library: %q", block, ours, theirs)
		}
		if err == nil && wantErr != nil && !strings.Contains(wantErr.Error(), "table size") {
			t.Fatalf("%x is taken as %q; the library: %v", block, ours, wantErr)
		}
	})
}
