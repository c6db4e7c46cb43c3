package contract

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// secureIpamd runs an ipamd with mutual TLS until it is ready.
func secureIpamd(t testing.TB, c certificate) *ipamd {
	t.Helper()
	i := startIpamd(t, append(c.flags("tls"), "--data-dir", filepath.Join(t.TempDir(), "ipamd"))...)
	ready(t, i.process, i.metrics)
	return i
}

// secureCtl calls clearwayctl with a certificate.
func secureCtl(t testing.TB, stdin, address string, c certificate, argv ...string) answer {
	t.Helper()
	argv = append(append([]string{"--server", address, "--timeout", "5s"}, c.flags("tls")...), argv...)
	return command{stdin: stdin}.run(t, ctlProgram, argv...)
}

// TestMutualTLS: who may do what with which certificate, and what the others are told.
func TestMutualTLS(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	i := secureIpamd(t, ours.issue(t, server))
	alice := ours.issue(t, operator)
	secureCtl(t, pool("pods", "10.244.0.0/16"), i.address, alice, "apply", "-f", "-").shows(t, "ippool/pods created")
	secureCtl(t, "", i.address, alice, "get", "ippools").shows(t, "pods")

	t.Run("strangers", func(t *testing.T) {
		mallory := theirs.issue(t, operator)
		secureCtl(t, "", i.address, mallory, "get", "ippools").says(t, 1, i.address, "unknown authority", "--tls-ca "+mallory.ca)
		mallory.ca = alice.ca // it trusts us, and we do not trust it
		secureCtl(t, "", i.address, mallory, "get", "ippools").says(t, 1, i.address, "unknown certificate authority", "--tls-cert "+mallory.cert)
		i.logs(t, "a TLS handshake failed", "unknown authority")
		ctl(t, i.address, "--timeout=5s", "get", "ippools").says(t, 1, i.address, "may want TLS", "--insecure")
		i.logs(t, "a client without TLS")
		plain := readyIpamd(t)
		secureCtl(t, "", plain.address, alice, "get", "ippools").says(t, 1, plain.address, "speaks no TLS", "--insecure")
		wrongName := append(alice.flags("tls"), "--server", i.address, "--tls-server-name", "other", "--timeout", "5s", "get", "nodes")
		run(t, ctlProgram, wrongName...).says(t, 1, i.address, "other")
	})
	t.Run("roles", func(t *testing.T) {
		vera := ours.issue(t, viewer)
		for subject, c := range map[string]certificate{
			"CN=n1": ours.issue(t, named("n1")), "CN=node:n1": ours.issue(t, named("node:n1")), "CN=bob": ours.issue(t, named("bob")),
			"CN=vera,O=clearway:viewers": vera,
		} {
			secureCtl(t, pool("more", "10.245.0.0/16"), i.address, c, "apply", "-f", "-").
				says(t, 1, "does not allow", subject, "clearway:operators")
			secureCtl(t, "", i.address, c, "delete", "ippool", "pods").says(t, 1, "does not allow", subject, "clearway:operators")
			if subject != "CN=vera,O=clearway:viewers" {
				secureCtl(t, "", i.address, c, "get", "ippools").says(t, 1, "does not allow", subject, "clearway:viewers")
			}
		}
		secureCtl(t, "", i.address, vera, "get", "ippools").shows(t, "pods")
		secureCtl(t, "", i.address, alice, "get", "ippools", "-o", "json").shows(t, `"pods"`)
		i.logs(t, "a call is refused", "CN=bob")
		if text := scrape(t, i.metrics); !strings.Contains(text, `clearway_ipamd_refusals_total{method="/clearway.v1.ResourceService/Apply",reason="role"} 4`) {
			t.Error("refusals are not counted")
		}
	})
	t.Run("agents", func(t *testing.T) {
		for node, c := range map[string]certificate{
			"n1": ours.issue(t, named("n1")), "n2": ours.issue(t, named("node:n2")),
			"n3": ours.issue(t, named("whoever"), "n3", "n3.example.com"),
		} {
			a := startAgent(t, node, i.address, c.flags("tls")...)
			ready(t, a.process, a.metrics)
			a.kill()
		}
		other := startAgent(t, "n5", i.address, ours.issue(t, named("n1")).flags("tls")...)
		other.logs(t, `node \"n5\"`, "CN=n1")
		i.logs(t, "node=n5")
		other.kill()
		person := startAgent(t, "n6", i.address, ours.issue(t, operator).flags("tls")...)
		person.logs(t, "an operator's", `node \"n6\"`)
		person.kill()
		foreign := startAgent(t, "n1", i.address, theirs.issue(t, named("n1")).flags("tls")...)
		foreign.logs(t, "unknown authority", "--tls-ca")
		foreign.kill()
		bare := startAgent(t, "n1", i.address, "--insecure")
		bare.logs(t, "may want TLS", "--insecure")
	})
}

