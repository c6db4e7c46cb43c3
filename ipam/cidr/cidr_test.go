package cidr_test

import (
	"errors"
	"math"
	"math/big"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/clearway/clearway/ipam/cidr"
)

func TestParse(t *testing.T) {
	for _, text := range []string{"10.244.0.0/16", "0.0.0.0/0", "::/0", "2001:db8::/48", "192.0.2.1/32", "2001:db8::1/128"} {
		prefix, err := cidr.Parse(text)
		if err != nil || prefix.String() != text {
			t.Errorf("Parse(%q) = %v, %v", text, prefix, err)
		}
	}
}

func TestParseNamesTheFault(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"10.244.1.7/16", "host bits are set; the prefix is 10.244.0.0/16"},
		{"2001:db8::1/48", "the prefix is 2001:db8::/48"},
		{"10.0.0.0", "the prefix length is missing; a single address is 10.0.0.0/32"},
		{"10.0.0.0/33", `prefix length "33" must be a number from 0 to 32`},
		{"::/129", "from 0 to 128"},
		{"10.0.0.0/", `prefix length ""`},
		{"10.0.0.0/+8", `prefix length "+8"`},
		{"10.0.0.0/08", `prefix length "08"`},
		{"10.0.0.0/8/8", `prefix length "8/8"`},
		{"::ffff:10.0.0.0/104", "IPv4-mapped"},
		{"fe80::%eth0/64", "a zone has no place here; write fe80::"},
		{" 10.0.0.0/8", "not an IPv4 or IPv6 address"},
		{"010.0.0.0/8", "not an IPv4 or IPv6 address"},
		{"10.0.0/8", "not an IPv4 or IPv6 address"},
		{"", "not an IPv4 or IPv6 address"},
		{"pods", "not an IPv4 or IPv6 address"},
	} {
		_, err := cidr.Parse(test.text)
		var parse *cidr.ParseError
		if !errors.As(err, &parse) || parse.Value != test.text || !strings.Contains(parse.Reason, test.want) {
			t.Errorf("Parse(%q): error %v, want one with %q", test.text, err, test.want)
		}
	}
}

func TestParseAddressPrefixKeepsHostBits(t *testing.T) {
	prefix, err := cidr.ParseAddressPrefix("192.0.2.11/24")
	if err != nil || prefix.String() != "192.0.2.11/24" {
		t.Fatalf("got %v, %v", prefix, err)
	}
}

func TestParseRange(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"192.0.2.10-192.0.2.20", "192.0.2.10-192.0.2.20"},
		{"192.0.2.10 - 192.0.2.20", "192.0.2.10-192.0.2.20"},
		{"192.0.2.0/30", "192.0.2.0-192.0.2.3"},
		{"2001:db8::5", "2001:db8::5-2001:db8::5"},
	} {
		got, err := cidr.ParseRange(test.text)
		if err != nil || got.String() != test.want {
			t.Errorf("ParseRange(%q) = %v, %v; want %s", test.text, got, err, test.want)
		}
	}
	for _, test := range []struct{ text, want string }{
		{"192.0.2.20-192.0.2.10", "write 192.0.2.10-192.0.2.20"},
		{"192.0.2.1-2001:db8::", "one family"},
		{"192.0.2.1-", `last address ""`},
		{"-192.0.2.1", `first address ""`},
		{"192.0.2.1/30", "the prefix is 192.0.2.0/30"},
		{"192.0.2.0/30-192.0.2.9", "without prefix length"},
		{"host", "not an IPv4 or IPv6 address"},
	} {
		if _, err := cidr.ParseRange(test.text); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("ParseRange(%q): error %v, want one with %q", test.text, err, test.want)
		}
	}
}

func TestCountSaturates(t *testing.T) {
	for _, test := range []struct {
		prefix string
		want   uint64
	}{
		{"10.0.0.0/26", 64}, {"10.0.0.1/32", 1}, {"0.0.0.0/0", 1 << 32}, {"2001:db8::/65", 1 << 63},
		{"2001:db8::/64", math.MaxUint64}, {"::/0", math.MaxUint64},
	} {
		if got := cidr.Count(netip.MustParsePrefix(test.prefix)); got != test.want {
			t.Errorf("Count(%s) = %d, want %d", test.prefix, got, test.want)
		}
	}
}

func TestEdgesOfTheFamilies(t *testing.T) {
	if _, ok := cidr.Add(netip.MustParseAddr("255.255.255.255"), 1); ok {
		t.Error("an IPv4 address after the last")
	}
	if _, ok := cidr.Add(netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), 1); ok {
		t.Error("an IPv6 address after the last")
	}
	if _, ok := cidr.Buddy(netip.MustParsePrefix("::/0")); ok {
		t.Error("::/0 has a buddy")
	}
	if _, ok := cidr.Parent(netip.MustParsePrefix("0.0.0.0/0")); ok {
		t.Error("0.0.0.0/0 has a parent")
	}
	if _, _, ok := cidr.Halves(netip.MustParsePrefix("192.0.2.1/32")); ok {
		t.Error("a single address has halves")
	}
	if got := cidr.Blocks(netip.MustParsePrefix("10.0.0.0/26"), 25); got != 0 {
		t.Errorf("a /26 holds %d /25", got)
	}
}

