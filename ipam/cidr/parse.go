package cidr

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"go4.org/netipx"
)

// ParseError is text that is no address, prefix or range, with what would be right.
type ParseError struct {
	Value  string
	Reason string
}

func (e *ParseError) Error() string { return fmt.Sprintf("%q: %s", e.Value, e.Reason) }

// Reason tells why an error of this package came about, without the value, for messages that have it already.
func Reason(err error) string {
	var parse *ParseError
	if errors.As(err, &parse) {
		return parse.Reason
	}
	return err.Error()
}

// Parse reads a prefix whose host bits are zero, such as "10.244.0.0/16". Host bits, a zone, an IPv4-mapped address
// and a missing length are errors (*ParseError) that tell what would be right.
func Parse(s string) (netip.Prefix, error) {
	prefix, err := ParseAddressPrefix(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if masked := prefix.Masked(); masked != prefix {
		return netip.Prefix{}, &ParseError{s, fmt.Sprintf("host bits are set; the prefix is %s", masked)}
	}
	return prefix, nil
}

// MustParse is Parse for text that is known to be right; it panics otherwise.
func MustParse(s string) netip.Prefix {
	prefix, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return prefix
}

// ParseAddressPrefix reads an address with its prefix length as an interface has it, such as "192.0.2.11/24". Host
// bits are kept.
func ParseAddressPrefix(s string) (netip.Prefix, error) {
	text, length, found := strings.Cut(s, "/")
	addr, err := ParseAddress(text)
	if err != nil {
		return netip.Prefix{}, &ParseError{s, Reason(err)}
	}
	if !found {
		return netip.Prefix{}, &ParseError{s, fmt.Sprintf("the prefix length is missing; a single address is %s/%d", addr, addr.BitLen())}
	}
	bits, ok := parseLength(length)
	if !ok || bits > addr.BitLen() {
		return netip.Prefix{}, &ParseError{s, fmt.Sprintf("prefix length %q must be a number from 0 to %d", length, addr.BitLen())}
	}
	return netip.PrefixFrom(addr, bits), nil
}

// parseLength reads a decimal number of at most three digits without sign or leading zero.
func parseLength(s string) (int, bool) {
	if s == "" || len(s) > 3 || (s[0] == '0' && s != "0") {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	bits, err := strconv.Atoi(s)
	return bits, err == nil
}

// ParseAddress reads an address without prefix length, zone or IPv4-mapped form.
func ParseAddress(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil && strings.Contains(s, "/"):
		return netip.Addr{}, &ParseError{s, "an address without prefix length is wanted"}
	case err != nil:
		return netip.Addr{}, &ParseError{s, "not an IPv4 or IPv6 address such as 192.0.2.1 or 2001:db8::1" + detail(err)}
	case addr.Zone() != "":
		return netip.Addr{}, &ParseError{s, fmt.Sprintf("a zone has no place here; write %s", addr.WithZone(""))}
	case addr.Is4In6():
		return netip.Addr{}, &ParseError{s, fmt.Sprintf("an IPv4-mapped IPv6 address is not accepted; write %s", addr.Unmap())}
	}
	return addr, nil
}

// detail is the standard library's explanation, which comes after the quoted text.
func detail(err error) string {
	_, why, found := strings.Cut(err.Error(), "): ")
	if !found {
		return ""
	}
	return " (" + why + ")"
}

// ParseRange reads a prefix ("192.0.2.0/28"), a single address ("192.0.2.1") or a range with both ends in it
// ("192.0.2.10-192.0.2.20").
func ParseRange(s string) (netipx.IPRange, error) {
	if first, last, found := strings.Cut(s, "-"); found {
		return parseEnds(s, strings.TrimSpace(first), strings.TrimSpace(last))
	}
	if strings.Contains(s, "/") {
		prefix, err := Parse(s)
		if err != nil {
			return netipx.IPRange{}, err
		}
		return netipx.RangeOfPrefix(prefix), nil
	}
	addr, err := ParseAddress(s)
	if err != nil {
		return netipx.IPRange{}, err
	}
	return netipx.IPRangeFrom(addr, addr), nil
}

func parseEnds(s, first, last string) (netipx.IPRange, error) {
	from, err := ParseAddress(first)
	if err != nil {
		return netipx.IPRange{}, &ParseError{s, fmt.Sprintf("first address %q: %s", first, Reason(err))}
	}
	to, err := ParseAddress(last)
	if err != nil {
		return netipx.IPRange{}, &ParseError{s, fmt.Sprintf("last address %q: %s", last, Reason(err))}
	}
	if from.Is4() != to.Is4() {
		return netipx.IPRange{}, &ParseError{s, "first and last address must be of one family"}
	}
	if to.Less(from) {
		return netipx.IPRange{}, &ParseError{s, fmt.Sprintf("the first address is after the last; write %s-%s", to, from)}
	}
	return netipx.IPRangeFrom(from, to), nil
}
