package contract

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestAgentRefusesBadFlags: exit code 2, one message that names the flag, the value and what would be right.
func TestAgentRefusesBadFlags(t *testing.T) {
	good := []string{"--node=n1", "--insecure"}
	for name, c := range map[string]struct {
		argv []string
		want []string
	}{
		"nothing at all":       {nil, nil},
		"node no DNS name":     {[]string{"--node=N_1"}, []string{`--node "N_1"`, "lower case"}},
		"node IP no address":   {[]string{"--node-ip=192.0.2.300"}, []string{"--node-ip", `"192.0.2.300"`}},
		"node IP bad prefix":   {[]string{"--node-ip=192.0.2.1/33"}, []string{"--node-ip", `"192.0.2.1/33"`}},
		"node IP loopback":     {[]string{"--node-ip=127.0.0.1"}, []string{"--node-ip", "127.0.0.1", "reach"}},
		"node IP twice IPv4":   {[]string{"--node-ip=192.0.2.1,192.0.2.2"}, []string{"--node-ip", "192.0.2.1 and 192.0.2.2"}},
		"label without value":  {[]string{"--labels=rack"}, []string{"--labels", `"rack"`, "key=value"}},
		"label twice":          {[]string{"--labels=a=b,a=c"}, []string{"--labels", `"a"`, "twice"}},
		"label key":            {[]string{"--labels=-=b"}, []string{"--labels", `"-"`}},
		"label value":          {[]string{"--labels=a=b c"}, []string{"--labels", `"b c"`}},
		"server without port":  {[]string{"--server=192.0.2.10"}, []string{"--server", `"192.0.2.10"`, "ADDR:PORT"}},
		"server port 0":        {[]string{"--server=192.0.2.10:0"}, []string{"--server", `"0"`, "1 to 65535"}},
		"no server":            {[]string{"--server="}, []string{"--server", "ADDR:PORT"}},
		"protocol too small":   {[]string{"--route-protocol=4"}, []string{"--route-protocol 4", "5 to 255"}},
		"protocol too large":   {[]string{"--route-protocol=256"}, []string{"--route-protocol 256", "5 to 255"}},
		"protocol no number":   {[]string{"--route-protocol=bgp"}, []string{"--route-protocol", `"bgp"`}},
		"metric 0":             {[]string{"--route-metric=0"}, []string{"--route-metric 0", "1 to 2147483647"}},
		"metric negative":      {[]string{"--route-metric=-1"}, []string{"--route-metric -1"}},
		"table 0":              {[]string{"--route-table=0"}, []string{"--route-table 0"}},
		"metrics without port": {[]string{"--metrics-listen=x"}, []string{`--metrics-listen "x"`, "ADDR:PORT"}},
		"socket too long":      {[]string{"--socket=/" + strings.Repeat("x", 120)}, []string{"--socket", "at most 107"}},
		"empty data folder":    {[]string{"--data-dir="}, []string{"--data-dir", "path"}},
		"both securities":      {[]string{"--tls-ca=x"}, []string{"--insecure and --tls-ca exclude each other"}},
		"three at once":        {[]string{"--labels=a", "--route-metric=0", "--node-ip=x"}, []string{"--labels", "--route-metric", "--node-ip"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.argv == nil {
				run(t, agentProgram).says(t, 2, "--node", "--tls-cert, --tls-key and --tls-ca", "--insecure")
				return
			}
			run(t, agentProgram, append(good, c.argv...)...).says(t, 2, c.want...)
		})
	}
}

// TestAgentFails: what goes wrong in good flags is exit code 1 and says what and where.
func TestAgentFails(t *testing.T) {
	first := startAgent(t, "n1", freeAddress(), "--insecure")
	eventually(t, "the socket", func() error { return exists(first.socket) })
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		argv []string
		want []string
	}{
		"no boot id":         {[]string{"--boot-id-file=/nowhere"}, []string{"--boot-id-file", "/nowhere"}},
		"empty boot id":      {[]string{"--boot-id-file", empty}, []string{"--boot-id-file", empty}},
		"protocol of FRR":    {[]string{"--route-protocol=186"}, []string{"route protocol 186", "FRR"}},
		"metrics port taken": {[]string{"--metrics-listen", first.metrics}, []string{"--metrics-listen", first.metrics, "already in use"}},
		"socket is served":   {[]string{"--socket", first.socket}, []string{first.socket, "served by another process"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			argv := append([]string{
				"--node=n2", "--insecure", "--node-ip", nodeIP, "--data-dir", filepath.Join(dir, "data"),
				"--socket", filepath.Join(dir, "agent.sock"), "--metrics-listen=",
			}, c.argv...)
			run(t, agentProgram, argv...).says(t, 1, c.want...)
		})
	}
	if err := status(first.metrics, "/healthz", http.StatusOK, "ok"); err != nil {
		t.Errorf("the first agent is harmed by them: %v", err)
	}
}

