package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Root finds the repository that the working folder is in.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod above the working folder; run from within the repository")
		}
		dir = parent
	}
}

// Build makes the binaries and CNI plugins of the working tree and returns the folder they are in: a lab always
// runs what the tree says. Several at a time take turns.
func Build(ctx context.Context) (string, error) {
	root, err := Root()
	if err != nil {
		return "", fmt.Errorf("build: %w", err)
	}
	bin := filepath.Join(root, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", fmt.Errorf("build: %w", err)
	}
	lock, err := os.Open(bin)
	if err != nil {
		return "", fmt.Errorf("build: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("build: lock %s: %w", bin, err)
	}
	cmd := exec.CommandContext(ctx, "make", "-C", root, "build", "plugins")
	for _, variable := range os.Environ() {
		// We may be under make ourselves; its flags are not for this one.
		if !strings.HasPrefix(variable, "MAKE") && !strings.HasPrefix(variable, "MFLAGS=") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	output, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return "", fmt.Errorf("build: %w", context.Cause(ctx))
	}
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, output)
	}
	return bin, nil
}
