//go:build machine

package machine

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// images builds Clearway's image and that of the tests' Pods, both from scratch, and returns their archives.
func images(t *testing.T, root string) []string {
	t.Helper()
	dir := t.TempDir()
	run(t, root, "go", "run", "./deploy/image", "-version", "test", "-out", dir)
	program := filepath.Join(dir, "pod")
	run(t, root, "go", "build", "-o", program, "./integration/machine/pod")
	return []string{filepath.Join(dir, "clearway-test.tar"), podImage(t, program, filepath.Join(dir, "pod.tar"))}
}

func podImage(t *testing.T, program, archive string) string {
	t.Helper()
	content, err := os.ReadFile(program)
	must(t, err)
	var layer bytes.Buffer
	files := tar.NewWriter(&layer)
	must(t, files.WriteHeader(&tar.Header{Name: "pod", Mode: 0o755, Size: int64(len(content))}))
	_, err = files.Write(content)
	must(t, err)
	must(t, files.Close())
	one, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	must(t, err)
	image, err := mutate.AppendLayers(empty.Image, one)
	must(t, err)
	config, err := image.ConfigFile()
	must(t, err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = []string{"/pod"}
	image, err = mutate.ConfigFile(image, config)
	must(t, err)
	tag, err := name.NewTag("docker.io/clearway/pod:test")
	must(t, err)
	must(t, tarball.WriteToFile(archive, tag, image))
	return archive
}

func run(t *testing.T, dir string, argv ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}
