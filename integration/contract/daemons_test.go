package contract

import (
	"path/filepath"
	"testing"
)

// ipamd is a clearway-ipamd process.
type ipamd struct {
	*process
	address, metrics string
}

// startIpamd runs one on free ports, with these flags beside them; it is not waited for.
func startIpamd(t testing.TB, flags ...string) *ipamd {
	t.Helper()
	i := &ipamd{address: freeAddress(), metrics: freeAddress()}
	i.process = start(t, nil, ipamdProgram,
		append([]string{"--listen", i.address, "--metrics-listen", i.metrics}, flags...)...)
	return i
}

// readyIpamd runs one with an embedded etcd and no TLS until it is ready.
func readyIpamd(t testing.TB, flags ...string) *ipamd {
	t.Helper()
	i := startIpamd(t, append([]string{"--data-dir", filepath.Join(t.TempDir(), "ipamd"), "--insecure"}, flags...)...)
	ready(t, i.process, i.metrics)
	return i
}

// again starts one that has ended with the same flags, and waits until it is ready.
func (i *ipamd) again(t testing.TB) *ipamd {
	t.Helper()
	next := &ipamd{process: i.restart(t), address: i.address, metrics: i.metrics}
	ready(t, next.process, next.metrics)
	return next
}

// agent is a clearway-agent process.
type agent struct {
	*process
	socket, metrics string
}

// startAgent runs one that calls these servers, in folders of its own; it is not waited for.
func startAgent(t testing.TB, node, servers string, flags ...string) *agent {
	t.Helper()
	dir := t.TempDir()
	a := &agent{socket: filepath.Join(dir, "run", "agent.sock"), metrics: freeAddress()}
	a.process = start(t, nil, agentProgram, append([]string{
		"--node", node, "--server", servers, "--node-ip", nodeIP, "--data-dir", filepath.Join(dir, "data"),
		"--socket", a.socket, "--metrics-listen", a.metrics,
	}, flags...)...)
	return a
}

// ctl calls clearwayctl without TLS at a server.
func ctl(t testing.TB, server string, argv ...string) answer {
	t.Helper()
	return run(t, ctlProgram, append([]string{"--server", server, "--insecure"}, argv...)...)
}

// apply applies what is given on standard input.
func apply(t testing.TB, server, yaml string) answer {
	t.Helper()
	return command{stdin: yaml}.run(t, ctlProgram, "--server", server, "--insecure", "apply", "-f", "-")
}

// pool is the manifest of an IPPool.
func pool(name, cidr string) string {
	return "apiVersion: clearway.io/v1\nkind: IPPool\nmetadata: {name: " + name + "}\nspec: {cidr: " + cidr + "}\n"
}
