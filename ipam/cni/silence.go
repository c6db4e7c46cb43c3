package cni

import (
	"os"
	"path/filepath"
	"time"
)

// silenceGrace is how long an agent may give no answer before STATUS fails. A runtime makes its node NotReady by it,
// which an agent that is upgraded or crashed once is not worth: what runs goes on without it, and a Pod is tried again.
const silenceGrace = 30 * time.Second

// silence is the file beside the agent's socket that tells since when STATUS got no answer: its time of change. Each
// STATUS is a process of its own.
func silence(socket string) string { return filepath.Join(filepath.Dir(socket), "status-unanswered") }

// forgive notes that the agent gave no answer to a STATUS, and tells whether that is not to be told yet. An agent that
// has never run here since the machine's start is not forgiven: there is no socket of its.
func forgive(socket string, now time.Time) bool {
	served, err := os.Stat(socket)
	if err != nil {
		return false
	}
	path := silence(socket)
	since, err := os.Stat(path)
	if err == nil && since.ModTime().After(served.ModTime()) && !since.ModTime().After(now) {
		return now.Sub(since.ModTime()) < silenceGrace
	}
	// The first silence, or one of before the agent's last start, or of before the clock was set.
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return false
	}
	return os.Chtimes(path, now, now) == nil
}

// answered forgets the silence.
func answered(socket string) { _ = os.Remove(silence(socket)) } // there is none, mostly
