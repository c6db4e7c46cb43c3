package contract

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// kinds are those to apply: a resource of each, and its spec after a change.
var kinds = map[string]struct{ name, spec, changed string }{
	"IPPool":            {"pods", `{cidr: 10.244.0.0/16, kind: Block, blockSize: 26, minBlockSize: 30, nodeSelector: {matchLabels: {rack: r1}}}`, `{cidr: 10.244.0.0/16, blockSize: 27}`},
	"IPReservation":     {"printers", `{cidrs: [10.244.9.0/24, 10.244.10.1-10.244.10.9], reason: printers}`, `{cidrs: [10.244.9.0/24]}`},
	"IPQuota":           {"team", `{addresses: 100, namespaceSelector: {matchLabels: {team: a}}, pools: [pods]}`, `{addresses: 120, blocks: 10}`},
	"IPAMConfiguration": {"default", `{cooldown: 130s, lowWater: 4, blockIdleTime: 10m}`, `{cooldown: 150s}`},
	"BGPConfiguration":  {"default", `{asNumber: 64512, nodeMesh: Auto, listenPort: 179}`, `{asNumber: 64513, nodeMesh: Full}`},
	"BGPPeer": {
		"tor-r1", `{nodeSelector: {matchLabels: {rack: r1}}, peerAddress: 192.0.2.1, peerASN: 65101, holdTime: 9s, keepaliveTime: 3s, localASNumber: 65001, importScope: Owned}`,
		`{peerAddress: 192.0.2.1, peerASN: 65102, importScope: Pools}`,
	},
	"BGPFilter": {"no-lab", `{rules: [{prefixes: [{cidr: 198.51.100.0/24, ge: 25, le: 32}], action: Reject}]}`, `{rules: [{action: Accept}]}`},
	"Node":      {"n7", `{asNumber: 65007, addresses: [192.0.2.17/24], labels: {rack: r1}}`, `{asNumber: 65008}`},
}

func manifest(kind, name, spec string) string {
	return fmt.Sprintf("apiVersion: clearway.io/v1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec)
}

// object is any resource as -o json has it.
type object map[string]json.RawMessage

// checkShape fails the test unless a resource has the five parts and nothing else.
func checkShape(t testing.TB, o object, kind string) {
	t.Helper()
	parts := slices.Sorted(maps.Keys(o))
	if want := []string{"apiVersion", "kind", "metadata", "spec", "status"}; !slices.Equal(parts, want) {
		t.Errorf("%s has the parts %v; want %v", kind, parts, want)
	}
	if string(o["apiVersion"]) != `"clearway.io/v1"` || string(o["kind"]) != fmt.Sprintf("%q", kind) {
		t.Errorf("apiVersion %s, kind %s; want a %s", o["apiVersion"], o["kind"], kind)
	}
	var metadata struct{ Name string }
	if err := json.Unmarshal(o["metadata"], &metadata); err != nil || metadata.Name == "" {
		t.Errorf("%s has metadata %s", kind, o["metadata"])
	}
}

func decode[T any](t testing.TB, text string) (into T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &into); err != nil {
		t.Fatalf("this is no JSON (%v): %s", err, text)
	}
	return into
}

// checkList reads a kind's list, checks each of its resources, and returns how many there are.
func checkList(t testing.TB, server, kind string) int {
	t.Helper()
	list := decode[map[string][]object](t, ctl(t, server, "get", kind, "-o", "json").shows(t).out)
	if len(list) != 1 || list["items"] == nil {
		t.Errorf("a list of %s has not just items: %v", kind, list)
	}
	for _, o := range list["items"] {
		checkShape(t, o, kind)
	}
	return len(list["items"])
}

// TestEveryKindToApply goes through a resource's life, for each kind.
func TestEveryKindToApply(t *testing.T) {
	t.Parallel()
	i := readyIpamd(t)
	for kind, c := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			plural, key := strings.ToLower(kind)+"s", strings.ToLower(kind)+"/"+c.name
			if n := checkList(t, i.address, kind); n != 0 {
				t.Fatalf("there are %d before the first", n)
			}
			ctl(t, i.address, "get", kind, c.name).says(t, 3, c.name)
			apply(t, i.address, manifest(kind, c.name, c.spec)).shows(t, key+" created")
			apply(t, i.address, manifest(kind, c.name, c.spec)).shows(t, key+" unchanged")
			checkShape(t, decode[object](t, ctl(t, i.address, "get", plural, c.name, "-o", "json").shows(t).out), kind)
			if n := checkList(t, i.address, kind); n != 1 {
				t.Errorf("%d are listed", n)
			}
			apply(t, i.address, manifest(kind, c.name, c.changed)).shows(t, key+" configured")
			for _, form := range []string{"table", "wide", "json", "yaml"} {
				ctl(t, i.address, "get", kind, "-o", form).shows(t, c.name)
				ctl(t, i.address, "get", key, "-o", form).shows(t, c.name)
			}
			ctl(t, i.address, "describe", kind, c.name).shows(t, c.name)
			// What is read can be applied: it is what is there.
			read := ctl(t, i.address, "get", kind, "-o", "yaml").shows(t)
			apply(t, i.address, read.out).shows(t, key+" unchanged")
			edited := command{env: []string{"EDITOR=sed -i 's/^metadata:/&\\n  annotations: {edited: by-sed}/'"}}.
				run(t, ctlProgram, "--server", i.address, "--insecure", "edit", kind, c.name)
			edited.shows(t, key+" configured")
			ctl(t, i.address, "get", kind, c.name, "-o", "json").shows(t, `"edited": "by-sed"`)
			ctl(t, i.address, "delete", kind, c.name).shows(t, key+" deleted")
			for _, verb := range []string{"get", "describe", "delete", "edit"} {
				ctl(t, i.address, verb, kind, c.name).says(t, 3, c.name)
			}
			ctl(t, i.address, "delete", kind, c.name, "--ignore-not-found").says(t, 0)
		})
	}
}

