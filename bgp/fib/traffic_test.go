package fib

import (
	"strings"
	"testing"
)

func TestTrafficIsParsed(t *testing.T) {
	v4, err := forwardedIPv4(strings.NewReader("Ip: Forwarding DefaultTTL InReceives ForwDatagrams\nIp: 1 64 1000 42\nIcmp: InMsgs\nIcmp: 3\n"))
	if v4 != 42 || err != nil {
		t.Error(v4, err)
	}
	v6, err := forwardedIPv6(strings.NewReader("Ip6InReceives                   \t30\nIp6OutForwDatagrams             \t7\n"))
	if v6 != 7 || err != nil {
		t.Error(v6, err)
	}
	links, err := packetsByName(strings.NewReader(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0
eth0:2048 30 0 0 0 0 0 0 4096 12 0 0 0 0 0 0
`))
	if err != nil || links["lo"] != 4 || links["eth0"] != 42 || len(links) != 2 {
		t.Error(links, err)
	}
	for _, bad := range []string{"", "Ip: ForwDatagrams\n", "Ip: ForwDatagrams\nIp: x\n"} {
		if _, err := forwardedIPv4(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestTrafficOfThisMachine(t *testing.T) {
	_, links, _, err := Traffic()
	if err != nil || len(links) == 0 {
		t.Error(links, err)
	}
}
