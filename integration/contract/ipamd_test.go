package contract

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// TestIpamdRefusesBadFlags: exit code 2, one message that names the flag, the value and what would be right.
func TestIpamdRefusesBadFlags(t *testing.T) {
	const store, plain = "--data-dir=x", "--insecure"
	for name, c := range map[string]struct {
		argv []string
		want []string
	}{
		"nothing":           {nil, []string{"--data-dir", "--etcd-endpoints", "--tls-cert", "--tls-key", "--tls-ca", "--insecure"}},
		"no security":       {[]string{store}, []string{"--tls-cert, --tls-key and --tls-ca", "--insecure"}},
		"both securities":   {[]string{store, plain, "--tls-cert=x"}, []string{"--insecure and --tls-cert exclude each other"}},
		"half of TLS":       {[]string{store, "--tls-cert=x"}, []string{"--tls-key, --tls-ca"}},
		"no store":          {[]string{plain}, []string{"--data-dir DIR", "--etcd-endpoints URL"}},
		"both stores":       {[]string{plain, store, "--etcd-endpoints=http://127.0.0.1:1"}, []string{"--data-dir and --etcd-endpoints exclude each other"}},
		"endpoint no URL":   {[]string{plain, "--etcd-endpoints=127.0.0.1:2379"}, []string{`--etcd-endpoints "127.0.0.1:2379"`, "https://"}},
		"half an etcd pair": {[]string{plain, "--etcd-endpoints=https://127.0.0.1:1", "--etcd-cert=x"}, []string{"--etcd-cert and --etcd-key"}},
		"peer URL alone":    {[]string{plain, store, "--etcd-listen-peer=http://127.0.0.1:1"}, []string{"go together", "--etcd-listen-client is missing"}},
		"peer URL wildcard": {
			[]string{plain, store, "--etcd-listen-peer=http://0.0.0.0:1", "--etcd-listen-client=http://127.0.0.1:2"},
			[]string{`--etcd-listen-peer "http://0.0.0.0:1"`, "an address of this machine"},
		},
		"https member without certificate": {
			[]string{plain, store, "--etcd-listen-peer=https://127.0.0.1:1", "--etcd-listen-client=https://127.0.0.1:2"},
			[]string{"--etcd-cert, --etcd-key and --etcd-ca"},
		},
		"member of a cluster of its own": {
			[]string{plain, "--etcd-endpoints=http://127.0.0.1:1", "--etcd-listen-peer=http://127.0.0.1:1", "--etcd-listen-client=http://127.0.0.1:2"},
			[]string{"--data-dir"},
		},
		"relative prefix":    {[]string{plain, store, "--etcd-prefix=clearway"}, []string{`--etcd-prefix "clearway"`, "/clearway/v1"}},
		"listen no port":     {[]string{plain, store, "--listen=7470"}, []string{`--listen "7470"`, "ADDR:PORT"}},
		"listen large port":  {[]string{plain, store, "--listen=127.0.0.1:70000"}, []string{`--listen "127.0.0.1:70000"`, `"70000"`, "65535"}},
		"metrics no port":    {[]string{plain, store, "--metrics-listen=x"}, []string{`--metrics-listen "x"`, "ADDR:PORT"}},
		"advertise no port":  {[]string{plain, store, "--advertise=x"}, []string{`--advertise "x"`, "ADDR:PORT"}},
		"unknown log level":  {[]string{plain, store, "--log-level=loud"}, []string{`--log-level "loud"`, "debug, info, warn, error"}},
		"unknown log format": {[]string{plain, store, "--log-format=xml"}, []string{`--log-format "xml"`, "text, json"}},
		"unknown flag":       {[]string{"--frob"}, []string{"unknown flag: --frob"}},
		"an argument":        {[]string{"serve"}, []string{`"serve"`}},
		"two faults at once": {[]string{"--listen=7470"}, []string{"--listen", "--data-dir", "--insecure"}},
	} {
		t.Run(name, func(t *testing.T) { run(t, ipamdProgram, c.argv...).says(t, 2, c.want...) })
	}
}

