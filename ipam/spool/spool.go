// Package spool keeps DEL requests on disk while the node's agent is down: the plugin writes them, the agent replays
// and removes them.
//
// The spool is a folder, mode 0700, beside the agent's socket. Each file in it is one DelRequest as protobuf's JSON
// mapping has it, mode 0600, named "<hash>.json" where <hash> is the first 32 hexadecimal digits of the SHA-256 of the
// attachment's network, container ID and interface, each followed by a zero byte. So a repeated DEL takes the place of
// the first. A file appears whole or not at all: it is written as ".<random>.tmp", synced, renamed, and the folder
// synced. The socket's folder is usually a tmpfs: the spool is gone after a reboot, and so are the attachments.
package spool

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// The spool's bounds. A node has a few hundred attachments; these are far above what can be owed.
const (
	MaxEntries = 4096
	MaxBytes   = 16 << 10 // of one file
)

// ErrFull tells that the spool has MaxEntries files.
var ErrFull = errors.New("spool is full")

// staleAfter is how old an unfinished file must be for its writer to be dead.
const staleAfter = 10 * time.Minute

// Request is a DEL as a file has it. It is plain, and not the API's message, since the plugin links this package: what
// makes messages costs a process more than its work does.
type Request struct {
	Attachment Attachment `json:"attachment"`
	Pod        *Pod       `json:"pod,omitempty"`
}

// Attachment is what is to be released.
type Attachment struct {
	Network     string `json:"network,omitempty"`
	ContainerID string `json:"containerID,omitempty"`
	Ifname      string `json:"ifname,omitempty"`
}

// Pod is whose it was; nil where the runtime says nothing of Kubernetes.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// PodUID is the Pod's UID, or "".
func (r Request) PodUID() string {
	if r.Pod == nil {
		return ""
	}
	return r.Pod.UID
}

// Entry is one request in the spool.
type Entry struct {
	Request Request
	path    string
	info    fs.FileInfo
}

// Dir is the spool folder of an agent's socket.
func Dir(socket string) string { return filepath.Join(filepath.Dir(socket), "spool") }

// Write puts a request into the spool, in the place of an earlier one of the same attachment. When it returns nil the
// request is on disk. ErrFull when there are too many.
func Write(dir string, request Request) error {
	if err := write(dir, request); err != nil {
		return fmt.Errorf("spool %s: %w", dir, err)
	}
	return nil
}

func write(dir string, request Request) error {
	content, err := encode(request)
	if err != nil {
		return err
	}
	if len(content) > MaxBytes {
		return fmt.Errorf("the request has %d bytes, more than %d", len(content), MaxBytes)
	}
	if err := prepare(dir); err != nil {
		return err
	}
	target := filepath.Join(dir, name(request.Attachment))
	if err := room(dir, target); err != nil {
		return err
	}
	return replace(target, content)
}

// prepare makes the folder and closes it to others.
func prepare(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("is no folder")
	}
	if info.Mode().Perm() != 0o700 {
		return os.Chmod(dir, 0o700)
	}
	return nil
}

// room is ErrFull when one more file would be too many.
func room(dir, target string) error {
	if _, err := os.Lstat(target); err == nil {
		return nil
	}
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = folder.Close() }()
	names, err := folder.Readdirnames(MaxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(names) >= MaxEntries {
		return ErrFull
	}
	return nil
}

func replace(target string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(target), ".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(file.Name(), target)
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return err
	}
	return syncDir(filepath.Dir(target))
}

func syncDir(dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = folder.Close() }()
	return folder.Sync()
}

// Read lists the spool, in no order; a missing folder is empty. Files that cannot be read as a request are told in the
// error, beside the entries that can, and stay where they are: an attachment may be owed. Unfinished files of dead
// writers are removed.
func Read(dir string) ([]Entry, error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	var entries []Entry
	var faults []error
	for _, file := range files {
		path := filepath.Join(dir, file.Name())
		if strings.HasSuffix(file.Name(), ".tmp") {
			removeStale(path)
			continue
		}
		if !strings.HasSuffix(file.Name(), ".json") {
			continue
		}
		entry, err := load(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone since it was listed
		case err != nil:
			faults = append(faults, fmt.Errorf("spool file %s: %w", path, err))
		default:
			entries = append(entries, entry)
		}
	}
	return entries, errors.Join(faults...)
}

func removeStale(path string) {
	if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > staleAfter {
		_ = os.Remove(path)
	}
}

// Find is the entry of one attachment, if it is in the spool. An agent replays it before it answers an Add of the same
// attachment: replayed later, it would undo that Add.
func Find(dir string, attachment Attachment) (Entry, bool, error) {
	path := filepath.Join(dir, name(attachment))
	entry, err := load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Entry{}, false, nil
	}
	if err != nil {
		return Entry{}, false, fmt.Errorf("spool file %s: %w", path, err)
	}
	return entry, true, nil
}

func load(path string) (Entry, error) {
	file, err := os.Open(path)
	if err != nil {
		return Entry{}, err
	}
	defer func() { _ = file.Close() }() // only read
	info, err := file.Stat()
	if err != nil {
		return Entry{}, err
	}
	content, err := io.ReadAll(io.LimitReader(file, MaxBytes+1))
	if err != nil {
		return Entry{}, err
	}
	request, err := decode(content)
	if err != nil {
		return Entry{}, err
	}
	if want := name(request.Attachment); want != filepath.Base(path) {
		return Entry{}, fmt.Errorf("its attachment belongs into %s", want)
	}
	return Entry{Request: request, path: path, info: info}, nil
}

// encode refuses what would be read as something else.
func encode(request Request) ([]byte, error) {
	for _, text := range request.texts() {
		if !utf8.ValidString(text) {
			return nil, fmt.Errorf("%q is not UTF-8", text)
		}
	}
	return json.Marshal(request)
}

func (r *Request) texts() []string {
	texts := []string{r.Attachment.Network, r.Attachment.ContainerID, r.Attachment.Ifname}
	if r.Pod != nil {
		texts = append(texts, r.Pod.Namespace, r.Pod.Name, r.Pod.UID)
	}
	return texts
}

func decode(content []byte) (Request, error) {
	if len(content) > MaxBytes {
		return Request{}, fmt.Errorf("has more than %d bytes", MaxBytes)
	}
	var request Request
	// A newer plugin may have written fields that this agent does not know; the attachment is what counts.
	if err := json.Unmarshal(content, &request); err != nil {
		return Request{}, err
	}
	if request.Attachment.ContainerID == "" {
		return Request{}, errors.New("has no attachment.containerID")
	}
	return request, nil
}

// Remove takes an entry out of the spool after it was replayed. One that was written anew since it was read stays.
func Remove(entry Entry) error {
	info, err := os.Lstat(entry.path)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && !os.SameFile(info, entry.info)) {
		return nil
	}
	if err == nil {
		err = os.Remove(entry.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

// name is the file of an attachment.
func name(attachment Attachment) string {
	hash := sha256.New()
	for _, part := range []string{attachment.Network, attachment.ContainerID, attachment.Ifname} {
		_, _ = io.WriteString(hash, part+"\x00") // a hash has no errors
	}
	return hex.EncodeToString(hash.Sum(nil))[:32] + ".json"
}
