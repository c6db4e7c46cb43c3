package record

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Hour is a span of the history: tenures lie in that of their end, so that the oldest go together.
type Hour uint32

// HourOf is the hour of a time; times before 1970 are in the first.
func HourOf(at time.Time) Hour { return Hour(max(at.Unix(), 0) / 3600) }

// Start is when an hour begins.
func (h Hour) Start() time.Time { return time.Unix(int64(h)*3600, 0).UTC() }

// Tenure is what tells one attachment's time with an address from every other.
type Tenure struct {
	Address  netip.Addr
	Assigned time.Time // when it began
	Number   int64     // of the node's journal
	Node     string
}

// HistoryHour is what all keys of an hour begin with.
func HistoryHour(hour Hour) Key { return Key(fmt.Sprintf("%s/%08x/", History, uint32(hour))) }

// HistoryOf is what the keys of an address in an hour begin with.
func HistoryOf(hour Hour, address netip.Addr) Key { return HistoryHour(hour) + Key(hexOf(address)+"/") }

// HistoryKey is the key of a tenure that ended in an hour.
func HistoryKey(hour Hour, of Tenure) Key {
	return HistoryOf(hour, of.Address) + Key(fmt.Sprintf("%016x-%x-%s", max(of.Assigned.UnixNano(), 0), max(of.Number, 0), of.Node))
}

// Tenure reads the hour and the tenure out of a History key.
func (k Key) Tenure() (Hour, Tenure, error) {
	parts := strings.SplitN(k.Rest(), "/", 3)
	if k.Room() != History || len(parts) != 3 {
		return 0, Tenure{}, fmt.Errorf("key %q is no tenure's", k)
	}
	hour, err := strconv.ParseUint(parts[0], 16, 32)
	if err != nil {
		return 0, Tenure{}, fmt.Errorf("key %q: hour: %w", k, err)
	}
	address, err := parseHex(parts[1])
	if err != nil {
		return 0, Tenure{}, fmt.Errorf("key %q: %w", k, err)
	}
	fields := strings.SplitN(parts[2], "-", 3)
	if len(fields) != 3 {
		return 0, Tenure{}, fmt.Errorf("key %q names no node", k)
	}
	assigned, err := strconv.ParseInt(fields[0], 16, 64)
	if err != nil {
		return 0, Tenure{}, fmt.Errorf("key %q: time: %w", k, err)
	}
	number, err := strconv.ParseInt(fields[1], 16, 64)
	if err != nil {
		return 0, Tenure{}, fmt.Errorf("key %q: number: %w", k, err)
	}
	return Hour(hour), Tenure{address, time.Unix(0, assigned).UTC(), number, fields[2]}, nil
}
