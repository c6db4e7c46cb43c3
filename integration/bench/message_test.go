package bench

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// The bytes are written out by hand from RFC 4271, so that the encoder is not its own judge.
func TestMessagesAreTheRFCsBytes(t *testing.T) {
	marker := strings.Repeat("ff", 16)
	attributes := appendAttributes(nil, []uint32{65100, 4200000001}, netip.MustParseAddr("100.64.1.2"))
	tables := map[string]struct {
		got  []byte
		want string
	}{
		"KEEPALIVE": {appendKeepalive(nil), marker + "0013" + "04"},
		"OPEN of a 2-octet AS": {
			appendOpen(nil, 65100, 600, netip.MustParseAddr("100.64.0.1")),
			marker + "002b" + "01" + "04" + "fe4c" + "0258" + "64400001" + "0e" + "020c" + "010400010001" + "41040000fe4c",
		},
		"OPEN of a 4-octet AS shows AS_TRANS": {
			appendOpen(nil, 4200000001, 90, netip.MustParseAddr("100.64.0.1")),
			marker + "002b" + "01" + "04" + "5ba0" + "005a" + "64400001" + "0e" + "020c" + "010400010001" + "4104fa56ea01",
		},
		"End-of-RIB": {appendUpdate(nil, nil, nil, nil), marker + "0017" + "02" + "0000" + "0000"},
		"UPDATE": {
			appendUpdate(nil, nil, attributes, []netip.Prefix{netip.MustParsePrefix("10.0.0.64/26"), netip.MustParsePrefix("10.1.0.0/16")}),
			marker + "0037" + "02" + "0000" + "0018" +
				"40010100" + "40020a0202" + "0000fe4c" + "fa56ea01" + "400304" + "64400102" +
				"1a0a000040" + "100a01",
		},
		"withdrawal": {
			appendUpdate(nil, []netip.Prefix{netip.MustParsePrefix("10.0.0.64/26")}, nil, nil),
			marker + "001c" + "02" + "0005" + "1a0a000040" + "0000",
		},
	}
	for name, table := range tables {
		t.Run(name, func(t *testing.T) {
			if got := hex.EncodeToString(table.got); got != table.want {
				t.Errorf("wrote\n%s, want\n%s", got, table.want)
			}
		})
	}
}

// A feed, read back by another implementation, announces and withdraws each prefix once, in messages of legal size.
func TestFeedHoldsEachPrefixOnce(t *testing.T) {
	for _, packed := range packings {
		t.Run(packed.name, func(t *testing.T) {
			const size = 2500
			subject := router{subnet: netip.MustParsePrefix("100.64.0.0/16")}
			made := subject.feed(size, packed)
			var want []string
			for i := range size {
				want = append(want, feedPrefix(i).String())
			}
			announced, none := decodeFeed(t, made.announce)
			if diff := cmp.Diff(want, announced); diff != "" || len(none) != 0 {
				t.Errorf("announced (-want +got), with %d withdrawn:\n%s", len(none), diff)
			}
			none, withdrawn := decodeFeed(t, made.withdraw)
			if diff := cmp.Diff(want, withdrawn); diff != "" || len(none) != 0 {
				t.Errorf("withdrawn (-want +got), with %d announced:\n%s", len(none), diff)
			}
		})
	}
}

func decodeFeed(t *testing.T, messages []byte) (announced, withdrawn []string) {
	t.Helper()
	reader := bytes.NewReader(messages)
	for reader.Len() > 0 {
		kind, body, err := readMessage(reader)
		if err != nil || kind != messageUpdate {
			t.Fatalf("message type %d: %v", kind, err)
		}
		var update bgp.BGPUpdate
		if err := update.DecodeFromBytes(body); err != nil {
			t.Fatal(err)
		}
		for _, path := range update.NLRI {
			announced = append(announced, path.NLRI.String())
		}
		for _, path := range update.WithdrawnRoutes {
			withdrawn = append(withdrawn, path.NLRI.String())
		}
	}
	return announced, withdrawn
}

func TestNextHopsAreNeitherRouterNorFeeder(t *testing.T) {
	subject := router{subnet: netip.MustParsePrefix("100.66.0.0/16")}
	seen := map[netip.Addr]bool{subject.feederAddress(): true, subject.ownAddress(): true}
	for node := range feedNodes {
		hop := subject.nextHop(node)
		if seen[hop] || !subject.subnet.Contains(hop) {
			t.Fatalf("next hop %s of node %d is used twice, or not in %s", hop, node, subject.subnet)
		}
		seen[hop] = true
	}
}

func TestFeedIndexIsPrefixsInverse(t *testing.T) {
	for _, i := range []int{0, 1, 1023, 100_000, maxFeed - 1} {
		prefix := feedPrefix(i)
		if got, ours := feedIndex(prefix.Addr().AsSlice(), byte(prefix.Bits())); !ours || got != i {
			t.Errorf("number of %s is %d, %v; want %d", prefix, got, ours, i)
		}
	}
	if _, ours := feedIndex([]byte{11, 0, 0, 0}, feedBits); ours {
		t.Error("11.0.0.0/26 is taken for one of the feed's")
	}
	if _, ours := feedIndex([]byte{10, 0, 0, 0}, 24); ours {
		t.Error("10.0.0.0/24 is taken for one of the feed's")
	}
}

func TestReadMessageRefusesImpossibleLengths(t *testing.T) {
	for _, length := range []byte{0, 18} {
		message := appendKeepalive(nil)
		message[17] = length
		if _, _, err := readMessage(bytes.NewReader(message)); err == nil {
			t.Errorf("a message of %d bytes was taken", length)
		}
	}
	if _, _, err := readMessage(bytes.NewReader(appendKeepalive(nil)[:10])); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("half a header: %v", err)
	}
}