// TestBadCertificates: what is wrong with a certificate is told on both sides, and it lets nobody in.
func TestBadCertificates(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	i := secureIpamd(t, ours.issue(t, server))
	alice := ours.issue(t, operator)
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	early := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }
	for name, c := range map[string]struct {
		client     certificate
		says, logs []string
	}{
		"ended": {ours.issueChanged(t, operator, expired), []string{"the server refuses the certificate", "CN=alice", "which ended at"},
			[]string{"CN=alice", "expired", "reason=time"}},
		"not begun": {ours.issueChanged(t, operator, early), []string{"the server refuses the certificate", "which begins at", "this machine's clock"},
			[]string{"reason=time"}},
		"for servers only": {ours.issueChanged(t, operator, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), []string{"the server refuses the certificate", "incompatible key usage"}, []string{"incompatible key usage", "reason=usage"}},
		"of another authority": {certificate{theirs.issue(t, operator).cert, "", alice.ca}, []string{"the server refuses the certificate", "CN=alice"},
			[]string{"of CN=theirs", "unknown authority", "reason=authority"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.client.key == "" {
				c.client.key = strings.TrimSuffix(c.client.cert, ".crt") + ".key"
			}
			secureCtl(t, "", i.address, c.client, "get", "ippools").says(t, 1, append(c.says, c.client.cert)...)
			i.logs(t, append(c.logs, "a TLS handshake failed")...)
		})
	}
	for name, c := range map[string]struct {
		change func(*x509.Certificate)
		says   []string
	}{
		"server's ended": {expired, []string{"the server's certificate (CN=ipamd) does not hold now", "is after"}},
		"server's is for clients only": {func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}, []string{"the server's certificate (CN=ipamd) is not for servers"}},
		"server's has another address": {func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"elsewhere"} },
			[]string{"127.0.0.1", "--tls-server-name"}},
	} {
		t.Run(name, func(t *testing.T) {
			other := secureIpamd(t, ours.issueChanged(t, server, c.change))
			secureCtl(t, "", other.address, alice, "get", "ippools").says(t, 1, c.says...)
			other.logs(t, "the client refuses our certificate")
		})
	}
	if text := scrape(t, i.metrics); !strings.Contains(text, `clearway_tls_handshake_failures_total{reason="usage"}`) ||
		!strings.Contains(text, "clearway_tls_certificate_expiry_timestamp_seconds") {
		t.Error("handshakes that failed are not counted")
	}
}

// TestCertificatesAreRotated: new files are used from the next connection on, by servers and by clients, and broken
// ones are told once and not used.
func TestCertificatesAreRotated(t *testing.T) {
	before, after := newAuthority(t, "before"), newAuthority(t, "after")
	files := before.issue(t, server)
	i := secureIpamd(t, files)
	alice := before.issue(t, operator)
	secureCtl(t, "", i.address, alice, "get", "ippools").says(t, 0)
	node := before.issue(t, named("n1"))
	a := startAgent(t, "n1", i.address, node.flags("tls")...)
	ready(t, a.process, a.metrics)

	replace(t, files.key, []byte("half a key"))
	for range 3 {
		secureCtl(t, "", i.address, alice, "get", "ippools").says(t, 0)
	}
	const complaint = "changed TLS files cannot be used"
	if n := strings.Count(i.log.String(), complaint); n != 1 {
		t.Errorf("%d lines of %q; want 1", n, complaint)
	}

	after.write(t, files, server)
	eventually(t, "the new certificate", func() error {
		if got := secureCtl(t, "", i.address, alice, "get", "ippools"); got.code == 0 {
			return fmt.Errorf("the old one is still used: %s", got)
		}
		return nil
	})
	after.write(t, alice, operator)
	secureCtl(t, "", i.address, alice, "get", "ippools").says(t, 0)

	// The agent's next connection is with its new one.
	after.write(t, node, named("n1"))
	i.kill()
	i = i.again(t)
	eventually(t, "the agent to return", func() error {
		return secureCtl(t, "", i.address, alice, "get", "node", "n1", "-o", "json").lacks(`"phase": "Ready"`)
	})
}

// TestBadCertificateFiles: they are refused at the start, by flag and file.
func TestBadCertificateFiles(t *testing.T) {
	good, other := newAuthority(t, "ours").issue(t, server), newAuthority(t, "ours").issue(t, server)
	broken := filepath.Join(t.TempDir(), "broken.pem")
	if err := os.WriteFile(broken, []byte("-----BEGIN CERTIFICATE-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files certificate
		want  []string
	}{
		"no certificate": {certificate{"/nowhere", good.key, good.ca}, []string{"--tls-cert", "/nowhere"}},
		"no key":         {certificate{good.cert, "/nowhere", good.ca}, []string{"--tls-key", "/nowhere"}},
		"no authority":   {certificate{good.cert, good.key, "/nowhere"}, []string{"--tls-ca", "/nowhere"}},
		"another's key":  {certificate{good.cert, other.key, good.ca}, []string{"--tls-cert " + good.cert, "--tls-key " + other.key}},
		"broken":         {certificate{good.cert, good.key, broken}, []string{"--tls-ca " + broken}},
	} {
		t.Run(name, func(t *testing.T) {
			flags := c.files.flags("tls")
			dir := t.TempDir()
			run(t, ipamdProgram, append(flags, "--data-dir", dir, "--listen=127.0.0.1:0", "--metrics-listen=")...).says(t, 1, c.want...)
			run(t, agentProgram, append(flags, "--node=n1", "--data-dir", dir, "--socket", filepath.Join(dir, "s"), "--metrics-listen=")...).
				says(t, 1, c.want...)
			run(t, ctlProgram, append(flags, "get", "ippools")...).says(t, 1, c.want...)
		})
	}
}