// TestEveryKindToRead: what Clearway writes can be read in every form, and by nobody changed.
func TestEveryKindToRead(t *testing.T) {
	i := readyIpamd(t)
	peer := manifest("BGPPeer", "tor", `{peerAddress: 192.0.2.99, peerASN: 65101}`)
	apply(t, i.address, pool("pods", "10.244.0.0/16")+"---\n"+peer).shows(t)
	a := startAgent(t, "n1", i.address, "--insecure")
	ready(t, a.process, a.metrics)
	cni(t, "ADD", netconf("1.0.0", a.socket, "")).shows(t)
	apply(t, i.address, manifest("Node", "n9", "{}")).shows(t)
	ctl(t, i.address, "node", "delete", "n9", "--powered-off").shows(t, "node/n9 deleted") // which is an Event
	for kind, local := range map[string]bool{
		"Block": true, "Assignment": true, "BGPSession": true, "Route": true, "Event": false,
	} {
		t.Run(kind, func(t *testing.T) {
			eventually(t, "a "+kind, func() error {
				if checkList(t, i.address, kind) == 0 {
					return fmt.Errorf("there is none")
				}
				return nil
			})
			list := decode[map[string][]struct{ Metadata struct{ Name string } }](t,
				ctl(t, i.address, "get", kind, "-o", "json").shows(t).out)
			name := list["items"][0].Metadata.Name
			checkShape(t, decode[object](t, ctl(t, i.address, "get", kind, name, "-o", "json").shows(t).out), kind)
			for _, form := range []string{"table", "wide", "yaml"} {
				ctl(t, i.address, "get", kind, name, "-o", form).shows(t)
			}
			ctl(t, i.address, "describe", kind, name).shows(t, name)
			ctl(t, i.address, "get", kind, "nothing-like-it").says(t, 3)
			ctl(t, i.address, "edit", kind, name).says(t, 2, "read only")
			ctl(t, i.address, "delete", kind, name).says(t, 1, "read only")
			apply(t, i.address, manifest(kind, name, "{}")).says(t, 1, kind, "read only")
			// The agent knows its own.
			got := run(t, ctlProgram, "--socket", a.socket, "get", kind, "-o", "json")
			if local {
				got.shows(t, name)
			} else {
				got.says(t, 1, "ask ipamd")
			}
		})
	}
	t.Run("commands", func(t *testing.T) {
		const held = "10.244.0.2"
		for _, c := range []struct{ command, want string }{
			{"ipam show", "pods"}, {"ipam blocks", "10.244.0.0/26"}, {"ipam assignments", held},
			{"ipam show --ip " + held, "web-0"}, {"ipam show --ip 10.244.0.1", "ateway"},
			{"ipam show --ip 10.244.200.1", "pods"}, {"bgp peers", "192.0.2.99"}, {"bgp routes", "10.244.0.0/26"},
			{"bgp routes advertised --node n1", "10.244.0.0/26"}, {"node list", "n1"}, {"version", "clearwayctl"},
		} {
			for _, form := range []string{"table", "wide", "json", "yaml"} {
				argv := append(strings.Fields(c.command), "-o", form)
				want := c.want
				if c.command == "version" && form != "table" && form != "wide" {
					want = "version"
				}
				got := ctl(t, i.address, argv...).shows(t, want)
				if form == "json" {
					decode[any](t, got.out)
				}
			}
		}
		ctl(t, i.address, "ipam", "show", "--ip", "203.0.113.1").says(t, 3, "203.0.113.1")
		ctl(t, i.address, "ipam", "show", "--ip", "10.244").says(t, 2, `"10.244"`)
		ctl(t, i.address, "bgp", "routes", "--prefix", "203.0.113.0/24").says(t, 3, "203.0.113.0/24")
		ctl(t, i.address, "bgp", "routes", "sideways").says(t, 2, "sideways")
		ctl(t, i.address, "delete", "ippool", "pods").shows(t, "ippool/pods draining: 1 blocks on 1 nodes")
		local := func(argv ...string) answer {
			return run(t, ctlProgram, append([]string{"--socket", a.socket}, argv...)...)
		}
		local("ipam", "show", "--ip", held).shows(t, "web-0")
		local("bgp", "peers").shows(t, "192.0.2.99")
		local("bgp", "routes").shows(t, "10.244.0.0/26")
	})
}
