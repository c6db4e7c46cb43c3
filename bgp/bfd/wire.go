package bfd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/clearway/clearway/bgp/bfd/protocol"
	"github.com/clearway/clearway/bgp/route"
)

// The agent and the process talk in lines of JSON on a unix socket: wishes one way, reports the other. Each is whole,
// and the latest wins.
type wishes struct {
	Sessions []route.Watch `json:"sessions"`
}

// state is what one process leaves to the next: what is wanted, and what was up when it ended.
type state struct {
	wishes
	Left time.Time                    `json:"left,omitzero"`
	Up   map[netip.Addr]protocol.Kept `json:"up,omitempty"`
}

type report struct {
	Sessions []route.Liveness `json:"sessions"`
}

// maxLine bounds one line: 1024 sessions have a quarter of it.
const maxLine = 1 << 20

func encode(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("bfd: encode: %v", err)) // values of ours: there is nothing in them that JSON has not
	}
	return append(data, '\n')
}

// resumable is for how long sessions can be gone on with: beyond, the peers have given them up.
const resumable = 3 * time.Second

// Load gives an engine, before it runs, what a former process left in a file: the sessions that were wanted, and those
// that were up, if that was a moment ago. A file that is not there is nothing.
func (e *Engine) Load(file string, now time.Time) error {
	left, err := load(file)
	if err != nil {
		return err
	}
	if age := now.Sub(left.Left); age >= 0 && age < resumable {
		e.resumed = left.Up
	}
	e.Set(left.Sessions)
	return nil
}

func load(file string) (state, error) {
	var left state
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return left, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &left)
	}
	if err == nil {
		err = check(left.Sessions)
	}
	if err != nil {
		return state{}, fmt.Errorf("read the wanted BFD sessions: %w", err)
	}
	return left, nil
}

// Leave writes what the next process goes on with, after Run has ended.
func (e *Engine) Leave(file string, now time.Time) error {
	e.mu.Lock()
	left := state{wishes: wishes{e.wanted}, Left: now, Up: e.kept}
	e.mu.Unlock()
	return save(file, left)
}

// save replaces the file in one step.
func save(file string, left state) error {
	made, err := os.CreateTemp(filepath.Dir(file), ".bfd")
	if err != nil {
		return fmt.Errorf("keep the wanted BFD sessions: %w", err)
	}
	defer os.Remove(made.Name())
	_, err = made.Write(encode(left))
	if err = errors.Join(err, made.Close()); err == nil {
		err = os.Rename(made.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("keep the wanted BFD sessions: %w", err)
	}
	return nil
}