// TestIpamdFails: what goes wrong in good flags is exit code 1 and one error.
func TestIpamdFails(t *testing.T) {
	running := readyIpamd(t)
	folder := filepath.Join(t.TempDir(), "data")
	flags := func(more ...string) []string {
		return append([]string{"--insecure", "--data-dir", folder, "--listen=127.0.0.1:0", "--metrics-listen="}, more...)
	}
	for name, c := range map[string]struct {
		argv []string
		want []string
	}{
		"port taken":         {flags("--listen", running.address), []string{"--listen", running.address, "address already in use"}},
		"metrics port taken": {flags("--metrics-listen", running.metrics), []string{"--metrics-listen", running.metrics, "address already in use"}},
		"foreign address":    {flags("--listen", "198.51.100.1:7470"), []string{"--listen", "198.51.100.1:7470"}},
		"folder in use":      {flags("--data-dir", dataDir(running)), []string{dataDir(running), "in use by another process"}},
		"folder is a file":   {flags("--data-dir", binaries.path(t, ipamdProgram)), []string{"data folder"}},
		"no etcd CA": {
			[]string{"--insecure", "--etcd-endpoints=https://127.0.0.1:1", "--etcd-ca=/nowhere", "--listen=127.0.0.1:0", "--metrics-listen="},
			[]string{"--etcd-ca", "/nowhere"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := run(t, ipamdProgram, c.argv...).says(t, 1, c.want...)
			if n := strings.Count(got.errOut, "\n"); n != 1 {
				t.Errorf("%d lines for one error: %s", n, got)
			}
		})
	}
}

func dataDir(i *ipamd) string {
	for n, argument := range i.argv {
		if argument == "--data-dir" {
			return i.argv[n+1]
		}
	}
	return ""
}

