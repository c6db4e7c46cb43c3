package contract

import (
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNoSecrets: passwords and private keys are in no log (at its most talkative), error, metric, listing, or file of
// ours, through start, use, bad files, rotation and restart.
func TestNoSecrets(t *testing.T) {
	ours := newAuthority(t, "ours")
	files, alice, node := ours.issue(t, server), ours.issue(t, operator), ours.issue(t, named("n1"))
	var secrets []string
	for _, c := range []certificate{files, alice, node} {
		secrets = append(secrets, keyParts(t, c.key)...)
	}
	const password, longPassword = "Tr0ub4dor&3-of-the-router", "correct-horse-battery-staple"
	secrets = append(secrets, password, longPassword)
	data := t.TempDir()
	i := startIpamd(t, append(files.flags("tls"), "--data-dir", filepath.Join(data, "ipamd"), "--log-level=debug")...)
	ready(t, i.process, i.metrics)
	agentFlags := append(node.flags("tls"), "--log-level=debug", "--data-dir", filepath.Join(data, "agent"))
	a := startAgent(t, "n1", i.address, agentFlags...)
	ready(t, a.process, a.metrics)

	var heard strings.Builder // all that anybody was told
	hear := func(told answer) { fmt.Fprintln(&heard, told.out, told.errOut) }
	call := func(stdin string, argv ...string) { hear(secureCtl(t, stdin, i.address, alice, argv...)) }
	file := filepath.Join(t.TempDir(), "password")
	peer := fmt.Sprintf("apiVersion: clearway.io/v1\nkind: BGPPeer\nmetadata: {name: tor}\n"+
		"spec: {peerAddress: 192.0.2.1, peerASN: 65101, passwordFile: %s}\n", file)
	everything := func() {
		for _, kind := range []string{"ippool", "bgppeer", "node", "block", "bgpsession", "route", "event"} {
			call("", "get", kind, "-o", "yaml")
		}
		call("", "describe", "bgppeer", "tor")
		call("", "describe", "node", "n1")
		hear(run(t, ctlProgram, "--socket", a.socket, "bgp", "peers", "-o", "json"))
		fmt.Fprintln(&heard, scrape(t, i.metrics), scrape(t, a.metrics))
	}
	replace(t, file, []byte(password+"\n"))
	call(pool("pods", "10.244.0.0/16")+"---\n"+peer, "apply", "-f", "-")
	eventually(t, "the peer to be known to the agent", func() error {
		return run(t, ctlProgram, "--socket", a.socket, "bgp", "peers", "-o", "json").lacks("192.0.2.1")
	})
	everything()
	// Files that are wrong: the complaint names them, and repeats nothing.
	replace(t, file, []byte(strings.Repeat(longPassword, 5)))
	call(strings.ReplaceAll(peer, "65101", "65102"), "apply", "-f", "-")
	a.logs(t, "is too long")
	everything()
	call(strings.ReplaceAll(peer, file, `"`+password+`"`), "apply", "-f", "-") // the password in the place of its file
	good, err := os.ReadFile(node.key)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{good[:len(good)/2], good[len(good)/2:], append([]byte("x"), good...)} {
		broken := filepath.Join(t.TempDir(), "broken.key")
		replace(t, broken, bad)
		c := certificate{node.cert, broken, node.ca}
		hear(secureCtl(t, "", i.address, c, "get", "nodes"))
		hear(run(t, agentProgram, append(c.flags("tls"), "--node=n1", "--data-dir", t.TempDir(), "--socket", filepath.Join(t.TempDir(), "s"))...))
		// In the place of certificate and authority, as one who mixes up the files would.
		hear(secureCtl(t, "", i.address, certificate{node.key, node.cert, node.key}, "get", "nodes"))
	}
	hear(run(t, ipamdProgram, "--insecure", "--etcd-endpoints", "http://root:"+password+"@192.0.2.1:2379"))
	replace(t, files.key, good[:len(good)/2])
	call("", "get", "nodes")
	a.kill()
	fmt.Fprintln(&heard, i.log.String(), a.log.String())

	told := heard.String()
	for _, secret := range secrets {
		if at := strings.Index(told, secret); at >= 0 {
			t.Errorf("a secret is told: %q", told[max(0, at-200):min(len(told), at+200)])
		}
	}
	lookThrough(t, data, secrets)
}

// keyParts are pieces of a private key that would be told of if any of it were.
func keyParts(t testing.TB, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	parts := []string{string(block.Bytes)}
	for _, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "-----") && len(line) > 20 {
			parts = append(parts, line[:20], line[len(line)-20:])
		}
	}
	return parts
}

// lookThrough finds secrets in the files of a folder.
func lookThrough(t testing.TB, dir string, secrets []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(name)
		for _, secret := range secrets {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s has a secret", name)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
