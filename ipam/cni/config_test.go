package cni

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// told is an error as a person reads it.
func told(err error) string {
	var fault *types.Error
	if !errors.As(err, &fault) {
		return fmt.Sprint(err)
	}
	return fmt.Sprintf("%d %s (%s)", fault.Code, fault.Msg, fault.Details)
}

func TestNamedErrorsOfTheConfiguration(t *testing.T) {
	for _, test := range []struct{ ipam, want string }{
		{`{"type": "clearway-ipam"}`, "<nil>"},
		{`{"type": "clearway-ipam", "socket": "/run/x.sock", "pools": ["a", "b"]}`, "<nil>"},
		{`null`, `7 ipam: section is missing (such as "ipam": {"type": "clearway-ipam"})`},
		{`{"sokcet": "/run/x.sock"}`, `7 ipam: unknown field "sokcet" (the fields are type, socket and pools)`},
		{`{"pools": "a"}`, `7 ipam: cannot unmarshal string into Go struct field ipamConfig.pools of type []string (type and socket are strings, pools is a list of strings)`},
		{`[]`, `7 ipam: cannot unmarshal array into Go value of type cni.ipamConfig (type and socket are strings, pools is a list of strings)`},
		{`{"socket": "agent.sock"}`, `7 ipam.socket: "agent.sock" is not an absolute path (the default is /run/clearway/agent.sock)`},
		{`{"socket": "/` + strings.Repeat("x", 107) + `"}`, `7 ipam.socket: "/` + strings.Repeat("x", 107) + `" has 108 bytes (a socket's path has at most 107)`},
		{`{"pools": ["a", ""]}`, `7 ipam.pools[1]: is empty (the name of an IPPool)`},
		{`{"pools": [` + strings.Repeat(`"a",`, 16) + `"a"]}`, `7 ipam.pools: has 17 names (at most 16)`},
	} {
		_, err := parseConfig(fmt.Appendf(nil, `{"cniVersion": "1.1.0", "name": "pods", "type": "ptp", "mtu": 9000, "ipam": %s}`, test.ipam))
		if got := told(err); got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.ipam, got, test.want)
		}
	}
	if _, err := parseConfig([]byte(`{"ipam": 1`)); !strings.HasPrefix(told(err), "6 network configuration cannot be decoded") {
		t.Errorf("broken JSON: %s", told(err))
	}
}

