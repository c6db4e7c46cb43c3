package contract

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNamedErrors: a refusal names file and line, resource, field, value and what would be right; nothing is applied.
func TestNamedErrors(t *testing.T) {
	t.Parallel()
	i := readyIpamd(t)
	apply(t, i.address, pool("pods", "10.244.0.0/16")).shows(t)
	ipPool := func(spec string) string { return manifest("IPPool", "new", spec) }
	for name, c := range map[string]struct {
		yaml string
		want []string
	}{
		"overlap":              {ipPool("{cidr: 10.244.128.0/17}"), []string{"stdin:4:", "IPPool/new", "spec.cidr", "IPPool/pods", "10.244.0.0/16"}},
		"overlap in a file":    {pool("a", "10.1.0.0/16") + "---\n" + pool("b", "10.0.0.0/8"), []string{"spec.cidr", "overlaps IPPool/"}},
		"host bits":            {ipPool("{cidr: 10.10.0.1/16}"), []string{"stdin:4:", "spec.cidr", "10.10.0.1/16", "10.10.0.0/16"}},
		"host bits IPv6":       {ipPool(`{cidr: "fd00::1/64"}`), []string{"spec.cidr", "fd00::/64"}},
		"no prefix":            {ipPool("{cidr: 10.10.0.0}"), []string{"spec.cidr", "10.10.0.0"}},
		"no cidr":              {ipPool("{}"), []string{"spec.cidr", "required"}},
		"block size small":     {ipPool("{cidr: 10.0.0.0/8, blockSize: 15}"), []string{"spec.blockSize", "16 to 32"}},
		"block size large":     {ipPool("{cidr: 10.10.0.0/16, blockSize: 33}"), []string{"spec.blockSize", "to 32"}},
		"block size of IPv6":   {ipPool(`{cidr: "fd00::/48", blockSize: 26}`), []string{"spec.blockSize", "112 to 128"}},
		"pool below a block":   {ipPool("{cidr: 10.10.0.0/27}"), []string{"10.10.0.0/27", "smaller than one block of /26"}},
		"smallest too large":   {ipPool("{cidr: 10.10.0.0/16, minBlockSize: 24}"), []string{"spec.minBlockSize", "26"}},
		"loopback":             {ipPool("{cidr: 127.0.0.0/16}"), []string{"spec.cidr", "loopback"}},
		"unknown kind of pool": {ipPool("{cidr: 10.10.0.0/16, kind: Blocks}"), []string{"spec.kind", "Blocks", "Floating"}},
		"unknown field":        {ipPool("{cidr: 10.10.0.0/16, blocksize: 26}"), []string{"stdin:4:", "spec.blocksize", "unknown field", "blockSize"}},
		"unknown top field":    {ipPool("{cidr: 10.10.0.0/16}") + "specs: {}\n", []string{"stdin:5:", "specs", "unknown field"}},
		"wrong type":           {ipPool("{cidr: 10.10.0.0/16, blockSize: big}"), []string{"stdin:4:", "spec.blockSize", "big"}},
		"wrong kind":           {manifest("IPPol", "x", "{}"), []string{"stdin:2:", "IPPol", "IPPool"}},
		"no kind":              {"apiVersion: clearway.io/v1\nmetadata: {name: x}\n", []string{"kind", "is missing", "IPPool"}},
		"wrong apiVersion":     {strings.Replace(ipPool("{cidr: 10.10.0.0/16}"), "/v1", "/v2", 1), []string{"stdin:1:", "apiVersion", "clearway.io/v1"}},
		"no name":              {"apiVersion: clearway.io/v1\nkind: IPPool\nspec: {cidr: 10.10.0.0/16}\n", []string{"metadata.name"}},
		"name no DNS name":     {manifest("IPPool", "My_Pool", "{cidr: 10.10.0.0/16}"), []string{"stdin:3:", "metadata.name", "lower case"}},
		"bad YAML":             {"apiVersion: clearway.io/v1\nkind: IPPool\nmetadata: {name: x\nspec: 1\n", []string{"stdin:"}},
		"bad indentation":      {"apiVersion: clearway.io/v1\nkind: IPPool\n  metadata: {}\n", []string{"stdin:3"}},
		"given twice":          {pool("a", "10.1.0.0/16") + "---\n" + pool("a", "10.2.0.0/16"), []string{"stdin:6:", "IPPool/a", "twice"}},
		"nothing":              {"---\n# nothing\n", []string{"no resources"}},
		"peer without AS":      {manifest("BGPPeer", "x", "{peerAddress: 192.0.2.1}"), []string{"spec.peerASN"}},
		"peer no address":      {manifest("BGPPeer", "x", "{peerAddress: tor, peerASN: 65101}"), []string{"spec.peerAddress", "tor"}},
		"peer's hold time":     {manifest("BGPPeer", "x", "{peerAddress: 192.0.2.1, peerASN: 65101, holdTime: 1s}"), []string{"spec.holdTime", "1s", "3s"}},
		"peer's scope":         {manifest("BGPPeer", "x", "{peerAddress: 192.0.2.1, peerASN: 65101, importScope: Any}"), []string{"spec.importScope", "Any", "Owned"}},
		"peer's selector":      {manifest("BGPPeer", "x", "{peerAddress: 192.0.2.1, peerASN: 65101, nodeSelector: {matchLabels: {'a b': c}}}"), []string{"spec.nodeSelector"}},
		"mesh":                 {manifest("BGPConfiguration", "default", "{nodeMesh: Some}"), []string{"spec.nodeMesh", "Some", "Full"}},
		"AS number":            {manifest("BGPConfiguration", "default", "{asNumber: 4294967296}"), []string{"spec.asNumber", "4294967296"}},
		"duration":             {manifest("IPAMConfiguration", "default", "{cooldown: 2 minutes}"), []string{"spec.cooldown", "2 minutes"}},
		"not default":          {manifest("IPAMConfiguration", "other", "{}"), []string{"metadata.name", "default"}},
		"filter's action":      {manifest("BGPFilter", "x", "{rules: [{action: Drop}]}"), []string{"spec.rules[0].action", "Drop", "Reject"}},
		"filter's length":      {manifest("BGPFilter", "x", "{rules: [{prefixes: [{cidr: 10.0.0.0/8, ge: 40}], action: Reject}]}"), []string{"spec.rules[0].prefixes[0].ge", "40"}},
		"reservation":          {manifest("IPReservation", "x", "{cidrs: [10.0.0.9-10.0.0.1]}"), []string{"spec.cidrs[0]", "10.0.0.9"}},
		"node's address":       {manifest("Node", "x", "{addresses: [192.0.2.300/24]}"), []string{"spec.addresses[0]", "192.0.2.300"}},
		"good and bad":         {pool("fine", "10.66.0.0/16") + "---\n" + ipPool("{cidr: 10.10.0.1/16}"), []string{"stdin:9:", "IPPool/new"}},
		"two faults":           {ipPool("{cidr: 10.10.0.1/16, kind: Blob}"), []string{"spec.cidr", "spec.kind"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			apply(t, i.address, c.yaml).says(t, 1, c.want...)
		})
	}
	t.Cleanup(func() { // after the parallel cases
		for _, kind := range []string{"ippools", "bgppeers", "bgpfilters", "ipreservations", "bgpconfigurations", "nodes"} {
			got := ctl(t, i.address, "get", kind, "-o", "json").shows(t)
			if strings.Count(got.out, `"metadata"`) != map[string]int{"ippools": 1}[kind] { // the first one
				t.Errorf("something was applied: %s", got)
			}
		}
	})
}

