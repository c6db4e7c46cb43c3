package record

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBlockKeysSortAsAddresses(t *testing.T) {
	blocks := []string{"2.0.0.0/24", "10.0.0.0/26", "10.0.0.64/26", "10.0.1.0/24", "192.0.2.0/32"}
	var keys []Key
	for _, block := range blocks {
		keys = append(keys, BlockKey(netip.MustParsePrefix(block)))
	}
	if !slices.IsSorted(keys) {
		t.Fatalf("keys do not sort as addresses: %q", keys)
	}
}

func TestKeysReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{4, 16}).Draw(t, "size")
		raw := rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "raw")
		address, _ := netip.AddrFromSlice(raw)
		prefix, _ := address.Prefix(rapid.IntRange(0, size*8).Draw(t, "bits"))
		if got, err := BlockKey(prefix).Block(); err != nil || got != prefix {
			t.Fatalf("%s came back as %s, %v", prefix, got, err)
		}
		of := Tenure{address, time.Unix(0, rapid.Int64Min(0).Draw(t, "assigned")).UTC(), rapid.Int64Min(0).Draw(t, "number"), "node-1.a"}
		hour := Hour(rapid.Uint32().Draw(t, "hour"))
		if read, got, err := HistoryKey(hour, of).Tenure(); err != nil || got != of || read != hour {
			t.Fatalf("%+v came back as %+v in hour %d, %v", of, got, read, err)
		}
		node, got, err := AssignmentKey("node-1", address).Assignment()
		if err != nil || got != address || node != "node-1" {
			t.Fatalf("%s came back as %s of %q, %v", address, got, node, err)
		}
	})
}

func TestBadKeysAreErrors(t *testing.T) {
	for _, key := range []Key{"blocks/4/0a", "blocks/4/0a000001-24", "blocks/4/zz-24", "blocks/4/0a000000-33", "blocks"} {
		if got, err := key.Block(); err == nil {
			t.Errorf("%q read as %s", key, got)
		}
	}
}

func TestRequestKeysStayInTheirRoom(t *testing.T) {
	if got := RequestKey("a/../b"); got.Rest() != "a%2F..%2Fb" {
		t.Errorf("got %q", got)
	}
}

func TestEventKeysSortByTime(t *testing.T) {
	at := time.Unix(1, 0)
	if EventKey(at, 2) >= EventKey(at.Add(time.Nanosecond), 1) {
		t.Error("a later event sorts first")
	}
}