func TestReleaseOverlooksWhatDoesNotMatter(t *testing.T) {
	c, err := parseConfigForRelease([]byte(`{"name": "pods", "ipam": {"socket": "/run/x.sock", "pools": [""], "later": 1}}`))
	if err != nil || c.IPAM.Socket != "/run/x.sock" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestAddressesAskedFor(t *testing.T) {
	const all = `{"ipam": {}, "runtimeConfig": {"ips": ["10.0.0.5/24", "fd00::5"]}, "args": {"cni": {"ips": ["10.0.0.5", "10.0.0.6"]}}}`
	for _, test := range []struct{ config, args, want string }{
		{all, "10.0.0.7,fd00::5", "[10.0.0.5 fd00::5 10.0.0.6 10.0.0.7] <nil>"},
		{`{"ipam": {}}`, "", "[] <nil>"},
		{`{"ipam": {}}`, "10.0.0.7/8/8", `[] 7 CNI_ARGS IP[0]: "10.0.0.7/8/8": prefix length "8/8" must be a number from 0 to 32 ()`},
		{`{"ipam": {}, "runtimeConfig": {"ips": ["::ffff:10.0.0.1"]}}`, "", `[] 7 runtimeConfig.ips[0]: "::ffff:10.0.0.1": an IPv4-mapped IPv6 address is not accepted; write 10.0.0.1 ()`},
		{`{"ipam": {}, "args": {"cni": {"ips": ["web"]}}}`, "", `[] 7 args.cni.ips[0]: "web": not an IPv4 or IPv6 address such as 192.0.2.1 or 2001:db8::1 (unable to parse IP) ()`},
	} {
		c, err := parseConfig([]byte(test.config))
		if err != nil {
			t.Fatal(err)
		}
		addresses, err := c.addresses(test.args)
		if got := fmt.Sprint(addresses, " ", told(err)); got != test.want {
			t.Errorf("%s %s:\n got %s\nwant %s", test.config, test.args, got, test.want)
		}
	}
}

func TestValidAttachments(t *testing.T) {
	for _, test := range []struct{ fields, want string }{
		{`"cni.dev/valid-attachments": []`, "0 <nil>"},
		{`"cni.dev/valid-attachments": null`, "0 <nil>"},
		{`"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]`, "1 <nil>"},
		{`"cni.dev/attachments": [{"containerID": "a", "ifname": "eth0"}]`, "1 <nil>"},
		{`"cni.dev/valid-attachments": [], "cni.dev/attachments": [{"containerID": "a", "ifname": "eth0"}]`, "0 <nil>"},
		{`"x": 1`, "0 7 cni.dev/valid-attachments: is missing (a list of {containerID, ifname}, which may be empty)"},
		{`"cni.dev/valid-attachments": [{"containerID": "a"}]`, "0 7 cni.dev/valid-attachments[0]: lacks containerID or ifname (both are needed)"},
		{`"cni.dev/valid-attachments": {}`, "0 7 cni.dev/valid-attachments: cannot unmarshal object into Go value of type []types.GCAttachment (a list of {containerID, ifname})"},
	} {
		c, err := parseConfigForRelease([]byte(`{"name": "pods", "ipam": {}, ` + test.fields + `}`))
		if err != nil {
			t.Fatal(err)
		}
		valid, err := c.validAttachments()
		if got := fmt.Sprint(len(valid), " ", told(err)); got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.fields, got, test.want)
		}
	}
}

func TestArgs(t *testing.T) {
	env, err := parseArgs("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1;LATER=1;IP=10.0.0.9")
	if err != nil || fmt.Sprint(env.pod()) == "" || env.pod().Name != "web-0" || env.pod().UID != "u1" || env.IP != "10.0.0.9" {
		t.Errorf("%+v, %v", env, err)
	}
	if env, err := parseArgs(""); err != nil || env.pod() != nil {
		t.Errorf("%+v, %v", env, err)
	}
	for _, text := range []string{"LATER=1", "K8S_POD_NAME", "IgnoreUnknown=perhaps"} {
		if _, err := parseArgs(text); !strings.HasPrefix(told(err), "4 CNI_ARGS: ") {
			t.Errorf("%s: %s", text, told(err))
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"cniVersion": "1.1.0", "name": "pods", "ipam": {"type": "clearway-ipam", "socket": "/a", "pools": ["x"]}}`), "10.0.0.1")
	f.Add([]byte(`{"ipam": {}, "runtimeConfig": {"ips": ["10.0.0.5/24"], "io.kubernetes.cri.pod-annotations": {"a": "b"}}}`), "")
	f.Add([]byte(`{"cniVersion": "0.4.0", "ipam": {}, "prevResult": {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.5/24"}]}}`), ",")
	f.Add([]byte(`{"ipam": {}, "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "b"}]}`), "::1/")
	f.Fuzz(func(t *testing.T, input []byte, ip string) {
		release, err := parseConfigForRelease(input)
		if err != nil {
			if strings.HasPrefix(told(err), "0") {
				t.Fatalf("%s has no code", told(err))
			}
			return
		}
		_, _ = release.validAttachments()
		c, err := parseConfig(input)
		if err != nil {
			return
		}
		if !strings.HasPrefix(c.IPAM.Socket, "/") || len(c.IPAM.Socket) > maxSocketPath {
			t.Fatalf("accepted socket %q", c.IPAM.Socket)
		}
		_, _ = c.addresses(ip)
		_, _ = c.heldAddresses()
	})
}