func exists(path string) error {
	_, err := os.Stat(path)
	return err
}

// TestAgentStartsAlone: with ipamd away it runs, says so, serves its socket and is not ready; it is when ipamd comes.
func TestAgentStartsAlone(t *testing.T) {
	address := freeAddress()
	a := startAgent(t, "n1", address, "--insecure")
	a.logs(t, "no session with ipamd", address)
	if err := status(a.metrics, "/readyz", http.StatusServiceUnavailable, "no configuration"); err != nil {
		t.Error(err)
	}
	if err := status(a.metrics, "/metrics", http.StatusOK, "clearway_ipam_"); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(a.socket)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket's mode is %s", info.Mode())
	}
	run(t, ctlProgram, "--socket", a.socket, "get", "blocks", "-o", "json").shows(t, `"items": []`)

	dir := filepath.Join(t.TempDir(), "ipamd")
	i := &ipamd{address: address, metrics: freeAddress()}
	i.process = start(t, nil, ipamdProgram, "--insecure", "--data-dir", dir, "--listen", address, "--metrics-listen", i.metrics)
	ready(t, a.process, a.metrics)
	a.logs(t, "registered with ipamd")

	// Ready again from its disk while ipamd is away.
	if code := i.end(t, syscall.SIGTERM); code != 0 {
		t.Errorf("ipamd: exit code %d", code)
	}
	if code := a.end(t, syscall.SIGTERM); code != 0 {
		t.Errorf("agent: exit code %d", code)
	}
	if err := exists(a.socket); err != nil {
		t.Errorf("clients of a restart have no socket to wait at: %v", err)
	}
	// The socket that it left is replaced, by one that was killed as well.
	for range 2 {
		a.process = a.restart(t)
		ready(t, a.process, a.metrics)
		run(t, ctlProgram, "--socket", a.socket, "get", "blocks").says(t, 0)
		a.kill()
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(a.socket), ".*")); err != nil || len(left) > 0 {
		t.Errorf("left beside the socket: %v %v", left, err)
	}
}

// TestAgentEndsAtOnce: SIGTERM before it could find an address of its own is exit code 0 too.
func TestAgentEndsAtOnce(t *testing.T) {
	a := startAgent(t, "n1", freeAddress(), "--insecure", "--node-ip=203.0.113.9")
	eventually(t, "the metrics server", func() error {
		return status(a.metrics, "/readyz", http.StatusServiceUnavailable, "starting")
	})
	if code := a.end(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestAgentTellsOfItself: what it was told is what ipamd shows, and its socket answers for its own node alone.
func TestAgentTellsOfItself(t *testing.T) {
	i := readyIpamd(t)
	apply(t, i.address, pool("pods", "10.244.0.0/16")).shows(t)
	bootID := filepath.Join(t.TempDir(), "boot-id")
	if err := os.WriteFile(bootID, []byte("the-boot-of-this-test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, "r1n1", i.address, "--insecure", "--labels", "rack=r1,example.com/tier=gold",
		"--boot-id-file", bootID)
	ready(t, a.process, a.metrics)
	local := func(argv ...string) answer {
		return run(t, ctlProgram, append([]string{"--socket", a.socket}, argv...)...)
	}
	eventually(t, "the node to be ready", func() error {
		return ctl(t, i.address, "get", "node", "r1n1", "-o", "json").
			lacks(nodeIP+"/24", "the-boot-of-this-test", `"rack": "r1"`, `"example.com/tier": "gold"`, `"phase": "Ready"`)
	})
	eventually(t, "the node to have a block", func() error {
		return errors.Join(ctl(t, i.address, "get", "blocks", "--node", "r1n1", "-o", "json").lacks(`"node": "r1n1"`),
			local("ipam", "blocks").lacks("10.244.0.0/26"))
	})
	local("ipam", "show").shows(t, "pods", "r1n1")
	local("ipam", "show", "--ip", "10.244.0.7").shows(t, "10.244.0.7", "10.244.0.0/26")
	local("ipam", "show", "--ip", "198.51.100.1").says(t, 3, "198.51.100.1")
	local("ipam", "assignments", "-o", "json").shows(t, `"items": []`)
	local("bgp", "peers", "-o", "json").shows(t, `"items": []`)
	local("bgp", "routes", "-o", "json").shows(t, `"items": [`)
	local("get", "ippools").says(t, 1, "ask ipamd")
	local("delete", "ippool", "pods").says(t, 1, "cannot do this")
	command{stdin: pool("more", "10.245.0.0/16")}.
		run(t, ctlProgram, "--socket", a.socket, "apply", "-f", "-").says(t, 1, "cannot do this")
	if code := a.end(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	local("ipam", "blocks").says(t, 1, a.socket)
}
