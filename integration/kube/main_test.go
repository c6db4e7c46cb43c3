package kube

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/clearway/clearway/integration/kubeapi"
	"github.com/clearway/clearway/integration/lab"
)

// bin is the folder of the binaries that the tests run.
var bin string

func TestMain(m *testing.M) {
	kubeapi.Main()
	built, err := lab.Build(context.Background())
	if err == nil {
		_, err = kubeapi.Build(context.Background())
	}
	if err == nil {
		bin, err = copied(built)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(bin)
	os.Exit(code)
}

// copied are the tree's binaries: a build that goes on beside us changes those under our feet.
func copied(from string) (string, error) {
	to, err := os.MkdirTemp("", "clearway-kube-")
	if err != nil {
		return "", err
	}
	for _, name := range []string{"clearway-ipamd", "clearwayctl"} {
		content, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return to, err
		}
		if err := os.WriteFile(filepath.Join(to, name), content, 0o755); err != nil {
			return to, err
		}
	}
	return to, nil
}
