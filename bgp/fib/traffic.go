package fib

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
)

// Traffic counts packets of this network namespace since it began: those forwarded, of both families, and those received and
// sent by each interface, by its index; names has the indices by name. The counters may begin anew.
func Traffic() (forwarded uint64, interfaces map[int]uint64, names map[string]int, err error) {
	v4, err := read("/proc/thread-self/net/snmp", forwardedIPv4)
	if err != nil {
		return 0, nil, nil, err
	}
	v6, err := read("/proc/thread-self/net/snmp6", forwardedIPv6)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
		return 0, nil, nil, err
	}
	byName, err := read("/proc/thread-self/net/dev", packetsByName)
	if err != nil {
		return 0, nil, nil, err
	}
	links, err := net.Interfaces()
	if err != nil {
		return 0, nil, nil, fmt.Errorf("list interfaces: %w", err)
	}
	interfaces, names = map[int]uint64{}, map[string]int{}
	for _, link := range links {
		interfaces[link.Index], names[link.Name] = byName[link.Name], link.Index
	}
	return v4 + v6, interfaces, names, nil
}

func read[T any](file string, parse func(io.Reader) (T, error)) (value T, err error) {
	f, err := os.Open(file)
	if err != nil {
		return value, fmt.Errorf("count packets: %w", err)
	}
	defer f.Close()
	if value, err = parse(f); err != nil {
		return value, fmt.Errorf("count packets: %s: %w", file, err)
	}
	return value, nil
}

// forwardedIPv4 reads ForwDatagrams of the two lines "Ip: name..." and "Ip: value...".
func forwardedIPv4(from io.Reader) (uint64, error) {
	var names []string
	for lines := bufio.NewScanner(from); lines.Scan(); {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) == 0 || words[0] != "Ip:":
		case names == nil:
			names = words
		default:
			for i := range min(len(names), len(words)) {
				if names[i] == "ForwDatagrams" {
					return strconv.ParseUint(words[i], 10, 64)
				}
			}
		}
	}
	return 0, errors.New("it has no ForwDatagrams")
}

func forwardedIPv6(from io.Reader) (uint64, error) {
	for lines := bufio.NewScanner(from); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) == 2 && words[0] == "Ip6OutForwDatagrams" {
			return strconv.ParseUint(words[1], 10, 64)
		}
	}
	return 0, errors.New("it has no Ip6OutForwDatagrams")
}

// packetsByName reads "name: bytes packets errs drop fifo frame compressed multicast bytes packets ...".
func packetsByName(from io.Reader) (map[string]uint64, error) {
	packets := map[string]uint64{}
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		name, rest, found := strings.Cut(lines.Text(), ":")
		words := strings.Fields(rest)
		if !found || len(words) < 10 {
			continue // the heading
		}
		received, err := strconv.ParseUint(words[1], 10, 64)
		if err != nil {
			return nil, err
		}
		sent, err := strconv.ParseUint(words[9], 10, 64)
		if err != nil {
			return nil, err
		}
		packets[strings.TrimSpace(name)] = received + sent
	}
	return packets, lines.Err()
}
