package fib

import (
	"net"
	"net/netip"
	"slices"
	"testing"
)

func TestAddressesAreThoseOthersMaySendTo(t *testing.T) {
	inNetns(t)
	fabric(t)
	ip(t, "addr add 10.0.9.1 peer 10.0.9.2 dev n1")
	ip(t, "-6 addr add 2001:db8:9::1/64 dev n1 nodad preferred_lft 0") // deprecated
	got, err := Addresses()
	if err != nil {
		t.Fatal(err)
	}
	var want []Address
	for name, texts := range map[string][]string{
		"n1": {"10.0.1.1", "2001:db8:1::1", "10.0.9.1"}, "n2": {"10.0.2.1", "2001:db8:2::1"}, "n3": {"10.0.3.1", "2001:db8:3::1"},
	} {
		link, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			want = append(want, Address{Interface: link.Index, Address: netip.MustParseAddr(text)})
		}
	}
	for i := range got {
		if bits := got[i].Bits; bits != 24 && bits != 64 && bits != 32 {
			t.Errorf("%s has a subnet of %d bits", got[i].Address, bits)
		}
		got[i].Bits = 0
	}
	byAddress := func(a, b Address) int { return a.Address.Compare(b.Address) }
	slices.SortFunc(got, byAddress)
	slices.SortFunc(want, byAddress)
	if !slices.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}
