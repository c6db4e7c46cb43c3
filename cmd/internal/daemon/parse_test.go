package daemon

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseLabels(t *testing.T) {
	labels, err := ParseLabels("rack=r1, topology.kubernetes.io/zone=b,empty=")
	if err != nil || len(labels) != 3 || labels["rack"] != "r1" || labels["topology.kubernetes.io/zone"] != "b" {
		t.Errorf("got %v, %v", labels, err)
	}
	for text, want := range map[string]string{
		"rack":                              `label "rack" has no '='`,
		"=r1":                               `label key ""`,
		"ra ck=r1":                          `label key "ra ck"`,
		"rack=r 1":                          `label rack has value "r 1"`,
		"rack=a,rack=b":                     `label "rack" is given twice`,
		"rack=" + strings.Repeat("x", 64):   "label rack has value",
		"UPPER.example.com/UPPER.SLASH/x=1": "label key",
	} {
		if _, err := ParseLabels(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestParseNodeIPs(t *testing.T) {
	got, err := ParseNodeIPs("192.0.2.11,2001:db8::11/64")
	if err != nil || len(got) != 2 || got[0].Bits() != -1 || got[0].Addr().String() != "192.0.2.11" ||
		got[1].String() != "2001:db8::11/64" {
		t.Errorf("got %v, %v", got, err)
	}
	for text, want := range map[string]string{
		"node1":                   `"node1" is no IP address`,
		"192.0.2.11/40":           "no address with a prefix length",
		"192.0.2.11,192.0.2.12":   "one family",
		"fe80::1%eth0":            "no address that other nodes",
		"127.0.0.1":               "no address that other nodes",
		"::ffff:192.0.2.1":        "no address that other nodes",
		"0.0.0.0":                 "no address that other nodes",
		"192.0.2.11,2001:db8::x1": "no IP address",
	} {
		if _, err := ParseNodeIPs(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestParseServers(t *testing.T) {
	got, err := ParseServers("192.0.2.1:7470, [2001:db8::1]:7470,ipamd:7470")
	if err != nil || fmt.Sprint(got) != "[192.0.2.1:7470 [2001:db8::1]:7470 ipamd:7470]" {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "ipamd", "2001:db8::1:7470", ":7470", "a:0", "a:70000", "a:http"} {
		if _, err := ParseServers(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "agent.sock")
	first, err := ListenUnix(path, SocketPrivate)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	go func() {
		for {
			conn, err := first.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	if _, err := ListenUnix(path, SocketPrivate); err == nil || !strings.Contains(err.Error(), "is served by another process") {
		t.Errorf("a served socket was taken: %v", err)
	}
	first.Close()
	second, err := ListenUnix(path, SocketPrivate)
	if err != nil {
		t.Fatalf("a dead socket is not replaced: %v", err)
	}
	defer second.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}