// prefixes draws a prefix of either family.
func prefixes() *rapid.Generator[netip.Prefix] {
	return rapid.Custom(func(t *rapid.T) netip.Prefix {
		width := rapid.SampledFrom([]int{4, 16}).Draw(t, "width")
		addr, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), width, width).Draw(t, "address"))
		if addr.Is4In6() {
			t.Skip("mapped")
		}
		return netip.PrefixFrom(addr, rapid.IntRange(0, addr.BitLen()).Draw(t, "bits")).Masked()
	})
}

func TestHalvesBuddyAndParentAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := prefixes().Draw(t, "prefix")
		low, high, ok := cidr.Halves(prefix)
		if !ok {
			return
		}
		if buddy, _ := cidr.Buddy(low); buddy != high {
			t.Fatalf("buddy of %v is %v, not %v", low, buddy, high)
		}
		if buddy, _ := cidr.Buddy(high); buddy != low {
			t.Fatalf("buddy of %v is %v, not %v", high, buddy, low)
		}
		if parent, _ := cidr.Parent(high); parent != prefix {
			t.Fatalf("parent of %v is %v, not %v", high, parent, prefix)
		}
		if !cidr.Contains(prefix, low) || !cidr.Contains(prefix, high) || low.Overlaps(high) || cidr.Contains(low, prefix) {
			t.Fatalf("%v is not %v and %v", prefix, low, high)
		}
		if after, _ := cidr.Add(cidr.Last(low), 1); after != high.Addr() {
			t.Fatalf("%v does not follow %v", high, low)
		}
	})
}

// TestArithmeticAgreesWithBig compares with math/big, the slow and obvious way.
func TestArithmeticAgreesWithBig(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := prefixes().Draw(t, "prefix")
		length := rapid.IntRange(prefix.Bits(), prefix.Addr().BitLen()).Draw(t, "length")
		n := rapid.Uint64().Draw(t, "n")
		size := new(big.Int).Lsh(big.NewInt(1), uint(prefix.Addr().BitLen()-length))
		step := new(big.Int).Mul(size, new(big.Int).SetUint64(n))
		want := step.Add(step, new(big.Int).SetBytes(prefix.Addr().AsSlice()))
		last := new(big.Int).SetBytes(cidr.Last(prefix).AsSlice())

		got, ok := cidr.Nth(prefix, length, n)
		if ok != (want.Cmp(last) <= 0 && n < cidr.Blocks(prefix, length)) && cidr.Blocks(prefix, length) != math.MaxUint64 {
			t.Fatalf("Nth(%v, %d, %d) is %v, %v", prefix, length, n, got, ok)
		}
		if ok && new(big.Int).SetBytes(got.Addr().AsSlice()).Cmp(want) != 0 {
			t.Fatalf("Nth(%v, %d, %d) = %v, want %x", prefix, length, n, got, want)
		}
		if sum, ok := cidr.Add(prefix.Addr(), n); ok {
			if back, fits := cidr.Subtract(sum, n); !fits || back != prefix.Addr() {
				t.Fatalf("%s + %d - %d = %s, %v", prefix.Addr(), n, n, back, fits)
			}
		}
		if less, ok := cidr.Subtract(prefix.Addr(), n); ok && cidr.Distance(less, prefix.Addr()) != n {
			t.Fatalf("%s - %d = %s", prefix.Addr(), n, less)
		}
		if sum, ok := cidr.Add(prefix.Addr(), n); ok && cidr.Distance(prefix.Addr(), sum) != n {
			t.Fatalf("%v is not %d after %v", sum, n, prefix.Addr())
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"10.0.0.0/8", "::ffff:1.2.3.4/96", "fe80::1%a/64", "1.2.3.4/", "10.0.0.1/24", "::/0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		prefix, err := cidr.Parse(text)
		if err != nil {
			return
		}
		again, err := netip.ParsePrefix(text)
		if err != nil || again != prefix || prefix.Masked() != prefix || prefix.Addr().Is4In6() || prefix.Addr().Zone() != "" {
			t.Fatalf("Parse(%q) = %v; netip says %v, %v", text, prefix, again, err)
		}
	})
}

func FuzzParseRange(f *testing.F) {
	for _, seed := range []string{"10.0.0.1-10.0.0.9", "10.0.0.0/8", "::1", "::-::1", "1.1.1.1-::"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := cidr.ParseRange(text); err == nil && !got.IsValid() {
			t.Fatalf("ParseRange(%q) = %v, which is no range", text, got)
		}
	})
}
