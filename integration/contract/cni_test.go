package contract

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// netconf is a network configuration for the plugin; more are further keys of its section "ipam", each with a comma
// before it.
func netconf(version, socket, more string) string {
	return fmt.Sprintf(`{"cniVersion": %q, "name": "pods", "type": "ptp", "ipam": {"type": "clearway-ipam", "socket": %q%s}}`,
		version, socket, more)
}

// cni calls the plugin as a runtime does. The sandbox is the namespace that we came from: one that is not our own is
// all that is asked of it.
func cni(t testing.TB, verb, stdin string) answer {
	t.Helper()
	return command{stdin: stdin, env: []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=c1", "CNI_NETNS=" + fmt.Sprintf("/proc/%d/ns/net", os.Getppid()), "CNI_IFNAME=eth0",
		"CNI_PATH=/nowhere", "CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0",
	}}.run(t, cniProgram)
}

// refuses fails the test unless the plugin answered with CNI's error of this code, and these words in it.
func refuses(t testing.TB, got answer, code uint, words ...string) {
	t.Helper()
	var fault struct {
		CNIVersion   string
		Code         uint
		Msg, Details string
	}
	if err := json.Unmarshal([]byte(got.out), &fault); err != nil || got.code == 0 {
		t.Fatalf("this is no error of CNI's (%v): %s", err, got)
	}
	if fault.Code != code {
		t.Errorf("code %d is wanted: %s", code, got)
	}
	for _, word := range words {
		if !strings.Contains(fault.Msg+"; "+fault.Details, word) {
			t.Errorf("it does not say %q: %s", word, got)
		}
	}
}

// TestPluginAlone is what the plugin does where no agent is.
func TestPluginAlone(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "agent.sock")
	for name, test := range map[string]func(t *testing.T){
		"VERSION": func(t *testing.T) {
			cni(t, "VERSION", `{"cniVersion": "1.1.0"}`).shows(t, `"0.3.1"`, `"0.4.0"`, `"1.0.0"`, `"1.1.0"`)
		},
		"STATUS": func(t *testing.T) {
			refuses(t, cni(t, "STATUS", netconf("1.1.0", socket, "")), 50, "agent", socket)
		},
		"ADD": func(t *testing.T) {
			refuses(t, cni(t, "ADD", netconf("1.0.0", socket, "")), 11, "agent", socket)
		},
		"unknown key": func(t *testing.T) {
			refuses(t, cni(t, "ADD", netconf("1.0.0", socket, `, "pool": "pods"`)), 7, "ipam", `"pool"`, "pools")
		},
		"pools no list": func(t *testing.T) {
			refuses(t, cni(t, "ADD", netconf("1.0.0", socket, `, "pools": "pods"`)), 7, "pools", "list")
		},
		"empty pool": func(t *testing.T) {
			refuses(t, cni(t, "STATUS", netconf("1.1.0", socket, `, "pools": ["a", ""]`)), 7, "ipam.pools[1]")
		},
		"relative socket": func(t *testing.T) {
			refuses(t, cni(t, "ADD", netconf("1.0.0", "agent.sock", "")), 7, "ipam.socket", `"agent.sock"`)
		},
		"no JSON": func(t *testing.T) { refuses(t, cni(t, "ADD", `{`), 6) },
		"old version": func(t *testing.T) {
			refuses(t, cni(t, "ADD", netconf("0.2.0", socket, "")), 1, "0.2.0")
		},
		"unknown verb": func(t *testing.T) { refuses(t, cni(t, "FROB", netconf("1.0.0", socket, "")), 4, "FROB") },
		"DEL": func(t *testing.T) {
			cni(t, "DEL", netconf("1.0.0", socket, "")).shows(t)
			waiting, err := os.ReadDir(filepath.Join(filepath.Dir(socket), "spool"))
			if err != nil || len(waiting) != 1 {
				t.Errorf("the spool has %v, %v; want one release", waiting, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// TestPluginWithAgent: an ADD is answered as ptp wants it and seen by everyone, and a DEL that found no agent is done
// by the next one.
func TestPluginWithAgent(t *testing.T) {
	i := readyIpamd(t)
	a := startAgent(t, "n1", i.address, "--insecure")
	ready(t, a.process, a.metrics)
	// A node without a pool is able for as long as that may pass: a runtime makes it NotReady otherwise.
	cni(t, "STATUS", netconf("1.1.0", a.socket, "")).shows(t)
	apply(t, i.address, pool("pods", "10.244.0.0/16")).shows(t)
	// What is not built, or not ours, is refused by its name.
	apply(t, i.address, manifest("IPPool", "vips", "{cidr: 10.250.0.0/24, kind: LoadBalancer}")).shows(t)
	eventually(t, "the agent to know the pool", func() error {
		got := cni(t, "ADD", netconf("1.0.0", a.socket, `, "pools": ["vips"]`))
		if !strings.Contains(got.out, "LoadBalancer") {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	foreign := strings.Replace(netconf("1.0.0", a.socket, ""), `"ipam"`, `"runtimeConfig": {"ips": ["203.0.113.7"]}, "ipam"`, 1)
	if got := cni(t, "ADD", foreign); got.code == 0 || !strings.Contains(got.out, "203.0.113.7") {
		t.Errorf("a static address outside all pools: %s", got)
	}
	added := cni(t, "ADD", netconf("1.1.0", a.socket, `, "pools": ["pods"]`)).
		shows(t, "/16", `"gateway": "10.244.0.1"`, `"dst": "0.0.0.0/0"`)
	if again := cni(t, "ADD", netconf("1.1.0", a.socket, "")); again.out != added.out {
		t.Errorf("a repeated ADD has another answer: %s", again)
	}
	eventually(t, "the assignment at ipamd", func() error {
		return ctl(t, i.address, "ipam", "assignments").lacks("web-0")
	})
	a.kill()
	cni(t, "DEL", netconf("1.1.0", a.socket, "")).shows(t)
	a.process = a.restart(t)
	eventually(t, "the spooled release to be done", func() error {
		return run(t, ctlProgram, "--socket", a.socket, "ipam", "assignments", "-o", "json").lacks(`"items": []`)
	})
}
