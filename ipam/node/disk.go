package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"google.golang.org/protobuf/proto"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// disk is the folder of what was applied last. Every file is 0600 and replaced at once.
type disk struct{ dir string }

const (
	snapshotFile  = "snapshot"
	ownershipFile = "ownership"
)

func (d disk) saveSnapshot(snapshot *clearwayv1.NodeSnapshot) error {
	return d.save(snapshotFile, snapshot)
}

func (d disk) saveOwnership(whole *clearwayv1.WatchOwnershipResponse) error {
	return d.save(ownershipFile, whole)
}

func (d disk) save(name string, message proto.Message) error {
	data, err := proto.Marshal(message)
	if err != nil {
		return fmt.Errorf("save %s: %w", name, err)
	}
	if err := renameio.WriteFile(filepath.Join(d.dir, name), data, 0o600); err != nil {
		return fmt.Errorf("save %s: %w", name, err)
	}
	return nil
}

// clean removes what a killed process left half written.
func (d disk) clean() {
	for _, name := range []string{snapshotFile, ownershipFile} {
		rests, _ := filepath.Glob(filepath.Join(d.dir, "."+name+"*")) // the pattern is well formed
		for _, rest := range rests {
			_ = os.Remove(rest) // it is in nobody's way
		}
	}
}

// load reads a file into a message; false: there is none. A file that cannot be read as the message is an error, and
// no reason not to start: ipamd sends it anew.
func (d disk) load(name string, into proto.Message) (bool, error) {
	path := filepath.Join(d.dir, name)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("load %s: %w", name, err)
	}
	if err := proto.Unmarshal(data, into); err != nil {
		return false, fmt.Errorf("load %s: %w", path, err)
	}
	return true, nil
}
