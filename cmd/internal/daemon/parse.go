package daemon

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// ParseLabels reads "k=v,k2=v2" as Kubernetes labels. Empty text is no labels.
func ParseLabels(text string) (map[string]string, error) {
	labels := map[string]string{}
	for _, part := range splitList(text) {
		key, value, found := strings.Cut(part, "=")
		if !found {
			return nil, fmt.Errorf("label %q has no '='; labels are written key=value,key=value", part)
		}
		if faults := validation.IsQualifiedName(key); len(faults) > 0 {
			return nil, fmt.Errorf("label key %q: %s", key, strings.Join(faults, "; "))
		}
		if faults := validation.IsValidLabelValue(value); len(faults) > 0 {
			return nil, fmt.Errorf("label %s has value %q: %s", key, value, strings.Join(faults, "; "))
		}
		if _, twice := labels[key]; twice {
			return nil, fmt.Errorf("label %q is given twice", key)
		}
		labels[key] = value
	}
	return labels, nil
}

// ParseUIDs reads "UID,UID": numbers of users.
func ParseUIDs(text string) ([]uint32, error) {
	var uids []uint32
	for _, part := range splitList(text) {
		uid, err := strconv.ParseUint(part, 10, 32)
		if err != nil || uid == math.MaxUint32 { // which means nobody in particular
			return nil, fmt.Errorf("%q is no user's number, 0 to %d", part, uint32(math.MaxUint32-1))
		}
		uids = append(uids, uint32(uid))
	}
	return uids, nil
}

// ParseNodeIPs reads "IP[,IP6]": at most one address a family, each with or without its prefix length. The Bits of
// one without are -1: the interface that has the address knows them.
func ParseNodeIPs(text string) ([]netip.Prefix, error) {
	var addresses []netip.Prefix
	for _, part := range splitList(text) {
		prefix, err := parseNodeIP(part)
		if err != nil {
			return nil, err
		}
		for _, other := range addresses {
			if other.Addr().Is4() == prefix.Addr().Is4() {
				return nil, fmt.Errorf("%s and %s are of one family; at most one IPv4 and one IPv6 address is wanted",
					other.Addr(), prefix.Addr())
			}
		}
		addresses = append(addresses, prefix)
	}
	return addresses, nil
}

func parseNodeIP(text string) (netip.Prefix, error) {
	host, _, hasBits := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is no IP address", text)
	case addr.Zone() != "" || addr.Is4In6() || !addr.IsGlobalUnicast():
		return netip.Prefix{}, fmt.Errorf("%s is no address that other nodes could reach this one by", text)
	case !hasBits:
		return netip.PrefixFrom(addr, -1), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no address with a prefix length", text)
	}
	return prefix, nil
}

// ParseServers reads "ADDR:PORT[,ADDR:PORT...]", at least one.
func ParseServers(text string) ([]string, error) {
	servers := splitList(text)
	if len(servers) == 0 {
		return nil, fmt.Errorf("no server is named; servers are written ADDR:PORT[,ADDR:PORT...]")
	}
	for _, server := range servers {
		host, port, err := net.SplitHostPort(server)
		if err != nil || host == "" {
			return nil, fmt.Errorf("server %q is not ADDR:PORT (an IPv6 address stands in brackets)", server)
		}
		if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
			return nil, fmt.Errorf("server %q: port %q is not 1 to 65535", server, port)
		}
	}
	return servers, nil
}

// CheckAddress refuses what is no ADDR:PORT to listen at; port 0 is any free one.
func CheckAddress(text string) error {
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		return errors.New("it is not ADDR:PORT (an IPv6 address stands in brackets)")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %q is not 0 to 65535", port)
	}
	return nil
}

// splitList splits at commas and drops blanks.
func splitList(text string) []string {
	var parts []string
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}
