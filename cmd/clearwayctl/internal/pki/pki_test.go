package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clearway/clearway/ipam/identity"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func newFolder(t *testing.T) Folder {
	t.Helper()
	dir := Folder(filepath.Join(t.TempDir(), "pki"))
	if _, err := dir.Init("clearway", AuthorityTime, now); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T, dir Folder) *Authority {
	t.Helper()
	authority, err := dir.Open()
	if err != nil {
		t.Fatal(err)
	}
	return authority
}

func issue(t *testing.T, dir Folder, w Wish) (Pair, *x509.Certificate) {
	t.Helper()
	pair := dir.Place(w, "")
	made, err := pair.Issue(open(t, dir), w, now)
	if err != nil {
		t.Fatal(err)
	}
	return pair, made
}

func verify(t *testing.T, dir Folder, c *x509.Certificate, name string, at time.Time, use x509.ExtKeyUsage) error {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(open(t, dir).certificate)
	_, err := c.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use}})
	return err
}

// Each role's certificate is good for what the role does, under its names, in its time, and for nothing else.
func TestIssue(t *testing.T) {
	dir := newFolder(t)
	for _, c := range []struct {
		wish   Wish
		file   string
		serves bool
	}{
		{Wish{identity.Node, "h1.example.com", nil, CertificateTime}, "node-h1.example.com", false},
		{Wish{identity.Operator, "alice@example.com", nil, CertificateTime}, "operator-alice@example.com", false},
		{Wish{identity.Viewer, "bob", nil, CertificateTime}, "viewer-bob", false},
		{Wish{identity.Ipamd, "ipamd", []string{"IP:192.0.2.11", "2001:db8::11", "DNS:ipamd.example.net", "*.example.org"}, CertificateTime}, "ipamd", true},
		{Wish{identity.Ipamd, "ctl2", []string{"ctl2"}, CertificateTime}, "ipamd-ctl2", true},
	} {
		pair, made := issue(t, dir, c.wish)
		if got := filepath.Base(string(pair)); got != c.file {
			t.Errorf("%+v is in %s", c.wish, got)
		}
		if who := identity.Of(made); !slices.Equal(who.Roles(), []identity.Role{c.wish.Role}) || who.Holder() != c.wish.Name {
			t.Errorf("%+v reads as %v %s", c.wish, who.Roles(), who.Holder())
		}
		if _, err := tls.LoadX509KeyPair(pair.Cert(), pair.Key()); err != nil {
			t.Error(err)
		}
		if err := verify(t, dir, made, "", now, x509.ExtKeyUsageClientAuth); err != nil {
			t.Errorf("%+v: %v", c.wish, err)
		}
		if err := verify(t, dir, made, "", now, x509.ExtKeyUsageServerAuth); (err == nil) != c.serves {
			t.Errorf("%+v as server: %v", c.wish, err)
		}
		for at, good := range map[time.Time]bool{
			now.Add(-clockSkew): true, now.Add(CertificateTime): true,
			now.Add(-clockSkew - time.Second): false, now.Add(CertificateTime + time.Second): false,
		} {
			if err := verify(t, dir, made, "", at, x509.ExtKeyUsageClientAuth); (err == nil) != good {
				t.Errorf("%+v at %s: %v", c.wish, at, err)
			}
		}
		if made.IsCA {
			t.Errorf("%+v may sign", c.wish)
		}
	}
	made, err := Show(string(dir) + "/ipamd.crt")
	if err != nil {
		t.Fatal(err)
	}
	for name, good := range map[string]bool{
		"192.0.2.11": true, "2001:db8::11": true, "ipamd.example.net": true, "a.example.org": true, "192.0.2.12": false, "ipamd": false,
	} {
		if err := made.VerifyHostname(name); (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNamedErrors(t *testing.T) {
	for _, c := range []struct {
		wish Wish
		want string
	}{
		{Wish{identity.Node, "H1", nil, day}, `node "H1": `},
		{Wish{identity.Node, "", nil, day}, `node "": `},
		{Wish{identity.Operator, "a/b", nil, day}, `operator "a/b": a name has`},
		{Wish{identity.Operator, "node:h1", nil, day}, `operator "node:h1": a name has`},
		{Wish{identity.Viewer, "..", nil, day}, `viewer "..": a name has`},
		{Wish{identity.Viewer, strings.Repeat("a", 64), nil, day}, "1 to 63"},
		{Wish{identity.Node, "h1", []string{"h1"}, day}, "role node has no --san"},
		{Wish{identity.Ipamd, "ipamd", nil, day}, "--san 192.0.2.11"},
		{Wish{identity.Ipamd, "ipamd", []string{"192.0.2.300"}, day}, `--san "192.0.2.300" must be`},
		{Wish{identity.Ipamd, "ipamd", []string{"192.0.2.1:7470"}, day}, "without a port"},
		{Wish{identity.Ipamd, "ipamd", []string{"fe80::1%eth0"}, day}, "must be an address"},
		{Wish{identity.Ipamd, "ipamd", []string{""}, day}, "must be an address"},
		{Wish{identity.Node, "h1", nil, 0}, "--valid-for 0s is not 1m0s to 36500d"},
		{Wish{identity.Node, "h1", nil, -day}, "--valid-for -1d is not"},
	} {
		dir := newFolder(t)
		_, err := dir.Place(c.wish, "").Issue(open(t, dir), c.wish, now)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s", c.wish, err, c.want)
		}
		if left, _ := dir.Issued(); len(left) > 0 {
			t.Errorf("%+v left %s", c.wish, left)
		}
	}
	dir := newFolder(t)
	_, err := dir.Place(Wish{}, "").Issue(open(t, dir), Wish{identity.Node, "h1", nil, AuthorityTime + day}, now)
	if err == nil || !strings.Contains(err.Error(), "longer than the authority, which ends at 2036-") {
		t.Errorf("a certificate outlives its authority: %v", err)
	}
	if _, err := Folder(t.TempDir()).Open(); err == nil || !strings.Contains(err.Error(), "clearwayctl pki init --dir") {
		t.Errorf("no authority: %v", err)
	}
}

// What is there is never overwritten, and half of it is not made.
func TestNothingIsOverwritten(t *testing.T) {
	dir := newFolder(t)
	before := read(t, dir)
	if _, err := dir.Init("other", AuthorityTime, now); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second authority: %v", err)
	}
	for _, left := range []string{"ca.crt", "ca.key"} {
		part := Folder(t.TempDir())
		if err := os.WriteFile(filepath.Join(string(part), left), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := part.Init("other", AuthorityTime, now); err == nil {
			t.Errorf("%s is overwritten", left)
		}
		if files := read(t, part); len(files) != 1 || files[left] != "x" {
			t.Errorf("%s: %v", left, files)
		}
	}
	wish := Wish{identity.Node, "h1", nil, day}
	pair, _ := issue(t, dir, wish)
	if _, err := pair.Issue(open(t, dir), wish, now); err == nil || !strings.Contains(err.Error(), "pki renew "+pair.Cert()) {
		t.Errorf("a second certificate: %v", err)
	}
	after := read(t, dir)
	for name, text := range before {
		if after[name] != text {
			t.Errorf("%s changed", name)
		}
	}
}

func read(t *testing.T, dir Folder) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(string(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(string(dir), entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = string(text)
	}
	return files
}

func TestModes(t *testing.T) {
	dir := newFolder(t)
	pair, _ := issue(t, dir, Wish{identity.Node, "h1", nil, day})
	for name, want := range map[string]os.FileMode{
		string(dir): 0o700 | os.ModeDir, string(dir) + "/ca.key": 0o600, pair.Key(): 0o600, pair.Cert(): 0o644,
	} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v %v, want %v", name, info.Mode(), err, want)
		}
	}
}

// A renewed certificate says the same with another key, in the same files, with their modes.
func TestRenew(t *testing.T) {
	dir := newFolder(t)
	wish := Wish{identity.Ipamd, "ipamd", []string{"192.0.2.11", "ipamd.example.net"}, 30 * day}
	pair, before := issue(t, dir, wish)
	if err := os.Chmod(pair.Key(), 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link.crt")
	if err := errors.Join(os.Symlink(pair.Cert(), link), os.Symlink(pair.Key(), strings.TrimSuffix(link, ".crt")+".key")); err != nil {
		t.Fatal(err)
	}
	later := now.Add(20 * day)
	for _, file := range []string{pair.Cert(), link} {
		after, err := Renew(file, open(t, dir), 0, later)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case after.Subject.String() != before.Subject.String(), !slices.Equal(after.DNSNames, before.DNSNames),
			!slices.EqualFunc(after.IPAddresses, before.IPAddresses, net.IP.Equal),
			!slices.Equal(after.ExtKeyUsage, before.ExtKeyUsage):
			t.Errorf("it says something else: %+v", after)
		case !after.NotAfter.Equal(later.Add(30 * day)):
			t.Errorf("it ends at %s", after.NotAfter)
		case after.SerialNumber.Cmp(before.SerialNumber) == 0:
			t.Error("it has the old serial number")
		}
		if string(after.RawSubjectPublicKeyInfo) == string(before.RawSubjectPublicKeyInfo) {
			t.Error("it has the old key")
		}
		if _, err := tls.LoadX509KeyPair(pair.Cert(), pair.Key()); err != nil {
			t.Error(err)
		}
		before = after
	}
	if info, err := os.Stat(pair.Key()); err != nil || info.Mode() != 0o640 {
		t.Errorf("the key's mode is %v %v", info.Mode(), err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v %v", info.Mode(), err)
	}
	if got := len(read(t, dir)); got != 4 {
		t.Errorf("%d files; something was left", got)
	}
	if _, err := Renew(pair.Cert(), open(t, newFolder(t)), 0, later); err == nil || !strings.Contains(err.Error(), "not of this authority") {
		t.Errorf("another authority renews: %v", err)
	}
	if _, err := Renew(pair.Key(), open(t, dir), 0, later); err == nil || !strings.Contains(err.Error(), "ends with .crt") {
		t.Errorf("a key is renewed: %v", err)
	}
}

// An authority that is renewed goes on being the one of what it signed.
func TestRenewAuthority(t *testing.T) {
	dir := newFolder(t)
	_, node := issue(t, dir, Wish{identity.Node, "h1", nil, AuthorityTime})
	soon := now.Add(AuthorityTime - day)
	if made, err := Renew(dir.Authority(), open(t, dir), 2*AuthorityTime, soon); err != nil || !made.IsCA {
		t.Fatal(err)
	}
	if err := verify(t, dir, node, "", soon, x509.ExtKeyUsageClientAuth); err != nil {
		t.Error(err)
	}
	if ends := open(t, dir).Ends(); !ends.Equal(soon.Add(2 * AuthorityTime)) {
		t.Errorf("it ends at %s", ends)
	}
}

// A renewal takes the time that the authority has left, and an authority that has none says so.
func TestRenewNearTheAuthoritysEnd(t *testing.T) {
	dir := newFolder(t)
	pair, _ := issue(t, dir, Wish{identity.Node, "h1", nil, CertificateTime})
	made, err := Renew(pair.Cert(), open(t, dir), 0, now.Add(AuthorityTime-day))
	if err != nil || !made.NotAfter.Equal(now.Add(AuthorityTime)) {
		t.Errorf("ends at %v, %v", made.NotAfter, err)
	}
	if _, err := Renew(pair.Cert(), open(t, dir), 0, now.Add(AuthorityTime)); err == nil || !strings.Contains(err.Error(), "the authority ended") {
		t.Errorf("an authority that ended signs: %v", err)
	}
}

// Whoever reads while certificates are renewed finds whole files at all times.
func TestRenewIsAtomic(t *testing.T) {
	dir := newFolder(t)
	pair, _ := issue(t, dir, Wish{identity.Node, "h1", nil, day})
	authority := open(t, dir)
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			cert, certErr := os.ReadFile(pair.Cert())
			key, keyErr := os.ReadFile(pair.Key())
			_, badCert := ReadCertificate(cert)
			_, badKey := readKey(key)
			if err := errors.Join(certErr, keyErr, badCert, badKey); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 50 {
		if _, err := Renew(pair.Cert(), authority, 0, now); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	reader.Wait()
}

// TestNoSecrets: whatever is wrong with a key's file, the error has no part of it.
func TestNoSecrets(t *testing.T) {
	dir := newFolder(t)
	name := filepath.Join(string(dir), "ca.key")
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.Split(string(whole), "\n")[1]
	other, err := os.ReadFile(filepath.Join(string(newFolder(t)), "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"cut": string(whole[:len(whole)/2]), "no PEM": secret, "another type": strings.ReplaceAll(string(whole), "PRIVATE KEY", "KEY"),
		"damaged": strings.Replace(string(whole), secret[:8], "AAAAAAAA", 1), "another's": string(other), "empty": "",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := dir.Open()
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", what, err)
			continue
		}
		for _, part := range []string{secret[:16], secret[len(secret)-16:]} {
			if strings.Contains(err.Error(), part) {
				t.Errorf("%s: the error has a part of the key", what)
			}
		}
	}
}

func TestTimes(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"365d": 365 * day, "1d": day, "12h": 12 * time.Hour, "1h30m": 90 * time.Minute, "0d": 0,
	} {
		if got, err := ParseTime(text); err != nil || got != want {
			t.Errorf("%s: %s %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "-1d", "1.5d", "1y", "365", "99999999d"} {
		if got, err := ParseTime(text); err == nil {
			t.Errorf("%q is read as %s", text, got)
		}
	}
}