// TestFlagsVariablesAndFile: each flag of the contract is a variable and a key of --config; of the three the flag goes
// first, then the variable, then the file.
func TestFlagsVariablesAndFile(t *testing.T) {
	config := func(t *testing.T, text string) string {
		t.Helper()
		name := filepath.Join(t.TempDir(), "clearway.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	t.Run("every flag is known", func(t *testing.T) {
		for program, flags := range map[string]string{
			ipamdProgram: "listen data-dir etcd-endpoints etcd-cert etcd-key etcd-ca etcd-prefix etcd-listen-peer etcd-listen-client metrics-listen tls-cert " +
				"tls-key tls-ca insecure",
			agentProgram: "node server data-dir socket node-ip labels boot-id-file route-protocol route-metric " +
				"metrics-listen tls-cert tls-key tls-ca insecure",
			ctlProgram: "server socket tls-cert tls-key tls-ca insecure output",
		} {
			help := run(t, program, "--help").shows(t)
			for flag := range strings.FieldsSeq(flags) {
				if !strings.Contains(help.out, "--"+flag+" ") && !strings.Contains(help.out, "--"+flag+"[=") {
					t.Errorf("%s --help does not tell of --%s", program, flag)
				}
				argv := []string{"--config", config(t, flag+":\n  a: {b: c}\n")}
				if program == ctlProgram {
					argv = append(argv, "version")
				}
				// A key that is known and cannot be a mapping of mappings, not an unknown one.
				run(t, program, argv...).says(t, 2, `clearway.yaml:1: key "`+flag+`"`, "a plain value is wanted")
			}
		}
	})
	t.Run("unknown key", func(t *testing.T) {
		run(t, ipamdProgram, "--config", config(t, "insecure: true\n\nlsten: 127.0.0.1:1\n")).
			says(t, 2, `clearway.yaml:3: key "lsten" is unknown`, `did you mean "listen"?`)
	})
	t.Run("no such file", func(t *testing.T) {
		run(t, ipamdProgram, "--config", "/nowhere.yaml").says(t, 2, "--config", "/nowhere.yaml")
	})
	t.Run("bad variable", func(t *testing.T) {
		command{env: []string{"CLEARWAY_ROUTE_METRIC=few"}}.run(t, agentProgram, "--node=n", "--insecure").
			says(t, 2, "CLEARWAY_ROUTE_METRIC", `"few"`)
	})
	t.Run("precedence", func(t *testing.T) {
		fromFile, fromVariable, fromFlag := freeAddress(), freeAddress(), freeAddress()
		file := config(t, "listen: "+fromFile+"\nmetrics-listen: "+fromFile+"\ninsecure: true\nlabels: {a: b}\n")
		if got := run(t, ipamdProgram, "--config", file); !strings.Contains(got.errOut, `"labels" is unknown`) {
			t.Errorf("ipamd takes an agent's key: %s", got)
		}
		file = config(t, "listen: "+fromFile+"\nmetrics-listen: "+fromFile+"\ninsecure: true\ndata-dir: "+
			filepath.Join(t.TempDir(), "data")+"\n")
		env := []string{"CLEARWAY_LISTEN=" + fromVariable, "CLEARWAY_METRICS_LISTEN=" + fromVariable, "CLEARWAY_CONFIG=" + file}
		// The metrics come from the variable, the API from the flag, and folder and security from the file.
		p := start(t, env, ipamdProgram, "--listen", fromFlag)
		ready(t, p, fromVariable)
		ctl(t, fromFlag, "get", "ippools").says(t, 0)
		if code := p.end(t, syscall.SIGTERM); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("ctl by variables", func(t *testing.T) {
		i := readyIpamd(t)
		env := []string{"CLEARWAY_SERVER=" + i.address, "CLEARWAY_INSECURE=true", "CLEARWAY_OUTPUT=json"}
		command{env: env}.run(t, ctlProgram, "get", "ippools").shows(t, `"items": []`)
	})
}

// TestIpamdTellsHowItIs: /metrics, /healthz, /readyz, gRPC's health and reflection, while the store is away and after.
func TestIpamdTellsHowItIs(t *testing.T) {
	// Nobody is at this etcd: alive, and not ready.
	away := startIpamd(t, "--insecure", "--etcd-endpoints", "http://"+freeAddress())
	eventually(t, "/healthz", func() error { return status(away.metrics, "/healthz", http.StatusOK, "ok") })
	if err := status(away.metrics, "/readyz", http.StatusServiceUnavailable, "store"); err != nil {
		t.Error(err)
	}
	eventually(t, "gRPC health to say no", func() error { return health(away.address, healthv1.HealthCheckResponse_NOT_SERVING) })
	ctl(t, away.address, "--timeout=2s", "get", "ippools").says(t, 1, "not the leader")
	if code := away.end(t, syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM: exit code %d", code)
	}

	i := readyIpamd(t)
	for path, word := range map[string]string{
		"/healthz": "ok", "/readyz": "ok", "/metrics": "clearway_ipamd_",
	} {
		if err := status(i.metrics, path, http.StatusOK, word); err != nil {
			t.Error(err)
		}
	}
	if err := health(i.address, healthv1.HealthCheckResponse_SERVING); err != nil {
		t.Error(err)
	}
	services, err := reflected(i.address)
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"clearway.v1.NodeService", "clearway.v1.ResourceService", "grpc.health.v1.Health"} {
		if !strings.Contains(services, service) {
			t.Errorf("reflection does not know %s: %s", service, services)
		}
	}
}

// TestIpamdEndsAndReturns: SIGTERM is exit code 0, a kill loses nothing, and the folder has it all.
func TestIpamdEndsAndReturns(t *testing.T) {
	i := readyIpamd(t)
	apply(t, i.address, pool("pods", "10.244.0.0/16")).shows(t, "ippool/pods created")
	before := ctl(t, i.address, "get", "ippool", "pods", "-o", "yaml").shows(t)
	for range 3 { // told to stop while it opens its store
		early := startIpamd(t, "--insecure", "--data-dir", filepath.Join(t.TempDir(), "early"))
		eventually(t, "/healthz", func() error { return status(early.metrics, "/healthz", http.StatusOK, "ok") })
		if code := early.end(t, syscall.SIGTERM); code != 0 {
			t.Errorf("SIGTERM at the start: exit code %d", code)
		}
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
		code := i.end(t, signal)
		if signal != syscall.SIGKILL && code != 0 {
			t.Errorf("%s: exit code %d", signal, code)
		}
		i = i.again(t)
		if after := ctl(t, i.address, "get", "ippool", "pods", "-o", "yaml").shows(t); after.out != before.out {
			t.Errorf("after %s:\n%s\nbefore:\n%s", signal, after.out, before.out)
		}
	}
}
