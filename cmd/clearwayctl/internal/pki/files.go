package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/clearway/clearway/ipam/identity"
)

// Names of files: a certificate and its key lie beside each other.
const (
	certSuffix    = ".crt"
	keySuffix     = ".key"
	authorityBase = "ca"
)

const (
	certMode   = 0o644
	keyMode    = 0o600
	folderMode = 0o700
	// maxFile bounds what is read of a file: a chain has some kilobytes.
	maxFile = 1 << 20
)

// Folder is where an authority's files are, and those of the certificates that it issued unless other places were named.
type Folder string

// Authority is the path of the authority's certificate.
func (f Folder) Authority() string { return filepath.Join(string(f), authorityBase+certSuffix) }

// Init makes the authority. One that is there, or a part of it, is never overwritten.
func (f Folder) Init(name string, validFor time.Duration, now time.Time) (*x509.Certificate, error) {
	made, err := NewAuthority(name, validFor, now)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(string(f), folderMode); err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	pair := Pair(filepath.Join(string(f), authorityBase))
	if err := pair.create(made); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("there is an authority in %s already (%w); to make it hold longer: clearwayctl pki renew %s",
			f, err, f.Authority())
	} else if err != nil {
		return nil, err
	}
	return made.Certificate, nil
}

// Open reads the authority.
func (f Folder) Open() (*Authority, error) {
	pair := Pair(filepath.Join(string(f), authorityBase))
	certPEM, err := readFile(pair.Cert())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no authority in %s (%w); make one: clearwayctl pki init --dir %s", f, err, f)
	}
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile(pair.Key())
	if err != nil {
		return nil, fmt.Errorf("the authority's key: %w", err)
	}
	authority, err := readAuthority(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("authority %s with %s: %w", pair.Cert(), pair.Key(), err)
	}
	return authority, nil
}

// Issued lists the certificates in the folder, the authority's own left out.
func (f Folder) Issued() ([]string, error) {
	all, err := filepath.Glob(filepath.Join(string(f), "*"+certSuffix))
	if err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	return slices.DeleteFunc(all, func(name string) bool { return name == f.Authority() }), nil
}

// Place is where a wish's files go: ROLE-NAME in the folder, or what out names.
func (f Folder) Place(w Wish, out string) Pair {
	if out != "" {
		return Pair(strings.TrimSuffix(out, certSuffix))
	}
	base := string(w.Role) + "-" + w.Name
	if w.Role == identity.Ipamd && w.Name == string(identity.Ipamd) {
		base = w.Name
	}
	return Pair(filepath.Join(string(f), base))
}

// Pair is a certificate's path and its key's, without what they end with.
type Pair string

// Cert is the certificate's path.
func (p Pair) Cert() string { return string(p) + certSuffix }

// Key is the key's path.
func (p Pair) Key() string { return string(p) + keySuffix }

// Issue makes a certificate. Files that are there are never overwritten.
func (p Pair) Issue(by *Authority, w Wish, now time.Time) (*x509.Certificate, error) {
	made, err := by.Issue(w, now)
	if err != nil {
		return nil, err
	}
	if err := p.create(made); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w; to make it hold longer: clearwayctl pki renew %s", err, p.Cert())
	} else if err != nil {
		return nil, err
	}
	return made.Certificate, nil
}

// Renew replaces a certificate and its key by new ones that say the same. The files keep their modes and owners, and
// each is replaced in one step, so that whoever reads them again finds the old one or the new one. A daemon that reads
// between the two steps goes on with what it has.
func Renew(file string, by *Authority, validFor time.Duration, now time.Time) (*x509.Certificate, error) {
	base, found := strings.CutSuffix(file, certSuffix)
	if !found {
		return nil, fmt.Errorf("%s: a certificate's file ends with %s, and its key's with %s", file, certSuffix, keySuffix)
	}
	text, err := readFile(file)
	if err != nil {
		return nil, err
	}
	old, err := ReadCertificate(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if old.Equal(by.certificate) {
		made, err := by.Prolong(validFor, now)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return made.Certificate, replace(staged{file, made.CertPEM, certMode})
	}
	made, err := by.Renew(old, validFor, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	pair := Pair(base)
	return made.Certificate, replace(staged{pair.Key(), made.KeyPEM, keyMode}, staged{pair.Cert(), made.CertPEM, certMode})
}

// create writes both files, or none.
func (p Pair) create(made Made) error {
	for _, name := range []string{p.Cert(), p.Key()} {
		if _, err := os.Lstat(name); err == nil {
			return &fs.PathError{Op: "create", Path: name, Err: syscall.EEXIST}
		}
	}
	if err := writeNew(p.Key(), made.KeyPEM, keyMode); err != nil {
		return err
	}
	if err := writeNew(p.Cert(), made.CertPEM, certMode); err != nil {
		os.Remove(p.Key())
		return err
	}
	return nil
}

func writeNew(name string, text []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	if err := errors.Join(writeSynced(file, text), file.Close()); err != nil {
		os.Remove(name)
		return fmt.Errorf("write certificate: %w", err)
	}
	return nil
}

func writeSynced(file *os.File, text []byte) error {
	if _, err := file.Write(text); err != nil {
		return err
	}
	return file.Sync()
}

// staged is a file's new content, and its mode if it is new.
type staged struct {
	name string
	text []byte
	mode fs.FileMode
}

// replace writes all files beside their places first, and moves them there only when all are on disk.
func replace(files ...staged) error {
	var ready []string
	defer func() {
		for _, name := range ready {
			os.Remove(name) // those that were moved are not there any more
		}
	}()
	for i := range files {
		one := &files[i]
		if real, err := filepath.EvalSymlinks(one.name); err == nil {
			one.name = real // a link stays one
		}
		name, err := one.write()
		if err != nil {
			return fmt.Errorf("renew %s: %w", one.name, err)
		}
		ready = append(ready, name)
	}
	for i, one := range files {
		if err := os.Rename(ready[i], one.name); err != nil {
			return fmt.Errorf("renew: %w", err)
		}
	}
	return nil
}

// write makes the new file, with the old one's mode and owner.
func (s staged) write() (string, error) {
	file, err := os.CreateTemp(filepath.Dir(s.name), "."+filepath.Base(s.name)+".")
	if err != nil {
		return "", err
	}
	err = errors.Join(s.likeOld(file), writeSynced(file, s.text), file.Close())
	if err != nil {
		os.Remove(file.Name())
		return "", err
	}
	return file.Name(), nil
}

func (s staged) likeOld(file *os.File) error {
	old, err := os.Stat(s.name)
	if errors.Is(err, fs.ErrNotExist) {
		return file.Chmod(s.mode)
	}
	if err != nil {
		return err
	}
	owner, ok := old.Sys().(*syscall.Stat_t)
	if ok {
		// Before the mode and the secret: until then the file is ours alone.
		if err := file.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return file.Chmod(old.Mode().Perm())
}

func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	return text, nil
}

// Show reads a certificate's file.
func Show(file string) (*x509.Certificate, error) {
	text, err := readFile(file)
	if err != nil {
		return nil, err
	}
	certificate, err := ReadCertificate(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return certificate, nil
}
