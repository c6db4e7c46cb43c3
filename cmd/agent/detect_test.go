package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestAddressRules(t *testing.T) {
	links := []link{
		{"eth1", 3, netip.MustParsePrefix("198.51.100.11/24")},
		{"eth0", 2, netip.MustParsePrefix("192.0.2.12/24")}, {"eth0", 2, netip.MustParsePrefix("192.0.2.11/24")},
		{"eth1", 3, netip.MustParsePrefix("2001:db8:1::11/64")}, {"eth0", 2, netip.MustParsePrefix("2001:db8::11/64")},
		{"docker0", 4, netip.MustParsePrefix("172.17.0.1/16")},
	}
	for text, want := range map[string]string{
		"interface=eth0":                     "[192.0.2.11/24 2001:db8::11/64]",
		"interface=eth1":                     "[198.51.100.11/24 2001:db8:1::11/64]",
		"interface=bond0,eth*":               "[192.0.2.11/24 2001:db8::11/64]",
		"interface=wlan0":                    "[]",
		"cidr=198.51.100.0/24":               "[198.51.100.11/24]",
		"cidr=198.51.100.0/24,2001:db8::/64": "[2001:db8::11/64 198.51.100.11/24]",
	} {
		rule, err := parseAddressRule(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(rule.choose(links)); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestAddressRulesThatAreWrong(t *testing.T) {
	for text, want := range map[string]string{
		"eth0":                   "is no rule; write interface=NAME",
		"interface=":             "is no interface's name",
		"interface=[":            "is no interface's name",
		"cidr=192.0.2.1/24":      "is no prefix, or has host bits",
		"cidr=x":                 "is no prefix",
		"can-reach=router":       "is no address; write can-reach=192.0.2.1",
		"can-reach=fe80::1%eth0": "is no address",
		"first-found=1":          "is no rule",
	} {
		if _, err := parseAddressRule(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// TestCanReach: the address from which loopback is reached is none that others reach the node by.
func TestCanReach(t *testing.T) {
	rule, err := parseAddressRule("can-reach=127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	local, err := localAddresses()
	if err != nil {
		t.Fatal(err)
	}
	found, err := rule.find(nil, local)
	if err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
}

// TestInterfaceOfThisMachine: the rule finds the addresses that this machine's own interfaces have.
func TestInterfaceOfThisMachine(t *testing.T) {
	local, err := localAddresses()
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := linkAddresses()
	if err != nil {
		t.Fatal(err)
	}
	links, err := named(addresses, local)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range links {
		rule, err := parseAddressRule("interface=" + one.name)
		if err != nil {
			t.Fatal(err)
		}
		found, err := rule.find(nil, local)
		if err != nil || len(found) == 0 {
			t.Errorf("%s has %s, and %v is found: %v", one.name, one.prefix, found, err)
		}
	}
}
