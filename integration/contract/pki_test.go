package contract

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestPKI: what clearwayctl makes is what ipamd and agents want, each role may do what it is for, and what is renewed in
// place is in use without a restart.
func TestPKI(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	pki := func(argv ...string) answer {
		return run(t, ctlProgram, append(append([]string{"pki"}, argv...), "--dir", dir)...)
	}
	pki("init").shows(t, "ca.crt: authority, until ")
	pki("issue", "ipamd", "--san", "127.0.0.1,ipamd.example.net").shows(t, "ipamd.crt: ipamd")
	pki("issue", "node", "n1").shows(t, "node n1")
	pki("issue", "operator", "alice").shows(t, "operator alice")
	pki("issue", "viewer", "vera", "--valid-for", "12h").shows(t, "viewer vera")
	holder := func(name string) certificate {
		return certificate{filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"), filepath.Join(dir, "ca.crt")}
	}
	alice, vera, n1 := holder("operator-alice"), holder("viewer-vera"), holder("node-n1")

	i := secureIpamd(t, holder("ipamd"))
	secureCtl(t, pool("pods", "10.244.0.0/16"), i.address, alice, "apply", "-f", "-").shows(t, "ippool/pods created")
	a := startAgent(t, "n1", i.address, n1.flags("tls")...)
	ready(t, a.process, a.metrics)
	secureCtl(t, "", i.address, vera, "get", "nodes").shows(t, "n1")
	secureCtl(t, "", i.address, vera, "delete", "ippool", "pods").says(t, 1, "clearway:operators")
	secureCtl(t, "", i.address, n1, "get", "nodes").says(t, 1, "clearway:viewers")
	startIpamd(t, append(n1.flags("tls"), "--data-dir", t.TempDir())...).serves(t, alice, "validate certificate for 127.0.0.1")

	before := served(t, i.address, vera)
	pki("renew").shows(t, "ipamd.crt", "node-n1.crt", "operator-alice.crt", "viewer-vera.crt")
	eventually(t, "the new certificate to be served", func() error {
		if served(t, i.address, vera) == before {
			return fmt.Errorf("it is the old one")
		}
		return nil
	})
	secureCtl(t, "", i.address, alice, "get", "nodes").shows(t, "n1")
	i.kill()
	i = i.again(t)
	eventually(t, "the agent to return with its new certificate", func() error {
		return secureCtl(t, "", i.address, vera, "get", "node", "n1", "-o", "json").lacks(`"phase": "Ready"`)
	})
	for _, name := range []string{"ca", "ipamd", "node-n1"} {
		if info, err := os.Stat(holder(name).key); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s.key: %v, %v", name, info.Mode(), err)
		}
	}
}

// serves waits until an ipamd listens, and wants a client to be told so.
func (i *ipamd) serves(t testing.TB, c certificate, told string) {
	t.Helper()
	ready(t, i.process, i.metrics)
	secureCtl(t, "", i.address, c, "get", "nodes").says(t, 1, told)
}

// served is the serial number of the certificate that an ipamd shows.
func served(t testing.TB, address string, c certificate) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", address, &tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}, // what is shown is looked at, not trusted
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}