// TestApplyFiles: several files, folders, documents and forms; a dry run; and how much one apply takes.
func TestApplyFiles(t *testing.T) {
	t.Parallel()
	i := readyIpamd(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	several := write("several.yaml", "---\n"+pool("a", "10.1.0.0/16")+"---\n"+pool("b", "10.2.0.0/16")+"---\n")
	ctl(t, i.address, "apply", "-f", several, "--dry-run").shows(t, "ippool/a created (dry run)")
	ctl(t, i.address, "get", "ippool", "a").says(t, 3)
	ctl(t, i.address, "apply", "-f", several).shows(t, "ippool/a created", "ippool/b created")
	write("folder/c.yaml", pool("c", "10.3.0.0/16"))
	write("folder/d.json", `{"apiVersion": "clearway.io/v1", "kind": "IPPool", "metadata": {"name": "d"}, "spec": {"cidr": "10.4.0.0/16"}}`)
	ctl(t, i.address, "apply", "-f", several, "-f", filepath.Join(dir, "folder")).
		shows(t, "ippool/a unchanged", "ippool/c created", "ippool/d created")
	bad := write("bad.yaml", pool("e", "10.5.0.0/16")+"---\n"+pool("f", "10.6.0.1/16"))
	ctl(t, i.address, "apply", "-f", several, "-f", bad).says(t, 1, bad+":9:", "spec.cidr")
	ctl(t, i.address, "get", "ippool", "e").says(t, 3)
	ctl(t, i.address, "apply", "-f", "/nowhere.yaml").says(t, 1, "/nowhere.yaml")
	ctl(t, i.address, "apply").says(t, 2, "filename")

	list := ctl(t, i.address, "get", "ippools", "-o", "json").shows(t)
	apply(t, i.address, list.out).shows(t, "ippool/a unchanged", "ippool/d unchanged")
	stale := strings.Replace(ctl(t, i.address, "get", "ippool", "a", "-o", "yaml").shows(t).out, "blockSize: 26", "", 1)
	apply(t, i.address, manifest("IPPool", "a", "{cidr: 10.1.0.0/16, priority: 1}")).shows(t, "configured")
	apply(t, i.address, stale).says(t, 1, "nothing was changed", "resourceVersion")

	filters := func(count int) string {
		var text strings.Builder
		for n := range count {
			fmt.Fprintf(&text, "---\n%s", manifest("BGPFilter", fmt.Sprint("f", n), "{rules: [{action: Accept}]}"))
		}
		return text.String()
	}
	most := write("most.yaml", filters(100))
	if got := ctl(t, i.address, "apply", "-f", most).shows(t); strings.Count(got.out, "created") != 100 {
		t.Errorf("not a hundred: %s", got)
	}
	more := write("more.yaml", filters(101))
	ctl(t, i.address, "apply", "-f", more).says(t, 1, "nothing was done", "101", "100", "split")
	ctl(t, i.address, "get", "bgpfilter", "f100").says(t, 3)
	large := pool("large", "10.7.0.0/16")
	large = strings.Replace(large, "{name: large}", "{name: large, annotations: {note: "+strings.Repeat("x", 300<<10)+"}}", 1)
	apply(t, i.address, large).says(t, 1, "nothing was changed", "metadata.annotations", "262144")
	ctl(t, i.address, "delete", "-f", most).shows(t, "bgpfilter/f0 deleted", "bgpfilter/f99 deleted")
	ctl(t, i.address, "delete", "-f", most).says(t, 3, "bgpfilter/f7")
}

// TestCtlUsage: wrong usage is exit code 2, and a server that does not answer 1, soon and by its address.
func TestCtlUsage(t *testing.T) {
	t.Parallel()
	nobody := freeAddress()
	for _, c := range []struct {
		argv string
		code int
		want string
	}{
		{"frob", 2, `"frob"`},
		{"get", 2, "arg"},
		{"get gadgets", 2, `"gadgets"`},
		{"get ippol", 2, `did you mean "ippool"`},
		{"get ippools -o xml", 2, `"xml"`},
		{"describe ippool", 2, "name"},
		{"delete ippool", 2, "name"},
		{"delete", 2, "KIND NAME"},
		{"delete ippool pods --powered-off", 2, "--powered-off"},
		{"edit block 10-0-0-0-26", 2, "read only"},
		{"ipam", 2, "blocks,"},
		{"ipam frob", 2, `"frob"`},
		{"--server x get ippools", 2, `"x"`},
		{"--timeout 0s get ippools", 2, "--timeout"},
		{"get ippools", 1, nobody},
		{"--server " + nobody + "," + freeAddress() + " get ippools", 1, "no server answers"},
		{"--socket /nowhere.sock get blocks", 1, "/nowhere.sock"},
	} {
		argv := append([]string{"--server", nobody, "--insecure"}, strings.Fields(c.argv)...)
		run(t, ctlProgram, argv...).says(t, c.code, c.want)
	}
	run(t, ctlProgram, "get", "ippools").says(t, 2, "--tls-cert", "--insecure")
	run(t, ctlProgram, "version").shows(t, "clearwayctl ")
	run(t, ctlProgram, "--help").shows(t, "apply", "get", "describe", "delete", "edit", "ipam", "bgp", "node", "version")
}
